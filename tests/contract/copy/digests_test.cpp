// What is kept of a target is what it holds, whatever way its bytes came; verify finds every byte that is not.
#include "copy/digests.hpp"

#include "copy/verify.hpp"
#include "disks.hpp"

namespace vmferry::copy::test {

namespace {

class KeptDigests : public ::testing::Test {
 protected:
  static constexpr std::uint64_t size_ = 40 * mib + 5 * 512;

  KeptDigests() {
    disk_.resize(size_);
    fill(0, 3 * mib + 512, 1);
    fill(17 * mib + 4096, 9 * mib, 2);
    fill(size_ - 3 * 512, 3 * 512, 3);
    save();
  }
  void fill(std::uint64_t offset, std::uint64_t length, std::uint32_t seed) {
    const Bytes data = random_bytes(length, seed);
    std::copy(data.begin(), data.end(), disk_.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  // Sparse: pages of zeroes are holes.
  void save() {
    Fd fd(open(source_file().c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(size_)), 0);
    for (std::uint64_t at = 0; at < size_; at += 4096) {
      const std::uint64_t length = std::min<std::uint64_t>(4096, size_ - at);
      const auto* page = disk_.data() + at;
      if (std::all_of(page, page + length, [](std::byte b) { return b == std::byte{0}; })) continue;
      ASSERT_EQ(pwrite(fd.get(), page, length, static_cast<off_t>(at)), static_cast<ssize_t>(length));
    }
  }
  std::filesystem::path source_file() const { return folder_.path() / "source"; }
  std::filesystem::path target_file() const { return folder_.path() / "target"; }
  std::filesystem::path kept_file() const { return folder_.path() / "kept"; }

  Report copy(Target& target, RangeSet ranges, Tuning tuning, Digests& digests) {
    ServedSource source(file_recipe(source_file()), size_);
    const auto list = work(std::move(ranges));
    tuning.digests = &digests;
    tuning.skip_equal = tuning.skip_equal && digests.settled();
    digests.unsettle();
    const Report report = run(source, target, *list, tuning, heard_, clock_, log_, {});
    digests.settle();
    return report;
  }
  Report copy_all(Target& target, Digests& digests, bool skip_equal = false) {
    Tuning tuning;
    tuning.whole_disk = true;
    tuning.skip_equal = skip_equal;
    const ByteRange all{0, size_};
    return copy(target, RangeSet(std::span(&all, 1)), tuning, digests);
  }
  Verified check(const Target& target, Digests& digests, double sample = 1) {
    return verify(target, digests, {sample, 1, false}, heard_, clock_, {});
  }
  Verified check_changed(const Target& target, Digests& digests) {
    return verify(target, digests, {1, 1, true}, heard_, clock_, {});
  }
  void expect_true(const FileTarget& target, Digests& digests) {
    Bytes content = target.content();
    content.resize(size_);
    EXPECT_EQ(difference(content, disk_), std::nullopt);
    const Verified found = check(target, digests);
    EXPECT_EQ(found.read, size_);
    EXPECT_EQ(found.unknown, 0U);
    EXPECT_TRUE(found.different.empty());
  }

  support::TemporaryDirectory folder_;
  SystemClock clock_;
  log::Log log_;
  Heard heard_;
  Bytes disk_;
};

}  // namespace

TEST_F(KeptDigests, HaveOneRoot) {
  Digests digests(kept_file(), "volume 1", size_);
  EXPECT_FALSE(digests.root().known()) << "nothing was copied yet";
  FileTarget target(target_file(), size_, false);
  copy_all(target, digests);
  Bytes all;
  for (std::uint64_t at = 0; at < size_; at += Digests::chunk) {
    const Digest one = digest_of(std::span(disk_).subspan(at, std::min(Digests::chunk, size_ - at)));
    all.insert(all.end(), one.bytes.begin(), one.bytes.end());
  }
  for (int shift = 56; shift >= 0; shift -= 8) all.push_back(static_cast<std::byte>(size_ >> shift));
  EXPECT_EQ(digests.root(), digest_of(all));
  EXPECT_EQ(digests.root().text().size(), 32u);
}

TEST_F(KeptDigests, OfAFullCopyOntoZeroes) {
  FileTarget target(target_file(), size_ + 3 * mib, true);
  Digests digests(kept_file(), "volume", size_);
  EXPECT_FALSE(digests.settled());
  copy_all(target, digests);
  EXPECT_TRUE(digests.settled());
  expect_true(target, digests);
}

TEST_F(KeptDigests, OfAFullCopyOntoRubbish) {
  put(target_file(), random_bytes(size_ + 3 * mib, 9));
  FileTarget target(target_file(), size_ + 3 * mib, false);
  Digests digests(kept_file(), "volume", size_);
  copy_all(target, digests);
  expect_true(target, digests);
  const Bytes end = get(target_file(), size_, 3 * mib);
  EXPECT_TRUE(std::all_of(end.begin(), end.end(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(KeptDigests, OfADelta) {
  FileTarget target(target_file(), size_, true);
  {
    Digests digests(kept_file(), "volume", size_);
    copy_all(target, digests);
  }
  fill(100, 10, 11);           // inside a chunk
  fill(mib - 5, 10, 12);       // across two
  fill(size_ - 100, 100, 13);  // the short one at the end
  std::fill_n(disk_.begin() + 18 * mib, 2 * mib, std::byte{0});
  save();
  Digests digests(kept_file(), "volume", size_);
  EXPECT_TRUE(digests.settled());
  const std::vector<ByteRange> changed{{0, 512}, {mib - 512, 1024}, {18 * mib, 2 * mib}, {size_ - 512, 512}};
  const Report report = copy(target, RangeSet(changed), {}, digests);
  EXPECT_EQ(report.read, 3 * 64 * kib + 2 * mib + size_ % (64 * kib)) << "whole chunks, and no more than those";
  expect_true(target, digests);
}

TEST_F(KeptDigests, FindEveryDamagedByteAndOnlyThat) {
  FileTarget target(target_file(), size_, true);
  Digests digests(kept_file(), "volume", size_);
  copy_all(target, digests);
  for (const std::uint64_t at : {std::uint64_t{0}, 5 * mib + 77, 20 * mib - 1, size_ - 1}) {
    const Bytes before = get(target_file(), at, 1);
    put(target_file(), {before[0] ^ std::byte{1}}, at);
    const Verified found = check(target, digests);
    ASSERT_EQ(found.different.ranges().size(), 1U) << at;
    const std::uint64_t begin = at / Digests::chunk * Digests::chunk;
    EXPECT_EQ(found.different.ranges()[0], (ByteRange{begin, std::min(Digests::chunk, size_ - begin)}));
    put(target_file(), before, at);
  }
  expect_true(target, digests);
}

TEST_F(KeptDigests, ASampleReadsAboutThatMuch) {
  FileTarget target(target_file(), size_, true);
  Digests digests(kept_file(), "volume", size_);
  copy_all(target, digests);
  const Verified found = check(target, digests, 0.5);
  EXPECT_GT(found.read, size_ / 4);
  EXPECT_LT(found.read, size_ * 3 / 4);
  EXPECT_EQ(check(target, digests, 0).read, 0U);
}

TEST_F(KeptDigests, OnlyWhatWasNotReadBackIsReadAgain) {
  FileTarget target(target_file(), size_, true);
  {
    Digests digests(kept_file(), "volume", size_);
    copy_all(target, digests);
    EXPECT_EQ(digests.not_read_back().bytes(), size_);
    EXPECT_EQ(check_changed(target, digests).read, size_) << "nothing was read back yet";
    EXPECT_EQ(check_changed(target, digests).read, 0U);
  }
  // What a delta writes is to be read again, and only that; also for who opens the file later.
  fill(5 * mib + 77, 10, 31);
  fill(size_ - 100, 100, 32);
  save();
  {
    Digests digests(kept_file(), "volume", size_);
    EXPECT_TRUE(digests.settled());
    copy(target, RangeSet(std::vector<ByteRange>{{5 * mib, 512}, {size_ - 512, 512}}), {}, digests);
  }
  Digests digests(kept_file(), "volume", size_);
  const std::uint64_t tail = size_ % (64 * kib);
  EXPECT_EQ(digests.not_read_back(), RangeSet(std::vector<ByteRange>{{5 * mib, 64 * kib}, {size_ - tail, tail}}));
  // Damage is found where it was not read back, stays to be read, and elsewhere is not looked for.
  const Bytes before = get(target_file(), 5 * mib + 1, 1);
  put(target_file(), {before[0] ^ std::byte{1}}, 5 * mib + 1);
  put(target_file(), {get(target_file(), 7, 1)[0] ^ std::byte{1}}, 7);
  for (int turn = 0; turn < 2; ++turn) {
    const Verified found = check_changed(target, digests);
    EXPECT_EQ(found.different, RangeSet(std::vector<ByteRange>{{5 * mib, 64 * kib}}));
    EXPECT_EQ(found.read, turn == 0 ? 64 * kib + tail : 64 * kib);
  }
  EXPECT_EQ(check(target, digests).different.ranges().size(), 2U);
  EXPECT_EQ(check_changed(target, digests).different.ranges().size(), 2U) << "what was right once and is not any more";
  digests.forget_all();
  EXPECT_TRUE(digests.not_read_back().empty()) << "nothing is known";
}

TEST_F(KeptDigests, ASampleCountsAsReadBack) {
  FileTarget target(target_file(), size_, true);
  Digests digests(kept_file(), "volume", size_);
  copy_all(target, digests);
  const std::uint64_t sample = check(target, digests, 0.5).read;
  EXPECT_EQ(check_changed(target, digests).read, size_ - sample);
}

TEST_F(KeptDigests, AComparisonWritesOnlyWhatDiffers) {
  FileTarget target(target_file(), size_, false);
  Digests digests(kept_file(), "volume", size_);
  copy_all(target, digests);
  const Report same = copy_all(target, digests, true);
  EXPECT_EQ(same.written, 0U);
  EXPECT_EQ(same.zeroed, 0U);
  EXPECT_EQ(same.equal, size_);
  fill(2 * mib, 100, 21);                                        // data that changed
  fill(10 * mib + 4096, 100, 22);                                // a hole that is none any more
  std::fill_n(disk_.begin() + 17 * mib, 2 * mib, std::byte{0});  // data that is gone
  save();
  const Report changed = copy_all(target, digests, true);
  EXPECT_EQ(changed.written, 2 * Digests::chunk);
  EXPECT_EQ(changed.zeroed, 2 * mib);
  expect_true(target, digests);
}

TEST_F(KeptDigests, AnInterruptedCopyIsRemembered) {
  FileTarget target(target_file(), size_, true);
  Digests digests(kept_file(), "volume", size_);
  copy_all(target, digests);
  digests.unsettle();
  EXPECT_FALSE(Digests(kept_file(), "volume", size_).settled());
  digests.settle();
  EXPECT_TRUE(Digests(kept_file(), "volume", size_).settled());
}

TEST_F(KeptDigests, AreOfOneTargetAndSizeOnly) {
  FileTarget target(target_file(), size_, true);
  {
    Digests digests(kept_file(), "volume", size_);
    copy_all(target, digests);
  }
  {
    Digests other(kept_file(), "another volume", size_);
    EXPECT_FALSE(other.settled());
    const Verified found = check(target, other);
    EXPECT_EQ(found.read, 0U);
    EXPECT_EQ(found.unknown, size_);
  }
  EXPECT_FALSE(Digests(kept_file(), "volume", size_).settled()) << "the other one has taken the file";
  Digests larger(kept_file(), "another volume", size_ + mib);
  EXPECT_FALSE(larger.settled());
  EXPECT_FALSE(larger.read(0, 1)[0].known());
}

TEST_F(KeptDigests, ACutFileKnowsNothing) {
  FileTarget target(target_file(), size_, true);
  {
    Digests digests(kept_file(), "volume", size_);
    copy_all(target, digests);
  }
  std::filesystem::resize_file(kept_file(), 5000);
  Digests cut(kept_file(), "volume", size_);
  EXPECT_FALSE(cut.settled());
  EXPECT_EQ(check(target, cut).unknown, size_);
}

}  // namespace vmferry::copy::test
