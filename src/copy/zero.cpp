// memcmp of a block with itself, shifted, is as fast as memory is (measured beside hand-written AVX2).
#include "copy/zero.hpp"

#include <algorithm>
#include <cstring>

namespace vmferry::copy {

bool all_zero(std::span<const std::byte> bytes) noexcept {
  constexpr std::size_t head = 16;
  const std::size_t first = std::min(head, bytes.size());
  for (std::size_t i = 0; i < first; ++i)
    if (bytes[i] != std::byte{0}) return false;
  return bytes.size() <= head || std::memcmp(bytes.data(), bytes.data() + head, bytes.size() - head) == 0;
}

std::vector<Run> runs_of(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t granule) {
  std::vector<Run> runs;
  for (std::uint64_t at = 0; at < bytes.size();) {
    const std::uint64_t here = offset + at;
    const std::uint64_t length = std::min<std::uint64_t>((here / granule + 1) * granule - here, bytes.size() - at);
    const bool zero = length == granule && all_zero(bytes.subspan(at, length));
    if (!runs.empty() && runs.back().zero == zero)
      runs.back().range.length += length;
    else
      runs.push_back({{here, length}, zero});
    at += length;
  }
  return runs;
}

}  // namespace vmferry::copy
