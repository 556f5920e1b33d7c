// The NBD handle against real servers: sizes, reads, extents, failures, draining.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <thread>

#include "base/error.hpp"
#include "nbdkit/nbdkit.hpp"
#include "support/lab.hpp"

namespace vmferry::nbd {

namespace {

class HandleTest : public ::testing::Test {
 protected:
  nbdkit::Export serve(const std::string& plugin, std::vector<std::pair<std::string, std::string>> parameters,
                       std::vector<std::string> filters = {}) {
    nbdkit::Recipe recipe;
    recipe.plugin = plugin;
    recipe.parameters = std::move(parameters);
    recipe.filters = std::move(filters);
    return nbdkit::serve(runner_, recipe, folder_.path(), log_, {});
  }
  static void finish(Handle& handle) {
    while (handle.in_flight() > 0) handle.poll(std::chrono::milliseconds(100));
  }

  support::TemporaryDirectory folder_;
  process::SystemRunner runner_;
  log::Log log_;
};

}  // namespace

TEST_F(HandleTest, ReadsSeveralRequestsAtOnce) {
  const auto served = serve("data", {{"data", "( 0x61*4096 ) @8192 ( 0x62*4096 ) @1048576"}, {"size", "1048576"}});
  Handle handle(served.uri());
  EXPECT_EQ(handle.bytes(), 1048576u);
  EXPECT_TRUE(handle.can_extents());
  EXPECT_GE(handle.maximum_read(), 1048576u);
  std::vector<std::byte> a(4096, std::byte{0xff}), b(4096, std::byte{0xff}), c(4096, std::byte{0xff});
  int done = 0;
  const auto note = [&](int error) {
    EXPECT_EQ(error, 0);
    ++done;
  };
  handle.read(a, 0, note);
  handle.read(b, 8192, note);
  handle.read(c, 4096, note);
  EXPECT_EQ(handle.in_flight(), 3);
  finish(handle);
  EXPECT_EQ(done, 3);
  EXPECT_EQ(a.back(), std::byte{0x61});
  EXPECT_EQ(b.front(), std::byte{0x62});
  EXPECT_EQ(c.front(), std::byte{0});
}

TEST_F(HandleTest, ExtentsAreClippedAndRise) {
  const auto served = serve("data", {{"data", "0x61 @1048576 0x62 @2097152"}, {"size", "2097152"}});
  Handle handle(served.uri());
  std::vector<Extent> all;
  std::uint64_t at = 100;
  const std::uint64_t end = 2097152;
  while (at < end) {
    handle.extents({at, end - at}, [&](int error, std::vector<Extent> extents) {
      ASSERT_EQ(error, 0);
      ASSERT_FALSE(extents.empty());
      for (const Extent& e : extents) {
        ASSERT_EQ(e.range.offset, at);
        ASSERT_GT(e.range.length, 0u);
        at = e.range.end();
        all.push_back(e);
      }
      ASSERT_LE(at, end);
    });
    finish(handle);
    ASSERT_FALSE(HasFatalFailure());
  }
  EXPECT_TRUE(std::any_of(all.begin(), all.end(), [](const Extent& e) { return e.zero; }));
  EXPECT_TRUE(
      std::any_of(all.begin(), all.end(), [](const Extent& e) { return !e.zero && e.range.offset == 1048576; }));
}

TEST_F(HandleTest, FailedReadTellsItsErrno) {
  const auto served = serve("null", {{"size", "1M"}, {"error-pread", "EIO"}, {"error-pread-rate", "100%"}}, {"error"});
  Handle handle(served.uri());
  std::vector<std::byte> buffer(4096);
  int seen = 0;
  handle.read(buffer, 0, [&](int error) { seen = error; });
  finish(handle);
  EXPECT_EQ(seen, EIO);
  EXPECT_FALSE(handle.dead());
  seen = 0;
  handle.read(buffer, 1 << 20, [&](int error) { seen = error; });  // beyond the end
  finish(handle);
  EXPECT_NE(seen, 0);
}

TEST_F(HandleTest, KilledServerFailsEveryRequestInFlight) {
  const auto served = serve("null", {{"size", "1M"}, {"delay-read", "30"}}, {"delay"});
  Handle handle(served.uri());
  std::vector<std::byte> a(512), b(512);
  std::vector<int> errors;
  handle.read(a, 0, [&](int error) { errors.push_back(error); });
  handle.read(b, 512, [&](int error) { errors.push_back(error); });
  handle.poll(std::chrono::milliseconds(50));
  kill(served.pid(), SIGKILL);
  finish(handle);
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_NE(errors[0], 0);
  EXPECT_NE(errors[1], 0);
  EXPECT_TRUE(handle.dead());
  handle.read(a, 0, [&](int error) { errors.push_back(error); });
  finish(handle);
  EXPECT_EQ(errors.size(), 3u) << "a request on a dead connection must end too";
  EXPECT_NE(errors.back(), 0);
}

TEST_F(HandleTest, DrainLetsTheServerLive) {
  const auto served = serve("null", {{"size", "64M"}, {"delay-read", "200ms"}}, {"delay"});
  int done = 0;
  {
    Handle handle(served.uri());
    std::vector<std::vector<std::byte>> buffers(8, std::vector<std::byte>(65536));
    for (std::size_t i = 0; i < buffers.size(); ++i) handle.read(buffers[i], i * 65536, [&](int) { ++done; });
    handle.drain(std::chrono::minutes(1));
    EXPECT_EQ(handle.in_flight(), 0);
  }
  EXPECT_EQ(done, 8);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(served.alive()) << served.last_words();
}

TEST_F(HandleTest, NobodyListens) {
  try {
    const Handle handle(Uri{"nbd+unix:///?socket=" + (folder_.path() / "none").string()});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::unavailable);
  }
}

TEST_F(HandleTest, OtherTransportsAreNotFollowed) { EXPECT_THROW(Handle(Uri{"nbd+vsock://2/"}), Error); }

TEST_F(HandleTest, HungServerIsGivenUpOrCancelled) {
  const auto served = serve("null", {{"size", "1M"}, {"delay-open", "20"}}, {"delay"});
  EXPECT_THROW(Handle(served.uri(), {}, std::chrono::milliseconds(300)), Error);
  std::stop_source stop;
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    stop.request_stop();
  });
  EXPECT_THROW(Handle(served.uri(), stop.get_token()), Cancelled);
  later.join();
}

}  // namespace vmferry::nbd
