// The small parts of base/: errors, identifiers, secrets, clocks, owners.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <future>
#include <regex>
#include <set>
#include <thread>
#include <type_traits>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/finally.hpp"
#include "base/id.hpp"
#include "base/secret.hpp"
#include "base/sync.hpp"

namespace vmferry {
namespace {

constexpr Fault all_faults[] = {Fault::usage,       Fault::config, Fault::auth,        Fault::not_found,
                                Fault::conflict,    Fault::quota,  Fault::unavailable, Fault::timeout,
                                Fault::unsupported, Fault::tool,   Fault::data,        Fault::bug};

TEST(Error, EveryFaultHasItsOwnWordAndExitCode) {
  std::set<std::string> words;
  std::set<int> codes;
  for (const Fault fault : all_faults) {
    words.insert(std::string(to_string(fault)));
    codes.insert(exit_code(fault));
    EXPECT_GT(exit_code(fault), 1) << to_string(fault);
    EXPECT_LT(exit_code(fault), 64) << to_string(fault);
  }
  EXPECT_EQ(words.size(), std::size(all_faults));
  EXPECT_EQ(codes.size(), std::size(all_faults));
  EXPECT_EQ(words.count("unknown"), 0U);
}

TEST(Error, TellsItsTrailFromTheInsideOut) {
  Error error(Fault::tool, "nbdkit ended");
  error.during("copying disk 2000").during("migrating web1");
  EXPECT_EQ(error.explain(), "nbdkit ended\n  while copying disk 2000\n  while migrating web1");
  EXPECT_STREQ(error.what(), "nbdkit ended");
}

TEST(Error, CancelledIsNotAnError) { EXPECT_FALSE((std::is_base_of_v<Error, Cancelled>)); }

TEST(Id, UuidsAreVersionFourAndDiffer) {
  const std::regex shape("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string uuid = random_uuid();
    EXPECT_TRUE(std::regex_match(uuid, shape)) << uuid;
    seen.insert(uuid);
  }
  EXPECT_EQ(seen.size(), 1000U);
}

template <class T>
concept Printable = requires(std::ostream& out, const T& value) {
  out << value;
};

TEST(Secret, CannotBePrintedCopiedOrCompared) {
  EXPECT_FALSE(Printable<Secret>);
  EXPECT_FALSE(std::is_copy_constructible_v<Secret>);
  EXPECT_FALSE((std::equality_comparable<Secret>));
}

TEST(Secret, WipesTheStringItTookOver) {
  std::string plain = "a password that is longer than any small-string buffer";
  const Secret secret(std::move(plain));
  EXPECT_TRUE(plain.empty());
  EXPECT_EQ(secret.reveal(), "a password that is longer than any small-string buffer");
}

TEST(Secret, SharesOneBlockThatOutlivesItsFirstOwner) {
  Secret second;
  EXPECT_TRUE(second.empty());
  {
    const Secret first(std::string("tops3cret"));
    second = first.share();
    EXPECT_EQ(second.reveal().data(), first.reveal().data());
  }
  EXPECT_EQ(second.reveal(), "tops3cret");
}

TEST(Clock, SleepEndsWhenToldToStop) {
  SystemClock clock;
  std::stop_source stop;
  auto sleeping =
      std::async(std::launch::async, [&] { return clock.sleep(std::chrono::minutes(5), stop.get_token()); });
  EXPECT_EQ(sleeping.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  stop.request_stop();
  ASSERT_EQ(sleeping.wait_for(std::chrono::minutes(1)), std::future_status::ready);
  EXPECT_FALSE(sleeping.get());
  EXPECT_THROW(sleep_or_cancel(clock, std::chrono::minutes(5), stop.get_token()), Cancelled);
}

TEST(Clock, SleepWaitsAsLongAsAsked) {
  SystemClock clock;
  const auto before = clock.mono();
  EXPECT_TRUE(clock.sleep(std::chrono::milliseconds(30), {}));
  EXPECT_GE(clock.mono() - before, std::chrono::milliseconds(30));
}

TEST(Fd, ClosesWhatItOwnsOnce) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  {
    Fd first(ends[0]);
    Fd second(std::move(first));
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): the moved-from state is the point
    EXPECT_GE(::fcntl(second.get(), F_GETFD), 0);
  }
  EXPECT_EQ(::fcntl(ends[0], F_GETFD), -1);
  Fd other(ends[1]);
  EXPECT_EQ(other.release(), ends[1]);
  EXPECT_GE(::fcntl(ends[1], F_GETFD), 0);
  ::close(ends[1]);
}

TEST(Finally, RunsOnThrowAndNotWhenDismissed) {
  int ran = 0;
  try {
    const Finally cleanup([&] { ++ran; });
    throw Error(Fault::bug, "x");
  } catch (const Error&) {
  }
  EXPECT_EQ(ran, 1);
  {
    Finally cleanup([&] { ++ran; });
    cleanup.dismiss();
  }
  EXPECT_EQ(ran, 1);
}

TEST(Sync, LosesNoUpdate) {
  Sync<int> sum(0);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 10000; ++i) ++*sum.lock();
      });
  }
  EXPECT_EQ(*sum.lock(), 40000);
}

}  // namespace
}  // namespace vmferry
