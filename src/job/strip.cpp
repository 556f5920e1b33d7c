// One pass over the ranges: both they and the cells are in the order of the disk.
#include "job/strip.hpp"

#include <algorithm>

namespace vmferry::job {

std::uint64_t Strip::begin_of(std::size_t cell) const noexcept {
  return disk_ / cells * cell + disk_ % cells * cell / cells;
}

void Strip::add(ByteRange range, bool known) {
  const std::uint64_t end = std::min(range.end(), disk_);
  for (std::uint64_t at = range.offset; at < end;) {
    while (begin_of(cell_ + 1) <= at) ++cell_;
    const std::uint64_t until = std::min(end, begin_of(cell_ + 1));
    if (known)
      there_[cell_] += until - at;
    else
      unknown_[cell_] = true;
    at = until;
  }
}

std::string Strip::text() const {
  if (disk_ == 0) return "";
  std::string text;
  for (std::size_t i = 0; i < cells; ++i) {
    // In floating point: nine times the bytes of a cell may not fit.
    const double whole = static_cast<double>(std::max<std::uint64_t>(1, begin_of(i + 1) - begin_of(i)));
    const double ninths = 9.0 * static_cast<double>(there_[i]) / whole;
    text += unknown_[i]      ? '?'
            : there_[i] == 0 ? '0'
                             : static_cast<char>('0' + std::clamp(static_cast<int>(ninths + 0.999), 1, 9));
  }
  return text;
}

std::string strip_of(const RangeSet& ranges, std::uint64_t disk) {
  Strip strip(disk);
  for (const ByteRange& range : ranges.ranges()) strip.there(range);
  return strip.text();
}

}  // namespace vmferry::job
