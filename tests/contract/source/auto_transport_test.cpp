// The choice among transports and the change in the middle of a copy, over real nbdkits that are slow, broken or
// killed.
#include "source/vmware/auto_transport.hpp"

#include <gmock/gmock.h>
#include <signal.h>

#include <atomic>
#include <deque>

#include "transport_fixture.hpp"

namespace vmferry::source::vmware::test {

namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// What one candidate of a test does.
struct Script {
  std::string name;
  nbdkit::Recipe recipe;
  std::string refuses;
  std::optional<Error> opening;  // thrown by serve()
  bool quick = true;
  bool counted = true;
  std::uint64_t bytes = capacity;
  std::function<void()> connecting = [] {};
  std::function<void()> checking = [] {};
  // What happened to it.
  int served = 0;
  std::atomic<int> connections{0};
  int pid = 0;
};

// An nbdkit that is not started again when it died.
class Export final : public copy::Source {
 public:
  Export(nbdkit::Export server, Script& script) : server_(std::move(server)), script_(script), bytes_(script.bytes) {}
  std::uint64_t bytes() const override { return bytes_; }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    ++script_.connections;
    script_.connecting();
    return std::make_unique<nbd::Handle>(server_.uri(), std::move(stop));
  }
  void check(std::stop_token) override { script_.checking(); }
  int pid() const { return server_.pid(); }

 private:
  nbdkit::Export server_;
  Script& script_;
  const std::uint64_t bytes_;
};

class Scripted final : public Transport {
 public:
  Scripted(Script& script, process::Runner& runner, std::filesystem::path run, log::Log& log)
      : script_(script), runner_(runner), run_(std::move(run)), log_(log) {}
  std::string name() const override { return script_.name; }
  bool quick() const override { return script_.quick; }
  bool counted() const override { return script_.counted; }
  std::optional<std::string> refuses(const FrozenDisk&) const override {
    return script_.refuses.empty() ? std::nullopt : std::optional(script_.refuses);
  }
  std::unique_ptr<copy::Source> serve(const Point&, const FrozenDisk&, std::stop_token stop) override {
    ++script_.served;
    if (script_.opening) throw *script_.opening;
    auto source =
        std::make_unique<Export>(nbdkit::serve(runner_, script_.recipe, run_, log_, std::move(stop)), script_);
    script_.pid = source->pid();
    return source;
  }

 private:
  Script& script_;
  process::Runner& runner_;
  std::filesystem::path run_;
  log::Log& log_;
};

// A host that takes so many connections; none until it is opened.
class Host final : public copy::Permits {
 public:
  explicit Host(int limit) : limit_(limit) {}
  std::unique_ptr<copy::Permit> ask(bool) override {
    ++asked_;
    if (!open_ || held_ >= limit_) return nullptr;
    return std::make_unique<One>(held_);
  }
  std::uint64_t bytes_under_way() const override { return 1 << 20; }
  std::string reason() const override { return "all are taken"; }
  void open() { open_ = true; }
  int held() const { return held_; }
  int asked() const { return asked_; }

 private:
  struct One final : copy::Permit {
    explicit One(std::atomic<int>& held) : held_(held) { ++held_; }
    ~One() override { --held_; }
    bool recalled() const override { return false; }
    std::atomic<int>& held_;
  };
  const int limit_;
  std::atomic<bool> open_{false};
  std::atomic<int> held_{0}, asked_{0};
};

class AutoTransportTest : public TransportTest {
 protected:
  AutoTransportTest() : content_(random_content(capacity)) {
    write("disk", std::string(content_.begin(), content_.end()));
    for (const char* name : {"first", "second", "third"}) {
      Script& script = scripts_.emplace_back();
      script.name = name;
      script.recipe.plugin = "file";
      script.recipe.parameters = {{"file", (folder_.path() / "disk").string()}};
    }
  }

  Script& first() { return scripts_[0]; }
  Script& second() { return scripts_[1]; }
  Script& third() { return scripts_[2]; }

