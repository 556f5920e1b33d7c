// The copy of all disks of one frozen point, in parallel. A change id becomes a fact only after the bytes of its point
// are on stable storage of the target, and becomes the volume's memory only after it is a fact.
#include <fmt/format.h>

#include <exception>
#include <thread>

#include "base/sync.hpp"
#include "job/steps/disk_progress.hpp"
#include "job/steps/steps.hpp"
#include "plan/plan.hpp"
#include "target/memory_keys.hpp"
#include "target/partial.hpp"

namespace vmferry::job::steps {

namespace {

// The first failure of several threads; the others are told to stop.
struct Failures {
  std::exception_ptr first;
  int count = 0;
};

// How far a first copy has come, in the volume's own memory: for another host that finds the volume without this one's
// journal. Coarse: what is whole from the disk's beginning on, about three times a minute.
class PartialMemory {
 public:
  PartialMemory(const Parts& parts, const target::Volume& volume, const source::FrozenDisk& disk, RangeSet done)
      : parts_(parts),
        volume_(volume.id),
        disk_(disk),
        done_(std::move(done)),
        told_(parts.clock.mono()),
        is_there_(volume.memory.contains(target::memory_key::partial)) {}

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

class CopyDisks final : public Step {
 public:
  CopyDisks(const Parts& parts, const CopyOptions& copy, Kind kind, bool keep_conversion)
      : parts_(parts), copy_(copy), kind_(kind), keep_conversion_(keep_conversion) {}
  std::string_view name() const noexcept override {
    return kind_ == Kind::final ? "copy the last changes" : "copy disks";
  }

  bool done(const State& state) const override {
    const CycleState* cycle = open_cycle(state, kind_);
    if (!cycle || state.server) return true;
    if (!cycle->snapshot) return false;
    for (const FrozenDiskFact& disk : cycle->snapshot->disks) {
      if (copy_.skip.contains(disk.disk)) continue;
      const auto known = state.disks.find(disk.disk);
      if (known == state.disks.end() || known->second.copied_in != cycle->number ||
          known->second.remembered_in != cycle->number)
        return false;
    }
    return true;
  }

  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const CycleState& cycle = *open_cycle(state, kind_);
    const model::Vm vm = parts_.machine.describe(stop);
    const auto point = parts_.machine.recall(cycle.snapshot->snapshot, stop);
    if (!point) {
      // Only the volumes' memory may be missing: those disks need no snapshot.
      for (const FrozenDiskFact& disk : cycle.snapshot->disks)
        if (!copy_.skip.contains(disk.disk) && state.disks.contains(disk.disk) &&
            state.disks.at(disk.disk).copied_in != cycle.number)
          throw Error(Fault::conflict,
                      fmt::format("snapshot {} of {} was removed by somebody else; run the same command again to "
                                  "continue with a new one",
                                  cycle.snapshot->snapshot.value, vm.name));
    }
    if (point && keep_conversion_ && state.converted && unchanged(state, *point, stop)) {
      keep(cycle, *point, journal);
      observer.said("nothing changed since the guest was converted: the conversion stands");
      return;
    }
    std::stop_source everyone;
    std::stop_callback chain(stop, [&] { everyone.request_stop(); });
    Sync<Failures> failures;
    std::vector<std::pair<model::Disk, FrozenDiskFact>> disks;  // all known before the first thread runs
    for (const FrozenDiskFact& frozen : cycle.snapshot->disks)
      if (!copy_.skip.contains(frozen.disk)) disks.emplace_back(disk_of(vm, frozen.disk), frozen);
    std::vector<std::jthread> threads;
    for (const auto& [disk, frozen] : disks) {
      threads.emplace_back([&, disk = disk, frozen = frozen] {
        try {
          one_disk(state, cycle, point ? &*point : nullptr, disk, frozen, journal, observer, everyone.get_token());
        } catch (...) {
          auto f = failures.lock();
          if (f->count++ == 0) f->first = std::current_exception();
          everyone.request_stop();
        }
      });
    }
    threads.clear();
    if (auto f = failures.lock(); f->first) std::rethrow_exception(f->first);
  }

 private:
  static model::Disk disk_of(const model::Vm& vm, model::DiskKey key) {
    for (const model::Disk& disk : vm.disks)
      if (disk.key == key) return disk;
    throw Error(Fault::conflict,
                fmt::format("disk {} was removed from {} while it was being copied; run the same command again",
                            key.value, vm.name));
  }

