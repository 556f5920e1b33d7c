// Byte ranges of a disk and sets of them: the algebra behind deltas, resumes and proofs. Pure values, no I/O.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <vector>

namespace vmferry {

struct ByteRange {
  std::uint64_t offset = 0;  // bytes from the start of the disk
  std::uint64_t length = 0;  // bytes
  std::uint64_t end() const noexcept { return offset + length; }
  auto operator<=>(const ByteRange&) const = default;
};

// A set of bytes, kept as sorted, disjoint, non-adjacent, non-empty ranges.
class RangeSet {
 public:
  RangeSet() = default;
  explicit RangeSet(std::span<const ByteRange> ranges);

  void add(ByteRange range);
  void subtract(ByteRange range);
  void add(const RangeSet& other);
  void subtract(const RangeSet& other);
  [[nodiscard]] RangeSet intersect(const RangeSet& other) const;
  // The same bytes plus every gap shorter than `gap` bytes between them: fewer, larger requests.
  [[nodiscard]] RangeSet merged(std::uint64_t gap) const;
  // Rounded outwards to multiples of `unit` (a power of two not needed) and clamped to [0, limit).
  [[nodiscard]] RangeSet aligned(std::uint64_t unit, std::uint64_t limit) const;

  bool contains(ByteRange range) const noexcept;
  bool empty() const noexcept { return ranges_.empty(); }
  std::uint64_t bytes() const noexcept;
  std::span<const ByteRange> ranges() const noexcept { return ranges_; }
  bool operator==(const RangeSet&) const = default;

 private:
  std::vector<ByteRange> ranges_;
};

}  // namespace vmferry
