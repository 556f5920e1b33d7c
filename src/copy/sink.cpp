// pwrite, fallocate, ioctl and fdatasync, with every short count and error looked at.
#include "copy/sink.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/error.hpp"

namespace vmferry::copy {

namespace {

// Cheapest first. On a block device the kernel promises zeroes for both fallocate modes (block/fops.c,
// blkdev_fallocate); punching also gives the space of a thin volume or sparse file back.
enum Method { punch, zero_range, zero_out, write_zeroes };
constexpr const char* method_names[] = {"punch hole", "zero range", "BLKZEROOUT", "plain writes"};
constexpr std::uint64_t page = 4096;
constexpr std::uint64_t zero_buffer = 256 * 1024;

bool is_unsupported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == EINVAL || error == ENODEV ||
         error == EPERM;
}

}  // namespace

Sink::Sink(Target& target, log::Log& log) : target_(target), log_(log) {
  struct stat st {};
  if (fstat(target.fd(), &st) != 0)
    throw Error(Fault::conflict, fmt::format("the target {} cannot be examined: {}", target.name(), strerror(errno)));
  block_device_ = S_ISBLK(st.st_mode);
  if (block_device_) zero_unit_ = std::max<std::uint64_t>(target.sector(), page);
  // The same file, not the same name: what was opened and proven may have another one by now. Past the page cache a
  // copy costs half the processor, and a flush finds little to do.
  direct_ = Fd(open(fmt::format("/proc/self/fd/{}", target.fd()).c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
  is_direct_ = static_cast<bool>(direct_);
  // Unaligned tails and areas must be writable too; the page cache takes care of the target's sectors.
  const int flags = fcntl(target.fd(), F_GETFL);
  if (flags >= 0 && (flags & O_DIRECT) != 0) fcntl(target.fd(), F_SETFL, flags & ~O_DIRECT);
  // The second opening went by the device's number: it is still that device.
  target.check();
}

void Sink::check() {
  std::scoped_lock lock(check_mutex_);
  target_.check();
}

void Sink::failed(const char* what, ByteRange range, int error) {
  check();  // a target that is gone or another one explains every error better
  const std::string where =
      fmt::format("{} {} bytes at offset {} of {}", what, range.length, range.offset, target_.name());
  const std::string reason = strerror(error);
  if (error == ENOSPC && block_device_)
    // A block device has no space to run out of: the kernel says so beyond its end, and its end moved.
    throw Error(Fault::conflict,
                fmt::format("{} failed: {}; the device was probably detached or replaced under us: attach "
                            "the volume again and resume",
                            where, reason));
  if (error == ENOSPC || error == EDQUOT)
    throw Error(Fault::quota,
                fmt::format("{} failed: {}; the disk is full: make room on its file system and resume", where, reason));
  if (error == EFBIG)
    throw Error(Fault::quota,
                fmt::format("{} failed: {}; raise the file size limit (ulimit -f) or use a file system that "
                            "takes files this large",
                            where, reason));
  throw Error(Fault::unavailable,
              fmt::format("{} failed: {}; look at the kernel's log for the cause and resume", where, reason));
}

// Writes the aligned beginning of it, advancing both. False: the rest, if there is any, goes through the page cache.
bool Sink::write_directly(std::span<const std::byte>& bytes, std::uint64_t& offset) {
  const std::size_t length = bytes.size() / page * page;
  const bool aligned = offset % page == 0 && reinterpret_cast<std::uintptr_t>(bytes.data()) % page == 0;
  if (length == 0 || !aligned || !is_direct_) return false;
  const ssize_t wrote = pwrite(direct_.get(), bytes.data(), length, static_cast<off_t>(offset));
  if (wrote > 0) {
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
    offset += static_cast<std::uint64_t>(wrote);
    return true;
  }
  if (wrote < 0 && errno == EINTR) return true;
  // Sectors of another size, a file system without direct writes: the ordinary way may do. Any other failure is one:
  // the page cache would only hide it.
  const int error = wrote == 0 ? ENOSPC : errno;
  if (error != EINVAL && error != EOPNOTSUPP) failed("writing", {offset, bytes.size()}, error);
  is_direct_ = false;
  return false;
}

void Sink::write(std::span<const std::byte> bytes, std::uint64_t offset, std::stop_token stop) {
  const ByteRange whole{offset, bytes.size()};
  while (!bytes.empty()) {
    if (write_directly(bytes, offset)) continue;
    const ssize_t wrote = pwrite(target_.fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(wrote));
      offset += static_cast<std::uint64_t>(wrote);
      continue;
    }
    if (wrote == 0) failed("writing", whole, ENOSPC);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) failed("writing", whole, errno);
    if (stop.stop_requested()) throw Cancelled();
    pollfd writable{target_.fd(), POLLOUT, 0};
    ::poll(&writable, 1, 100);
  }
}

