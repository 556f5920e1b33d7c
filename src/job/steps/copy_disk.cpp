// Which bytes a disk's copy needs is plain: what changed since the last point, or all of it. The rest of this file is
// what makes it safe to be interrupted, and to be lied to.
#include "job/steps/copy_disk.hpp"

#include <fmt/format.h>

#include <atomic>
#include <random>

#include "base/time_limit.hpp"
#include "job/steps/disk_progress.hpp"
#include "job/steps/disown.hpp"
#include "job/strip.hpp"
#include "plan/plan.hpp"
#include "target/memory_keys.hpp"
#include "target/partial.hpp"

namespace vmferry::job::steps {

namespace {

// How far a first copy has come, in the volume's own memory: for another host that finds the volume without this one's
// journal. Coarse: what is whole from the disk's beginning on, about three times a minute.
class PartialMemory {
 public:
  PartialMemory(const Parts& parts, const target::Volume& volume, const source::FrozenDisk& disk)
      : parts_(parts),
        volume_(volume.id),
        disk_(disk),
        told_(parts.clock.mono()),
        is_there_(volume.memory.contains(target::memory_key::partial)) {}

  void begin(const RangeSet& done) { done_ = done; }
  void add(const RangeSet& ranges, std::stop_token stop) {
    done_.add(ranges);
    const auto now = parts_.clock.mono();
    if (!disk_.change_id || now - told_ < cadence || done_.empty() || done_.ranges().front().offset != 0) return;
    told_ = now;
    const target::Partial partial{std::min(done_.ranges().front().end(), disk_.capacity), disk_.capacity,
                                  *disk_.change_id};
    try {
      is_there_ = true;  // perhaps, whatever comes of it
      parts_.cloud.remember(volume_, {{target::memory_key::partial, target::encode(partial)}}, stop);
    } catch (const Cancelled&) {
      // The copy is being stopped, and what was checkpointed is a fact already.
    } catch (const Error& e) {
      parts_.log.info("the volume's own memory of the copy's progress is old",
                      {{"volume", volume_.value}, {"reason", e.what()}});
    }
  }
  // The copy is whole: its change id says more.
  void forget(std::stop_token stop) {
    if (is_there_) parts_.cloud.remember(volume_, {{target::memory_key::partial, ""}}, stop);
  }

 private:
  static constexpr std::chrono::seconds cadence{20};
  const Parts& parts_;
  const VolumeId volume_;
  const source::FrozenDisk& disk_;
  RangeSet done_;
  std::chrono::steady_clock::time_point told_;
  bool is_there_;
};

// Passes ranges on and remembers them.
class RecordedWork final : public copy::Work {
 public:
  explicit RecordedWork(std::unique_ptr<copy::Work> inner) : inner_(std::move(inner)) {}
  std::optional<std::vector<ByteRange>> next(std::stop_token stop) override {
    auto ranges = inner_->next(stop);
    if (ranges) seen_.add(RangeSet(*ranges));
    return ranges;
  }
  std::optional<std::uint64_t> total() const override { return inner_->total(); }
  const RangeSet& seen() const noexcept { return seen_; }

 private:
  std::unique_ptr<copy::Work> inner_;
  RangeSet seen_;
};

class DiskCopy {
 public:
  DiskCopy(const CopySurroundings& around, const DiskToCopy& disk, const CycleState& cycle, const source::Point& point,
           const source::FrozenDisk& frozen, std::stop_token stop)
      : parts_(around.parts),
        copy_(around.copy),
        journal_(around.journal),
        observer_(around.observer),
        key_(disk.disk.key),
        label_(disk.label),
        known_(disk.known),
        volume_(disk.volume),
        cycle_(cycle),
        point_(point),
        frozen_(frozen),
        stop_(std::move(stop)),
        digests_(digests_of(parts_, key_, volume_.id, frozen_.capacity)),
        partial_(parts_, volume_, frozen_),
        progress_(observer_, key_, label_) {}

