// Every byte arrives: full copies, deltas, holes, odd sizes, against real nbdkit servers.
#include "copy/throttle.hpp"
#include "disks.hpp"

#include <rapidcheck/gtest.h>

#include <thread>

namespace vmferry::copy::test {

namespace {

class CopyBytes : public ::testing::Test {
 protected:
  // Data at the front, a hole, data in the middle, a hole, data up to the odd end.
  Bytes make_disk(std::uint64_t size) {
    Bytes disk(size);
    const auto fill = [&](std::uint64_t begin, std::uint64_t end, std::uint32_t seed) {
      end = std::min(end, size);
      if (begin >= end) return;
      const Bytes data = random_bytes(end - begin, seed);
      std::copy(data.begin(), data.end(), disk.begin() + static_cast<std::ptrdiff_t>(begin));
    };
    fill(0, 3 * mib + 512, 1);
    fill(9 * mib, 11 * mib, 2);
    fill(size - 70 * kib, size, 3);
    const std::filesystem::path file = source_file();
    EXPECT_EQ(truncate_new(file, size), 0);
    put(file, Bytes(disk.begin(), disk.begin() + 3 * mib + 512));
    put(file, Bytes(disk.begin() + 9 * mib, disk.begin() + 11 * mib), 9 * mib);
    put(file, Bytes(disk.end() - 70 * kib, disk.end()), size - 70 * kib);
    return disk;
  }
  static int truncate_new(const std::filesystem::path& file, std::uint64_t size) {
    Fd fd(open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    return ftruncate(fd.get(), static_cast<off_t>(size));
  }
  std::filesystem::path source_file() const { return folder_.path() / "source"; }
  std::filesystem::path target_file() const { return folder_.path() / "target"; }
  Report copy(Source& source, Target& target, RangeSet ranges, const Tuning& tuning) {
    const auto list = work(std::move(ranges));
    return run(source, target, *list, tuning, heard_, clock_, log_, {});
  }

  support::TemporaryDirectory folder_;
  SystemClock clock_;
  log::Log log_;
  Heard heard_;
};

Tuning full() {
  Tuning tuning;
  tuning.whole_disk = true;
  return tuning;
}

}  // namespace

TEST_F(CopyBytes, FullCopyOntoZeroesSkipsHoles) {
  const std::uint64_t size = 32 * mib + 1536;
  const Bytes disk = make_disk(size);
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  const Report report = copy(source, target, whole(size), full());
  EXPECT_EQ(difference(target.content(), disk), std::nullopt);
  EXPECT_LT(report.read, 8 * mib) << "extents were not used";
  EXPECT_EQ(report.written + report.zeroed, size);
  EXPECT_LT(target.allocated(), 8 * mib) << "holes were written";
  EXPECT_EQ(heard_.done, size);
  EXPECT_EQ(heard_.total, size);
  EXPECT_FALSE(heard_.backwards);
  EXPECT_GE(target.checks, 2);
}

TEST_F(CopyBytes, FullCopyOntoRubbishClearsHoles) {
  const std::uint64_t size = 32 * mib + 1536, larger = size + 5 * mib + 512;
  const Bytes disk = make_disk(size);
  put(target_file(), random_bytes(larger, 9));
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), larger, false);
  copy(source, target, whole(size), full());
  Bytes expected = disk;
  expected.resize(larger);  // stale bytes beyond the disk's end would be a stale partition table to the guest
  EXPECT_EQ(difference(target.content(), expected), std::nullopt);
}

TEST_F(CopyBytes, WholeDiskWorkThatNamesOnlyAllocatedAreas) {
  const std::uint64_t size = 32 * mib + 1536;
  const Bytes disk = make_disk(size);
  put(target_file(), random_bytes(size, 9));
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, false);
  // As "*" of QueryChangedDiskAreas: rounded outwards, beyond the odd end too.
  const std::vector<ByteRange> allocated{{0, 4 * mib}, {9 * mib, 2 * mib}, {31 * mib, 2 * mib}};
  copy(source, target, RangeSet(allocated), full());
  EXPECT_EQ(difference(target.content(), disk), std::nullopt);
}

