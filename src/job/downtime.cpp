// A cutover that was repeated counts from its first shutdown: the machine was away all the time. What was done twice
// counts for the part that the last try belongs to.
#include "job/downtime.hpp"

#include <algorithm>

namespace vmferry::job {

std::optional<Downtime> downtime_of(std::span<const Fact> facts) {
  std::optional<std::int64_t> began;
  std::int64_t off = 0, copied = 0, converted = 0, delivered = 0;
  std::optional<std::int64_t> done;
  for (const Fact& fact : facts) {
    if (const auto* shutdown = std::get_if<ShutdownBegan>(&fact.body)) {
      if (!began) began = shutdown->at;
    } else if (std::get_if<PoweredOnAgain>(&fact.body)) {
      began.reset();
      off = copied = converted = delivered = 0;
    } else if (!began) {
      continue;
    } else if (std::get_if<PoweredOff>(&fact.body)) {
      if (off == 0) off = fact.at;
    } else if (std::get_if<DiskCopied>(&fact.body)) {
      copied = fact.at;
    } else if (std::get_if<GuestConverted>(&fact.body)) {
      converted = fact.at;
    } else if (std::get_if<VolumeDelivered>(&fact.body)) {
      delivered = fact.at;
    } else if (const auto* end = std::get_if<CutoverDone>(&fact.body)) {
      done = end->at;
    }
  }
  if (!began || !done) return std::nullopt;
  done = std::max(*done, *began);  // the clock may have been set back meanwhile
  const auto seconds = [](std::int64_t from, std::int64_t to) { return static_cast<double>(to - from) / 1000.0; };
  // A mark that is missing, or lies before an earlier one, ends no part of its own.
  const std::int64_t t1 = std::clamp(off, *began, *done);
  const std::int64_t t2 = std::clamp(copied, t1, *done);
  const std::int64_t t3 = std::clamp(converted, t2, *done);
  const std::int64_t t4 = std::clamp(delivered, t3, *done);
  return Downtime{seconds(*began, t1), seconds(t1, t2), seconds(t2, t3), seconds(t3, t4), seconds(t4, *done)};
}

}  // namespace vmferry::job
