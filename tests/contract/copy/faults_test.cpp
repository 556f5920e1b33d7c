// What goes wrong during a copy: reads that fail, servers that die, disks that fill up or change, users who cancel.
#include "copy/permits.hpp"
#include "disks.hpp"

#include <sys/resource.h>
#include <sys/socket.h>

#include <fstream>
#include <thread>

#include "support/fake_clock.hpp"
#include "support/thrown.hpp"

namespace vmferry::copy::test {

using support::thrown;

namespace {

class CopyFaults : public ::testing::Test {
 protected:
  std::filesystem::path source_file() const { return folder_.path() / "source"; }
  std::filesystem::path target_file() const { return folder_.path() / "target"; }

  support::TemporaryDirectory folder_;
  SystemClock clock_;
  support::FakeClock fast_clock_;
  log::Log log_;
  Heard heard_;
};

Tuning full() {
  Tuning tuning;
  tuning.whole_disk = true;
  return tuning;
}

// Its time is what is slept. Bad weather, a file that the server looks for, ends after some of that: whoever does not
// wait never sees it end.
class Weather final : public Clock {
 public:
  Weather(std::filesystem::path storm, std::chrono::nanoseconds lasts) : storm_(std::move(storm)), lasts_(lasts) {}
  std::chrono::system_clock::time_point wall() const override { return time_.wall(); }
  std::chrono::steady_clock::time_point mono() const override { return time_.mono(); }
  bool sleep(std::chrono::nanoseconds duration, std::stop_token stop) override {
    const bool slept = time_.sleep(duration, std::move(stop));
    if (time_.mono().time_since_epoch() >= lasts_) std::filesystem::remove(storm_);
    return slept;
  }

