// The copy of all disks of one frozen point, in parallel. A change id becomes a fact only after the bytes of its point
// are on stable storage of the target, and becomes the volume's memory only after it is a fact.
#include <fmt/format.h>

#include "job/steps/copy_disk.hpp"
#include "job/steps/side_by_side.hpp"
#include "job/steps/steps.hpp"
#include "plan/plan.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::job::steps {

namespace {

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
    if (parts_.connections_to) copy_.tuning.permits = parts_.connections_to(vm.host, kind_ == Kind::final);
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
      keep(state, cycle, *point, journal, stop);
      observer.said("nothing changed since the guest was converted: the conversion stands");
      return;
    }
    // From the first byte on the volumes hold no conversion any more.
    if (state.converted && !cycle.snapshot->disks.empty())
      journal.append(ConversionCommitting{cycle.snapshot->disks.front().disk, {}});
    std::vector<std::pair<model::Disk, FrozenDiskFact>> disks;  // all known before the first thread runs
    for (const FrozenDiskFact& frozen : cycle.snapshot->disks)
      if (!copy_.skip.contains(frozen.disk)) disks.emplace_back(disk_of(vm, frozen.disk), frozen);
    side_by_side(
        disks.size(), disks.size(), OnFailure::stop_others,
        [&](std::size_t index, std::stop_token token) {
          const auto& [disk, frozen] = disks[index];
          one_disk(state, cycle, point ? &*point : nullptr, disk, frozen, journal, observer, token);
        },
        stop);
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
      if (disk.tracking_doubted) return false;
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

  // The memory of a volume that was converted is left as it is: it holds no point of the source.
  void keep(const State& state, const CycleState& cycle, const source::Point& point, Journal& journal,
            std::stop_token stop) const {
    for (const source::FrozenDisk& frozen : point.disks) {
      if (copy_.skip.contains(frozen.key)) continue;
      DiskCopied fact;
      fact.cycle = cycle.number;
      fact.disk = frozen.key;
      fact.capacity = frozen.capacity;
      fact.change_id = frozen.change_id;
      fact.conversion_kept = true;
      const DiskState& disk = state.disks.at(frozen.key);
      const bool untouched = disk.rewritten.empty() && !disk.disowned;
      const VolumeId volume = disk.volume;
      journal.append(fact);
      if (untouched) remember(volume, {}, state, cycle, frozen.capacity, frozen.change_id, stop);
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
      std::optional<model::ChangeId> copied_at;
      if (!known->second.tracking_doubted) copied_at = known->second.base;
      if (known->second.copied_in != cycle.number)
        copied_at =
            copy_disk({parts_, copy_, journal, observer}, {disk, label, known->second, volume}, cycle, *point, stop);
      remember(volume.id, volume.memory, state, cycle, frozen.capacity, copied_at, stop);
      journal.append(DiskRemembered{cycle.number, disk.key});
    } catch (Error& e) {
      e.during("copying " + label);
      throw;
    }
  }

  void remember(const VolumeId& volume, const target::Memory& before, const State& state, const CycleState& cycle,
                std::uint64_t capacity, const std::optional<model::ChangeId>& change_id, std::stop_token stop) const {
    namespace key = target::memory_key;
    target::Memory memory{{key::change_id, change_id ? change_id->text() : ""},
                          {key::job, state.job->job.value},
                          {key::cycle, std::to_string(cycle.number)},
                          {key::capacity, std::to_string(capacity)},
                          {key::complete, key::yes}};
    // Nothing that a server wrote is there any more.
    if (before.contains(key::moved)) memory.insert({key::moved, "no"});
    parts_.cloud.remember(volume, memory, stop);
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