TEST_F(CopyBytes, ServerWithoutExtentsIsReadInFullAndZeroesAreFound) {
  const std::uint64_t size = 32 * mib + 1536;
  const Bytes disk = make_disk(size);
  nbdkit::Recipe recipe = file_recipe(source_file());
  recipe.filters = {"noextents"};
  ServedSource source(recipe, size);
  FileTarget target(target_file(), size, true);
  const Report report = copy(source, target, whole(size), full());
  EXPECT_EQ(difference(target.content(), disk), std::nullopt);
  EXPECT_EQ(report.read, size);
  EXPECT_LT(target.allocated(), 8 * mib);
}

TEST_F(CopyBytes, DeltaTouchesOnlyItsAreas) {
  const std::uint64_t size = 16 * mib + 512;
  const Bytes now = random_bytes(size, 1), before = random_bytes(size, 2);
  put(source_file(), now);
  put(target_file(), before);
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  const std::vector<ByteRange> areas{{512, 1024},           {64 * kib, 64 * kib},
                                     {192 * kib, 64 * kib}, {5 * mib, 3 * mib + 512},
                                     {10 * mib + 100, 1},   {size - 512, 512}};
  Bytes expected = before;
  for (const ByteRange& a : areas)
    std::copy_n(now.begin() + static_cast<std::ptrdiff_t>(a.offset), a.length,
                expected.begin() + static_cast<std::ptrdiff_t>(a.offset));
  const Report report = copy(source, target, RangeSet(areas), Tuning());
  EXPECT_EQ(difference(target.content(), expected), std::nullopt);
  EXPECT_EQ(report.written, RangeSet(areas).bytes());
}

// A fresh volume is not zero any more when its second round comes, whatever known_zero() said at first.
TEST_F(CopyBytes, DeltaWritesZeroesEvenOnATargetThatWasZero) {
  const std::uint64_t size = 4 * mib;
  ASSERT_EQ(truncate_new(source_file(), size), 0);
  put(target_file(), random_bytes(size, 2));
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  const std::vector<ByteRange> areas{{mib, mib}};
  const Report report = copy(source, target, RangeSet(areas), Tuning());
  EXPECT_EQ(difference(get(target_file(), mib, mib), Bytes(mib)), std::nullopt);
  EXPECT_EQ(report.zeroed, mib);
  EXPECT_EQ(difference(get(target_file(), 0, mib), get(target_file(), 0, mib)), std::nullopt);
}

TEST_F(CopyBytes, EmptyDeltaChangesNothing) {
  const std::uint64_t size = mib;
  put(source_file(), random_bytes(size, 1));
  const Bytes before = random_bytes(size, 2);
  put(target_file(), before);
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, false);
  const Report report = copy(source, target, RangeSet(), Tuning());
  EXPECT_EQ(report.read, 0u);
  EXPECT_EQ(difference(target.content(), before), std::nullopt);
}

TEST_F(CopyBytes, PiecesThatOverlapAndGoBackwards) {
  const std::uint64_t size = 8 * mib;
  const Bytes now = random_bytes(size, 1);
  put(source_file(), now);
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, false);
  Pieces pieces(
      {{{4 * mib, mib}}, {}, {{mib, mib}, {4 * mib + 512, mib}}, {{0, 2 * mib}, {7 * mib, 64 * mib}, {80 * mib, mib}}});
  run(source, target, pieces, Tuning(), heard_, clock_, log_, {});
  Bytes expected(size);
  for (const ByteRange& a : {ByteRange{0, 2 * mib}, ByteRange{4 * mib, mib + 512}, ByteRange{7 * mib, mib}})
    std::copy_n(now.begin() + static_cast<std::ptrdiff_t>(a.offset), a.length,
                expected.begin() + static_cast<std::ptrdiff_t>(a.offset));
  EXPECT_EQ(difference(target.content(), expected), std::nullopt);
  EXPECT_EQ(heard_.done, heard_.total);
}