  // Gives the change id that the next copy may go by.
  std::optional<model::ChangeId> run() {
    // From here on the volume is no longer known to be empty, whatever happens next.
    if (volume_.fresh)
      parts_.cloud.remember(volume_.id, {{target::memory_key::written, target::memory_key::yes}}, stop_);
    journal_.append(DiskAttaching{key_, volume_.id});
    device_ = parts_.cloud.attach(volume_, stop_);
    source_ = parts_.machine.serve(point_, key_, stop_);
    observe_way();
    plan::CopyMode mode = wanted_mode();
    prepare();
    copy::Report report;
    if (!mode.full) {
      try {
        report = delta();
      } catch (const source::HistoryLost& lost) {
        mode = {true, fmt::format("the change history was lost ({})", lost.what())};
      }
    }
    if (!mode.full && !audit(report)) mode = {true, "change tracking did not tell of bytes that changed"};
    if (mode.full) {
      if (known_.complete)
        observer_.warned(
            fmt::format("{}: {} everything: {}", label_, tuning_.skip_equal ? "comparing" : "copying", mode.reason));
      report = add(report, full());
    }
    digests_.settle();
    partial_.forget(stop_);
    copy::Way way = source_->way();
    if (way.name != first_way_) observer_.warned(fmt::format("{}: read by {} since {}", label_, way.name, way.reason));
    if (way.speed == 0 && way.name == known_.last_transport) way.speed = known_.transport_speed;
    // What took another's place was the best of what was left at that moment.
    const bool anew = became_slow(way, report) || way.name != first_way_;
    journal_.append(DiskCopied{cycle_.number, key_, mode.full, mode.reason, report.read, report.written, report.seconds,
                               frozen_.capacity, frozen_.change_id, false, report.equal, report.zeroed, audited_,
                               strip_of(changed_, frozen_.capacity), way.name, way.reason, speed_of(way), anew});
    observer_.disk_finished(key_, label_, mode.full, report.read, report.written, report.seconds);
    return doubted_ || known_.tracking_doubted ? std::nullopt : frozen_.change_id;
  }

 private:
  bool tracked() const { return frozen_.change_id && !copy_.no_tracking && !known_.tracking_doubted; }

  // Tracking's word of what is allocated is no better after a growth than its word of what changed: VMware KB 2090639,
  // whose remedy is to switch it off and on, which gives it another uuid.
  bool grew_unreset() const {
    return known_.complete && known_.capacity != 0 && known_.capacity != frozen_.capacity && known_.base &&
           frozen_.change_id && known_.base->uuid == frozen_.change_id->uuid;
  }

  plan::CopyMode wanted_mode() const {
    if (known_.handed_over) return {true, "a server may have written to the volume"};
    if (known_.complete && known_.tracking_doubted)
      return {true, "its change tracking was found wrong before, and is not believed any more"};
    return plan::copy_mode({known_.complete, known_.capacity, known_.base}, frozen_.capacity, frozen_.change_id,
                           !copy_.no_tracking);
  }

  // Said once for each change, since it is the same in most cycles.
  void observe_way() {
    const copy::Way way = source_->way();
    first_way_ = way.name;
    if (!way.name.empty() && way.name != known_.last_transport)
      observer_.said(fmt::format("{}: read by {}: {}", label_, way.name, way.reason));
  }

  static std::optional<std::uint64_t> speed_of(const copy::Way& way) {
    return way.speed > 0 ? std::optional(static_cast<std::uint64_t>(way.speed)) : std::nullopt;
  }

  // Many disks at a time are slower each than the one that was tried alone, so little is made of it: the next run tries
  // again, which takes it seconds, and may well choose the same.
  bool became_slow(copy::Way& way, const copy::Report& report) const {
    constexpr double much = 4;
    if (report.pace <= 0 || report.pace * much > way.speed) return false;
    const std::string slow =
        fmt::format("only {:.1f} MB/s at the end, {:.0f} MB/s when it was chosen", report.pace / 1e6, way.speed / 1e6);
    way.reason += "; " + slow;
    observer_.warned(fmt::format("{}: {} gave {}: the next run chooses anew how to read it", label_, way.name, slow));
    return true;
  }

