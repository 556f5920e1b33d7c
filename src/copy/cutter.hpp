// Turns the ranges to copy into read requests: areas with a small gap between them are read as one, long ones are cut.
// Pure and lazy (a whole disk is not cut in advance); knows nothing of connections.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "base/ranges.hpp"

namespace vmferry::copy {

struct Chunk {
  ByteRange read;                 // aligned for the server, at most one request long
  std::vector<ByteRange> wanted;  // what of it is written: rising, inside `read`
  int attempts = 0;               // reads of it that failed
  std::uint64_t fresh_after = 0;  // only on a connection ordered later: the earlier ones failed it
};

struct Cut {
  std::uint64_t request = 1024 * 1024;  // bytes, a multiple of align
  std::uint64_t gap = 0;                // ranges closer than this are read as one
  std::uint64_t align = 512;            // of reads; VDDK and most servers of disks need sectors
  std::uint64_t size = 0;               // of the disk: nothing is read beyond it
};

class Cutter {
 public:
  explicit Cutter(Cut cut) : cut_(cut) {}
  // Takes effect for what is cut from now on.
  void reshape(Cut cut) { cut_ = cut; }
  // Ranges in rising order, within the disk. May be called again with any other ranges.
  void add(std::span<const ByteRange> ranges);
  std::optional<Chunk> next();
  bool empty() const noexcept { return ranges_.empty(); }
  std::uint64_t bytes() const noexcept { return bytes_; }  // not cut yet

 private:
  ByteRange aligned(std::uint64_t begin, std::uint64_t end) const;

  Cut cut_;
  std::deque<ByteRange> ranges_;
  std::uint64_t bytes_ = 0;
};

}  // namespace vmferry::copy
