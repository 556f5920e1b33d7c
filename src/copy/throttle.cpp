// One moment in time is all there is to know: until when what was taken is paid for.
#include "copy/throttle.hpp"

#include <algorithm>

namespace vmferry::copy {

namespace {
constexpr std::chrono::milliseconds kept_time{100};
}

std::chrono::steady_clock::time_point Throttle::take(std::uint64_t bytes, std::chrono::steady_clock::time_point now) {
  const std::chrono::duration<double> cost(static_cast<double>(bytes) / static_cast<double>(rate_));
  const std::scoped_lock lock(mutex_);
  open_at_ = std::max(open_at_, now - kept_time) + std::chrono::duration_cast<std::chrono::nanoseconds>(cost);
  return open_at_;
}

std::chrono::steady_clock::time_point Throttle::open_at() const {
  const std::scoped_lock lock(mutex_);
  return open_at_;
}

}  // namespace vmferry::copy
