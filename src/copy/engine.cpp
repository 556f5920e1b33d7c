// The loop: take what arrived, plan, start reads, wait. Failed reads go again on a fresh connection; nothing is lost
// between two states because a chunk is always in exactly one of cutter, held_, retries_, flights_ or the writers.
#include "copy/engine.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.hpp"
#include "copy/throttle.hpp"

namespace vmferry::copy {

namespace {

constexpr std::size_t mib = 1 << 20;
constexpr int writer_threads = 4;
constexpr std::uint64_t extent_window = 1ULL << 30;  // asked at once
constexpr std::uint64_t extents_ahead = 256 * mib;   // ask on while less than this is ready to be read
constexpr std::uint64_t clear_slice = 256 * mib;     // so that a cancel is not behind one long call
constexpr std::uint64_t sector = 512;                // VDDK reads whole sectors only
constexpr std::uint64_t chunk = Digests::chunk;
constexpr std::chrono::milliseconds progress_cadence{100};
constexpr std::chrono::seconds drain_patience{20};

// Measured: a delta is done soonest with little memory (first touch dominates), a full copy wants more in flight.
std::size_t arena_bytes(const Tuning& tuning) {
  return std::max<std::size_t>((tuning.whole_disk ? 32 : 16) * mib, 2 * std::size_t{tuning.request});
}

Tuning sane(Tuning tuning) {
  tuning.connections = std::clamp(tuning.connections, 1, 64);
  tuning.requests_per_connection = std::clamp(tuning.requests_per_connection, 1, 64);
  tuning.attempts = std::max(tuning.attempts, 1);
  tuning.granule = std::max<std::uint32_t>(tuning.granule, sector);
  const std::uint32_t unit = tuning.digests ? chunk : sector;
  if (tuning.permits)
    tuning.request =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(tuning.request, tuning.permits->bytes_under_way()));
  tuning.request = std::clamp<std::uint32_t>(tuning.request / unit * unit, 64 * 1024, 32 * mib);
  if (tuning.digests) tuning.granule = chunk;
  return tuning;
}

// Whole chunks of what has digests; a target may be larger.
RangeSet whole_chunks(const RangeSet& ranges, std::uint64_t digested) {
  const ByteRange with_digests{0, digested};
  RangeSet beyond = ranges;
  beyond.subtract(with_digests);
  RangeSet all = ranges.intersect(RangeSet(std::span(&with_digests, 1))).aligned(chunk, digested);
  all.add(beyond);
  return all;
}

// With digests only whole chunks are done.
RangeSet already_done(const Tuning& tuning, std::uint64_t target_bytes) {
  if (!tuning.digests || tuning.done.empty()) return tuning.done;
  RangeSet missing(std::array{ByteRange{0, target_bytes}});
  missing.subtract(tuning.done);
  RangeSet done = tuning.done;
  done.subtract(whole_chunks(missing, tuning.digests->bytes()));
  return done;
}

}  // namespace

Engine::Engine(Source& source, Target& target, Work& work, const Tuning& tuning, Progress& progress, Clock& clock,
               log::Log& log, std::stop_token stop)
    : source_(source),
      target_(target),
      work_(work),
      tuning_(sane(tuning)),
      progress_(progress),
      clock_(clock),
      log_(log),
      user_stop_(std::move(stop)),
      size_(source.bytes()),
      costly_(source.costly()),
      total_(work.total()),
      sink_(target, log),
      arena_(arena_bytes(tuning_)),
      counted_(tuning_.permits && source.way().counted),
      lane_bytes_(share_of_connection()),
      unit_(tuning_.digests ? chunk : sector),
      cutter_({tuning_.request, tuning_.merge_gap, unit_, size_}),
      covered_(already_done(tuning_, target.bytes())),
      lane_limit_(tuning_.connections),
      asks_extents_(tuning_.whole_disk),
      done_(covered_.intersect(RangeSet(std::array{ByteRange{0, size_}})).bytes()) {}

Engine::~Engine() = default;

std::uint64_t Engine::share_of_connection() const {
  const std::uint64_t share = arena_bytes(tuning_) / static_cast<unsigned>(tuning_.connections);
  return counted_ ? std::min(share, tuning_.permits->bytes_under_way()) : share;
}

