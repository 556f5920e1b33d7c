// How fast a source gives its bytes, found out by reading a little of it.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>

#include "base/clock.hpp"
#include "copy/copy.hpp"
#include "copy/permits.hpp"

namespace vmferry::source::vmware {

struct ReadingSpeed {
  double bytes_per_second = 0;  // over all connections together
  double seconds_to_first = 0;  // one small read on an open connection: the median of a few
  std::uint64_t bytes = 0;      // read
};

struct ReadingTrial {
  int connections = 4;
  std::uint64_t bytes = 64ULL << 20;     // at most, all connections together
  std::chrono::milliseconds time{1000};  // after which no further read begins
  // Reads begin this far behind the places where another trial's do, so that none is served from what that one brought
  // into a cache.
  std::uint64_t shift = 0;
  // For connections, shared with all copies of this host; those beyond the first are opened as far as there are
  // permits. Null: as many as were asked for.
  std::shared_ptr<copy::Permits> permits;
};

// Opens connections, reads pieces spread over the whole disk, closes them. Throws what the source throws,
// Error(unavailable) when reads fail.
ReadingSpeed reading_speed(copy::Source& source, const ReadingTrial& trial, Clock& clock, std::stop_token stop);

// Reads `range` over this connection by one request, since some servers fail only the large ones. Throws
// Error(unavailable) when that fails.
void try_reading(nbd::Handle& handle, ByteRange range, std::stop_token stop);

}  // namespace vmferry::source::vmware