  // Not a byte of any disk is newer than what was converted.
  bool unchanged(const State& state, const source::Point& point, std::stop_token stop) const {
    for (const source::FrozenDisk& frozen : point.disks) {
      if (copy_.skip.contains(frozen.key)) continue;
      const auto known = state.disks.find(frozen.key);
      if (known == state.disks.end() || known->second.handed_over) return false;
      const DiskState& disk = known->second;
      if (plan::copy_mode({disk.complete, disk.capacity, disk.base}, frozen.capacity, frozen.change_id,
                          !copy_.no_tracking)
              .full)
        return false;
      try {
        const auto work = parts_.machine.changed(point, frozen.key, disk.base, stop);
        while (const auto ranges = work->next(stop))
          if (!ranges->empty()) return false;
      } catch (const source::HistoryLost&) {
        return false;
      }
    }
    return true;
  }

  // The volumes' own memory is left as the conversion left it: they hold no point of the source.
  void keep(const CycleState& cycle, const source::Point& point, Journal& journal) const {
    for (const source::FrozenDisk& frozen : point.disks) {
      if (copy_.skip.contains(frozen.key)) continue;
      DiskCopied fact;
      fact.cycle = cycle.number;
      fact.disk = frozen.key;
      fact.capacity = frozen.capacity;
      fact.change_id = frozen.change_id;
      fact.conversion_kept = true;
      journal.append(fact);
      journal.append(DiskRemembered{cycle.number, frozen.key});
    }
  }

  void one_disk(const State& state, const CycleState& cycle, const source::Point* point, const model::Disk& disk,
                const FrozenDiskFact& frozen, Journal& journal, Observer& observer, std::stop_token stop) const {
    const std::string label = fmt::format("{} ({})", disk.label, disk.key.value);
    try {
      const auto known = state.disks.find(disk.key);
      if (known == state.disks.end())
        throw Error(Fault::conflict,
                    fmt::format("{} was added while this cycle was being prepared; run the same command again", label));
      observer.copied(disk.key, label, 0, 0);  // it is on its way, though nothing is copied yet
      const target::Volume volume = volume_of(parts_, state, disk, stop);
      std::optional<model::ChangeId> copied_at = known->second.base;
      if (known->second.copied_in != cycle.number)
        copied_at = copy_bytes(known->second, cycle, *point, disk, label, volume, journal, observer, stop);
      remember(volume.id, state, cycle, frozen.capacity, copied_at, stop);
      journal.append(DiskRemembered{cycle.number, disk.key});
    } catch (Error& e) {
      e.during("copying " + label);
      throw;
    }
  }

  std::optional<model::ChangeId> copy_bytes(const DiskState& known, const CycleState& cycle, const source::Point& point,
                                            const model::Disk& disk, const std::string& label,
                                            const target::Volume& volume, Journal& journal, Observer& observer,
                                            std::stop_token stop) const {
    const source::FrozenDisk* frozen = point.find(disk.key);
    if (!frozen) throw Error(Fault::conflict, fmt::format("snapshot {} does not hold {}", point.snapshot.value, label));
    if (volume.bytes < frozen->capacity)
      throw Error(Fault::conflict,
                  fmt::format("{} has {} bytes, its volume {} only {}: extend the volume (openstack volume set --size) "
                              "and run the same command again",
                              label, frozen->capacity, volume.id.value, volume.bytes));
    // From here on the volume is no longer known to be empty, whatever happens next.
    if (volume.fresh) parts_.cloud.remember(volume.id, {{"vmferry_written", "yes"}}, stop);
    journal.append(DiskAttaching{disk.key, volume.id});
    const std::unique_ptr<target::Device> device = parts_.cloud.attach(volume, stop);
    const std::unique_ptr<copy::Source> source = parts_.machine.serve(point, disk.key, stop);

    plan::CopyMode mode = plan::copy_mode({known.complete, known.capacity, known.base}, frozen->capacity,
                                          frozen->change_id, !copy_.no_tracking);
    if (known.handed_over) mode = {true, "a server may have written to the volume"};
    copy::Digests digests = digests_of(parts_, disk.key, volume.id, frozen->capacity);
    copy::Tuning tuning = copy_.tuning;
    tuning.digests = &digests;
    // What was written is known of every chunk, or of none: only then can a full copy leave out what is there already.
    tuning.skip_equal = known.complete && !known.handed_over && known.rewritten.empty() && digests.settled();
    digests.unsettle();
    tuning.done = done_before(known, point, *frozen, stop);
    if (!tuning.done.empty())
      observer.said(fmt::format("{}: going on from {:.0f} MiB that an interrupted copy has brought", label,
                                static_cast<double>(tuning.done.bytes()) / 0x1p20));
    PartialMemory partial(parts_, volume, *frozen, tuning.done);
    tuning.checkpoint = [&](const RangeSet& ranges) {
      journal.append(DiskProgressed{disk.key,
                                    point.snapshot,
                                    frozen->change_id,
                                    frozen->capacity,
                                    {ranges.ranges().begin(), ranges.ranges().end()}});
      if (!known.complete) partial.add(ranges, stop);
    };
    DiskProgress progress(observer, disk.key, label);
    copy::Report report;
    if (!mode.full) {
      try {
        report = delta(point, disk.key, known, *source, *device, tuning, progress, stop);
      } catch (const source::HistoryLost& lost) {
        mode = {true, fmt::format("the change history was lost ({})", lost.what())};
      }
    }
    if (mode.full) {
      if (known.complete)
        observer.warned(
            fmt::format("{}: {} everything: {}", label, tuning.skip_equal ? "comparing" : "copying", mode.reason));
      if (!tuning.skip_equal && tuning.done.empty()) digests.forget_all();
      report = full(point, *frozen, *source, *device, tuning, progress, stop);
    }
    digests.settle();
    partial.forget(stop);
    journal.append(DiskCopied{cycle.number, disk.key, mode.full, mode.reason, report.read, report.written,
                              report.seconds, frozen->capacity, frozen->change_id, false});
    observer.disk_finished(disk.key, label, mode.full, report.read, report.written, report.seconds);
    return frozen->change_id;
  }