// ---- the other threads ----

void Engine::fail(std::exception_ptr reason) {
  {
    auto inbox = inbox_.lock();
    if (!inbox->failure) inbox->failure = std::move(reason);
  }
  doorbell_.ring();
}

void Engine::produce(std::stop_token stop) {
  try {
    while (auto piece = work_.next(stop)) {
      inbox_.lock()->pieces.push_back(std::move(*piece));
      doorbell_.ring();
    }
    inbox_.lock()->work_ended = true;
    doorbell_.ring();
  } catch (...) {
    fail(std::current_exception());
  }
}

void Engine::connect_on_order(std::stop_token stop) {
  while (true) {
    std::chrono::milliseconds after{0};
    {
      auto order = order_.lock();
      if (!order_given_.wait(order.mutex(), stop, [&] { return order->open; })) return;
      order->open = false;
      after = order->after;
    }
    try {
      if (after.count() > 0) sleep_or_cancel(clock_, after, stop);
      source_.prepare(progress_, stop);
      auto handle = source_.connect(stop);
      inbox_.lock()->connected = std::move(handle);
    } catch (...) {
      const std::exception_ptr reason = deeper_reason(std::current_exception(), stop);
      inbox_.lock()->refused = reason;
    }
    doorbell_.ring();
  }
}

bool Engine::in_doubt(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const BytesInDoubt&) {
    return true;
  } catch (...) {
    return false;
  }
}

// A source whose bytes are gone explains every refusal better than its server does.
std::exception_ptr Engine::deeper_reason(std::exception_ptr refusal, std::stop_token stop) {
  try {
    source_.check(std::move(stop));
  } catch (const Error& error) {
    if (error.fault() == Fault::conflict && !in_doubt(refusal)) return std::current_exception();
  } catch (...) {
    // Stopped: the refusal is as good a reason.
  }
  return refusal;
}

void Engine::checkpoint(const RangeSet& ranges) {
  sink_.flush();
  sink_.check();
  if (tuning_.digests) tuning_.digests->flush();
  tuning_.checkpoint(ranges);
}

void Engine::keep_checkpoints(std::stop_token stop) {
  try {
    while (true) {
      RangeSet ranges;
      {
        auto waiting = to_checkpoint_.lock();
        if (!checkpoint_ordered_.wait(waiting.mutex(), stop, [&] { return waiting->has_value(); })) return;
        ranges = *std::exchange(*waiting, std::nullopt);
      }
      checkpoint(ranges);
      inbox_.lock()->checkpointed = true;
      doorbell_.ring();
    }
  } catch (...) {
    fail(std::current_exception());
  }
}

// ---- what they left ----

void Engine::take_inbox() {
  std::vector<std::vector<ByteRange>> pieces;
  std::vector<Written> written;
  std::unique_ptr<nbd::Handle> connected;
  std::exception_ptr refused;
  bool ended = false;
  {
    auto inbox = inbox_.lock();
    pieces.swap(inbox->pieces);
    written.swap(inbox->written);
    connected.swap(inbox->connected);
    refused = std::exchange(inbox->refused, nullptr);
    ended = inbox->work_ended;
    if (std::exchange(inbox->checkpointed, false)) checkpointing_ = false;
  }
  for (const auto& piece : pieces) take_piece(piece);
  work_ended_ = ended;
  take_written(written);
  if (connected != nullptr) take_connection(std::move(connected));
  if (refused != nullptr) take_refusal(std::move(refused));
}

void Engine::take_written(const std::vector<Written>& written) {
  for (const Written& job : written) {
    done_ += job.counts;
    report_.written += job.written;
    report_.zeroed += job.zeroed;
    report_.equal += job.equal;
    if (tuning_.checkpoint) {
      for (const ByteRange& range : job.ranges) completed_.add(range);
      completed_bytes_ += job.written + job.zeroed;
    }
    if (job.bytes.empty()) {
      --clearing_;
    } else {
      --writing_;
      arena_.give(job.bytes);
    }
  }
}