  static void slow(Script& script, const char* milliseconds) {
    script.recipe.filters.emplace_back("delay");
    script.recipe.parameters.emplace_back("rdelay", std::string(milliseconds) + "ms");
  }
  // Reads fail as soon as the file is there.
  std::filesystem::path breakable(Script& script) const {
    const auto trigger = folder_.path() / (script.name + "-broken");
    script.recipe.filters.emplace_back("error");
    script.recipe.parameters.emplace_back("error-pread-rate", "100%");
    script.recipe.parameters.emplace_back("error-pread-file", trigger.string());
    return trigger;
  }

  std::unique_ptr<Transport> transport(std::size_t candidates, const std::string& before = {}, bool measure = true) {
    AutoOptions options;
    for (std::size_t i = 0; i < candidates; ++i)
      options.candidates.push_back(
          {scripts_[i].name, std::make_unique<Scripted>(scripts_[i], runner_, folder_.path() / "run", log_), ""});
    if (!before.empty()) options.before[disk().key] = before;
    options.measure = measure;
    options.trial.bytes = 4 << 20;
    return auto_transport(std::move(options), clock_, log_);
  }

  // Copies all of it. `meanwhile` is called when the first half is on the target and nothing else was read.
  std::vector<char> copied_while(copy::Source& source, const std::function<void()>& meanwhile, copy::Report& report,
                                 std::shared_ptr<Host> host = nullptr) {
    struct Opening final : copy::Progress {
      Host* host = nullptr;
      void advanced(std::uint64_t, std::uint64_t) noexcept override {}
      void waiting(const std::string&) noexcept override {
        if (host) host->open();
      }
    } opening;
    opening.host = host.get();
    FileTarget target(folder_.path() / "target", source.bytes());
    TwoHalves work(source.bytes(), meanwhile);
    copy::Tuning tuning;
    tuning.request = 64 * 1024;
    tuning.connections = 2;
    tuning.requests_per_connection = 1;
    tuning.permits = std::move(host);
    tuning.checkpoint = [&](const RangeSet& ranges) { work.came(ranges); };
    tuning.checkpoint_bytes = 1;
    report = copy::run(source, target, work, tuning, opening, clock_, log_, {});
    EXPECT_TRUE(work.happened());
    return target.content();
  }

  SystemClock clock_;
  std::vector<char> content_;
  std::deque<Script> scripts_;
};

TEST(BestOf, TakesTheFirstInRankThatIsNearlyAsFastAsTheFastest) {
  const auto best = [](std::initializer_list<double> speeds) {
    std::vector<std::optional<ReadingSpeed>> ranked;
    for (const double speed : speeds)
      ranked.push_back(speed < 0 ? std::nullopt : std::optional(ReadingSpeed{speed, 0, 1}));
    return best_of(ranked);
  };
  EXPECT_EQ(best({}), std::nullopt);
  EXPECT_EQ(best({-1, -1}), std::nullopt);
  EXPECT_EQ(best({-1, 5}), 1U);
  EXPECT_EQ(best({100, 110}), 0U);
  EXPECT_EQ(best({100, 200}), 1U);
  EXPECT_EQ(best({100, 200, 190}), 1U);
  EXPECT_EQ(best({170, 200, 190}), 0U);
}

TEST_F(AutoTransportTest, TakesTheFastestAndSaysWhy) {
  slow(first(), "2000");
  const auto made = transport(2);
  const auto source = made->serve(point_, disk(), {});
  EXPECT_EQ(source->way().name, "second");
  EXPECT_THAT(source->way().reason, AllOf(HasSubstr(" MB/s, "), HasSubstr("against first ")));
  EXPECT_GT(source->way().speed, 0);
  EXPECT_TRUE(copied(*source) == content_);
}

TEST_F(AutoTransportTest, TakesWhatWasTakenBeforeWithoutMeasuring) {
  slow(first(), "40");
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  EXPECT_EQ(source->way().name, "first");
  EXPECT_EQ(first().connections, 0);
  EXPECT_EQ(second().served, 0);
  EXPECT_TRUE(copied(*source) == content_);
}