  // What interrupted copies have brought, less what changed in the source since.
  RangeSet done_before(const DiskState& known, const source::Point& point, const source::FrozenDisk& frozen,
                       std::stop_token stop) const {
    RangeSet done;
    for (const Layer& layer : known.layers) {
      if (layer.capacity != frozen.capacity) continue;
      RangeSet still = layer.done;
      if (layer.snapshot != point.snapshot) {
        if (!layer.change_id || copy_.no_tracking) continue;
        try {
          const auto changed = parts_.machine.changed(point, frozen.key, layer.change_id, stop);
          while (const auto ranges = changed->next(stop)) still.subtract(RangeSet(*ranges));
        } catch (const source::HistoryLost&) {
          continue;
        }
      }
      done.add(still);
    }
    return done;
  }

  copy::Report delta(const source::Point& point, model::DiskKey key, const DiskState& known, copy::Source& source,
                     target::Device& device, copy::Tuning tuning, copy::Progress& progress,
                     std::stop_token stop) const {
    // What changed is written even where it reads as before: this pass may repair an interrupted one.
    tuning.skip_equal = false;
    const auto changed = parts_.machine.changed(point, key, *known.base, stop);
    copy::Report report = copy::run(source, device, *changed, tuning, progress, parts_.clock, parts_.log, stop);
    if (known.rewritten.empty()) return report;
    // What a conversion wrote, or what was found damaged, is no part of the source's history, nor of what was done.
    tuning.done = {};
    tuning.checkpoint = nullptr;
    const auto rewritten = copy::work(known.rewritten);
    const copy::Report more = copy::run(source, device, *rewritten, tuning, progress, parts_.clock, parts_.log, stop);
    report.read += more.read;
    report.written += more.written;
    report.seconds += more.seconds;
    return report;
  }

  copy::Report full(const source::Point& point, const source::FrozenDisk& disk, copy::Source& source,
                    target::Device& device, copy::Tuning tuning, copy::Progress& progress, std::stop_token stop) const {
    tuning.whole_disk = true;
    // Unallocated areas read as zeroes and need not be read: the engine makes zero what the work leaves out.
    const bool tracked = disk.change_id && !copy_.no_tracking;
    const auto work = tracked ? parts_.machine.changed(point, disk.key, std::nullopt, stop)
                              : copy::work(RangeSet(std::vector<ByteRange>{{0, disk.capacity}}));
    return copy::run(source, device, *work, tuning, progress, parts_.clock, parts_.log, stop);
  }

  void remember(const VolumeId& volume, const State& state, const CycleState& cycle, std::uint64_t capacity,
                const std::optional<model::ChangeId>& change_id, std::stop_token stop) const {
    parts_.cloud.remember(
        volume,
        {{"change_id", change_id ? change_id->text() : ""},  // migratekit's key: it can go on from here
         {"vmferry_job", state.job->job.value},
         {"vmferry_cycle", std::to_string(cycle.number)},
         {"vmferry_capacity", std::to_string(capacity)},
         {"vmferry_complete", "yes"}},
        stop);
  }

  Parts parts_;
  CopyOptions copy_;
  Kind kind_;
  bool keep_conversion_;
};

}  // namespace

std::unique_ptr<Step> copy_disks(const Parts& parts, const CopyOptions& copy, Kind kind, bool keep_conversion) {
  return std::make_unique<CopyDisks>(parts, copy, kind, keep_conversion);
}

}  // namespace vmferry::job::steps