void Engine::take_piece(const std::vector<ByteRange>& piece) {
  std::vector<ByteRange> within;
  for (ByteRange range : piece) {
    if (range.offset >= size_) continue;  // areas are rounded up and may pass the end
    range.length = std::min(range.length, size_ - range.offset);
    within.push_back(range);
  }
  RangeSet fresh(within);
  if (tuning_.digests) fresh = whole_chunks(fresh, tuning_.digests->bytes());
  fresh.subtract(covered_);  // what was named before is being copied already
  covered_.add(fresh);
  if (asks_extents_)
    unmapped_.insert(unmapped_.end(), fresh.ranges().begin(), fresh.ranges().end());
  else
    cutter_.add(fresh.ranges());
}

// ---- planning ----

void Engine::clear(ByteRange range, bool is_work) {
  const bool skip = tuning_.whole_disk && target_.known_zero();
  if (skip) {
    if (tuning_.digests && range.offset < size_)
      tuning_.digests->keep_zero({range.offset, std::min(range.end(), size_) - range.offset});
    report_.zeroed += range.length;
    if (is_work) done_ += range.length;
    if (tuning_.checkpoint) completed_.add(range);
    return;
  }
  while (range.length > 0) {
    const ByteRange slice{range.offset, std::min(range.length, clear_slice)};
    writers_->add({{}, 0, {slice}, is_work ? slice.length : 0});
    ++clearing_;
    range = {slice.end(), range.length - slice.length};
  }
}

void Engine::ask_extents() {
  if (!asks_extents_ || asking_ || unmapped_.empty() || !shaped_) return;
  Lane* lane = nullptr;
  for (const auto& candidate : lanes_)
    if (candidate->usable() && (lane == nullptr || candidate->handle->in_flight() < lane->handle->in_flight()))
      lane = candidate.get();
  if (lane == nullptr) return;
  if (!lane->handle->can_extents() || extent_failures_ >= 2) {
    // Everything is read, and its zeroes are found in the bytes.
    asks_extents_ = false;
    const std::vector<ByteRange> all(unmapped_.begin(), unmapped_.end());
    cutter_.add(all);
    unmapped_.clear();
    return;
  }
  if (cutter_.bytes() >= extents_ahead) return;
  ByteRange range = unmapped_.front();
  range.length = std::min(range.length, extent_window);
  asking_ = true;
  busy(*lane);
  lane->handle->extents(range, [this, range, lane](int error, const std::vector<nbd::Extent>& extents) {
    on_extents(range, *lane, error, extents);
  });
}

void Engine::on_extents(ByteRange asked, Lane& lane, int error, const std::vector<nbd::Extent>& extents) {
  asking_ = false;
  if (draining_) return;
  lane.heard = clock_.mono();
  std::uint64_t known = asked.offset;
  std::vector<ByteRange> data;
  for (const nbd::Extent& extent : extents) {
    if (extent.range.offset != known) break;  // a hole in the answer: believe what is before it
    known = extent.range.end();
    // A hole smaller than the granule is cheaper to read than to clear.
    if (!extent.zero || extent.range.length < tuning_.granule) data.push_back(extent.range);
  }
  if (tuning_.digests && known < asked.end() && known % chunk != 0) {
    // Half a chunk is known: all of it is read.
    data.push_back({known, 1});
    known = std::min((known / chunk + 1) * chunk, asked.end());
  }
  const ByteRange answered{asked.offset, known - asked.offset};
  RangeSet normal(data);
  if (tuning_.digests) normal = normal.aligned(chunk, size_);
  RangeSet empty(std::span(&answered, 1));
  empty.subtract(normal);
  for (const ByteRange& range : empty.ranges()) clear(range, true);
  if (error != 0 || known == asked.offset) {
    ++extent_failures_;
    if (error != 0) lane.retiring = true;
    log_.info(fmt::format("the server of the disk copied to {} does not say what is empty at offset {} ({})",
                          target_.name(), asked.offset, error != 0 ? strerror(error) : "empty answer"));
    return;
  }
  cutter_.add(normal.ranges());
  ByteRange& front = unmapped_.front();
  front = {known, front.end() - known};
  if (front.length == 0) unmapped_.pop_front();
}

