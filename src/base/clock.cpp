// The system's clocks; a sleep ends as soon as its stop token is used.
#include "base/clock.hpp"

#include <condition_variable>
#include <mutex>

#include "base/error.hpp"

namespace vmferry {

std::chrono::system_clock::time_point SystemClock::wall() const { return std::chrono::system_clock::now(); }
std::chrono::steady_clock::time_point SystemClock::mono() const { return std::chrono::steady_clock::now(); }

bool SystemClock::sleep(std::chrono::nanoseconds duration, std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, duration, [] { return false; });
  return !stop.stop_requested();
}

std::int64_t now_ms(const Clock& clock) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(clock.wall().time_since_epoch()).count();
}

void sleep_or_cancel(Clock& clock, std::chrono::nanoseconds duration, std::stop_token stop) {
  if (!clock.sleep(duration, stop)) throw Cancelled();
}

}  // namespace vmferry
