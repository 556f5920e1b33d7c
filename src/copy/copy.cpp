// The door to the engine, and the simplest Work.
#include "copy/copy.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "copy/engine.hpp"

namespace vmferry::copy {

namespace {

class KnownRanges final : public Work {
 public:
  explicit KnownRanges(RangeSet ranges) : ranges_(std::move(ranges)) {}
  std::optional<std::vector<ByteRange>> next(std::stop_token) override {
    if (given_) return std::nullopt;
    given_ = true;
    return std::vector<ByteRange>(ranges_.ranges().begin(), ranges_.ranges().end());
  }
  std::optional<std::uint64_t> total() const override { return ranges_.bytes(); }

 private:
  RangeSet ranges_;
  bool given_ = false;
};

}  // namespace

std::unique_ptr<Work> work(RangeSet ranges) { return std::make_unique<KnownRanges>(std::move(ranges)); }

Report run(Source& source, Target& target, Work& work, const Tuning& tuning, Progress& progress, Clock& clock,
           log::Log& log, std::stop_token stop) {
  if (stop.stop_requested()) throw Cancelled();
  target.check();
  if (target.bytes() < source.bytes())
    throw Error(Fault::conflict, fmt::format("{} has {} bytes, too few for a disk of {}: use a larger target",
                                             target.name(), target.bytes(), source.bytes()));
  if (tuning.digests && tuning.whole_disk && tuning.digests->bytes() != source.bytes())
    throw Error(Fault::bug,
                fmt::format("digests of {} bytes for a disk of {}", tuning.digests->bytes(), source.bytes()));
  return Engine(source, target, work, tuning, progress, clock, log, std::move(stop)).run();
}

}  // namespace vmferry::copy
