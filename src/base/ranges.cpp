// Range algebra over sorted vectors; every operation keeps the normal form.
#include "base/ranges.hpp"

#include <algorithm>
#include <iterator>

namespace vmferry {

namespace {

// The normal form of sorted ranges.
std::vector<ByteRange> joined(std::span<const ByteRange> sorted) {
  std::vector<ByteRange> all;
  all.reserve(sorted.size());
  for (const ByteRange& r : sorted) {
    if (!all.empty() && r.offset <= all.back().end())
      all.back().length = std::max(all.back().end(), r.end()) - all.back().offset;
    else
      all.push_back(r);
  }
  return all;
}

}  // namespace

RangeSet::RangeSet(std::span<const ByteRange> ranges) {
  std::vector<ByteRange> sorted;
  for (const ByteRange& r : ranges)
    if (r.length > 0) sorted.push_back(r);
  std::sort(sorted.begin(), sorted.end());
  ranges_ = joined(sorted);
}

void RangeSet::add(ByteRange range) {
  if (range.length == 0) return;
  // First range that touches or follows the new one.
  auto first = std::lower_bound(ranges_.begin(), ranges_.end(), range.offset,
                                [](const ByteRange& r, std::uint64_t at) { return r.end() < at; });
  auto last = first;
  std::uint64_t begin = range.offset, end = range.end();
  for (; last != ranges_.end() && last->offset <= end; ++last) {
    begin = std::min(begin, last->offset);
    end = std::max(end, last->end());
  }
  first = ranges_.erase(first, last);
  ranges_.insert(first, ByteRange{begin, end - begin});
}

void RangeSet::subtract(ByteRange range) {
  if (range.length == 0) return;
  auto first = std::upper_bound(ranges_.begin(), ranges_.end(), range.offset,
                                [](std::uint64_t at, const ByteRange& r) { return at < r.end(); });
  auto last = first;
  std::vector<ByteRange> rest;
  for (; last != ranges_.end() && last->offset < range.end(); ++last) {
    if (last->offset < range.offset) rest.push_back({last->offset, range.offset - last->offset});
    if (last->end() > range.end()) rest.push_back({range.end(), last->end() - range.end()});
  }
  first = ranges_.erase(first, last);
  ranges_.insert(first, rest.begin(), rest.end());
}

void RangeSet::add(const RangeSet& other) {
  // Most sets grow at their end: a disk is read, and its areas are listed, from the beginning on.
  if (ranges_.empty() || other.empty() || ranges_.back().end() < other.ranges_.front().offset) {
    ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
    return;
  }
  std::vector<ByteRange> all;
  all.reserve(ranges_.size() + other.ranges_.size());
  std::merge(ranges_.begin(), ranges_.end(), other.ranges_.begin(), other.ranges_.end(), std::back_inserter(all));
  ranges_ = joined(all);
}

void RangeSet::subtract(const RangeSet& other) {
  std::vector<ByteRange> rest;
  auto cut = other.ranges_.begin();
  for (ByteRange r : ranges_) {
    while (cut != other.ranges_.end() && cut->end() <= r.offset) ++cut;
    for (auto c = cut; c != other.ranges_.end() && c->offset < r.end(); ++c) {
      if (c->offset > r.offset) rest.push_back({r.offset, c->offset - r.offset});
      const std::uint64_t next = std::min(std::max(c->end(), r.offset), r.end());
      r = {next, r.end() - next};
    }
    if (r.length > 0) rest.push_back(r);
  }
  ranges_ = std::move(rest);
}

RangeSet RangeSet::intersect(const RangeSet& other) const {
  RangeSet both;
  auto a = ranges_.begin();
  auto b = other.ranges_.begin();
  while (a != ranges_.end() && b != other.ranges_.end()) {
    const std::uint64_t begin = std::max(a->offset, b->offset), end = std::min(a->end(), b->end());
    if (begin < end) both.ranges_.push_back({begin, end - begin});
    (a->end() < b->end()) ? static_cast<void>(++a) : static_cast<void>(++b);
  }
  return both;
}

RangeSet RangeSet::merged(std::uint64_t gap) const {
  RangeSet wide;
  for (const ByteRange& r : ranges_) {
    if (!wide.ranges_.empty() && r.offset - wide.ranges_.back().end() < gap)
      wide.ranges_.back().length = r.end() - wide.ranges_.back().offset;
    else
      wide.ranges_.push_back(r);
  }
  return wide;
}

RangeSet RangeSet::aligned(std::uint64_t unit, std::uint64_t limit) const {
  std::vector<ByteRange> wide;
  for (const ByteRange& r : ranges_) {
    if (r.offset >= limit) continue;
    const std::uint64_t begin = r.offset / unit * unit;
    const std::uint64_t end = std::min(limit, (r.end() + unit - 1) / unit * unit);
    wide.push_back({begin, end - begin});
  }
  return RangeSet(wide);
}

bool RangeSet::contains(ByteRange range) const noexcept {
  if (range.length == 0) return true;
  auto at = std::upper_bound(ranges_.begin(), ranges_.end(), range.offset,
                             [](std::uint64_t o, const ByteRange& r) { return o < r.end(); });
  return at != ranges_.end() && at->offset <= range.offset && range.end() <= at->end();
}

std::uint64_t RangeSet::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const ByteRange& r : ranges_) sum += r.length;
  return sum;
}

}  // namespace vmferry