TEST_F(CopyBytes, DirectDescriptorWithAnUnalignedTail) {
  const std::uint64_t size = 8 * mib + 1536;
  const Bytes disk = random_bytes(size, 4);
  put(source_file(), disk);
  ServedSource source(file_recipe(source_file()), size);
  FileTarget target(target_file(), size, true);
  target.reopen(O_RDWR | O_DIRECT);
  target.set_sector(4096);
  ASSERT_GE(target.fd(), 0) << "this file system has no O_DIRECT";
  copy(source, target, whole(size), full());
  EXPECT_EQ(difference(target.content(), disk), std::nullopt);
}

TEST_F(CopyBytes, SparseRandomOf256MiB) {
  const std::uint64_t size = 256 * mib;
  nbdkit::Recipe recipe;
  recipe.plugin = "sparse-random";
  recipe.parameters = {{"size", "256M"}, {"seed", "7"}, {"percent", "10"}};
  ServedSource source(recipe, size);
  FileTarget target(target_file(), size, true);
  const Report report = copy(source, target, whole(size), full());
  EXPECT_EQ(report.written + report.zeroed, size);
  EXPECT_GT(report.zeroed, size / 2);
  // The judge is another program: nbdcopy's own copy of the same server.
  process::SystemRunner runner;
  process::Command other;
  other.program = "nbdcopy";
  ServedSource again(recipe, size);
  log::Log log;
  support::TemporaryDirectory folder;
  const nbdkit::Export served = nbdkit::serve(runner, recipe, folder.path(), log, {});
  other.args = {served.uri().text, (folder_.path() / "judge").string()};
  ASSERT_TRUE(process::run(runner, other, std::chrono::seconds(60), {}).status.ok());
  EXPECT_EQ(difference(target.content(), get(folder_.path() / "judge", 0, size)), std::nullopt);
}

RC_GTEST_PROP(CopyProperty, RandomAreasArriveAndNothingElse, ()) {
  support::TemporaryDirectory folder;
  SystemClock clock;
  log::Log log;
  Heard heard;
  const std::uint64_t size = *rc::gen::inRange<std::uint64_t>(1, 4096) * 512;
  const auto sectors = size / 512;
  Bytes now = random_bytes(size, 1);
  const Bytes before = random_bytes(size, 2);
  // Zero some stretches of the source, so that zero detection works across areas' borders.
  for (int i = 0; i < *rc::gen::inRange(0, 4); ++i) {
    const auto begin = *rc::gen::inRange<std::uint64_t>(0, sectors) * 512;
    const auto length = std::min(*rc::gen::inRange<std::uint64_t>(1, 1024) * 512, size - begin);
    std::fill_n(now.begin() + static_cast<std::ptrdiff_t>(begin), length, std::byte{0});
  }
  std::vector<ByteRange> areas;
  for (int i = 0; i < *rc::gen::inRange(0, 20); ++i)
    areas.push_back(
        {*rc::gen::inRange<std::uint64_t>(0, sectors) * 512, *rc::gen::inRange<std::uint64_t>(1, 600) * 512});
  Tuning tuning;
  tuning.connections = *rc::gen::inRange(1, 4);
  tuning.request = *rc::gen::element(64u * 1024, 128u * 1024, 1024u * 1024);
  tuning.requests_per_connection = *rc::gen::inRange(1, 8);
  tuning.granule = *rc::gen::element(4096u, 65536u);
  tuning.merge_gap = *rc::gen::element<std::uint64_t>(0, 4096, 65536);
  tuning.whole_disk = *rc::gen::arbitrary<bool>();
  put(folder.path() / "source", now);
  put(folder.path() / "target", before);
  ServedSource source(file_recipe(folder.path() / "source"), size);
  FileTarget target(folder.path() / "target", size, false);
  const auto list = work(RangeSet(areas));
  run(source, target, *list, tuning, heard, clock, log, {});
  // Work of a whole disk says: what I do not name is zero.
  Bytes expected = tuning.whole_disk ? Bytes(size) : before;
  for (const ByteRange& a : areas)
    std::copy_n(now.begin() + static_cast<std::ptrdiff_t>(a.offset), std::min(a.length, size - a.offset),
                expected.begin() + static_cast<std::ptrdiff_t>(a.offset));
  RC_ASSERT(!difference(target.content(), expected));
  RC_ASSERT(heard.done == heard.total);
}

