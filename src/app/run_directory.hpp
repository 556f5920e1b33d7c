// A folder of one process alone, for sockets: 0700, its path short, gone with the process. Folders of processes that
// died are swept up by the next one: whose they are is told by a lock that the kernel holds, so processes in other
// containers count too.
#pragma once

#include <filesystem>

namespace vmferry::app {

class RunDirectory {
 public:
  // Below `state`, or below /tmp when that path would be too long for a socket. Error(config) when it cannot be made,
  // or when what stands there belongs to somebody else.
  explicit RunDirectory(const std::filesystem::path& state);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  int lock_ = -1;
};

}  // namespace vmferry::app
