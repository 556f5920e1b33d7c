// What a target holds, as one XXH3-128 digest for each 64 KiB of it, in a file: taken on the way through, so that the
// target can be verified without its source, and a source be compared without its target. Knows nothing of jobs.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/ranges.hpp"

namespace vmferry::copy {

struct Digest {
  std::array<std::byte, 16> bytes{};  // all zero: not known
  bool known() const noexcept { return bytes != decltype(bytes){}; }
  bool operator==(const Digest&) const = default;
  std::string text() const;  // 32 hexadecimal digits
};
// Of at most one chunk. Not cryptographic: it finds damage, not forgery.
Digest digest_of(std::span<const std::byte> bytes) noexcept;

// The file belongs to one target ("volume 5f3..."): found with another name or size inside, it begins anew. Threads may
// keep and read digests of different chunks at once. Every failure of the file is an Error that names it.
class Digests {
 public:
  static constexpr std::uint64_t chunk = 64 * 1024;

  Digests(std::filesystem::path file, const std::string& target, std::uint64_t bytes);

  // Bytes of the disk; the last chunk may be short.
  std::uint64_t bytes() const noexcept { return bytes_; }
  // No copy was interrupted since the last settle(): what is known is what the target holds.
  bool settled() const noexcept { return settled_; }
  // Durable on return: from now on, until settle(), the target is being changed.
  void unsettle();
  // Durable on return. Call it when the target's own bytes are on stable storage.
  void settle();
  void forget_all();
  // What was kept is durable on return.
  void flush();

  // `offset` is a multiple of `chunk`; digests of the chunks from there on.
  void keep(std::uint64_t offset, std::span<const Digest> digests);
  // Whole chunks that are zero: offset as above, end a multiple too, or the disk's end.
  void keep_zero(ByteRange range);
  std::vector<Digest> read(std::uint64_t offset, std::size_t count) const;
  // Chunks that were read from the target, and whether they were as they are kept. keep() takes that back. Not durable
  // before the next flush(): what is lost is read once more.
  void mark_read_back(std::uint64_t offset, std::size_t count, bool right);
  // What is known, but was not read back since it was written. Reads the whole file.
  RangeSet not_read_back() const;
  // One for all of it: the digest of the chunks' digests in their order, followed by the disk's bytes as a number of 8
  // bytes, the highest first. Not known() when that of any chunk is not. Reads the whole file.
  Digest root() const;
  // That of a chunk of zeroes at `offset`.
  Digest zero_at(std::uint64_t offset) const noexcept;

 private:
  std::uint64_t chunks() const noexcept { return (bytes_ + chunk - 1) / chunk; }
  std::uint64_t file_bytes() const noexcept;  // without the marks, which come after it, a byte for each chunk
  void read_all(std::span<std::byte> into, std::uint64_t at) const;
  [[noreturn]] void failed(const char* doing, int error) const;
  void write_all(std::span<const std::byte> bytes, std::uint64_t at);
  void write_header(bool settled);
  bool adopt(const std::string& target);

  std::filesystem::path file_;
  std::string target_;
  std::uint64_t bytes_;
  Fd fd_;
  bool settled_ = false;
  std::atomic<bool> has_marks_{false};
  Digest zero_, zero_tail_;
};

}  // namespace vmferry::copy