// The second cycle of a cutover is in the downtime.
TEST_F(AutoTransportTest, MeasuresOnceInARun) {
  slow(first(), "2000");
  const auto made = transport(2);
  made->serve(point_, disk(), {});
  const int measured = second().connections;
  const auto again = made->serve(point_, disk(), {});
  EXPECT_EQ(again->way().name, "second");
  EXPECT_EQ(again->way().speed, 0);
  EXPECT_EQ(second().connections, measured);
  EXPECT_EQ(first().served, 1);
}

TEST_F(AutoTransportTest, WithoutMeasuringTheOrderDecides) {
  slow(first(), "40");
  const auto made = transport(2, "", false);
  EXPECT_EQ(made->serve(point_, disk(), {})->way().name, "first");
  EXPECT_EQ(second().served, 0);
  EXPECT_EQ(transport(2, "second", false)->serve(point_, disk(), {})->way().name, "first") << "whatever was before";
}

TEST_F(AutoTransportTest, PassesOverWhatRefusesFailsOrCannotRead) {
  first().refuses = "it has no flat file";
  second().opening = Error(Fault::auth, "wrong password");
  const auto made = transport(3);
  const auto source = made->serve(point_, disk(), {});
  EXPECT_EQ(source->way().name, "third");
  EXPECT_THAT(source->way().reason,
              AllOf(HasSubstr("first: it has no flat file"), HasSubstr("second: wrong password")));
  EXPECT_TRUE(copied(*source) == content_);
}

TEST_F(AutoTransportTest, WhatOpensButCannotReadIsNotTaken) {
  std::ofstream(breakable(first())) << "now";
  EXPECT_EQ(transport(2)->serve(point_, disk(), {})->way().name, "second");
}

TEST_F(AutoTransportTest, WhenNothingWorksEachReasonIsSaid) {
  first().refuses = "it has no flat file";
  second().opening = Error(Fault::auth, "wrong password");
  const Error error = thrown([&] { transport(2)->serve(point_, disk(), {}); });
  EXPECT_EQ(error.fault(), Fault::unsupported);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("first: it has no flat file"), HasSubstr("second: wrong password"),
                                  HasSubstr("web 01.vmdk")));
  second().opening = Error(Fault::unavailable, "nobody answers");
  EXPECT_EQ(thrown([&] { transport(2)->serve(point_, disk(), {}); }).fault(), Fault::unavailable);
}

TEST_F(AutoTransportTest, OneAloneSpeaksForItself) {
  first().opening = Error(Fault::auth, "wrong password");
  const Error error = thrown([&] { transport(1)->serve(point_, disk(), {}); });
  EXPECT_EQ(error.fault(), Fault::auth);
  EXPECT_STREQ(error.what(), "wrong password");
  first().opening.reset();
  EXPECT_EQ(transport(1)->serve(point_, disk(), {})->way().name, "first");
  EXPECT_EQ(first().connections, 0) << "nothing to choose, so nothing is measured";
}

TEST_F(AutoTransportTest, TheLastResortIsTriedOnlyWhenAllElseFails) {
  first().quick = false;
  EXPECT_EQ(transport(2)->serve(point_, disk(), {})->way().name, "second");
  EXPECT_EQ(first().served, 0);
  second().refuses = "no";
  EXPECT_EQ(transport(2)->serve(point_, disk(), {})->way().name, "first");
}

TEST_F(AutoTransportTest, ReadsThatBeginToFailGoOnByAnother) {
  const auto trigger = breakable(first());
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  copy::Report report;
  EXPECT_TRUE(copied_while(
                  *source, [&] { std::ofstream(trigger) << "now"; }, report) == content_);
  EXPECT_EQ(source->way().name, "second");
  EXPECT_THAT(source->way().reason, HasSubstr("first failed in the middle of the copy: reading"));
  EXPECT_EQ(report.read, capacity) << "what was copied is not read again";
}

TEST_F(AutoTransportTest, AServerThatIsGoneIsReplacedByAnother) {
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  copy::Report report;
  EXPECT_TRUE(copied_while(
                  *source, [&] { kill(first().pid, SIGKILL); }, report) == content_);
  EXPECT_EQ(source->way().name, "second");
}

