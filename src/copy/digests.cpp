// A header of one page, then 16 bytes a chunk, then, once something was read back, a byte a chunk that tells so. The
// header's last word says whether the rest can be trusted, and is made durable before the first and after the last
// change.
#include "copy/digests.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // the same functions, by the widest registers that this processor has
#else
#include <xxhash.h>
#endif

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.hpp"

namespace vmferry::copy {

namespace {

constexpr std::uint64_t header_bytes = 4096;
constexpr std::size_t digest_bytes = sizeof(Digest);
static_assert(digest_bytes == 16);

std::string header_of(const std::string& target, std::uint64_t bytes, bool settled) {
  std::string text = fmt::format("vmferry digests 1\nalgorithm xxh3-128\nchunk {}\nbytes {}\ntarget {}\n{}\n",
                                 Digests::chunk, bytes, target.substr(0, 1024), settled ? "settled" : "unsettled");
  text.resize(header_bytes, '\0');
  return text;
}

}  // namespace

namespace {

Digest canonical_of(XXH128_hash_t hash) noexcept {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  Digest digest;
  std::memcpy(digest.bytes.data(), canonical.digest, digest_bytes);
  return digest;
}

}  // namespace

std::string Digest::text() const {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

Digest digest_of(std::span<const std::byte> bytes) noexcept {
  return canonical_of(XXH3_128bits(bytes.data(), bytes.size()));
}

std::uint64_t Digests::file_bytes() const noexcept { return header_bytes + chunks() * digest_bytes; }

void Digests::failed(const char* doing, int error) const {
  const Fault fault = error == ENOSPC || error == EDQUOT ? Fault::quota : Fault::config;
  throw Error(fault, fmt::format("cannot {} the digests in {}: {}{}", doing, file_.string(), strerror(error),
                                 fault == Fault::quota ? "; make room there and run the same command again" : ""));
}

Digests::Digests(std::filesystem::path file, const std::string& target, std::uint64_t bytes)
    : file_(std::move(file)), target_(target), bytes_(bytes) {
  fd_ = Fd(::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd_) failed("open", errno);
  const std::vector<std::byte> zeroes(chunk);
  zero_ = digest_of(zeroes);
  zero_tail_ = bytes_ % chunk == 0 ? zero_ : digest_of(std::span(zeroes).first(bytes_ % chunk));
  if (!adopt(target_)) forget_all();
}

bool Digests::adopt(const std::string& target) {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) failed("examine", errno);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size != file_bytes() && size != file_bytes() + chunks()) return false;
  has_marks_ = size != file_bytes();
  std::string found(header_bytes, '\0');
  const ssize_t got = ::pread(fd_.get(), found.data(), found.size(), 0);
  if (got < 0) failed("read", errno);
  if (got != static_cast<ssize_t>(found.size())) return false;
  settled_ = found == header_of(target, bytes_, true);
  return settled_ || found == header_of(target, bytes_, false);
}

void Digests::write_all(std::span<const std::byte> bytes, std::uint64_t at) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) failed("write", wrote < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
    at += static_cast<std::uint64_t>(wrote);
  }
}

void Digests::write_header(bool settled) {
  // What the header vouches for is durable before it says so.
  if (settled) flush();
  const std::string header = header_of(target_, bytes_, settled);
  write_all(std::as_bytes(std::span(header)), 0);
  flush();
  settled_ = settled;
}

void Digests::flush() {
  if (::fdatasync(fd_.get()) != 0) failed("flush", errno);
}

void Digests::unsettle() {
  if (settled_) write_header(false);
}

void Digests::settle() {
  if (!settled_) write_header(true);
}

void Digests::forget_all() {
  if (::ftruncate(fd_.get(), 0) != 0) failed("clear", errno);
  settled_ = true;
  has_marks_ = false;
  if (::ftruncate(fd_.get(), static_cast<off_t>(file_bytes())) != 0) failed("size", errno);
  write_header(false);
}

