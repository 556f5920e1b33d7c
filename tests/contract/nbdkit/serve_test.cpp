// nbdkit itself: what is installed, servers that start, fail, die and end, secrets that change.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "nbdkit/nbdkit.hpp"
#include "support/lab.hpp"

namespace vmferry::nbdkit {

namespace {

class ServeTest : public ::testing::Test {
 protected:
  static Recipe recipe(const std::string& plugin, std::vector<std::pair<std::string, std::string>> parameters) {
    Recipe made;
    made.plugin = plugin;
    made.parameters = std::move(parameters);
    return made;
  }
  static std::string command_line(int pid) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/cmdline", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  support::TemporaryDirectory folder_;
  process::SystemRunner runner_;
  log::Log log_;
};

// A runner whose programs are never there.
class NothingInstalled final : public process::Runner {
 public:
  std::unique_ptr<process::Child> start(const process::Command& command, process::LineSink,
                                        process::LineSink) override {
    throw Error(Fault::tool, "there is no program " + command.program.string());
  }
};

}  // namespace

TEST_F(ServeTest, ProbeKnowsWhatIsInstalled) {
  const Probe found = probe(runner_, {});
  EXPECT_FALSE(found.version.empty());
  EXPECT_EQ(found.version.find_first_not_of("0123456789."), std::string::npos) << found.version;
  EXPECT_TRUE(found.plugin("file"));
  EXPECT_TRUE(found.plugin("curl"));
  EXPECT_FALSE(found.plugin("no-such-plugin"));
  EXPECT_TRUE(found.filter("delay"));
  EXPECT_FALSE(found.filter("no-such-filter"));
}

TEST_F(ServeTest, ProbeNamesThePackage) {
  NothingInstalled nothing;
  try {
    probe(nothing, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::tool);
    EXPECT_NE(std::string(error.what()).find("install the package nbdkit"), std::string::npos);
  }
}

TEST_F(ServeTest, ServesReadOnlyInAPrivateFolderAndLeavesNothing) {
  int pid = 0;
  {
    Export served = serve(runner_, recipe("memory", {{"size", "1M"}}), folder_.path(), log_, {});
    pid = served.pid();
    EXPECT_TRUE(served.alive());
    const nbd::Handle handle(served.uri());
    EXPECT_EQ(handle.bytes(), 1048576u);
    int folders = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      ++folders;
      struct stat st {};
      ASSERT_EQ(stat(entry.path().c_str(), &st), 0);
      EXPECT_EQ(st.st_mode & 0777, 0700u) << entry.path();
    }
    EXPECT_EQ(folders, 1);
    const std::string line = command_line(pid);
    EXPECT_NE(line.find("--readonly"), std::string::npos);
    EXPECT_NE(line.find("--foreground"), std::string::npos);
    const Export moved = std::move(served);
    EXPECT_TRUE(moved.alive());
  }
  EXPECT_NE(kill(pid, 0), 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(ServeTest, FailureToStartHasItsOwnWords) {
  try {
    serve(runner_, recipe("file", {{"file", "/no/such/disk"}}), folder_.path(), log_, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::tool);
    EXPECT_NE(std::string(error.what()).find("/no/such/disk"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(ServeTest, PathsThatAreTooLongAndPathsWithOddNames) {
  EXPECT_THROW(serve(runner_, recipe("null", {{"size", "1M"}}), folder_.path() / std::string(100, 'x'), log_, {}),
               Error);
  const Export served = serve(runner_, recipe("null", {{"size", "1M"}}), folder_.path() / "a b&c%41", log_, {});
  EXPECT_EQ(nbd::Handle(served.uri()).bytes(), 1048576u);
}

TEST_F(ServeTest, KilledServerIsNoticed) {
  const Export served = serve(runner_, recipe("null", {{"size", "1M"}}), folder_.path(), log_, {});
  ASSERT_EQ(kill(served.pid(), SIGKILL), 0);
  for (int i = 0; i < 6000 && served.alive(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(served.alive());
}

// A server started by a thread must outlive that thread (PR_SET_PDEATHSIG counts threads, not processes).
TEST_F(ServeTest, OutlivesTheThreadThatStartedIt) {
  std::optional<Export> served;
  std::thread([&] {
    served.emplace(serve(runner_, recipe("null", {{"size", "1M"}}), folder_.path(), log_, {}));
  }).join();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(served->alive()) << served->last_words();
}

TEST_F(ServeTest, CancelledWhileWaiting) {
  Recipe slow = recipe("sh", {});
  const auto script = folder_.path() / "slow.sh";
  std::ofstream(script) << "#!/bin/sh\ncase $1 in get_ready) sleep 20;; get_size) echo 512;; *) exit 2;; esac\n";
  chmod(script.c_str(), 0700);
  slow.parameters = {{"script", script.string()}};
  std::stop_source stop;
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    stop.request_stop();
  });
  EXPECT_THROW(serve(runner_, slow, folder_.path(), log_, stop.get_token()), Cancelled);
  later.join();
}

TEST_F(ServeTest, LiveSecretIsReadThroughADescriptorAndCanChange) {
  LiveSecret secret;
  secret.set(Secret(std::string("first-and-rather-long-value")));
  Recipe made = recipe("eval", {{"get_size", "head -n 1 /dev/fd/9 | wc -c"}});
  made.fds = {{secret.fd(), 9}};
  const Export served = serve(runner_, made, folder_.path(), log_, {});
  EXPECT_EQ(nbd::Handle(served.uri()).bytes(), std::string("first-and-rather-long-value\n").size());
  secret.set(Secret(std::string("short")));
  EXPECT_EQ(nbd::Handle(served.uri()).bytes(), 6u);
  EXPECT_EQ(command_line(served.pid()).find("first-and"), std::string::npos);
  EXPECT_EQ(fcntl(secret.fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

}  // namespace vmferry::nbdkit
