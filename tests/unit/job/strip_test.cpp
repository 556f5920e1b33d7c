// The picture of a disk in 200 characters: what is there is seen, however small, and nothing else is.
#include "job/strip.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>

namespace vmferry::job {
namespace {

RangeSet of(std::vector<ByteRange> ranges) { return RangeSet(ranges); }

TEST(Strip, ShowsWhereSomethingIs) {
  const std::string nothing = strip_of({}, 2000);
  EXPECT_EQ(nothing, std::string(200, '0'));
  EXPECT_EQ(strip_of(of({{0, 2000}}), 2000), std::string(200, '9'));
  std::string one = nothing;
  one[100] = '1';
  EXPECT_EQ(strip_of(of({{1000, 1}}), 2000), one) << "one byte is not nothing";
  one[100] = '5';
  EXPECT_EQ(strip_of(of({{1005, 5}}), 2000), one);
  EXPECT_EQ(strip_of(of({{1000, 1}}), 0), "");
  EXPECT_EQ(strip_of(of({{5000, 10}}), 2000), nothing) << "beyond the end";
}

TEST(Strip, OfADiskSmallerThanItsCells) {
  const std::string text = strip_of(of({{0, 7}}), 7);
  EXPECT_EQ(text.size(), 200u);
  EXPECT_EQ(std::count(text.begin(), text.end(), '9'), 7) << "cells without a byte show nothing";
}

TEST(Strip, WhatIsNotKnownIsNotCalledEmpty) {
  Strip strip(2000);
  strip.there({0, 10});
  strip.unknown({10, 5});
  strip.there({15, 5});
  EXPECT_EQ(strip.text().substr(0, 3), "9?0");
}

RC_GTEST_PROP(Strip, ACellIsEmptyIfAndOnlyIfNothingIsThere, ()) {
  const auto disk = *rc::gen::inRange<std::uint64_t>(1, 1 << 20);
  std::vector<ByteRange> ranges;
  for (const auto& [offset, length] : *rc::gen::arbitrary<std::vector<std::pair<std::uint16_t, std::uint8_t>>>())
    ranges.push_back({offset, length});
  const RangeSet set(ranges);
  const std::string text = strip_of(set, disk);
  for (std::size_t i = 0; i < Strip::cells; ++i) {
    const std::uint64_t begin = disk * i / Strip::cells, end = disk * (i + 1) / Strip::cells;
    const bool empty = set.intersect(of({{begin, end - begin}})).empty();
    RC_ASSERT((text[i] == '0') == empty);
  }
}

}  // namespace
}  // namespace vmferry::job
