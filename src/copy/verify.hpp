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

struct Selection {
  double sample = 1;       // at least this part of the chunks (0 to 1), spread at random; 1 = all
  std::uint64_t seed = 0;  // the same chunks for the same seed
  bool changed = false;    // only those that were not read back since they were written
  RangeSet always = {};    // whatever the others leave out; whole chunks of it
};

// Reads from the medium, as far as the kernel can be told to drop what it has cached, and marks what is right as read
// back. Blocks; throws Cancelled, or Error(unavailable) naming the offset that could not be read.
Verified verify(const Target& target, Digests& digests, const Selection& selection, Progress& progress, Clock& clock,
                std::stop_token stop);

}  // namespace vmferry::copy
