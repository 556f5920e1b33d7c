// A clock that never waits: sleeping moves it forward.
#pragma once

#include <mutex>
#include <vector>

#include "base/clock.hpp"

namespace vmferry::support {

class FakeClock final : public Clock {
 public:
  std::chrono::system_clock::time_point wall() const override {
    std::scoped_lock lock(mutex_);
    return std::chrono::system_clock::time_point(std::chrono::seconds(1'800'000'000)) +
           std::chrono::duration_cast<std::chrono::system_clock::duration>(passed_);
  }
  std::chrono::steady_clock::time_point mono() const override {
    std::scoped_lock lock(mutex_);
    return std::chrono::steady_clock::time_point(
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(passed_));
  }
  bool sleep(std::chrono::nanoseconds duration, std::stop_token stop) override {
    if (stop.stop_requested()) return false;
    std::scoped_lock lock(mutex_);
    passed_ += duration;
    sleeps_.push_back(duration);
    return true;
  }
  std::vector<std::chrono::nanoseconds> sleeps() const {
    std::scoped_lock lock(mutex_);
    return sleeps_;
  }

 private:
  mutable std::mutex mutex_;
  std::chrono::nanoseconds passed_{0};
  std::vector<std::chrono::nanoseconds> sleeps_;
};

}  // namespace vmferry::support