// The whole target shall equal the source: what the work does not name is zero there, and so is what is beyond its end
// (an old partition table's copy at the end of a larger volume would be found by the guest).
void Engine::clear_outside() {
  if (outside_cleared_ || !work_ended_ || !tuning_.whole_disk) return;
  outside_cleared_ = true;
  const ByteRange everything{0, target_.bytes()};
  RangeSet outside(std::span(&everything, 1));
  outside.subtract(covered_);
  for (const ByteRange& range : outside.ranges()) clear(range, false);
}

// ---- reading ----

// The connection with the least to do that has room for so many bytes more. One always takes at least one request.
Engine::Lane* Engine::pick(std::uint64_t length, std::uint64_t newer_than) {
  Lane* best = nullptr;
  for (const auto& lane : lanes_) {
    if (!lane->usable() || lane->number <= newer_than) continue;
    if (lane->handle->in_flight() >= tuning_.requests_per_connection) continue;
    if (lane->reading > 0 && lane->reading + length > lane_bytes_) continue;
    if (best == nullptr || lane->handle->in_flight() < best->handle->in_flight()) best = lane.get();
  }
  return best;
}

// How long nothing may be read, because others or we have read enough.
std::chrono::milliseconds Engine::throttled() const {
  if (!tuning_.throttle) return std::chrono::milliseconds(0);
  const auto now = clock_.mono();
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(tuning_.throttle->open_at(now) - now);
  return std::max(left, std::chrono::milliseconds(0));
}

// False when there is no memory left, or no bandwidth.
bool Engine::dispatch_retries() {
  starved_fresh_ = false;
  for (std::size_t i = 0; i < retries_.size();) {
    Lane* lane = pick(retries_[i].read.length, retries_[i].fresh_after);
    if (lane == nullptr) {
      const bool exists = std::any_of(lanes_.begin(), lanes_.end(), [&](const auto& other) {
        return other->usable() && other->number > retries_[i].fresh_after;
      });
      if (!exists) starved_fresh_ = true;
      ++i;
      continue;
    }
    if (throttled().count() > 0) return false;
    const auto buffer = arena_.take(retries_[i].read.length);
    if (!buffer) return false;
    Chunk chunk = std::move(retries_[i]);
    retries_.erase(retries_.begin() + static_cast<std::ptrdiff_t>(i));
    start(std::move(chunk), *lane, *buffer);
  }
  return true;
}

void Engine::dispatch() {
  starved_ = false;
  if (!dispatch_retries() || !shaped_) return;
  while (held_ || !cutter_.empty()) {
    if (!held_) held_ = cutter_.next();
    Lane* lane = pick(held_->read.length, 0);
    if (lane == nullptr) {
      starved_ = true;
      return;
    }
    if (throttled().count() > 0) return;
    const auto buffer = arena_.take(held_->read.length);
    if (!buffer) return;
    start(std::move(*held_), *lane, *buffer);
    held_.reset();
  }
}

void Engine::start(Chunk chunk, Lane& lane, std::span<std::byte> buffer) {
  flights_.push_front({std::move(chunk), buffer, &lane});
  const auto flight = flights_.begin();
  ++report_.requests;
  busy(lane);
  lane.reading += flight->chunk.read.length;
  if (tuning_.throttle) tuning_.throttle->take(flight->chunk.read.length, clock_.mono());
  lane.handle->read(buffer, flight->chunk.read.offset, [this, flight](int error) { on_read(flight, error); });
}

void Engine::on_read(std::list<Flight>::iterator flight, int error) {
  Flight landed = std::move(*flight);
  flights_.erase(flight);
  landed.lane->reading -= landed.chunk.read.length;
  landed.lane->heard = clock_.mono();
  if (draining_) return;  // the buffer goes with the arena
  if (error != 0) {
    landed.lane->retiring = true;
    arena_.give(landed.buffer);
    retry_later(std::move(landed.chunk), error);
    return;
  }
  report_.read += landed.buffer.size();
  std::uint64_t counts = 0;
  for (const ByteRange& range : landed.chunk.wanted) counts += range.length;
  writers_->add({landed.buffer, landed.chunk.read.offset, std::move(landed.chunk.wanted), counts});
  ++writing_;
}

