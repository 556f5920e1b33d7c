// At most so many bytes a second, for everybody who shares it. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

namespace vmferry::copy {

class Throttle {
 public:
  explicit Throttle(std::uint64_t bytes_per_second) : rate_(bytes_per_second) {}

  // Takes the bytes at once, and gives the moment before which nothing more shall be taken: a large request is paid for
  // afterwards. Time that nobody used is lost after a tenth of a second, so no burst follows a pause.
  std::chrono::steady_clock::time_point take(std::uint64_t bytes, std::chrono::steady_clock::time_point now);
  // When the next bytes may be taken.
  std::chrono::steady_clock::time_point open_at() const;

 private:
  const std::uint64_t rate_;
  mutable std::mutex mutex_;
  std::chrono::steady_clock::time_point open_at_{};
};

}  // namespace vmferry::copy
