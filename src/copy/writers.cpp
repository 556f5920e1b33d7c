// The writing threads' loop.
#include "copy/writers.hpp"

#include <algorithm>

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
  while (auto job = next(stop)) {
    try {
      Written written = perform(*job, stop);
      written.ranges = std::move(job->wanted);
      done_(std::move(written));
    } catch (...) {
      failed_(std::current_exception());
      return;
    }
  }
}

void Writers::apply(const WriteJob& job, const Run& run, Written& result, std::stop_token stop) {
  (run.zero ? result.zeroed : result.written) += run.range.length;
  if (!run.zero)
    sink_.write(job.bytes.subspan(run.range.offset - job.at, run.range.length), run.range.offset, stop);
  else if (job.bytes.empty() || !settings_.skip_zeroes)
    sink_.zero(run.range, stop);
}

// The run is of whole chunks.
void Writers::apply_digested(const WriteJob& job, const Run& run, Written& result, std::stop_token stop) {
  Digests& kept = *settings_.digests;
  constexpr std::uint64_t chunk = Digests::chunk;
  std::vector<Digest> digests;
  for (std::uint64_t at = run.range.offset; at < run.range.end(); at += chunk)
    digests.push_back(run.zero ? kept.zero_at(at)
                               : digest_of(job.bytes.subspan(at - job.at, std::min(chunk, run.range.end() - at))));
  if (!settings_.skip_equal) {
    apply(job, run, result, stop);
    kept.keep(run.range.offset, digests);
    return;
  }
  const std::vector<Digest> before = kept.read(run.range.offset, digests.size());
  for (std::size_t begin = 0; begin < digests.size();) {
    const bool equal = before[begin] == digests[begin];
    std::size_t end = begin + 1;
    while (end < digests.size() && (before[end] == digests[end]) == equal) ++end;
    const std::uint64_t from = run.range.offset + begin * chunk;
    const ByteRange part{from, std::min(run.range.offset + end * chunk, run.range.end()) - from};
    if (equal) {
      result.equal += part.length;
    } else {
      if (settings_.unequal) settings_.unequal();
      apply(job, {part, run.zero}, result, stop);
      kept.keep(from, std::span(digests).subspan(begin, end - begin));
    }
    begin = end;
  }
}

std::vector<Run> Writers::runs_in(const WriteJob& job, ByteRange range) const {
  if (range.length == 0) return {};
  if (job.bytes.empty()) return {{range, true}};
  return runs_of(job.bytes.subspan(range.offset - job.at, range.length), range.offset, settings_.granule);
}

Written Writers::perform(const WriteJob& job, std::stop_token stop) {
  Written result{job.bytes, job.counts};
  const std::uint64_t digested = settings_.digests ? settings_.digests->bytes() : 0;
  for (const ByteRange& range : job.wanted) {
    const std::uint64_t border = std::clamp(digested, range.offset, range.end());
    for (const Run& run : runs_in(job, {range.offset, border - range.offset})) apply_digested(job, run, result, stop);
    for (const Run& run : runs_in(job, {border, range.end() - border})) apply(job, run, result, stop);
  }
  return result;
}

}  // namespace vmferry::copy
