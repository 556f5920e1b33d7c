// How fast the source was when nothing but the source was waited for.
#include "copy/throttle.hpp"
#include "disks.hpp"

namespace vmferry::copy::test {

namespace {

using namespace std::chrono_literals;

class Pace : public ::testing::Test {
 protected:
  static constexpr std::uint64_t size = 16 * mib;
  Pace() { put(folder_.path() / "source", random_bytes(size, 1)); }

  // Each read takes so many milliseconds.
  nbdkit::Recipe recipe(int milliseconds) const {
    nbdkit::Recipe recipe;
    recipe.plugin = "file";
    recipe.parameters = {{"file", (folder_.path() / "source").string()}};
    if (milliseconds > 0) {
      recipe.filters = {"delay"};
      recipe.parameters.emplace_back("rdelay", std::to_string(milliseconds) + "ms");
    }
    return recipe;
  }

  double of(int milliseconds, Tuning tuning, std::unique_ptr<Work> list, std::chrono::milliseconds over = 200ms) {
    ServedSource source(recipe(milliseconds), size);
    FileTarget target(folder_.path() / "target", size, true);
    tuning.connections = 1;
    tuning.requests_per_connection = 1;
    tuning.pace_over = over;
    return run(source, target, *list, tuning, heard_, clock_, log_, {}).pace;
  }

  support::TemporaryDirectory folder_;
  SystemClock clock_;
  log::Log log_;
  Heard heard_;
};

TEST_F(Pace, IsThatOfASlowSource) {
  // A read's wait counts as far as nothing is being written meanwhile; a slow disk's write must leave some of it. Of
  // five seconds two are measured, over several reads: 2 MB/s, and five times that when a write leaves a fifth.
  const double pace = of(500, {}, work(whole(10 * mib)), 2s);
  EXPECT_GT(pace, 0);
  EXPECT_LT(pace, 22e6);
}

TEST_F(Pace, IsNotThatOfALimit) {
  // The limit makes it last five and a half seconds at least. Reads that take a part of that are no five seconds yet.
  const auto meter = std::make_shared<Meter>();
  meter->set_rate(2 * mib);
  Tuning tuning;
  tuning.throttle = std::make_shared<Throttle>(std::vector<std::shared_ptr<Meter>>{meter});
  EXPECT_EQ(of(0, tuning, work(whole(12 * mib)), 5s), 0);
}

TEST_F(Pace, IsNotThatOfSmallReads) {
  std::vector<ByteRange> scattered;
  for (std::uint64_t at = 0; at < size; at += 256 * kib) scattered.push_back({at, 4 * kib});
  EXPECT_EQ(of(20, {}, work(RangeSet(scattered))), 0);
}

TEST_F(Pace, IsUnknownOfAShortCopy) {
  Tuning tuning;
  EXPECT_EQ(of(1, tuning, work(whole(mib))), 0);
}

}  // namespace

}  // namespace vmferry::copy::test
