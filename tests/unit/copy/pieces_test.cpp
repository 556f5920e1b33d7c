// The pure parts of the engine: cutting ranges into reads, finding zeroes, handing out memory.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>

#include "copy/arena.hpp"
#include "copy/copy.hpp"
#include "copy/cutter.hpp"
#include "copy/zero.hpp"

namespace vmferry::copy {

namespace {

constexpr std::uint64_t kib = 1024, mib = 1024 * 1024;

std::vector<Chunk> cut(const Cut& rules, const std::vector<ByteRange>& ranges) {
  Cutter cutter(rules);
  cutter.add(ranges);
  std::vector<Chunk> chunks;
  while (auto chunk = cutter.next()) chunks.push_back(std::move(*chunk));
  EXPECT_TRUE(cutter.empty());
  EXPECT_EQ(cutter.bytes(), 0u);
  return chunks;
}

std::vector<ByteRange> reads(const std::vector<Chunk>& chunks) {
  std::vector<ByteRange> all;
  for (const Chunk& chunk : chunks) all.push_back(chunk.read);
  return all;
}

}  // namespace

TEST(Cutter, MergesOverSmallGapsOnly) {
  const Cut rules{mib, 64 * kib, 512, 100 * mib};
  const auto chunks = cut(rules, {{0, 4 * kib}, {64 * kib, 4 * kib}, {132 * kib, 4 * kib}, {200 * kib, 4 * kib}});
  // Gaps of 60, 64 and 64 KiB: only the first is below the limit.
  EXPECT_EQ(reads(chunks), (std::vector<ByteRange>{{0, 68 * kib}, {132 * kib, 4 * kib}, {200 * kib, 4 * kib}}));
  EXPECT_EQ(chunks[0].wanted, (std::vector<ByteRange>{{0, 4 * kib}, {64 * kib, 4 * kib}}));
}

TEST(Cutter, CutsLongRangesAtMultiplesOfTheRequest) {
  const Cut rules{mib, 0, 512, 100 * mib};
  EXPECT_EQ(reads(cut(rules, {{512 * kib, 2 * mib}})),
            (std::vector<ByteRange>{{512 * kib, 512 * kib}, {mib, mib}, {2 * mib, 512 * kib}}));
  // One request long, though across a multiple: left alone.
  EXPECT_EQ(reads(cut(rules, {{512 * kib, mib}})), (std::vector<ByteRange>{{512 * kib, mib}}));
}

TEST(Cutter, ReadsAreAlignedAndEndWithTheDisk) {
  const Cut rules{mib, 0, 4096, 10 * kib};
  const auto chunks = cut(rules, {{100, 1}, {9 * kib, kib}});
  EXPECT_EQ(reads(chunks), (std::vector<ByteRange>{{0, 4096}, {8 * kib, 2 * kib}}));
  EXPECT_EQ(chunks[0].wanted, (std::vector<ByteRange>{{100, 1}}));
}

TEST(Cutter, TouchingRangesBecomeOneEvenWithoutMerging) {
  EXPECT_EQ(reads(cut({mib, 0, 512, mib}, {{0, 512}, {512, 512}, {2048, 512}})),
            (std::vector<ByteRange>{{0, 1024}, {2048, 512}}));
}

RC_GTEST_PROP(CutterProperty, EveryByteOnceWithinBounds, ()) {
  Cut rules;
  rules.align = *rc::gen::element<std::uint64_t>(512, 4096);
  rules.request = rules.align * *rc::gen::inRange<std::uint64_t>(1, 40);
  rules.gap = *rc::gen::inRange<std::uint64_t>(0, 20000);
  rules.size = *rc::gen::inRange<std::uint64_t>(1, 2000) * 512;
  RangeSet set;
  for (int i = 0; i < *rc::gen::inRange(0, 30); ++i) {
    const auto offset = *rc::gen::inRange<std::uint64_t>(0, rules.size);
    set.add({offset, std::min(*rc::gen::inRange<std::uint64_t>(1, 100000), rules.size - offset)});
  }
  Cutter cutter(rules);
  cutter.add(set.ranges());
  RC_ASSERT(cutter.bytes() == set.bytes());
  RangeSet again;
  std::uint64_t sum = 0;
  while (const auto chunk = cutter.next()) {
    RC_ASSERT(chunk->read.length <= rules.request);
    RC_ASSERT(chunk->read.offset % rules.align == 0);
    RC_ASSERT(chunk->read.end() % rules.align == 0 || chunk->read.end() == rules.size);
    RC_ASSERT(!chunk->wanted.empty());
    std::uint64_t at = chunk->read.offset;
    for (const ByteRange& range : chunk->wanted) {
      RC_ASSERT(range.offset >= at && range.end() <= chunk->read.end());
      at = range.end();
      sum += range.length;
      again.add(range);
    }
  }
  RC_ASSERT(again == set);
  RC_ASSERT(sum == set.bytes());
}

TEST(Zero, AllZeroLooksAtEveryByte) {
  for (const std::size_t size : {1U, 15U, 16U, 17U, 4096U}) {
    std::vector<std::byte> bytes(size);
    EXPECT_TRUE(all_zero(bytes));
    for (const std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      bytes[at] = std::byte{1};
      EXPECT_FALSE(all_zero(bytes)) << size << " " << at;
      bytes[at] = std::byte{0};
    }
  }
  EXPECT_TRUE(all_zero({}));
}

TEST(Zero, RunsFollowAbsoluteGranules) {
  std::vector<std::byte> bytes(5 * 4096);
  bytes[2 * 4096 + 7] = std::byte{1};
  // At 1 KiB: an incomplete granule, then whole ones; the marked byte is in the granule from 8 to 12 KiB.
  const auto runs = runs_of(bytes, kib, 4096);
  EXPECT_EQ(runs, (std::vector<copy::Run>{{{kib, 3 * kib}, false},
                                          {{4 * kib, 4 * kib}, true},
                                          {{8 * kib, 4 * kib}, false},
                                          {{12 * kib, 8 * kib}, true},
                                          {{20 * kib, kib}, false}}));
}

RC_GTEST_PROP(ZeroProperty, RunsCoverAndZeroRunsAreZero, ()) {
  const auto size = *rc::gen::inRange<std::size_t>(1, 20000);
  std::vector<std::byte> bytes(size);
  for (int i = 0; i < *rc::gen::inRange(0, 5); ++i) bytes[*rc::gen::inRange<std::size_t>(0, size)] = std::byte{9};
  const auto offset = *rc::gen::inRange<std::uint64_t>(0, 10000);
  const auto granule = *rc::gen::element<std::uint64_t>(512, 4096);
  std::uint64_t at = offset;
  for (const Run& run : runs_of(bytes, offset, granule)) {
    RC_ASSERT(run.range.offset == at);
    if (run.zero) RC_ASSERT(all_zero(std::span(bytes).subspan(at - offset, run.range.length)));
    at = run.range.end();
  }
  RC_ASSERT(at == offset + size);
}

TEST(Arena, GivesDisjointBlocksAndTakesThemBack) {
  Arena arena(4 * 64 * kib);
  const auto a = arena.take(100 * kib), b = arena.take(1), c = arena.take(64 * kib);
  ASSERT_TRUE(a && b && c);
  EXPECT_FALSE(arena.take(1));
  std::memset(a->data(), 1, a->size());
  std::memset(b->data(), 2, b->size());
  std::memset(c->data(), 3, c->size());
  EXPECT_EQ(a->back(), std::byte{1});
  EXPECT_EQ(b->front(), std::byte{2});
  arena.give(*b);
  EXPECT_FALSE(arena.take(100 * kib)) << "one page is free, not two";
  const auto again = arena.take(64 * kib);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->data(), b->data());
  arena.give(*a);
  arena.give(*c);
  arena.give(*again);
  EXPECT_TRUE(arena.unused());
}

TEST(Work, GivesItsRangesOnce) {
  const std::vector<ByteRange> ranges{{0, 512}, {4096, 512}};
  const auto list = work(RangeSet(ranges));
  EXPECT_EQ(list->total(), 1024u);
  EXPECT_EQ(list->next({}), ranges);
  EXPECT_FALSE(list->next({}));
}

}  // namespace vmferry::copy
