// The engine's connections: ordered when they are needed or help, counted, and given up when they fail or fall silent.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.hpp"
#include "copy/engine.hpp"

namespace vmferry::copy {

namespace {

constexpr std::chrono::milliseconds first_back_off{500}, longest_back_off{30000};
constexpr std::chrono::milliseconds limits_cadence{500};

}  // namespace

void Engine::take_connection(std::unique_ptr<nbd::Handle> handle) {
  ordered_ = false;
  refusals_ = 0;
  if (handle->bytes() < size_)
    throw Error(Fault::data,
                fmt::format("the disk copied to {} has {} bytes, but its server shows only {}: it is another disk, "
                            "or it was cut",
                            target_.name(), size_, handle->bytes()));
  if (!shaped_) {
    const std::uint64_t align = std::max<std::uint64_t>(handle->minimum_block(), unit_);
    const std::uint64_t request = std::min<std::uint64_t>(tuning_.request, handle->maximum_read()) / align * align;
    if (request == 0)
      throw Error(Fault::unsupported,
                  fmt::format("the server of the disk copied to {} takes reads of at most {} bytes in blocks "
                              "of {}: nothing can be read",
                              target_.name(), handle->maximum_read(), align));
    cutter_.reshape({request, tuning_.merge_gap, align, size_});
    shaped_ = true;
  }
  auto lane = std::make_unique<Lane>();
  lane->number = orders_;
  lane->handle = std::move(handle);
  see_whether_counted();
  if (counted_) lane->permit = std::move(permit_);
  permit_.reset();
  lanes_.push_back(std::move(lane));
  log_.debug(fmt::format("connection {} to the disk copied to {} is open", orders_, target_.name()));
}

void Engine::take_refusal(std::exception_ptr reason) {
  ordered_ = false;
  permit_.reset();
  const int usable = usable_lanes();
  try {
    std::rethrow_exception(reason);
  } catch (const PermitNeeded& error) {
    see_whether_counted();
    if (usable > 0 && !starved_fresh_) lane_limit_ = usable;  // it was only for speed
    log_.info(
        fmt::format("the disk copied to {} needs leave for its next connection: {}", target_.name(), error.what()));
  } catch (BytesInDoubt& doubt) {
    doubt.during(fmt::format("reading the disk copied to {}", target_.name()));
    throw;
  } catch (Error& error) {
    if (usable > 0 && !starved_fresh_) {
      lane_limit_ = usable;  // it was only for speed
      log_.info(fmt::format("the disk copied to {} gets no more than {} connections: {}", target_.name(), usable,
                            error.what()));
      return;
    }
    const bool later =
        error.fault() == Fault::unavailable || error.fault() == Fault::timeout || error.fault() == Fault::tool;
    if (!later) throw error.during(fmt::format("connecting to the disk copied to {}", target_.name()));
    ++refusals_;
    log_.warning(fmt::format("no connection to the disk copied to {} (attempt {} of {}): {}", target_.name(), refusals_,
                             tuning_.attempts, error.what()));
    if (refusals_ < tuning_.attempts) return;
    const std::uint64_t offset = retries_.empty() ? (held_ ? held_->read.offset : 0) : retries_.front().read.offset;
    throw Error(Fault::unavailable,
                fmt::format("the disk copied to {} cannot be read at offset {}: no connection after {} "
                            "attempts, the last one said: {}",
                            target_.name(), offset, refusals_, error.what()));
  }
}

int Engine::usable_lanes() const {
  return static_cast<int>(std::count_if(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->usable(); }));
}

// What it is asked next is the first that it owes an answer to.
void Engine::busy(Lane& lane) const {
  if (lane.handle->in_flight() == 0) lane.heard = clock_.mono();
}

// A server that hangs tells nobody: its host lost power, its storage is gone, its session waits for ever. What was
// asked of it fails then like any read, and goes again on a connection of its own or, if the source has one, another
// way.
void Engine::heed_silence() {
  const auto now = clock_.mono();
  for (const auto& lane : lanes_) {
    if (lane->handle->dead() || lane->handle->in_flight() == 0 || now - lane->heard < tuning_.silence) continue;
    log_.warning(fmt::format("connection {} to the disk copied to {} is given up: nothing came of it for {} s",
                             lane->number, target_.name(),
                             std::chrono::duration_cast<std::chrono::seconds>(now - lane->heard).count()));
    lane->heard = now;
    lane->handle->give_up();
  }
}

// True when something had finished.
bool Engine::tend_lanes() {
  bool any = false;
  for (const auto& lane : lanes_) any = lane->handle->deliver() || any;
  lanes_.remove_if([](const auto& lane) { return !lane->usable() && lane->handle->in_flight() == 0; });
  return any;
}

std::chrono::milliseconds Engine::back_off(int failures) const {
  if (failures <= 0) return std::chrono::milliseconds(0);
  return std::min(first_back_off * (1 << std::min(failures - 1, 16)), longest_back_off);
}

// Never while a connection is being opened, which may change the way.
void Engine::see_whether_counted() {
  counted_ = tuning_.permits && source_.way().counted;
  lane_bytes_ = share_of_connection();
}

// Others may have all connections that there are. Asked for from time to time, not with each turn of the loop.
// `needed`: the copy cannot go on without it.
bool Engine::permitted(bool needed) {
  if (!counted_ || (permit_ = source_.permit())) return true;
  const auto now = clock_.mono();
  auto& ask_at = needed ? ask_needed_at_ : ask_further_at_;
  if (now < ask_at) return false;
  permit_ = tuning_.permits->ask(needed);
  if (permit_ == nullptr) ask_at = now + limits_cadence;
  return permit_ != nullptr;
}

// The limits may be changed while the copy runs. It keeps one connection, whatever they are.
void Engine::heed_limits() {
  if (!tuning_.permits || clock_.mono() - heeded_ < limits_cadence) return;
  heeded_ = clock_.mono();
  lane_bytes_ = share_of_connection();
  int usable = usable_lanes();
  for (const auto& lane : lanes_) {
    if (usable <= 1 || !lane->usable() || !lane->permit || !lane->permit->recalled()) continue;
    lane->retiring = true;
    --usable;
  }
}

void Engine::order_connection() {
  if (ordered_) return;
  if (costly_ && cutter_.empty() && !held_ && retries_.empty() && unmapped_.empty()) return;
  const int usable = usable_lanes();
  const bool needed = usable == 0 || starved_fresh_;
  const bool helpful = starved_ && usable < lane_limit_;
  if (!needed && !helpful) return;
  if (!permitted(needed)) {
    // Nobody may wait for others while he holds what they wait for: what failed goes again on a connection that is
    // there. A failure costs that one, and whoever has none left is next.
    const bool holds =
        std::any_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->usable() && lane->permit; });
    if (holds)
      for (Chunk& chunk : retries_) chunk.fresh_after = 0;
    else if (needed && flights_.empty() && !std::exchange(waits_, true))
      progress_.waiting(tuning_.permits->reason());
    return;
  }
  waits_ = false;
  int failures = refusals_;
  for (const Chunk& chunk : retries_) failures = std::max(failures, chunk.attempts);
  {
    auto order = order_.lock();
    order->open = true;
    order->after = back_off(failures);
  }
  ordered_ = true;
  ++orders_;
  order_given_.notify_one();
}

}  // namespace vmferry::copy
