// Time as a collaborator, so that tests do not wait. The only place the program may sleep.
#pragma once

#include <chrono>
#include <cstdint>
#include <stop_token>

namespace vmferry {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual std::chrono::system_clock::time_point wall() const = 0;
  virtual std::chrono::steady_clock::time_point mono() const = 0;
  // Returns false at once when told to stop.
  virtual bool sleep(std::chrono::nanoseconds duration, std::stop_token stop) = 0;
};

class SystemClock final : public Clock {
 public:
  std::chrono::system_clock::time_point wall() const override;
  std::chrono::steady_clock::time_point mono() const override;
  bool sleep(std::chrono::nanoseconds duration, std::stop_token stop) override;
};

// Milliseconds since the epoch, as facts and files have them.
std::int64_t now_ms(const Clock& clock);

// Sleeps, and throws Cancelled when told to stop.
void sleep_or_cancel(Clock& clock, std::chrono::nanoseconds duration, std::stop_token stop);

}  // namespace vmferry
