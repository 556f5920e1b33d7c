// Finds the zeroes in bytes that were read. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ranges.hpp"

namespace vmferry::copy {

bool all_zero(std::span<const std::byte> bytes) noexcept;

struct Run {
  ByteRange range;  // on the disk
  bool zero = false;
  bool operator==(const Run&) const = default;
};

// The bytes that stand at `offset` on the disk, as alternating runs. Looked at in blocks that start at multiples of
// `granule`; a piece shorter than a granule counts as data, since clearing it costs as much as writing it.
std::vector<Run> runs_of(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t granule);

}  // namespace vmferry::copy
