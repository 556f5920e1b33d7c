// The writing threads' loop.
#include "copy/writers.hpp"

#include "copy/zero.hpp"

namespace vmferry::copy {

Writers::Writers(Sink& sink, Settings settings, std::function<void(Written)> done,
                 std::function<void(std::exception_ptr)> failed)
    : sink_(sink), settings_(settings), done_(std::move(done)), failed_(std::move(failed)) {
  for (int i = 0; i < settings_.threads; ++i) threads_.emplace_back([this](std::stop_token stop) { run(stop); });
}

Writers::~Writers() {
  for (std::jthread& thread : threads_) thread.request_stop();
  for (std::jthread& thread : threads_) thread.join();
}

void Writers::add(WriteJob job) {
  {
    std::scoped_lock lock(mutex_);
    (job.bytes.empty() ? zeroes_ : data_).push_back(std::move(job));
  }
  wake_.notify_one();
}

std::optional<WriteJob> Writers::next(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, stop, [this] { return !data_.empty() || !zeroes_.empty(); });
  if (stop.stop_requested()) return std::nullopt;
  std::deque<WriteJob>& queue = data_.empty() ? zeroes_ : data_;
  WriteJob job = std::move(queue.front());
  queue.pop_front();
  return job;
}

void Writers::run(std::stop_token stop) {
  while (const auto job = next(stop)) {
    try {
      done_(perform(*job, stop));
    } catch (...) {
      failed_(std::current_exception());
      return;
    }
  }
}

Written Writers::perform(const WriteJob& job, std::stop_token stop) {
  Written result{job.bytes, job.counts, 0, 0};
  for (const ByteRange& range : job.wanted) {
    if (job.bytes.empty()) {
      sink_.zero(range, stop);
      result.zeroed += range.length;
      continue;
    }
    const std::span<const std::byte> piece = job.bytes.subspan(range.offset - job.at, range.length);
    for (const Run& run : runs_of(piece, range.offset, settings_.granule)) {
      (run.zero ? result.zeroed : result.written) += run.range.length;
      if (!run.zero)
        sink_.write(job.bytes.subspan(run.range.offset - job.at, run.range.length), run.range.offset, stop);
      else if (!settings_.skip_zeroes)
        sink_.zero(run.range, stop);
    }
  }
  return result;
}

}  // namespace vmferry::copy
