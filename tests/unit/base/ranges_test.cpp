// RangeSet against the simplest model there is: one bool a byte.
#include "base/ranges.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <bitset>

namespace vmferry {
namespace {

constexpr std::uint64_t disk = 96;  // bytes: small, so that random ranges touch and overlap often
using Bitmap = std::bitset<disk>;

Bitmap bitmap_of(const RangeSet& set) {
  Bitmap bits;
  for (const ByteRange& r : set.ranges())
    for (std::uint64_t i = r.offset; i < r.end(); ++i) bits.set(i);
  return bits;
}

Bitmap bitmap_of(ByteRange range) {
  Bitmap bits;
  for (std::uint64_t i = range.offset; i < range.end(); ++i) bits.set(i);
  return bits;
}

void is_normal(const RangeSet& set) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < set.ranges().size(); ++i) {
    RC_ASSERT(set.ranges()[i].length > 0U);
    if (i > 0) RC_ASSERT(set.ranges()[i].offset > set.ranges()[i - 1].end());
    sum += set.ranges()[i].length;
  }
  RC_ASSERT(set.bytes() == sum);
  RC_ASSERT(set.bytes() == bitmap_of(set).count());
  RC_ASSERT(set.empty() == (sum == 0));
}

ByteRange any_range() {
  const auto offset = *rc::gen::inRange<std::uint64_t>(0, disk);
  return {offset, *rc::gen::inRange<std::uint64_t>(0, std::min<std::uint64_t>(disk - offset, 24) + 1)};
}

std::vector<ByteRange> any_ranges() {
  std::vector<ByteRange> ranges;
  const int count = *rc::gen::inRange(0, 8);
  for (int i = 0; i < count; ++i) ranges.push_back(any_range());
  return ranges;
}

RC_GTEST_PROP(RangeSet, FromAnyListIsItsUnionInNormalForm, ()) {
  const auto ranges = any_ranges();
  Bitmap expected;
  for (const ByteRange& r : ranges) expected |= bitmap_of(r);
  const RangeSet set(ranges);
  is_normal(set);
  RC_ASSERT(bitmap_of(set) == expected);
  RangeSet one_by_one;
  for (const ByteRange& r : ranges) one_by_one.add(r);
  RC_ASSERT(one_by_one == set);
}

RC_GTEST_PROP(RangeSet, AddIsUnion, ()) {
  RangeSet set(any_ranges());
  const RangeSet other(any_ranges());
  const ByteRange range = any_range();
  const Bitmap before = bitmap_of(set);
  RangeSet with_range = set;
  with_range.add(range);
  is_normal(with_range);
  RC_ASSERT(bitmap_of(with_range) == (before | bitmap_of(range)));
  set.add(other);
  is_normal(set);
  RC_ASSERT(bitmap_of(set) == (before | bitmap_of(other)));
}

RC_GTEST_PROP(RangeSet, SubtractIsDifference, ()) {
  RangeSet set(any_ranges());
  const RangeSet other(any_ranges());
  const ByteRange range = any_range();
  const Bitmap before = bitmap_of(set);
  RangeSet without_range = set;
  without_range.subtract(range);
  is_normal(without_range);
  RC_ASSERT(bitmap_of(without_range) == (before & ~bitmap_of(range)));
  set.subtract(other);
  is_normal(set);
  RC_ASSERT(bitmap_of(set) == (before & ~bitmap_of(other)));
}

RC_GTEST_PROP(RangeSet, IntersectIsAnd, ()) {
  const RangeSet a(any_ranges()), b(any_ranges());
  const RangeSet both = a.intersect(b);
  is_normal(both);
  RC_ASSERT(bitmap_of(both) == (bitmap_of(a) & bitmap_of(b)));
  RC_ASSERT(both == b.intersect(a));
}

RC_GTEST_PROP(RangeSet, MergedFillsExactlyTheShortGaps, ()) {
  const RangeSet set(any_ranges());
  const auto gap = *rc::gen::inRange<std::uint64_t>(0, 12);
  Bitmap expected = bitmap_of(set);
  for (std::uint64_t i = 0; i < disk;) {
    if (expected.test(i)) {
      ++i;
      continue;
    }
    std::uint64_t end = i;
    while (end < disk && !expected.test(end)) ++end;
    const bool between = i > 0 && end < disk;
    if (between && end - i < gap)
      for (std::uint64_t j = i; j < end; ++j) expected.set(j);
    i = end;
  }
  const RangeSet wide = set.merged(gap);
  is_normal(wide);
  RC_ASSERT(bitmap_of(wide) == expected);
}

RC_GTEST_PROP(RangeSet, AlignedCoversWholeUnitsWithinTheLimit, ()) {
  const RangeSet set(any_ranges());
  const auto unit = *rc::gen::inRange<std::uint64_t>(1, 17);
  const auto limit = *rc::gen::inRange<std::uint64_t>(0, disk + 1);
  const Bitmap bits = bitmap_of(set);
  Bitmap expected;
  for (std::uint64_t i = 0; i < limit; ++i) {
    const std::uint64_t begin = i / unit * unit;
    for (std::uint64_t j = begin; j < std::min(begin + unit, limit); ++j)
      if (bits.test(j)) expected.set(i);
  }
  const RangeSet wide = set.aligned(unit, limit);
  is_normal(wide);
  RC_ASSERT(bitmap_of(wide) == expected);
}

RC_GTEST_PROP(RangeSet, ContainsAsksForEveryByte, ()) {
  const RangeSet set(any_ranges());
  const ByteRange range = any_range();
  RC_ASSERT(set.contains(range) == ((bitmap_of(range) & ~bitmap_of(set)).none()));
}

TEST(RangeSet, HoldsOffsetsOfVeryLargeDisks) {
  constexpr std::uint64_t tib = 1ULL << 40;
  RangeSet set;
  set.add({62 * tib - 512, 512});
  set.add({62 * tib, 65536});
  ASSERT_EQ(set.ranges().size(), 1U);
  EXPECT_EQ(set.ranges()[0], (ByteRange{62 * tib - 512, 66048}));
  const RangeSet wide = set.aligned(65536, 62 * tib + 4096);
  ASSERT_EQ(wide.ranges().size(), 1U);
  EXPECT_EQ(wide.ranges()[0], (ByteRange{62 * tib - 65536, 65536 + 4096}));
}

}  // namespace
}  // namespace vmferry
