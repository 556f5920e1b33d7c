// Writes to the target: whole writes whatever the kernel does in pieces, zeroes by the cheapest way that works, and
// errors in words. Every call may come from several threads at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <stop_token>

#include "base/fd.hpp"
#include "copy/copy.hpp"

namespace vmferry::copy {

class Sink {
 public:
  Sink(Target& target, log::Log& log);

  void write(std::span<const std::byte> bytes, std::uint64_t offset, std::stop_token stop);
  // Makes the range read as zeroes.
  void zero(ByteRange range, std::stop_token stop);
  // Everything written so far is on stable storage when it returns.
  void flush();
  // target.check(), one thread at a time.
  void check();

 private:
  [[noreturn]] void failed(const char* what, ByteRange range, int error);
  bool write_directly(std::span<const std::byte>& bytes, std::uint64_t& offset);
  bool zero_by(int method, ByteRange range, int& error);
  void zero_by_writing(ByteRange range, std::stop_token stop);

  Target& target_;
  log::Log& log_;
  bool block_device_ = false;
  Fd direct_;                           // the same target, opened past the page cache; may be missing
  std::atomic<bool> is_direct_{false};  // until it refuses
  std::atomic<bool> broken_{false};     // a flush failed
  std::uint64_t zero_unit_ = 1;         // what the kernel zeroes is aligned to this
  std::atomic<int> zero_method_ = 0;    // the first one not known to be unsupported
  std::mutex check_mutex_;
};

}  // namespace vmferry::copy
