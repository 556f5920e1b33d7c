// Cutting and merging. A range longer than one request is cut at absolute multiples of the request size, so that its
// pieces keep the granule's alignment; shorter ones are left alone (cutting them would cost round trips).
#include "copy/cutter.hpp"

#include <algorithm>

namespace vmferry::copy {

ByteRange Cutter::aligned(std::uint64_t begin, std::uint64_t end) const {
  const std::uint64_t from = begin / cut_.align * cut_.align;
  const std::uint64_t to = std::min((end + cut_.align - 1) / cut_.align * cut_.align, cut_.size);
  return {from, to - from};
}

void Cutter::add(std::span<const ByteRange> ranges) {
  for (const ByteRange& range : ranges) {
    if (range.length == 0) continue;
    ranges_.push_back(range);
    bytes_ += range.length;
  }
}

std::optional<Chunk> Cutter::next() {
  if (ranges_.empty()) return std::nullopt;
  Chunk chunk;
  ByteRange& front = ranges_.front();
  if (aligned(front.offset, front.end()).length > cut_.request) {
    const std::uint64_t boundary = (front.offset / cut_.request + 1) * cut_.request;
    const std::uint64_t end = std::min(boundary, front.end());
    chunk.wanted.push_back({front.offset, end - front.offset});
    front = {end, front.end() - end};
    if (front.length == 0) ranges_.pop_front();
  } else {
    chunk.wanted.push_back(front);
    ranges_.pop_front();
    while (!ranges_.empty()) {
      const ByteRange& next = ranges_.front();
      const std::uint64_t end = chunk.wanted.back().end();
      if (next.offset < end || next.offset - end >= std::max<std::uint64_t>(cut_.gap, 1)) break;
      if (aligned(chunk.wanted.front().offset, next.end()).length > cut_.request) break;
      if (next.offset == end)
        chunk.wanted.back().length += next.length;
      else
        chunk.wanted.push_back(next);
      ranges_.pop_front();
    }
  }
  for (const ByteRange& range : chunk.wanted) bytes_ -= range.length;
  chunk.read = aligned(chunk.wanted.front().offset, chunk.wanted.back().end());
  return chunk;
}

}  // namespace vmferry::copy
