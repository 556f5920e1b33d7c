// What several processes share, with real processes that die.
#include "limits/limits.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "disks.hpp"

namespace vmferry::limits {

namespace {

using copy::Permit;
using PermitList = std::vector<std::unique_ptr<Permit>>;

PermitList all_there_are(copy::Permits& permits, bool first) {
  PermitList held;
  while (auto permit = permits.ask(first)) held.push_back(std::move(permit));
  return held;
}

class SharedLimits : public ::testing::Test {
 protected:
  std::filesystem::path place() const { return folder_.path() / "limits"; }
  support::TemporaryDirectory folder_;
};

}  // namespace

TEST_F(SharedLimits, AreSeenByWhoeverOpensThem) {
  Limits one(place());
  EXPECT_EQ(one.bandwidth(), 0U);
  EXPECT_EQ(one.esxi(), EsxiBudget());
  Limits other(place());
  other.set_bandwidth(1000);
  other.set_esxi({4, 8 << 20});
  EXPECT_EQ(one.bandwidth(), 1000U);
  EXPECT_EQ(one.esxi().connections, 4U);
  EXPECT_EQ(one.esxi().share(), 2U << 20);
  EXPECT_EQ(Limits(place()).esxi(), one.esxi());
}

TEST_F(SharedLimits, AChangeActsOnAThrottleInUse) {
  Limits limits(place());
  const auto throttle = limits.throttle(JobId{"j"});
  const copy::Meter::Time now{std::chrono::seconds(100)};
  throttle->take(1000, now);
  EXPECT_LE(throttle->open_at(now), now);
  Limits(place()).job(JobId{"j"})->set_rate(1000);
  throttle->take(1000, now);
  EXPECT_EQ(throttle->open_at(now), now + std::chrono::milliseconds(900));
  Limits(place()).set_bandwidth(500);
  throttle->take(1000, now);
  EXPECT_EQ(throttle->open_at(now), now + std::chrono::milliseconds(1900));
  limits.forget(JobId{"j"});
  EXPECT_EQ(limits.job(JobId{"j"})->rate(), 0U);
}

TEST_F(SharedLimits, ConnectionsAreCountedForEachHostAndGivenBack) {
  Limits limits(place());
  limits.set_esxi({8, 8 << 20});
  const auto permits = limits.connections_to("esx01.example", false);
  PermitList further = all_there_are(*permits, false);
  EXPECT_EQ(further.size(), 6U) << "a quarter is kept for those that have none";
  const PermitList firsts = all_there_are(*permits, true);
  EXPECT_EQ(firsts.size(), 2U);
  EXPECT_EQ(limits.in_use().at("esx01.example"), 8);
  EXPECT_TRUE(limits.connections_to("esx02.example", false)->ask(false));
  EXPECT_NE(permits->reason().find("esx01.example"), std::string::npos);
  // Another run is another process, or only another opening of the same files.
  Limits other(place());
  EXPECT_FALSE(other.connections_to("esx01.example", false)->ask(true));
  EXPECT_TRUE(other.connections_to("esx01.example", true)->ask(true)) << "its machine is off";
  EXPECT_FALSE(other.connections_to("esx01.example", true)->ask(false));
  further.clear();
  EXPECT_TRUE(other.connections_to("esx01.example", false)->ask(false));
}

TEST_F(SharedLimits, ALoweredLimitRecallsWhatIsBeyondIt) {
  Limits limits(place());
  limits.set_esxi({8, 8 << 20});
  const PermitList held = all_there_are(*limits.connections_to("esx", false), true);
  ASSERT_EQ(held.size(), 8U);
  Limits(place()).set_esxi({3, 8 << 20});
  EXPECT_EQ(std::count_if(held.begin(), held.end(), [](const auto& permit) { return permit->recalled(); }), 5);
}

TEST_F(SharedLimits, ARunThatIsKilledGivesEverythingBack) {
  Limits limits(place());
  limits.set_esxi({2, 8 << 20});
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    Limits own(place());
    const PermitList held = all_there_are(*own.connections_to("esx", false), true);
    const char told = static_cast<char>(held.size());
    if (write(ready[1], &told, 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char held = 0;
  ASSERT_EQ(read(ready[0], &held, 1), 1);
  EXPECT_EQ(held, 2);
  const auto permits = limits.connections_to("esx", false);
  EXPECT_FALSE(permits->ask(true));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(permits->ask(true));
  close(ready[0]);
  close(ready[1]);
}

TEST_F(SharedLimits, WhatWasTakenBeforeAReboot) {
  const copy::Meter::Time now = std::chrono::steady_clock::now();
  {
    Limits before(place());
    before.set_bandwidth(64 << 10);
    before.throttle(JobId{"j"})->take(64 << 20, now);
    EXPECT_GT(Limits(place()).throttle(JobId{"j"})->open_at(now), now + std::chrono::minutes(10)) << "the same boot";
  }
  // The boot's mark follows the meter's rate and moment.
  const Fd page(open((place() / "host").c_str(), O_WRONLY | O_CLOEXEC));
  const std::uint64_t another = 12345;
  ASSERT_EQ(pwrite(page.get(), &another, sizeof another, 16), 8);
  EXPECT_LE(Limits(place()).throttle(JobId{"j"})->open_at(now), now);
  EXPECT_EQ(Limits(place()).bandwidth(), 64U << 10) << "the limit stays";
}

TEST_F(SharedLimits, AFolderThatCannotBeMadeIsNamed) {
  std::ofstream(folder_.path() / "file") << "x";
  try {
    Limits limits(folder_.path() / "file" / "limits");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::config);
    EXPECT_NE(std::string(e.what()).find("limits"), std::string::npos);
  }
}

namespace {

using namespace copy::test;

// A copy from a slow server, as long as it takes.
class LimitedCopy : public SharedLimits {
 protected:
  static constexpr std::uint64_t size = 48 * mib;

  LimitedCopy() {
    put(folder_.path() / "source", random_bytes(size, 1));
    recipe_ = file_recipe(folder_.path() / "source");
    recipe_.filters = {"delay"};
    recipe_.parameters.emplace_back("delay-read", "20ms");
  }
  copy::Report copy(ServedSource& source, const std::shared_ptr<copy::Permits>& permits, Heard& heard) {
    FileTarget target(folder_.path() / "target", size, true);
    copy::Tuning tuning;
    tuning.whole_disk = true;
    tuning.permits = permits;
    const auto list = copy::work(whole(size));
    const copy::Report report = copy::run(source, target, *list, tuning, heard, clock_, log_, {});
    EXPECT_EQ(difference(target.content(), get(folder_.path() / "source", 0, size)), std::nullopt);
    return report;
  }

  nbdkit::Recipe recipe_;
  SystemClock clock_;
  log::Log log_;
};

}  // namespace

// Nothing is read before it was refused one.
TEST_F(LimitedCopy, TakesNoMoreConnectionsThanThereAre) {
  struct Refusing final : copy::Permits {
    std::unique_ptr<Permit> ask(bool needed) override {
      auto permit = inner->ask(needed);
      if (!permit) refused();
      return permit;
    }
    std::uint64_t bytes_under_way() const override { return inner->bytes_under_way(); }
    std::string reason() const override { return inner->reason(); }
    std::shared_ptr<copy::Permits> inner;
    std::function<void()> refused;
  };
  Limits limits(place());
  limits.set_esxi({3, 48 << 20});
  Gate gate(folder_.path() / "gate");
  ServedSource source(eval(size, gate.wait() + dd(folder_.path() / "source")), size);
  int most = 0;
  const auto permits = std::make_shared<Refusing>();
  permits->inner = limits.connections_to("esx", false);
  permits->refused = [&] {
    most = std::max(most, limits.in_use()["esx"]);
    gate.open();
  };
  Heard heard;
  copy(source, permits, heard);
  EXPECT_EQ(source.connects, 3);
  EXPECT_EQ(most, 3);
  EXPECT_EQ(limits.in_use()["esx"], 0);
}

TEST_F(LimitedCopy, ReadsAreNoLargerThanAConnectionsShare) {
  Limits limits(place());
  limits.set_esxi({16, 4 << 20});
  ServedSource source(recipe_, size);
  Heard heard;
  EXPECT_EQ(copy(source, limits.connections_to("esx", false), heard).requests, size / (256 * kib));
}

TEST_F(LimitedCopy, WaitsForItsFirstConnectionAndSaysWhy) {
  Limits limits(place());
  limits.set_esxi({4, 48 << 20});
  PermitList others = all_there_are(*limits.connections_to("esx", false), true);
  struct Waiting final : copy::Progress {
    void advanced(std::uint64_t done, std::uint64_t) noexcept override { gone_on = done > 0; }
    void waiting(const std::string& reason) noexcept override {
      ++told;
      text = reason;
      let_go->clear();
    }
    PermitList* let_go = nullptr;
    std::atomic<int> told{0};
    std::atomic<bool> gone_on{false};
    std::string text;
  } waiting;
  waiting.let_go = &others;
  ServedSource source(recipe_, size);
  FileTarget target(folder_.path() / "target", size, true);
  copy::Tuning tuning;
  tuning.whole_disk = true;
  tuning.permits = limits.connections_to("esx", false);
  const auto list = copy::work(whole(size));
  copy::run(source, target, *list, tuning, waiting, clock_, log_, {});
  EXPECT_EQ(waiting.told, 1);
  EXPECT_NE(waiting.text.find("vmferry limits"), std::string::npos) << waiting.text;
  EXPECT_TRUE(waiting.gone_on);
}

TEST_F(LimitedCopy, ACancelEndsTheWait) {
  Limits limits(place());
  const PermitList others = all_there_are(*limits.connections_to("esx", false), true);
  ServedSource source(recipe_, size);
  FileTarget target(folder_.path() / "target", size, true);
  copy::Tuning tuning;
  tuning.permits = limits.connections_to("esx", false);
  const auto list = copy::work(whole(size));
  std::stop_source stop;
  struct Stopping final : copy::Progress {
    void advanced(std::uint64_t, std::uint64_t) noexcept override {}
    void waiting(const std::string&) noexcept override { stop->request_stop(); }
    std::stop_source* stop = nullptr;
  } stopping;
  stopping.stop = &stop;
  EXPECT_THROW(copy::run(source, target, *list, tuning, stopping, clock_, log_, stop.get_token()), Cancelled);
  EXPECT_EQ(source.connects, 0);
}

TEST_F(LimitedCopy, HeedsAChangeWhileItRuns) {
  Limits limits(place());
  limits.set_esxi({4, 4 << 20});
  // What is ahead waits, so that the copy cannot end before each change was heeded; progress is told all the while.
  Gate gate(folder_.path() / "gate");
  gate.open_to(8 * mib);
  ServedSource source(eval(size, gate.wait() + dd(folder_.path() / "source")), size);
  Heard heard;
  enum { filling, lowered, raised, ended } phase = filling;
  heard.hook = [&](std::uint64_t done) {
    const int used = limits.in_use()["esx"];
    if (done == size) return;
    if (phase == filling && used == 3) {
      Limits(place()).set_esxi({1, 4 << 20});
      phase = lowered;
    } else if (phase == lowered && used == 1) {
      limits.set_esxi({4, 4 << 20});
      phase = raised;
    } else if (phase == lowered && done >= gate.opened()) {
      // A connection that is recalled still ends its reads: a step further, each 0.1 s at the soonest. It is heeded
      // after half a second, and far from the end.
      gate.open_to(gate.opened() + 2 * mib);
    } else if (phase == raised && used > 1) {
      gate.open();
      phase = ended;
    }
  };
  copy(source, limits.connections_to("esx", false), heard);
  EXPECT_EQ(phase, ended);
}

}  // namespace vmferry::limits