  void prepare() {
    tuning_ = copy_.tuning;
    tuning_.digests = &digests_;
    // What is known is right only if no copy was interrupted since; then a full copy can leave out what is there
    // already.
    tuning_.skip_equal = known_.complete && !known_.handed_over && known_.rewritten.empty() && digests_.settled();
    digests_.unsettle();
    tuning_.done = done_before();
    tuning_.done.subtract(known_.rewritten.aligned(copy::Digests::chunk, frozen_.capacity));
    RangeSet of_disk = tuning_.done;  // and not of the volume's rest, which is zeroed
    of_disk.subtract(ByteRange{frozen_.capacity, ~std::uint64_t{0} - frozen_.capacity});
    if (!of_disk.empty())
      observer_.said(fmt::format("{}: going on from {:.0f} MiB that an interrupted copy has brought", label_,
                                 static_cast<double>(of_disk.bytes()) / 0x1p20));
    partial_.begin(tuning_.done);
    tuning_.checkpoint = [this](const RangeSet& ranges) {
      DiskProgressed fact{key_, point_.snapshot, frozen_.change_id, frozen_.capacity, {}};
      fact.ranges.assign(ranges.ranges().begin(), ranges.ranges().end());
      journal_.append(fact);
      if (!known_.complete) partial_.add(ranges, stop_);
    };
  }

  // What interrupted copies have brought, less what changed in the source since.
  RangeSet done_before() const {
    RangeSet done;
    for (const Layer& layer : known_.layers) {
      if (layer.capacity != frozen_.capacity) continue;
      RangeSet still = layer.done;
      if (layer.snapshot != point_.snapshot || layer.change_id != frozen_.change_id) {
        if (!layer.change_id || !tracked()) continue;
        try {
          const auto changed = parts_.machine.changed(point_, key_, layer.change_id, stop_);
          while (const auto ranges = changed->next(stop_))
            still.subtract(RangeSet(*ranges).aligned(copy::Digests::chunk, frozen_.capacity));
        } catch (const source::HistoryLost&) {
          continue;
        }
      }
      done.add(still);
    }
    return done;
  }

  copy::Report run(copy::Work& work, const copy::Tuning& tuning) try {
    return copy::run(*source_, *device_, work, tuning, progress_, parts_.clock, parts_.log, stop_);
  } catch (const copy::BytesInDoubt&) {
    disown(parts_, journal_, observer_, key_, label_, volume_.id, {{0, frozen_.capacity}});
    throw;
  }

  static copy::Report add(copy::Report report, const copy::Report& more) {
    report.read += more.read;
    report.written += more.written;
    report.equal += more.equal;
    report.zeroed += more.zeroed;
    report.seconds += more.seconds;
    if (more.pace > 0) report.pace = more.pace;
    return report;
  }

  copy::Report delta() {
    // What changed is written even where it reads as before: this pass may repair an interrupted one.
    copy::Tuning tuning = tuning_;
    tuning.skip_equal = false;
    RecordedWork changed(parts_.machine.changed(point_, key_, *known_.base, stop_));
    copy::Report report;
    try {
      report = run(changed, tuning);
    } catch (const source::HistoryLost&) {
      // Its digests say that the chunks it wrote are there, but a flush may have failed for them, which is told once.
      if (!changed.seen().empty()) tuning_.skip_equal = false;
      throw;
    }
    changed_ = changed.seen();
    if (known_.rewritten.empty()) return report;
    changed_.add(known_.rewritten);
    // What a conversion wrote, or what was found damaged, is no part of the source's history, nor of what was done.
    tuning.done = {};
    const auto rewritten = copy::work(known_.rewritten);
    return add(report, run(*rewritten, tuning));
  }

  copy::Report full() {
    if (!tuning_.skip_equal && tuning_.done.empty()) digests_.forget_all();
    copy::Tuning tuning = tuning_;
    tuning.whole_disk = true;
    if (doubted_) tuning.done = {};  // it rests on what was just found wrong
    // Unallocated areas read as zeroes and need not be read: the engine makes zero what the work leaves out.
    auto work = tracked() && !doubted_ && !grew_unreset()
                    ? parts_.machine.changed(point_, key_, std::nullopt, stop_)
                    : copy::work(RangeSet(std::vector<ByteRange>{{0, frozen_.capacity}}));
    RecordedWork recorded(std::move(work));
    const copy::Report report = run(recorded, tuning);
    changed_ = recorded.seen();
    return report;
  }