// What is said to be durable is on the target, and what is said to be done is not read again.
TEST_F(CopyBytes, ACopyThatWasStoppedGoesOnFromItsCheckpoints) {
  const std::uint64_t size = 24 * mib + 1536;
  const Bytes disk = random_bytes(size, 5);
  put(source_file(), disk);
  FileTarget target(target_file(), size + mib, false);
  put(target_file(), random_bytes(size + mib, 77));
  Tuning tuning = full();
  tuning.connections = 1;
  tuning.request = 64 * 1024;
  tuning.checkpoint_after = std::chrono::milliseconds(0);
  std::mutex mutex;
  RangeSet done;
  std::stop_source stop;
  tuning.checkpoint = [&](const RangeSet& ranges) {
    std::scoped_lock lock(mutex);
    for (const ByteRange& range : ranges.ranges()) {
      if (range.offset >= size) continue;
      const std::uint64_t length = std::min(range.length, size - range.offset);
      const auto* wanted = disk.data() + range.offset;
      EXPECT_EQ(difference(get(target_file(), range.offset, length), Bytes(wanted, wanted + length)), std::nullopt);
    }
    done.add(ranges);
    if (done.bytes() > size / 8) stop.request_stop();
  };
  // Its second half comes when it is stopped, however long the first half's checkpoints take.
  const std::uint64_t half = 12 * mib;
  Pieces pieces({{{0, half}}, {{half, size - half}}});
  pieces.before = [](std::size_t at, std::stop_token inner) {
    while (at == 1 && !inner.stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  };
  {
    ServedSource source(file_recipe(source_file()), size);
    EXPECT_THROW(run(source, target, pieces, tuning, heard_, clock_, log_, stop.get_token()), Cancelled);
  }
  ASSERT_GT(done.bytes(), size / 8);
  tuning.done = done;
  ServedSource source(file_recipe(source_file()), size);
  const Report report = copy(source, target, RangeSet(std::vector<ByteRange>{{0, size}}), tuning);
  Bytes content = target.content();
  content.resize(size);
  EXPECT_EQ(difference(content, disk), std::nullopt);
  EXPECT_LE(report.read + report.zeroed + tuning.done.bytes(), size + mib + 2 * 64 * kib);
}

TEST_F(CopyBytes, CopiesThatShareAThrottleShareItsRate) {
  const std::uint64_t size = 4 * mib;
  put(source_file(), random_bytes(size, 5));
  Tuning tuning = full();
  tuning.request = 64 * 1024;
  const auto meter = std::make_shared<Meter>();
  meter->set_rate(8 * mib);
  tuning.throttle = std::make_shared<Throttle>(std::vector<std::shared_ptr<Meter>>{meter});
  const auto began = std::chrono::steady_clock::now();
  std::vector<std::jthread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&, i] {
      Heard heard;
      ServedSource source(file_recipe(source_file()), size);
      FileTarget target(folder_.path() / std::to_string(i), size, true);
      const auto list = work(RangeSet(std::vector<ByteRange>{{0, size}}));
      run(source, target, *list, tuning, heard, clock_, log_, {});
      EXPECT_EQ(difference(target.content(), get(source_file(), 0, size)), std::nullopt);
    });
  threads.clear();
  // 8 MiB at 8 MiB/s, less the tenth of a second that was kept.
  EXPECT_GT(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(850));
}

}  // namespace vmferry::copy::test