 private:
  const std::filesystem::path storm_;
  const std::chrono::nanoseconds lasts_;
  support::FakeClock time_;
};

}  // namespace

// The I/O itself, as the server saw it.
TEST_F(CopyFaults, ExactTraceOfADelta) {
  const std::uint64_t size = 4 * mib;
  const auto trace = folder_.path() / "trace";
  put(source_file(), random_bytes(size, 1));
  ServedSource source(eval(size, "echo $4 $3 >> " + trace.string() + "; " + dd(source_file())), size);
  FileTarget target(target_file(), size, true);
  Tuning tuning;
  tuning.request = 256 * kib;
  tuning.connections = 1;
  tuning.requests_per_connection = 1;
  // Two near areas in one read, a far one alone, and a long one cut at absolute multiples.
  const std::vector<ByteRange> areas{{0, 4 * kib}, {32 * kib, 4 * kib}, {512 * kib, 100}, {mib + 128 * kib, 512 * kib}};
  const auto list = work(RangeSet(areas));
  const Report report = run(source, target, *list, tuning, heard_, clock_, log_, {});
  std::ifstream in(trace);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> seen;
  for (std::uint64_t offset = 0, count = 0; in >> offset >> count;) seen.emplace_back(offset, count);
  const std::vector<std::pair<std::uint64_t, std::uint64_t>> expected{{0, 36 * kib},
                                                                      {512 * kib, 512},
                                                                      {mib + 128 * kib, 128 * kib},
                                                                      {mib + 256 * kib, 256 * kib},
                                                                      {mib + 512 * kib, 128 * kib}};
  EXPECT_EQ(seen, expected);
  EXPECT_EQ(report.requests, expected.size());
  EXPECT_EQ(report.retries, 0u);
}

TEST_F(CopyFaults, SmallDeltaUsesOneConnectionAndLargeWorkSeveral) {
  const std::uint64_t size = 64 * mib;
  put(source_file(), random_bytes(size, 1));
  nbdkit::Recipe recipe = file_recipe(source_file());
  recipe.filters = {"delay"};
  recipe.parameters.emplace_back("delay-read", "20ms");
  {
    ServedSource source(recipe, size);
    FileTarget target(target_file(), size, true);
    const std::vector<ByteRange> areas{{0, mib}, {10 * mib, mib}};
    const auto list = work(RangeSet(areas));
    run(source, target, *list, Tuning(), heard_, clock_, log_, {});
    EXPECT_EQ(source.connects, 1);
  }
  ServedSource source(recipe, size);
  FileTarget target(target_file(), size, true);
  const auto list = work(whole(size));
  const Report report = run(source, target, *list, full(), heard_, clock_, log_, {});
  EXPECT_GT(source.connects, 1);
  EXPECT_LE(source.connects, 4);
  EXPECT_EQ(report.read, size);
  EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
}

TEST_F(CopyFaults, ExtraConnectionsThatAreRefusedOnlyCostSpeed) {
  const std::uint64_t size = 32 * mib;
  put(source_file(), random_bytes(size, 1));
  nbdkit::Recipe recipe = file_recipe(source_file());
  recipe.filters = {"delay"};
  recipe.parameters.emplace_back("delay-read", "20ms");
  ServedSource source(recipe, size);
  source.refuse_after = 1;
  FileTarget target(target_file(), size, true);
  const auto list = work(whole(size));
  run(source, target, *list, full(), heard_, clock_, log_, {});
  EXPECT_EQ(source.connects, 2);
  EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
}

// The error filter fails reads while a file exists: a storm that passes.
TEST_F(CopyFaults, FailedReadsGoAgainOnFreshConnections) {
  const std::uint64_t size = 32 * mib;
  put(source_file(), random_bytes(size, 1));
  nbdkit::Recipe recipe = file_recipe(source_file());
  recipe.filters = {"error"};
  recipe.parameters.insert(recipe.parameters.end(), {{"error", "EIO"}, {"error-pread-rate", "40%"}});
  // 32 reads: that none of them fails happens once in ten million runs.
  ServedSource source(recipe, size);
  FileTarget target(target_file(), size, true);
  Tuning tuning = full();
  tuning.attempts = 30;
  const auto list = work(whole(size));
  const Report report = run(source, target, *list, tuning, heard_, fast_clock_, log_, {});
  EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
  EXPECT_GT(report.retries, 0u);
  EXPECT_GT(source.connects, 1);
  EXPECT_TRUE(source.server_alive());
}

// Others take every connection that comes free.
TEST_F(CopyFaults, AFailedReadGoesOnAConnectionThatIsThereWhenThereIsNoOther) {
  const std::uint64_t size = 16 * mib;
  put(source_file(), random_bytes(size, 1));
  const std::string marker = (folder_.path() / "failed").string();
  ServedSource source(eval(size, "if [ $4 -eq 5242880 ] && ! [ -e " + marker + " ]; then touch " + marker +
                                     "; echo 'EIO once' >&2; exit 1; fi; " + dd(source_file())),
                      size);
  struct Two final : Permits {
    struct One final : Permit {
      bool recalled() const override { return false; }
    };
    std::unique_ptr<Permit> ask(bool) override { return given++ < 2 ? std::make_unique<One>() : nullptr; }
    std::uint64_t bytes_under_way() const override { return 2 * mib; }
    std::string reason() const override { return "all are taken"; }
    std::atomic<int> given{0};
  };
  FileTarget target(target_file(), size, true);
  Tuning tuning = full();
  tuning.permits = std::make_shared<Two>();
  const auto list = work(whole(size));
  const Report report = run(source, target, *list, tuning, heard_, clock_, log_, {});
  EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
  EXPECT_EQ(report.retries, 1U);
  EXPECT_EQ(source.connects, 2);
}

TEST_F(CopyFaults, BadSectorIsNamedAfterAllAttempts) {
  const std::uint64_t size = 8 * mib;
  put(source_file(), random_bytes(size, 1));
  // Every read that touches offset 5 MiB fails.
  ServedSource source(
      eval(size, "if [ $4 -le 5242880 ] && [ $(($4 + $3)) -gt 5242880 ]; then echo 'EIO bad sector' >&2; exit 1; fi; " +
                     dd(source_file())),
      size);
  FileTarget target(target_file(), size, true);
  Tuning tuning = full();
  tuning.attempts = 5;
  const auto list = work(whole(size));
  const Error error = thrown([&] { run(source, target, *list, tuning, heard_, fast_clock_, log_, {}); });
  EXPECT_EQ(error.fault(), Fault::unavailable);
  EXPECT_NE(std::string(error.what()).find("5242880"), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find("5 times"), std::string::npos) << error.what();
  EXPECT_GE(source.connects, 5);
  // A connection that was under way already serves none of the new attempts: all of them are waited for.
  EXPECT_GE(fast_clock_.sleeps().size(), 4u) << "no back-off";
}

// All connections fail for a while and can be opened all the time, as of an nbdkit whose vCenter is restarted. It must
// not use up its attempts at once.
TEST_F(CopyFaults, AnOutageIsWaitedOutOnEachConnection) {
  const std::uint64_t size = 32 * mib;
  put(source_file(), random_bytes(size, 1));
  const std::string storm = (folder_.path() / "storm").string(), begun = (folder_.path() / "begun").string();
  // It begins with the read at 8 MiB, when several connections have much to do.
  ServedSource source(
      eval(size, "if [ $4 -eq 8388608 ] && ! [ -e " + begun + " ]; then : >" + storm + "; : >" + begun +
                     "; fi; if [ -e " + storm + " ]; then echo 'EIO storm' >&2; exit 1; fi; " + dd(source_file())),
      size);
  FileTarget target(target_file(), size, true);
  Tuning tuning = full();
  tuning.request = 256 * kib;
  tuning.attempts = 7;  // 0.5 s, 1 s, 2 s... between them; without a wait seven are used up as soon as one
  Weather weather(storm, std::chrono::milliseconds(2500));
  const auto list = work(whole(size));
  const Report report = run(source, target, *list, tuning, heard_, weather, log_, {});
  EXPECT_TRUE(std::filesystem::exists(begun));
  EXPECT_FALSE(std::filesystem::exists(storm)) << "it was not waited out";
  EXPECT_GT(report.retries, 0U);
  EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
}

// A server that neither answers nor ends, as of a host that lost its power.
TEST_F(CopyFaults, AServerThatHangsIsGivenUp) {
  const std::uint64_t size = 16 * mib;
  put(source_file(), random_bytes(size, 1));
  const std::string marker = (folder_.path() / "hung").string();
  ServedSource source(eval(size, "if [ $4 -eq 5242880 ] && ! [ -e " + marker + " ]; then touch " + marker +
                                     "; exec sleep 600; fi; " + dd(source_file())),
                      size);
  FileTarget target(target_file(), size, true);
  Tuning tuning = full();
  tuning.silence = std::chrono::seconds(8);
  const auto list = work(whole(size));
  const auto began = std::chrono::steady_clock::now();
  const Report report = run(source, target, *list, tuning, heard_, clock_, log_, {});
  EXPECT_TRUE(std::filesystem::exists(marker));
  EXPECT_GT(report.retries, 0U);
  EXPECT_GE(std::chrono::steady_clock::now() - began, tuning.silence);
  EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
}

// By a read of its own, which is therefore in the middle for certain.
TEST_F(CopyFaults, ServerKilledInMidReadIsStartedAgain) {
  const std::uint64_t size = 32 * mib;
  put(source_file(), random_bytes(size, 1));
  const std::string killed = (folder_.path() / "killed").string();
  // Whoever is killed does not remove his folder.
  ServedSource source(eval(size, "if [ $4 -eq 20971520 ] && ! [ -e " + killed + " ]; then : >" + killed +
                                     "; kill -9 $PPID; rm -rf \"$tmpdir\"; exit 1; fi; " + dd(source_file())),
                      size);
  FileTarget target(target_file(), size, true);
  const auto list = work(whole(size));
  const Report report = run(source, target, *list, full(), heard_, clock_, log_, {});
  EXPECT_TRUE(std::filesystem::exists(killed));
  EXPECT_EQ(source.starts, 2);
  EXPECT_GT(report.retries, 0u);
  EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
}

TEST_F(CopyFaults, NoConnectionAtAll) {
  put(source_file(), random_bytes(mib, 1));
  ServedSource source(file_recipe(source_file()), mib);
  source.refuse_after = 0;
  FileTarget target(target_file(), mib, true);
  Tuning tuning;
  tuning.attempts = 4;
  const auto list = work(whole(mib));
  const Error error = thrown([&] { run(source, target, *list, tuning, heard_, fast_clock_, log_, {}); });
  EXPECT_EQ(error.fault(), Fault::unavailable);
  EXPECT_NE(std::string(error.what()).find("4 attempts"), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find("takes no more connections"), std::string::npos) << error.what();
  EXPECT_EQ(source.connects, 4);
  EXPECT_EQ(fast_clock_.sleeps().size(), 3u);
  EXPECT_GT(fast_clock_.sleeps()[2], fast_clock_.sleeps()[0]);
}

TEST_F(CopyFaults, ServerThatShowsASmallerDisk) {
  put(source_file(), random_bytes(mib, 1));
  ServedSource source(file_recipe(source_file()), 2 * mib);
  FileTarget target(target_file(), 2 * mib, true);
  const auto list = work(whole(2 * mib));
  EXPECT_EQ(thrown([&] { run(source, target, *list, full(), heard_, clock_, log_, {}); }).fault(), Fault::data);
}

TEST_F(CopyFaults, TargetTooSmall) {
  put(source_file(), random_bytes(2 * mib, 1));
  ServedSource source(file_recipe(source_file()), 2 * mib);
  FileTarget target(target_file(), mib, true);
  const auto list = work(whole(2 * mib));
  EXPECT_EQ(thrown([&] { run(source, target, *list, full(), heard_, clock_, log_, {}); }).fault(), Fault::conflict);
  EXPECT_EQ(source.connects, 0);
}

TEST_F(CopyFaults, CancelInTheMiddleLeavesTheServerAlive) {
  const std::uint64_t size = 256 * mib;
  nbdkit::Recipe recipe;
  recipe.plugin = "pattern";
  recipe.filters = {"delay"};
  recipe.parameters = {{"size", "256M"}, {"delay-read", "100ms"}};
  ServedSource source(recipe, size);
  FileTarget target(target_file(), size, true);
  std::stop_source stop;
  heard_.hook = [&](std::uint64_t done) {
    if (done > 0) stop.request_stop();
  };
  const auto list = work(whole(size));
  const auto began = std::chrono::steady_clock::now();
  EXPECT_THROW(run(source, target, *list, full(), heard_, clock_, log_, stop.get_token()), Cancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(15));
  EXPECT_LT(heard_.done, size);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // a server that aborts does it soon after
  EXPECT_TRUE(source.server_alive()) << source.last_words();
}

TEST_F(CopyFaults, CancelWhileTheWorkIsSlow) {
  put(source_file(), random_bytes(mib, 1));
  ServedSource source(file_recipe(source_file()), mib);
  FileTarget target(target_file(), mib, true);
  std::stop_source stop;
  Pieces pieces({{{0, mib}}});
  pieces.before = [&](std::size_t, std::stop_token inner) {
    stop.request_stop();
    sleep_or_cancel(clock_, std::chrono::seconds(60), inner);
  };
  EXPECT_THROW(run(source, target, pieces, Tuning(), heard_, clock_, log_, stop.get_token()), Cancelled);
}

TEST_F(CopyFaults, AFailureOfTheWorkReachesTheCaller) {
  const std::uint64_t size = 16 * mib;
  put(source_file(), random_bytes(size, 1));
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  Pieces pieces({{{0, mib}}, {{mib, mib}}});
  pieces.before = [](std::size_t at, std::stop_token) {
    if (at == 1) throw Error(Fault::data, "the areas are gone");
  };
  const Error error = thrown([&] { run(source, target, pieces, Tuning(), heard_, clock_, log_, {}); });
  EXPECT_EQ(error.fault(), Fault::data);
  EXPECT_STREQ(error.what(), "the areas are gone");
  EXPECT_TRUE(source.server_alive());
}

TEST_F(CopyFaults, WriteFailureOnASwappedDeviceSaysSo) {
  const std::uint64_t size = 16 * mib;
  put(source_file(), random_bytes(size, 1));
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  target.use(Fd(open("/dev/full", O_RDWR | O_CLOEXEC)));
  Pieces pieces({{{0, size}}});
  pieces.before = [&](std::size_t, std::stop_token) { target.swapped = true; };
  const Error error = thrown([&] { run(source, target, pieces, Tuning(), heard_, clock_, log_, {}); });
  EXPECT_EQ(error.fault(), Fault::conflict);
  EXPECT_STREQ(error.what(), "the device was swapped");
}

TEST_F(CopyFaults, DeviceSwappedAtTheVeryEndIsNotDone) {
  put(source_file(), random_bytes(mib, 1));
  ServedSource source(file_recipe(source_file()), mib);
  FileTarget target(target_file(), mib, true);
  Pieces pieces({{{0, mib}}});
  pieces.before = [&](std::size_t at, std::stop_token) {
    if (at == 1) target.swapped = true;
  };
  EXPECT_EQ(thrown([&] { run(source, target, pieces, Tuning(), heard_, clock_, log_, {}); }).fault(), Fault::conflict);
}

TEST_F(CopyFaults, FullDiskIsNamed) {
  const std::uint64_t size = 4 * mib;
  put(source_file(), random_bytes(size, 1));
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  target.use(Fd(open("/dev/full", O_RDWR | O_CLOEXEC)));
  const auto list = work(whole(size));
  const Error error = thrown([&] { run(source, target, *list, Tuning(), heard_, clock_, log_, {}); });
  EXPECT_EQ(error.fault(), Fault::quota);
  EXPECT_NE(std::string(error.what()).find("disk is full"), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find(target_file().string()), std::string::npos) << error.what();
  EXPECT_TRUE(source.server_alive());
}

// A limit in the middle of a write: the kernel first writes a part, then refuses the rest.
TEST_F(CopyFaults, ShortWriteIsResumedThenRefused) {
  const std::uint64_t size = 4 * mib;
  put(source_file(), random_bytes(size, 1));
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  ASSERT_EQ(ftruncate(target.fd(), 0), 0);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{2 * mib + 100 * kib, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  Tuning tuning;
  tuning.connections = 1;
  const auto list = work(whole(size));
  const Error error = thrown([&] { run(source, target, *list, tuning, heard_, clock_, log_, {}); });
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(error.fault(), Fault::quota);
  EXPECT_NE(std::string(error.what()).find("ulimit"), std::string::npos) << error.what();
}

TEST_F(CopyFaults, ATargetThatRefusesPositionedWrites) {
  put(source_file(), random_bytes(mib, 1));
  ServedSource source(file_recipe(source_file()), mib);
  FileTarget target(target_file(), mib, true);
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  const Fd other(pair[1]);
  target.use(Fd(pair[0]));
  const auto list = work(whole(mib));
  const Error error = thrown([&] { run(source, target, *list, Tuning(), heard_, clock_, log_, {}); });
  EXPECT_EQ(error.fault(), Fault::unavailable) << error.what();  // ESPIPE, named and not retried
}

}  // namespace vmferry::copy::test
