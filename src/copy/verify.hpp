// Reads a target again and compares it with what was kept of it when it was written.
#pragma once

#include "copy/copy.hpp"
#include "copy/digests.hpp"

namespace vmferry::copy {

struct Verified {
  std::uint64_t read = 0;     // bytes compared
  std::uint64_t unknown = 0;  // bytes that nothing is known of, so that nothing could be compared
  RangeSet different;         // in whole chunks
  double seconds = 0;
};

// Reads at least `sample` (0 to 1) of the chunks, spread at random but the same for the same `seed`; 1 = all. From the
// medium, as far as the kernel can be told to drop what it has cached. Blocks; throws Cancelled, or Error(unavailable)
// naming the offset that could not be read.
Verified verify(const Target& target, const Digests& digests, double sample, std::uint64_t seed, Progress& progress,
                Clock& clock, std::stop_token stop);

}  // namespace vmferry::copy
