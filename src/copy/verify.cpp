// A few threads, each with requests of its own: a network volume answers many at once sooner than one after another.
#include "copy/verify.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "base/error.hpp"
#include "base/sync.hpp"

namespace vmferry::copy {

namespace {

constexpr int threads = 4;
constexpr std::uint64_t request = 1024 * 1024;

// SplitMix64's step (https://prng.di.unimi.it/splitmix64.c): a good hash of a counter.
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class Reading {
 public:
  Reading(const Target& target, const Digests& digests, double sample, std::uint64_t seed, Progress& progress,
          std::stop_token stop)
      : target_(target), digests_(digests), sample_(sample), seed_(seed), progress_(progress), stop_(std::move(stop)) {}

  Verified all() {
    {
      std::vector<std::jthread> readers;
      for (int i = 0; i < threads; ++i) readers.emplace_back([this] { work(); });
    }
    if (auto failure = failure_.lock(); *failure) std::rethrow_exception(*failure);
    return std::move(*result_.lock());
  }

 private:
  bool chosen(std::uint64_t at) const {
    return sample_ >= 1 || static_cast<double>(mixed(seed_ ^ mixed(at / request))) < sample_ * 0x1p64;
  }

  void work() {
    try {
      std::vector<std::byte> buffer(request);
      while (!failed_) {
        const std::uint64_t at = next_.fetch_add(request);
        if (at >= digests_.bytes()) return;
        if (stop_.stop_requested()) throw Cancelled();
        const ByteRange range{at, std::min(request, digests_.bytes() - at)};
        if (chosen(at)) compare(range, buffer);
        progress_.advanced(done_ += range.length, digests_.bytes());
      }
    } catch (...) {
      auto failure = failure_.lock();
      if (!*failure) *failure = std::current_exception();
      failed_ = true;
    }
  }

  void compare(ByteRange range, std::span<std::byte> buffer) {
    const std::vector<Digest> known = digests_.read(range.offset, (range.length + Digests::chunk - 1) / Digests::chunk);
    const bool nothing = std::none_of(known.begin(), known.end(), [](const Digest& digest) { return digest.known(); });
    if (!nothing) read(range, buffer);
    Verified found;
    for (std::size_t i = 0; i < known.size(); ++i) {
      const std::uint64_t begin = i * Digests::chunk, length = std::min(Digests::chunk, range.length - begin);
      if (!known[i].known()) {
        found.unknown += length;
        continue;
      }
      found.read += length;
      if (digest_of(buffer.subspan(begin, length)) != known[i]) found.different.add({range.offset + begin, length});
    }
    auto result = result_.lock();
    result->read += found.read;
    result->unknown += found.unknown;
    result->different.add(found.different);
  }

  void read(ByteRange range, std::span<std::byte> buffer) const {
    for (std::uint64_t done = 0; done < range.length;) {
      const ssize_t got =
          ::pread(target_.fd(), buffer.data() + done, range.length - done, static_cast<off_t>(range.offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        const int error = errno;
        target_.check();
        throw Error(
            Fault::unavailable,
            fmt::format("reading {} bytes at offset {} of {} failed: {}; look at the kernel's log", range.length,
                        range.offset, target_.name(), got == 0 ? "it ends before" : strerror(error)));
      }
      done += static_cast<std::uint64_t>(got);
    }
  }

  const Target& target_;
  const Digests& digests_;
  const double sample_;
  const std::uint64_t seed_;
  Progress& progress_;
  const std::stop_token stop_;
  std::atomic<std::uint64_t> next_{0}, done_{0};
  std::atomic<bool> failed_{false};
  Sync<Verified> result_;
  Sync<std::exception_ptr> failure_;
};

}  // namespace

Verified verify(const Target& target, const Digests& digests, double sample, std::uint64_t seed, Progress& progress,
                Clock& clock, std::stop_token stop) {
  const auto began = clock.mono();
  target.check();
  // Dirty pages cannot be dropped: they go out first. Neither call's failure changes what is compared.
  static_cast<void>(::fdatasync(target.fd()));
  static_cast<void>(::posix_fadvise(target.fd(), 0, 0, POSIX_FADV_DONTNEED));
  Verified result = Reading(target, digests, sample, seed, progress, stop).all();
  target.check();
  result.seconds = std::chrono::duration<double>(clock.mono() - began).count();
  return result;
}

}  // namespace vmferry::copy
