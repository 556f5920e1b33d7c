// One moment in time is all there is to know: until when what was taken is paid for.
#include "copy/throttle.hpp"

#include <algorithm>

namespace vmferry::copy {

namespace {

constexpr std::chrono::milliseconds kept_time{100};
// A moment so far ahead is of a clock that was started anew since: the memory outlived a reboot.
constexpr std::chrono::hours longest_debt{1};

Meter::Time time_of(std::int64_t nanoseconds) { return Meter::Time(std::chrono::nanoseconds(nanoseconds)); }

Meter::Time believed(std::int64_t open_at, Meter::Time now) {
  const Meter::Time time = time_of(open_at);
  return time > now + longest_debt ? now : time;
}

}  // namespace

void Meter::set_rate(std::uint64_t bytes_per_second) noexcept {
  rate_ = bytes_per_second;
  forgive();  // it was taken at another rate
}

Meter::Time Meter::take(std::uint64_t bytes, Time now) noexcept {
  const std::uint64_t rate = rate_.load();
  if (rate == 0) return now;
  const std::chrono::duration<double> cost(static_cast<double>(bytes) / static_cast<double>(rate));
  std::int64_t before = open_at_.load();
  while (true) {
    const Time after =
        std::max(believed(before, now), now - kept_time) + std::chrono::duration_cast<std::chrono::nanoseconds>(cost);
    if (open_at_.compare_exchange_weak(before, after.time_since_epoch().count())) return after;
  }
}

Meter::Time Meter::open_at(Time now) const noexcept {
  return rate_.load() == 0 ? Time() : believed(open_at_.load(), now);
}

void Throttle::take(std::uint64_t bytes, Meter::Time now) const noexcept {
  for (const auto& meter : meters_) meter->take(bytes, now);
}

Meter::Time Throttle::open_at(Meter::Time now) const noexcept {
  Meter::Time latest;
  for (const auto& meter : meters_) latest = std::max(latest, meter->open_at(now));
  return latest;
}

}  // namespace vmferry::copy