  // Only of what is known: a volume that was taken over has chunks without a digest, which would differ from anything.
  RangeSet sample_of_unchanged() const {
    constexpr std::uint64_t chunk = copy::Digests::chunk, at_once = 4096;
    std::mt19937_64 random(std::random_device{}());
    std::bernoulli_distribution chosen(std::min(copy_.audit, 1.0));
    std::vector<ByteRange> picked;
    for (std::uint64_t begin = 0; begin < frozen_.capacity; begin += at_once * chunk) {
      const std::vector<copy::Digest> known = digests_.read(begin, at_once);
      for (std::uint64_t i = 0; i < at_once && begin + i * chunk < frozen_.capacity; ++i) {
        const std::uint64_t at = begin + i * chunk;
        if (!known[i].known() || !chosen(random)) continue;
        const std::uint64_t length = std::min(chunk, frozen_.capacity - at);
        if (!picked.empty() && picked.back().end() == at)
          picked.back().length += length;
        else
          picked.push_back({at, length});
      }
    }
    RangeSet sample(picked);
    sample.subtract(changed_.aligned(chunk, frozen_.capacity));
    return sample;
  }

  // Reads a sample of the chunks that change tracking called unchanged. False: some had changed. A machine that is off
  // waits for nothing but its last changes: those cycles are not audited.
  bool audit(copy::Report& report) {
    if (copy_.audit <= 0 || cycle_.final || !tuning_.skip_equal) return true;
    const RangeSet sample = sample_of_unchanged();
    if (sample.empty()) return true;
    copy::Tuning tuning = tuning_;  // compares with the digests, and mends what differs
    tuning.done = {};
    tuning.checkpoint = nullptr;
    std::atomic<bool> differs = false;
    tuning.unequal = [&differs] { differs = true; };
    const auto work = copy::work(sample);
    copy::Report found;
    try {
      found = run(*work, tuning);
    } catch (...) {
      // What differed is mended, and would not be found again.
      if (differs && snapshot_stands()) doubt_tracking();
      throw;
    }
    report = add(report, found);
    audited_ = found.read;
    if (!differs) return true;
    doubt_tracking();
    observer_.warned(
        fmt::format("{}: {} of {} audited bytes had changed without change tracking's telling: from now on "
                    "it is compared in full. Tell VMware of it (KB 2136854 and the like)",
                    label_, found.written + found.zeroed, sample.bytes()));
    return false;
  }

  // The journal first, then the volume, for another host: it would go by the same tracking.
  void doubt_tracking() {
    doubted_ = true;
    journal_.append(TrackingDoubted{key_});
    tell_volume(parts_, observer_, label_, volume_.id, "its change tracking is wrong");
  }

  // What is read when somebody has removed the snapshot differs for another reason.
  bool snapshot_stands() const {
    try {
      const TimeLimit limit(std::chrono::seconds(30));
      source_->check(limit.token());
    } catch (const copy::BytesInDoubt&) {
      return false;
    } catch (const Error& e) {
      return e.fault() != Fault::conflict;
    } catch (const Cancelled&) {
    }
    return true;
  }

  const Parts& parts_;
  const CopyOptions& copy_;
  Journal& journal_;
  Observer& observer_;
  const model::DiskKey key_;
  const std::string& label_;
  const DiskState& known_;
  const target::Volume& volume_;
  const CycleState& cycle_;
  const source::Point& point_;
  const source::FrozenDisk& frozen_;
  const std::stop_token stop_;
  copy::Digests digests_;
  PartialMemory partial_;
  DiskProgress progress_;
  copy::Tuning tuning_;
  std::unique_ptr<target::Device> device_;
  std::unique_ptr<copy::Source> source_;
  std::string first_way_;
  RangeSet changed_;  // by change tracking's word, or all that is allocated; and what was repaired
  std::uint64_t audited_ = 0;
  bool doubted_ = false;  // in this cycle
};

}  // namespace

std::optional<model::ChangeId> copy_disk(const CopySurroundings& around, const DiskToCopy& disk,
                                         const CycleState& cycle, const source::Point& point, std::stop_token stop) {
  const source::FrozenDisk* frozen = point.find(disk.disk.key);
  if (!frozen)
    throw Error(Fault::conflict, fmt::format("snapshot {} does not hold {}", point.snapshot.value, disk.label));
  if (disk.volume.bytes < frozen->capacity)
    throw Error(Fault::conflict,
                fmt::format("{} has {} bytes, its volume {} only {}: extend the volume (openstack volume set --size) "
                            "and run the same command again",
                            disk.label, frozen->capacity, disk.volume.id.value, disk.volume.bytes));
  return DiskCopy(around, disk, cycle, point, *frozen, std::move(stop)).run();
}

}  // namespace vmferry::job::steps
