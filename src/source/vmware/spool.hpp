// A file for one disk's download: without a name, so that nothing is left of it however its owner ends. Knows how much
// has come, how fast, and says so now and then.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "http/download.hpp"

namespace vmferry::source::vmware {

class Spool final : public http::Download {
 public:
  // Below `folder`, which is made with mode 0700. `expected` bytes, about; `most` at most, for which there must be
  // room: Error(quota) in words when there is not. `tell` is given a line of progress, and `came` the bytes so far.
  Spool(const std::filesystem::path& folder, std::uint64_t expected, std::uint64_t most, Clock& clock,
        std::function<void(const std::string&)> tell, std::function<void(std::uint64_t)> came);
  void write(std::string_view piece) override;
  std::uint64_t bytes() const noexcept { return bytes_; }
  Fd take() { return std::move(fd_); }

 private:
  void report();

  std::filesystem::path folder_;
  std::uint64_t expected_;
  std::uint64_t most_;
  Clock& clock_;
  std::function<void(const std::string&)> tell_;
  std::function<void(std::uint64_t)> came_;
  Fd fd_;
  std::uint64_t bytes_ = 0;
  std::chrono::steady_clock::time_point began_, next_report_;
};

}  // namespace vmferry::source::vmware