// Another way would go on with what this one brought.
TEST_F(AutoTransportTest, BytesInDoubtEndTheCopyAndChangeNoWay) {
  auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  first().connecting = [] { throw copy::BytesInDoubt("the file was replaced"); };
  source->failed({0, 512});
  EXPECT_THROW(source->connect({}), copy::BytesInDoubt);
  EXPECT_EQ(source->way().name, "first");
  EXPECT_THROW(copied(*source), copy::BytesInDoubt);
  EXPECT_EQ(second().served, 0);
}

// Found when the copy ends, by a way that was left.
TEST_F(AutoTransportTest, TheBytesOfAWayThatWasLeftAreAskedAfter) {
  auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  source->connect({});
  first().connecting = [] { throw Error(Fault::unsupported, "away"); };
  source->failed({0, 512});
  source->connect({});
  ASSERT_EQ(source->way().name, "second");
  first().checking = [] { throw Error(Fault::conflict, "away"); };
  EXPECT_NO_THROW(source->check({}));
  first().checking = [] { throw copy::BytesInDoubt("the file was replaced"); };
  EXPECT_THROW(copied(*source), copy::BytesInDoubt);
}

TEST_F(AutoTransportTest, AWayThatCouldNotBeAskedAfterIsAskedLater) {
  auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  source->connect({});
  const auto away = [] { throw Error(Fault::unavailable, "away"); };
  first().connecting = first().checking = away;
  source->failed({0, 512});
  source->connect({});
  ASSERT_EQ(source->way().name, "second");
  // Tried again, and given up again.
  second().connecting = away;
  source->failed({0, 512});
  EXPECT_THROW(source->connect({}), Error);
  second().connecting = [] {};
  source->connect({});
  ASSERT_EQ(source->way().name, "second");
  EXPECT_NO_THROW(source->check({}));
  first().checking = [] { throw copy::BytesInDoubt("the file was replaced"); };
  EXPECT_THROW(source->check({}), copy::BytesInDoubt);
}

// Whoever read without the host waits for leave like anybody else when only the host is left.
TEST_F(AutoTransportTest, AReplacementThatIsCountedWaitsForItsPermit) {
  const auto trigger = breakable(first());
  first().counted = false;
  const auto host = std::make_shared<Host>(1);
  int asked_before = -1, unpermitted = 0;
  second().connecting = [&] { unpermitted += host->held() == 0; };
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  copy::Report report;
  const auto breaking = [&] {
    asked_before = host->asked();
    std::ofstream(trigger) << "now";
  };
  EXPECT_TRUE(copied_while(*source, breaking, report, host) == content_);
  EXPECT_EQ(source->way().name, "second");
  EXPECT_TRUE(source->way().counted);
  EXPECT_EQ(asked_before, 0) << "what is not read from the host needs no leave of it";
  EXPECT_EQ(unpermitted, 0);
  EXPECT_EQ(second().connections, 1);
  EXPECT_EQ(report.read, capacity);
  EXPECT_EQ(host->held(), 0);
}

TEST_F(AutoTransportTest, AReplacementThatIsNotCountedGivesThePermitBack) {
  const auto trigger = breakable(first());
  second().counted = false;
  const auto host = std::make_shared<Host>(2);
  host->open();
  std::vector<int> held;
  second().connecting = [&] { held.push_back(host->held()); };
  slow(second(), "20");
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  copy::Report report;
  EXPECT_TRUE(copied_while(
                  *source, [&] { std::ofstream(trigger) << "now"; }, report, host) == content_);
  EXPECT_EQ(source->way().name, "second");
  EXPECT_FALSE(source->way().counted);
  ASSERT_GE(held.size(), 2U);
  EXPECT_EQ(held.back(), 0);
}

TEST_F(AutoTransportTest, AnotherDiskIsNoReplacement) {
  const auto trigger = breakable(first());
  write("smaller", std::string(capacity / 2, 'x'));
  second().recipe.parameters = {{"file", (folder_.path() / "smaller").string()}};
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  EXPECT_NO_THROW(source->connect({}));
  std::ofstream(trigger) << "now";
  source->failed({0, 4096});
  EXPECT_THAT(thrown([&] { source->connect({}); }).what(), HasSubstr("reading"));
  EXPECT_EQ(source->way().name, "first");
}

