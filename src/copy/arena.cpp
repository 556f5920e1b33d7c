// First fit over at most some hundred pages: a scan costs less than the system call that follows it.
#include "copy/arena.hpp"

#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.hpp"

namespace vmferry::copy {

namespace {
constexpr std::size_t page = 64 * 1024;

std::size_t pages_of(std::size_t bytes) { return (bytes + page - 1) / page; }
}  // namespace

Arena::Arena(std::size_t bytes) : used_(pages_of(bytes), false) {
  void* memory = mmap(nullptr, used_.size() * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw Error(Fault::quota, fmt::format("no memory for a copy buffer of {} MiB: {}", bytes >> 20, strerror(errno)));
  // Only for speed: fewer faults, and fewer pages to pin for each direct write.
  madvise(memory, used_.size() * page, MADV_HUGEPAGE);
  memory_ = static_cast<std::byte*>(memory);
}

Arena::~Arena() { munmap(memory_, used_.size() * page); }

std::optional<std::span<std::byte>> Arena::take(std::size_t bytes) {
  const std::size_t need = pages_of(bytes);
  std::size_t run = 0;
  for (std::size_t i = 0; i < used_.size(); ++i) {
    run = used_[i] ? 0 : run + 1;
    if (run < need) continue;
    const std::size_t first = i + 1 - need;
    for (std::size_t p = first; p <= i; ++p) used_[p] = true;
    taken_ += need;
    return std::span<std::byte>(memory_ + first * page, bytes);
  }
  return std::nullopt;
}

void Arena::give(std::span<std::byte> block) noexcept {
  const std::size_t first = static_cast<std::size_t>(block.data() - memory_) / page;
  for (std::size_t p = first; p < first + pages_of(block.size()); ++p) used_[p] = false;
  taken_ -= pages_of(block.size());
}

}  // namespace vmferry::copy
