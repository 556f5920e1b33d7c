// An eventfd.
#include "copy/doorbell.hpp"

#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/eventfd.h>

#include <cstdint>

#include "base/error.hpp"

namespace vmferry::copy {

Doorbell::Doorbell() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!fd_) throw Error(Fault::quota, fmt::format("cannot make an event descriptor for a copy: {}", strerror(errno)));
}

void Doorbell::ring() noexcept {
  const std::uint64_t one = 1;
  // EAGAIN means that it has been rung 2^64-2 times already: the sleeper wakes all the same.
  [[maybe_unused]] const ssize_t wrote = write(fd_.get(), &one, sizeof one);
}

void Doorbell::clear() noexcept {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(fd_.get(), &count, sizeof count);
}

}  // namespace vmferry::copy
