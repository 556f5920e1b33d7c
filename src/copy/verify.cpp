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
  Reading(const Target& target, Digests& digests, const Selection& selection, Progress& progress, std::stop_token stop)
      : target_(target), digests_(digests), selection_(selection), progress_(progress), stop_(std::move(stop)) {
    if (selection_.changed) wanted_ = digests_.not_read_back();
    always_ = selection_.always.aligned(Digests::chunk, digests_.bytes());
  }

  Verified all() {
    {
      std::vector<std::jthread> readers;
      for (int i = 0; i < threads; ++i) readers.emplace_back([this] { work(); });
    }
    if (!result_.lock()->different.empty()) digests_.flush();  // what was found stays to be read
    if (auto failure = failure_.lock(); *failure) std::rethrow_exception(*failure);
    return std::move(*result_.lock());
  }

 private:
  bool chosen(std::uint64_t at) const {
    return selection_.sample >= 1 ||
           static_cast<double>(mixed(selection_.seed ^ mixed(at / request))) < selection_.sample * 0x1p64;
  }

  void work() {
    try {
      std::vector<std::byte> buffer(request);
      while (!failed_) {
        const std::uint64_t at = next_.fetch_add(request);
        if (at >= digests_.bytes()) return;
        if (stop_.stop_requested()) throw Cancelled();
        const ByteRange range{at, std::min(request, digests_.bytes() - at)};
        const bool sampled = chosen(at);
        if (sampled || !always_.intersect(RangeSet(std::span(&range, 1))).empty()) compare(range, sampled, buffer);
        progress_.advanced(done_ += range.length, digests_.bytes());
      }
    } catch (...) {
      auto failure = failure_.lock();
      if (!*failure) *failure = std::current_exception();
      failed_ = true;
    }
  }

  void compare(ByteRange range, bool sampled, std::span<std::byte> buffer) {
    constexpr std::uint64_t chunk = Digests::chunk;
    const std::vector<Digest> known = digests_.read(range.offset, (range.length + chunk - 1) / chunk);
    const auto part = [&](std::size_t i) {
      return ByteRange{range.offset + i * chunk, std::min(chunk, range.length - i * chunk)};
    };
    const auto wanted = [&](std::size_t i) {
      const bool chosen = sampled && (!selection_.changed || wanted_.contains(part(i)));
      return known[i].known() && (chosen || always_.contains(part(i)));
    };
    Verified found;
    for (std::size_t i = 0; i < known.size(); ++i)
      if (sampled && !known[i].known()) found.unknown += part(i).length;
    // Neighbours in one read.
    for (std::size_t i = 0, end = 0; i < known.size(); i = std::max(end, i + 1)) {
      for (end = i; end < known.size() && wanted(end);) ++end;
      if (end == i) continue;
      const ByteRange run{part(i).offset, part(end - 1).end() - part(i).offset};
      read(run, buffer);
      found.read += run.length;
      found.different.add(differing(run, buffer, std::span(known).subspan(i, end - i)));
    }
    auto result = result_.lock();
    result->read += found.read;
    result->unknown += found.unknown;
    result->different.add(found.different);
  }

  RangeSet differing(ByteRange run, std::span<const std::byte> bytes, std::span<const Digest> known) {
    RangeSet different;
    std::size_t right = 0;  // in a row, up to here
    for (std::size_t i = 0; i <= known.size(); ++i) {
      const std::uint64_t begin = i * Digests::chunk;
      const bool same =
          i < known.size() && digest_of(bytes.subspan(begin, std::min(Digests::chunk, run.length - begin))) == known[i];
      if (same) {
        ++right;
        continue;
      }
      if (right > 0) digests_.mark_read_back(run.offset + (i - right) * Digests::chunk, right, true);
      right = 0;
      if (i == known.size()) break;
      digests_.mark_read_back(run.offset + begin, 1, false);  // it may have been right before
      different.add({run.offset + begin, std::min(Digests::chunk, run.length - begin)});
    }
    return different;
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
  Digests& digests_;
  const Selection selection_;
  RangeSet wanted_;  // of a selection of what changed
  RangeSet always_;
  Progress& progress_;
  const std::stop_token stop_;
  std::atomic<std::uint64_t> next_{0}, done_{0};
  std::atomic<bool> failed_{false};
  Sync<Verified> result_;
  Sync<std::exception_ptr> failure_;
};

}  // namespace

Verified verify(const Target& target, Digests& digests, const Selection& selection, Progress& progress, Clock& clock,
                std::stop_token stop) {
  const auto began = clock.mono();
  target.check();
  // Dirty pages cannot be dropped: they go out first. Neither call's failure changes what is compared.
  static_cast<void>(::fdatasync(target.fd()));
  static_cast<void>(::posix_fadvise(target.fd(), 0, 0, POSIX_FADV_DONTNEED));
  Verified result = Reading(target, digests, selection, progress, std::move(stop)).all();
  target.check();
  result.seconds = std::chrono::duration<double>(clock.mono() - began).count();
  return result;
}

}  // namespace vmferry::copy