bool Sink::zero_by(int method, ByteRange range, int& error) {
  const int fd = target_.fd();
  const auto offset = static_cast<off_t>(range.offset);
  const auto length = static_cast<off_t>(range.length);
  int result = -1;
  do {
    switch (method) {
      case punch:
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
        break;
      case zero_range:
        result = fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
        break;
      default: {
        std::uint64_t span[2] = {range.offset, range.length};
        result = block_device_ ? ioctl(fd, BLKZEROOUT, span) : (errno = ENOTTY, -1);
      }
    }
  } while (result != 0 && errno == EINTR);
  error = result == 0 ? 0 : errno;
  return result == 0;
}

void Sink::zero_by_writing(ByteRange range, std::stop_token stop) {
  static const std::vector<std::byte> zeroes(zero_buffer);
  while (range.length > 0) {
    if (stop.stop_requested()) throw Cancelled();
    const std::uint64_t length = std::min(range.length, zero_buffer);
    write(std::span(zeroes).first(length), range.offset, stop);
    range = {range.offset + length, range.length - length};
  }
}

void Sink::zero(ByteRange range, std::stop_token stop) {
  const std::uint64_t begin = std::min((range.offset + zero_unit_ - 1) / zero_unit_ * zero_unit_, range.end());
  const std::uint64_t end = std::max(range.end() / zero_unit_ * zero_unit_, begin);
  zero_by_writing({range.offset, begin - range.offset}, stop);
  zero_by_writing({end, range.end() - end}, stop);
  if (begin == end) return;
  const ByteRange middle{begin, end - begin};
  for (int method = zero_method_; method < write_zeroes; ++method) {
    int error = 0;
    if (zero_by(method, middle, error)) return;
    if (!is_unsupported(error)) break;  // a real failure: writing will meet it too, and says it best
    if (int known = method; zero_method_.compare_exchange_strong(known, method + 1))
      log_.debug(fmt::format("{} cannot be zeroed by {} ({}), trying {}", target_.name(), method_names[method],
                             strerror(error), method_names[method + 1]));
  }
  zero_by_writing(middle, stop);
}

void Sink::flush() {
  // The kernel tells of bytes that could not be written once, and forgets them (fsync(2), fsyncgate): after one failure
  // no later success means anything.
  if (broken_)
    throw Error(Fault::unavailable,
                fmt::format("bytes written to {} could not be made durable before: resume", target_.name()));
  while (fdatasync(target_.fd()) != 0) {
    if (errno == EINTR) continue;
    const int error = errno;
    broken_ = true;
    check();
    const Fault fault =
        error == ENOSPC || error == EDQUOT ? (block_device_ ? Fault::conflict : Fault::quota) : Fault::unavailable;
    throw Error(fault,
                fmt::format("bytes written to {} could not be made durable: {}; nothing of this pass counts as copied, "
                            "look at the kernel's log and resume",
                            target_.name(), strerror(error)));
  }
}

}  // namespace vmferry::copy
