// What is taken over a time is the rate, however it is taken.
#include "copy/throttle.hpp"

#include <gtest/gtest.h>

namespace vmferry::copy {

using namespace std::chrono_literals;

namespace {

const Meter::Time start{100s};

void take_what_is_allowed(const auto& throttle, Meter::Time from, Meter::Time until, std::uint64_t& taken) {
  for (Meter::Time now = from; now < until; now += 1ms)
    if (now >= throttle.open_at(now)) {
      throttle.take(50, now);
      taken += 50;
    }
}

std::shared_ptr<Meter> meter(std::uint64_t rate) {
  auto made = std::make_shared<Meter>();
  made->set_rate(rate);
  return made;
}

}  // namespace

TEST(Throttle, KeepsTheRate) {
  std::uint64_t taken = 0;
  take_what_is_allowed(Throttle({meter(1000)}), start, start + 10s, taken);
  EXPECT_GE(taken, 9950U);
  EXPECT_LE(taken, 10150U) << "ten seconds, the tenth that was kept, and one request";
}

TEST(Throttle, TheNarrowestOfSeveralCounts) {
  std::uint64_t taken = 0;
  take_what_is_allowed(Throttle({meter(0), meter(5000), meter(1000)}), start, start + 10s, taken);
  EXPECT_GE(taken, 9950U);
  EXPECT_LE(taken, 10150U);
}

TEST(Throttle, TwoWhoShareAMeterHaveTheRateTogether) {
  const auto host = meter(1000);
  const Throttle one({meter(0), host}), other({meter(0), host});
  std::uint64_t taken = 0;
  for (Meter::Time now = start; now < start + 10s; now += 10ms) {
    take_what_is_allowed(one, now, now + 5ms, taken);
    take_what_is_allowed(other, now + 5ms, now + 10ms, taken);
  }
  EXPECT_GE(taken, 9950U);
  EXPECT_LE(taken, 10150U);
}

TEST(Meter, APauseIsNoCredit) {
  const auto throttle = meter(1000);
  throttle->take(1000, start);
  EXPECT_LE(throttle->open_at(start) - start, 1s);
  throttle->take(1000, start + 100s);
  EXPECT_GE(throttle->open_at(start + 100s) - (start + 100s), 899ms);
}

TEST(Meter, ALargeRequestIsPaidForAfterwards) { EXPECT_EQ(meter(1000)->take(10000, start), start + 9900ms); }

TEST(Meter, AChangedRateForgivesWhatWasTaken) {
  const auto throttle = meter(1000);
  throttle->take(100000, start);
  throttle->set_rate(2000);
  EXPECT_LE(throttle->open_at(start), start);
  throttle->set_rate(0);
  EXPECT_EQ(throttle->take(100000, start), start);
  EXPECT_LE(throttle->open_at(start), start);
}

TEST(Meter, AMomentOfAnotherBootIsNotWaitedFor) {
  const auto throttle = meter(1000);
  throttle->take(1000, start + 48h);
  EXPECT_LE(throttle->open_at(start), start);
  throttle->take(1000, start);
  EXPECT_LE(throttle->open_at(start) - start, 1s);
}

}  // namespace vmferry::copy