void Engine::retry_later(Chunk chunk, int error) {
  ++chunk.attempts;
  const ByteRange range = chunk.read;
  source_.failed(range);
  if (chunk.attempts >= tuning_.attempts) {
    fail(std::make_exception_ptr(
        Error(Fault::unavailable,
              fmt::format("reading {} bytes at offset {} of the disk copied to {} failed {} times, each on a "
                          "new connection ({}): look at the source host and its datastore, then resume",
                          range.length, range.offset, target_.name(), chunk.attempts, strerror(error)))));
    return;
  }
  ++report_.retries;
  log_.warning(fmt::format("reading {} bytes at offset {} of the disk copied to {} failed ({}), attempt {} of {}",
                           range.length, range.offset, target_.name(), strerror(error), chunk.attempts,
                           tuning_.attempts));
  // Not on one that is being opened either: it was ordered without a pause, and would only fail it once more.
  chunk.fresh_after = orders_;
  retries_.push_back(std::move(chunk));
}

// ---- the loop ----

bool Engine::complete() const {
  return work_ended_ && unmapped_.empty() && !asking_ && cutter_.empty() && !held_ && retries_.empty() &&
         flights_.empty() && writing_ == 0 && clearing_ == 0;
}

void Engine::tell_progress(bool last) {
  const auto now = clock_.mono();
  if (!last && now - told_ < progress_cadence) return;
  told_ = now;
  const std::uint64_t total = work_ended_ ? covered_.bytes() : total_.value_or(covered_.bytes());
  progress_.advanced(done_, std::max(total, done_));
}

// The checkpoint is made beside the copy; what finishes meanwhile is the next one's.
void Engine::order_checkpoint() {
  if (!tuning_.checkpoint || checkpointing_ || completed_.empty()) return;
  const auto now = clock_.mono();
  if (now - checkpointed_ < tuning_.checkpoint_after && completed_bytes_ < tuning_.checkpoint_bytes) return;
  checkpointing_ = true;
  checkpointed_ = now;
  completed_bytes_ = 0;
  *to_checkpoint_.lock() = std::exchange(completed_, RangeSet());
  checkpoint_ordered_.notify_one();
}

void Engine::wait() {
  std::vector<pollfd> fds{{doorbell_.fd(), POLLIN, 0}};
  std::vector<Lane*> polled;
  for (const auto& lane : lanes_) {
    if (lane->handle->dead()) continue;
    const int events = (lane->handle->wants_read() ? POLLIN : 0) | (lane->handle->wants_write() ? POLLOUT : 0);
    fds.push_back({lane->handle->fd(), static_cast<short>(events), 0});
    polled.push_back(lane.get());
  }
  const auto pause = throttled().count();
  const bool source_bound = pause == 0 && !flights_.empty() && writing_ == 0 && clearing_ == 0;
  const auto began = clock_.mono();
  ::poll(fds.data(), fds.size(), pause > 0 ? static_cast<int>(std::min<std::int64_t>(pause, 1000)) : 1000);
  if (source_bound) watch_pace(clock_.mono() - began);
  if (fds[0].revents != 0) doorbell_.clear();
  for (std::size_t i = 0; i < polled.size(); ++i) {
    const short happened = fds[i + 1].revents;
    // An error or hang-up is found by whatever the connection wants to do next.
    if ((happened & (POLLIN | POLLHUP | POLLERR)) != 0) polled[i]->handle->notify_readable();
    if ((happened & (POLLOUT | POLLHUP | POLLERR)) != 0) polled[i]->handle->notify_writable();
  }
}

// What was read while something else was waited for counts too, so that a source looks faster rather than slower.
void Engine::watch_pace(std::chrono::steady_clock::duration waited) {
  source_bound_ += waited;
  if (source_bound_ < tuning_.pace_over) return;
  const std::uint64_t bytes = report_.read - std::exchange(paced_from_, report_.read);
  const std::uint64_t requests = report_.requests - std::exchange(paced_requests_, report_.requests);
  const bool large = bytes >= requests * (tuning_.request / 2);
  report_.pace = large ? static_cast<double>(bytes) / std::chrono::duration<double>(source_bound_).count() : 0;
  source_bound_ = {};
}

