// Several at once, never more than allowed; after a failure nothing new begins.
#include "job/steps/side_by_side.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <latch>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "support/thrown.hpp"

namespace vmferry::job::steps {
namespace {

using namespace std::chrono_literals;
using support::thrown;

TEST(SideBySide, EachOnceAndAtMostSoManyAtOnce) {
  std::vector<std::atomic<int>> times(9);
  std::atomic<int> now = 0, most = 0;
  std::latch together(3);
  side_by_side(times.size(), 3, OnFailure::stop_others,
               [&](std::size_t index, std::stop_token) {
                 const int running = ++now;
                 int seen = most;
                 while (running > seen && !most.compare_exchange_weak(seen, running)) {
                 }
                 if (index < 3) together.arrive_and_wait();
                 std::this_thread::sleep_for(10ms);
                 ++times[index];
                 --now;
               },
               {});
  EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](const auto& t) { return t == 1; }));
  EXPECT_EQ(most, 3);
  side_by_side(0, 3, OnFailure::stop_others, [](std::size_t, std::stop_token) { FAIL(); }, {});
}

struct Told {
  int begun = 0;
  bool stopped = false;  // the one that was on its way when the first failed
  std::string said;
};
// Tells when its thread ends: then what that thread threw was dealt with.
struct Leaving {
  std::atomic<bool>* left = nullptr;
  ~Leaving() {
    if (left) *left = true;
  }
};
Told with_a_failure(OnFailure on_failure) {
  std::atomic<int> begun = 0;
  std::atomic<bool> stopped = false, left = false;
  const Error e = thrown([&] {
    side_by_side(5, 2, on_failure,
                 [&](std::size_t index, std::stop_token stop) {
                   ++begun;
                   if (index == 0) {
                     while (begun < 2) std::this_thread::yield();
                     thread_local Leaving leaving;
                     leaving.left = &left;
                     throw Error(Fault::quota, "the first");
                   }
                   for (int i = 0; i < 3000 && !left; ++i) std::this_thread::sleep_for(10ms);
                   const int patience = on_failure == OnFailure::stop_others ? 3000 : 20;
                   for (int i = 0; i < patience && !stop.stop_requested(); ++i) std::this_thread::sleep_for(10ms);
                   stopped = stop.stop_requested();
                   throw Error(Fault::quota, "a later one");
                 },
                 {});
  });
  return {begun, stopped, e.what()};
}

TEST(SideBySide, AfterAFailureTheOthersAreStopped) {
  const Told told = with_a_failure(OnFailure::stop_others);
  EXPECT_TRUE(told.stopped);
  EXPECT_EQ(told.begun, 2);
  EXPECT_EQ(told.said, "the first");
}

TEST(SideBySide, OrTheyEndAndNothingElseBegins) {
  const Told told = with_a_failure(OnFailure::finish_begun);
  EXPECT_FALSE(told.stopped);
  EXPECT_EQ(told.begun, 2);
  EXPECT_EQ(told.said, "the first");
}

TEST(SideBySide, WhoStopsItStopsAll) {
  std::stop_source stop;
  stop.request_stop();
  std::atomic<int> stopped = 0;
  side_by_side(
      3, 3, OnFailure::finish_begun,
      [&](std::size_t, std::stop_token token) { stopped += token.stop_requested() ? 1 : 0; }, stop.get_token());
  EXPECT_EQ(stopped, 3);
}

}  // namespace
}  // namespace vmferry::job::steps