void Digests::keep(std::uint64_t offset, std::span<const Digest> digests) {
  write_all(std::as_bytes(digests), header_bytes + offset / chunk * digest_bytes);
  if (has_marks_) write_all(std::vector<std::byte>(digests.size()), file_bytes() + offset / chunk);
}

void Digests::mark_read_back(std::uint64_t offset, std::size_t count, bool right) {
  // Of its whole length before anything is in it, whoever else is doing the same: of another length it is not adopted.
  if (!has_marks_ && ::ftruncate(fd_.get(), static_cast<off_t>(file_bytes() + chunks())) != 0) failed("size", errno);
  has_marks_ = true;
  write_all(std::vector<std::byte>(count, std::byte{right}), file_bytes() + offset / chunk);
}

RangeSet Digests::not_read_back() const {
  constexpr std::uint64_t at_once = 4096;
  std::vector<ByteRange> found;
  std::vector<std::byte> marks(at_once);
  for (std::uint64_t begin = 0; begin < bytes_; begin += at_once * chunk) {
    const std::vector<Digest> known = read(begin, at_once);
    std::fill(marks.begin(), marks.end(), std::byte{0});
    if (has_marks_) read_all(marks, file_bytes() + begin / chunk);
    for (std::uint64_t i = 0; i < at_once && begin + i * chunk < bytes_; ++i) {
      if (!known[i].known() || marks[i] != std::byte{0}) continue;
      const ByteRange one{begin + i * chunk, std::min(chunk, bytes_ - begin - i * chunk)};
      if (!found.empty() && found.back().end() == one.offset)
        found.back().length += one.length;
      else
        found.push_back(one);
    }
  }
  return RangeSet(found);
}

void Digests::keep_zero(ByteRange range) {
  constexpr std::uint64_t at_once = 4096;
  std::vector<Digest> block;
  while (range.length > 0) {
    const std::uint64_t length = std::min(range.length, at_once * chunk);
    block.assign((length + chunk - 1) / chunk, zero_);
    block.back() = zero_at(range.offset + (block.size() - 1) * chunk);
    keep(range.offset, block);
    range = {range.offset + length, range.length - length};
  }
}

// What lies beyond the file's end stays as it is.
void Digests::read_all(std::span<std::byte> into, std::uint64_t at) const {
  while (!into.empty()) {
    const ssize_t got = ::pread(fd_.get(), into.data(), into.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) failed("read", errno);
    if (got == 0) return;
    into = into.subspan(static_cast<std::size_t>(got));
    at += static_cast<std::uint64_t>(got);
  }
}

std::vector<Digest> Digests::read(std::uint64_t offset, std::size_t count) const {
  std::vector<Digest> digests(count);
  // Marks are behind the digests: a count beyond the disk's end must not read them.
  const std::uint64_t there = chunks() - std::min(offset / chunk, chunks());
  read_all(std::as_writable_bytes(std::span(digests).first(std::min<std::uint64_t>(count, there))),
           header_bytes + offset / chunk * digest_bytes);
  return digests;
}

Digest Digests::root() const {
  constexpr std::size_t at_once = 65536;
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (!state) throw std::bad_alloc();
  XXH3_128bits_reset(state.get());
  for (std::uint64_t at = 0; at < bytes_; at += at_once * chunk) {
    const std::vector<Digest> some = read(at, std::min<std::uint64_t>(at_once, (bytes_ - at + chunk - 1) / chunk));
    if (!std::all_of(some.begin(), some.end(), [](const Digest& digest) { return digest.known(); })) return {};
    XXH3_128bits_update(state.get(), some.data(), some.size() * digest_bytes);
  }
  std::array<std::byte, 8> length;
  for (std::size_t i = 0; i < length.size(); ++i) length[i] = static_cast<std::byte>(bytes_ >> (56 - 8 * i));
  XXH3_128bits_update(state.get(), length.data(), length.size());
  return canonical_of(XXH3_128bits_digest(state.get()));
}

Digest Digests::zero_at(std::uint64_t offset) const noexcept { return offset + chunk > bytes_ ? zero_tail_ : zero_; }

}  // namespace vmferry::copy
