// A secret in anonymous memory that a child can read through the descriptor it inherited, and that we can replace.
#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.hpp"
#include "nbdkit/nbdkit.hpp"

namespace vmferry::nbdkit {

LiveSecret::LiveSecret() : fd_(memfd_create("vmferry-secret", MFD_CLOEXEC)) {
  if (!fd_)
    throw Error(Fault::quota, fmt::format("cannot make a memory file for a session cookie: {}", strerror(errno)));
}

void LiveSecret::set(const Secret& value) {
  // Readers take the first line, so a reader between the two calls gets the new value, never a mixture of both.
  std::string line(value.reveal());
  line += '\n';
  const ssize_t wrote = pwrite(fd_.get(), line.data(), line.size(), 0);
  const bool whole = wrote == static_cast<ssize_t>(line.size()) && ftruncate(fd_.get(), wrote) == 0;
  const int error = errno;
  wipe(line);
  if (!whole) throw Error(Fault::quota, fmt::format("cannot hand a session cookie to nbdkit: {}", strerror(error)));
}

}  // namespace vmferry::nbdkit
