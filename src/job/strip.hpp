// Where on a disk something is, in 200 characters, for a picture of it: each stands for a part of the disk of equal
// length, '0' for nothing there, '1' to '9' for the share of it in ninths, rounded up, '?' where it is not known. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/ranges.hpp"

namespace vmferry::job {

class Strip {
 public:
  static constexpr std::size_t cells = 200;

  explicit Strip(std::uint64_t disk) : disk_(disk) {}  // its bytes
  // Ranges come in the order of the disk; what lies beyond its end does not count.
  void there(ByteRange range) { add(range, true); }
  void unknown(ByteRange range) { add(range, false); }
  // Empty for an empty disk.
  std::string text() const;

 private:
  std::uint64_t begin_of(std::size_t cell) const noexcept;
  void add(ByteRange range, bool known);
  std::uint64_t disk_;
  std::size_t cell_ = 0;  // the one that the last range ended in
  std::array<std::uint64_t, cells> there_{};
  std::array<bool, cells> unknown_{};
};

std::string strip_of(const RangeSet& ranges, std::uint64_t disk);

}  // namespace vmferry::job
