// What is taken over a time is the rate, however it is taken.
#include "copy/throttle.hpp"

#include <gtest/gtest.h>

namespace vmferry::copy {

using namespace std::chrono_literals;

TEST(Throttle, KeepsTheRate) {
  Throttle throttle(1000);
  std::chrono::steady_clock::time_point now{100s};
  std::uint64_t taken = 0;
  while (now < std::chrono::steady_clock::time_point(110s)) {
    if (now >= throttle.open_at()) {
      throttle.take(50, now);
      taken += 50;
    }
    now += 1ms;
  }
  EXPECT_GE(taken, 9950U);
  EXPECT_LE(taken, 10150U) << "ten seconds, the tenth that was kept, and one request";
}

TEST(Throttle, APauseIsNoCredit) {
  Throttle throttle(1000);
  const std::chrono::steady_clock::time_point now{100s};
  throttle.take(1000, now);
  EXPECT_LE(throttle.open_at() - now, 1s);
  throttle.take(1000, now + 100s);
  EXPECT_GE(throttle.open_at() - (now + 100s), 899ms);
}

TEST(Throttle, ALargeRequestIsPaidForAfterwards) {
  Throttle throttle(1000);
  const std::chrono::steady_clock::time_point now{100s};
  EXPECT_EQ(throttle.take(10000, now), now + 9900ms);
}

}  // namespace vmferry::copy