void Engine::loop() {
  order_connection();
  while (true) {
    if (user_stop_.stop_requested()) throw Cancelled();
    take_inbox();
    tend_lanes();
    if (const auto failure = inbox_.lock()->failure) std::rethrow_exception(failure);
    ask_extents();
    clear_outside();
    dispatch();
    tell_progress(false);
    if (complete()) return;
    order_checkpoint();
    heed_limits();
    heed_silence();
    if (tend_lanes()) continue;  // some reads ended the moment they were started: their connection is dead
    order_connection();
    wait();
  }
}

// Nobody may close a connection whose server is busy for it (see nbd::Handle::drain).
void Engine::drain() noexcept {
  draining_ = true;
  const auto give_up = std::chrono::steady_clock::now() + drain_patience;
  for (const auto& lane : lanes_) {
    const auto left = give_up - std::chrono::steady_clock::now();
    lane->handle->drain(
        std::max(std::chrono::duration_cast<std::chrono::milliseconds>(left), std::chrono::milliseconds(1)));
  }
}

// What was written before the copy was stopped need not be copied again. It is no reason for a second failure.
void Engine::last_checkpoint() noexcept {
  if (!tuning_.checkpoint) return;
  try {
    take_written(std::exchange(inbox_.lock()->written, {}));
    if (auto waiting = to_checkpoint_.lock(); waiting->has_value()) completed_.add(**waiting);
    if (!completed_.empty()) checkpoint(completed_);
  } catch (...) {
    log_.info(fmt::format("the last bytes copied to {} will be copied again", target_.name()));
  }
}

Report Engine::run() {
  started_ = told_ = checkpointed_ = clock_.mono();
  const Writers::Settings settings{writer_threads,  tuning_.granule,    tuning_.whole_disk && target_.known_zero(),
                                   tuning_.digests, tuning_.skip_equal, tuning_.unequal};
  writers_ = std::make_unique<Writers>(
      sink_, settings,
      [this](Written job) {
        inbox_.lock()->written.push_back(std::move(job));
        doorbell_.ring();
      },
      [this](std::exception_ptr reason) { fail(std::move(reason)); });
  producer_ = std::jthread([this](std::stop_token stop) { produce(stop); });
  connector_ = std::jthread([this](std::stop_token stop) { connect_on_order(stop); });
  if (tuning_.checkpoint) checkpointer_ = std::jthread([this](std::stop_token stop) { keep_checkpoints(stop); });
  std::exception_ptr outcome;
  {
    const std::stop_callback on_stop(user_stop_, [this] { doorbell_.ring(); });
    try {
      loop();
    } catch (...) {
      outcome = std::current_exception();
    }
  }
  producer_.request_stop();
  connector_.request_stop();
  checkpointer_.request_stop();
  drain();
  writers_.reset();
  producer_.join();
  connector_.join();
  if (checkpointer_.joinable()) checkpointer_.join();
  inbox_.lock()->connected.reset();
  lanes_.clear();
  // What failed beside the last bytes is a failure all the same.
  if (outcome == nullptr) outcome = inbox_.lock()->failure;
  if (const std::exception_ptr refused = inbox_.lock()->refused; refused && in_doubt(refused)) outcome = refused;
  if (outcome != nullptr) {
    // Whatever ended it: bytes that the disk never had must not be gone on from.
    if (in_doubt(outcome)) std::rethrow_exception(outcome);
    try {
      source_.check(user_stop_);
    } catch (const BytesInDoubt&) {
      throw;
    } catch (...) {
      // What ended the copy is the better reason.
    }
    last_checkpoint();
    std::rethrow_exception(outcome);
  }

  source_.check(user_stop_);
  sink_.flush();
  sink_.check();
  tell_progress(true);
  report_.seconds = std::chrono::duration<double>(clock_.mono() - started_).count();
  return report_;
}

}  // namespace vmferry::copy
