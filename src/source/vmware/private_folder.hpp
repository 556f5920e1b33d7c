// A folder that only we may enter, for what a server of ours shall read or write. Goes with the object.
#pragma once

#include <filesystem>
#include <string>

namespace vmferry::source::vmware {

class PrivateFolder {
 public:
  // "PREFIX-...", mode 0700, below `directory`, which is made. `what` is kept in it, for the sentence of Error(config).
  PrivateFolder(const std::filesystem::path& directory, const std::string& prefix, std::string what);
  ~PrivateFolder();
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;

  const std::filesystem::path& path() const noexcept { return path_; }
  // A new file, mode 0600.
  void write(const std::string& name, const std::string& text) const;
  void make_folder(const std::string& name) const;

 private:
  [[noreturn]] void fail(int error) const;

  const std::filesystem::path directory_;
  const std::string what_;
  std::filesystem::path path_;
};

}  // namespace vmferry::source::vmware
