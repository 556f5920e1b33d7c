// At most so many bytes a second, for everybody who shares it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

namespace vmferry::copy {

// One rate. Thread-safe and without locks: it may lie in memory that several processes share, any of which may die. All
// of its bytes zero: no limit.
class Meter {
 public:
  using Time = std::chrono::steady_clock::time_point;  // CLOCK_MONOTONIC: the same for all processes of a host

  void set_rate(std::uint64_t bytes_per_second) noexcept;  // 0: no limit
  std::uint64_t rate() const noexcept { return rate_.load(); }
  // What was taken need not be waited for any more.
  void forgive() noexcept { open_at_ = 0; }
  // Takes the bytes at once, and gives the moment before which nothing more shall be taken: a large request is paid for
  // afterwards. Time that nobody used is lost after a tenth of a second, so no burst follows a pause.
  Time take(std::uint64_t bytes, Time now) noexcept;
  // When the next bytes may be taken.
  Time open_at(Time now) const noexcept;

 private:
  std::atomic<std::uint64_t> rate_{0};
  std::atomic<std::int64_t> open_at_{0};  // nanoseconds
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// All of them at once: of the job, of the host.
class Throttle {
 public:
  explicit Throttle(std::vector<std::shared_ptr<Meter>> meters) : meters_(std::move(meters)) {}
  void take(std::uint64_t bytes, Meter::Time now) const noexcept;
  Meter::Time open_at(Meter::Time now) const noexcept;

 private:
  std::vector<std::shared_ptr<Meter>> meters_;
};

}  // namespace vmferry::copy
