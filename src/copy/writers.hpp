// A few threads that write what was read (finding its zeroes first) and clear what is known to be zero, so that the
// event loop never waits for a disk.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "copy/cutter.hpp"
#include "copy/digests.hpp"
#include "copy/sink.hpp"
#include "copy/zero.hpp"

namespace vmferry::copy {

// Bytes to write, or (empty bytes) a range to clear.
struct WriteJob {
  std::span<std::byte> bytes;  // stands at `at`
  std::uint64_t at = 0;
  std::vector<ByteRange> wanted;
  std::uint64_t counts = 0;  // bytes of work that are finished with it
};

struct Written {
  std::span<std::byte> bytes;  // the job's, to be given back to the arena
  std::uint64_t counts = 0;
  std::uint64_t written = 0;
  std::uint64_t zeroed = 0;
  std::uint64_t equal = 0;
  std::vector<ByteRange> ranges = {};  // what the target holds now
};

class Writers {
 public:
  struct Settings {
    int threads = 2;
    std::uint64_t granule = 64 * 1024;
    bool skip_zeroes = false;  // the target reads zero there already
    Digests* digests = nullptr;
    bool skip_equal = false;
    std::function<void()> unequal;  // see Tuning
  };
  // `done` and `failed` are called from the writing threads.
  Writers(Sink& sink, Settings settings, std::function<void(Written)> done,
          std::function<void(std::exception_ptr)> failed);
  ~Writers();  // finishes the jobs at hand, forgets the rest

  void add(WriteJob job);

 private:
  void run(std::stop_token stop);
  std::optional<WriteJob> next(std::stop_token stop);
  Written perform(const WriteJob& job, std::stop_token stop);
  std::vector<Run> runs_in(const WriteJob& job, ByteRange range) const;
  void apply(const WriteJob& job, const Run& run, Written& result, std::stop_token stop);
  void apply_digested(const WriteJob& job, const Run& run, Written& result, std::stop_token stop);

  Sink& sink_;
  Settings settings_;
  std::function<void(Written)> done_;
  std::function<void(std::exception_ptr)> failed_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<WriteJob> data_;  // first: they hold buffers
  std::deque<WriteJob> zeroes_;
  std::vector<std::jthread> threads_;
};

}  // namespace vmferry::copy