TEST_F(AutoTransportTest, WhenAllFailTheFirstIsAskedAgain) {
  const auto trigger = breakable(first());
  second().opening = Error(Fault::unavailable, "nobody answers");
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  std::ofstream(trigger) << "now";
  source->failed({0, 4096});
  EXPECT_THROW(source->connect({}), Error);
  std::filesystem::remove(trigger);
  EXPECT_NO_THROW(source->connect({}));
  EXPECT_EQ(source->way().name, "first");
}

TEST_F(AutoTransportTest, TellsWhetherItsConnectionsAreToTheHost) {
  EXPECT_TRUE(transport(1)->serve(point_, disk(), {})->way().counted);
  AutoOptions options;
  write("web 01-flat.vmdk", std::string(content_.begin(), content_.end()));
  options.candidates.push_back(
      {"file", file_transport({folder_.path(), {}, folder_.path() / "run"}, runner_, log_), ""});
  EXPECT_FALSE(auto_transport(std::move(options), clock_, log_)->serve(point_, disk(), {})->way().counted);
}

// What takes every way with it, a vCenter that is restarted, is waited out with two ways as it is with one.
TEST_F(AutoTransportTest, AnOutageOfAllIsWaitedOut) {
  const auto trigger = breakable(first());
  const auto made = transport(2, "first");
  second().opening = Error(Fault::unavailable, "nobody answers");
  const auto source = made->serve(point_, disk(), {});
  // It is over when it is asked after for the third time.
  std::atomic<bool> broken{false};
  int asked = 0;
  first().connecting = [&] {
    if (broken && ++asked == 3) std::filesystem::remove(trigger);
  };
  const auto breaks = [&] {
    broken = true;
    std::ofstream(trigger) << "now";
  };
  copy::Report report;
  EXPECT_TRUE(copied_while(*source, breaks, report) == content_);
  EXPECT_GE(asked, 3);
  EXPECT_EQ(source->way().name, "first");
}

// What is final does not hide that another way may come back.
TEST_F(AutoTransportTest, WhenAllFailWhatMayPassIsTold) {
  std::optional<Error> refusal;
  first().connecting = [&] {
    if (refusal) throw Error(*refusal);
  };
  second().opening = Error(Fault::unavailable, "nobody answers");
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  source->connect({});
  refusal = Error(Fault::not_found, "the file is gone");
  source->failed({0, 512});
  EXPECT_EQ(thrown([&] { source->connect({}); }).fault(), Fault::unavailable);
}

// A host that fails large reads only, or a bad sector in the middle of what was read.
TEST_F(AutoTransportTest, TheProofIsAsLargeAsWhatFailed) {
  first().recipe.plugin = "eval";
  first().recipe.parameters = {
      {"get_size", "echo " + std::to_string(capacity)},
      {"pread", "if [ $3 -gt 65536 ]; then echo 'EIO too large' >&2; exit 1; fi; head -c $3 /dev/zero"}};
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  source->failed({0, 1 << 20});
  source->connect({});
  EXPECT_EQ(source->way().name, "second");
}

// A host allows so many connections: that is no reason to leave it.
TEST_F(AutoTransportTest, AFurtherConnectionThatIsRefusedChangesNothing) {
  std::optional<Error> refusal;
  first().connecting = [&] {
    if (refusal) throw Error(*refusal);
  };
  const auto made = transport(2, "first");
  const auto source = made->serve(point_, disk(), {});
  const auto connection = source->connect({});
  refusal = Error(Fault::unavailable, "no more connections");
  EXPECT_EQ(thrown([&] { source->connect({}); }).fault(), Fault::unavailable);
  EXPECT_EQ(source->way().name, "first");
  // The engine asks a second time only when it has none left.
  source->connect({});
  EXPECT_EQ(source->way().name, "second");
}

}  // namespace

}  // namespace vmferry::source::vmware::test
