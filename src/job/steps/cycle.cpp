// The frame of a cycle: begin, freeze, thaw, detach, end.
#include <fmt/format.h>

#include <algorithm>

#include "job/steps/steps.hpp"

namespace vmferry::job::steps {

namespace {

std::string_view word(source::Consistency consistency) {
  switch (consistency) {
    case source::Consistency::application:
      return "application";
    case source::Consistency::powered_off:
      return "powered off";
    case source::Consistency::crash:
      break;
  }
  return "crash";
}

class BeginCycle final : public Step {
 public:
  BeginCycle(const Parts& parts, Kind kind) : parts_(parts), kind_(kind) {}
  std::string_view name() const noexcept override {
    return kind_ == Kind::final ? "begin the final cycle" : "begin a cycle";
  }
  bool bookkeeping() const noexcept override { return true; }
  bool done(const State& state) const override {
    if (open_cycle(state, kind_) || state.server) return true;
    if (kind_ == Kind::warm) return state.shutdown_at.has_value();  // from then on only the final cycle counts
    return !state.cycles.empty() && state.cycles.back().final;      // it was the last one
  }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    // Snapshots of ours that no open cycle knows are a crash's remains, and each one slows the machine down.
    remove_snapshots(parts_, state, observer, stop);
    const int number = state.cycles.empty() ? 1 : state.cycles.back().number + 1;
    journal.append(CycleBegan{number, kind_ == Kind::final});
  }

 private:
  Parts parts_;
  Kind kind_;
};

class Freeze final : public Step {
 public:
  Freeze(const Parts& parts, const CopyOptions& copy, Kind kind) : parts_(parts), copy_(copy), kind_(kind) {}
  std::string_view name() const noexcept override { return "take a snapshot"; }
  bool done(const State& state) const override {
    // A cycle whose disks are all copied needs no snapshot any more, even if it was removed meanwhile.
    const CycleState* cycle = open_cycle(state, kind_);
    if (!cycle || state.server) return true;
    return cycle->snapshot && copied(state, *cycle);
  }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const CycleState& cycle = *open_cycle(state, kind_);
    if (cycle.snapshot && !cycle.snapshot_removed) {
      if (parts_.machine.recall(cycle.snapshot->snapshot, stop)) return;
      // Gone, by somebody's hand or an interrupted removal of ours: what that left must not lie below the next one.
      remove_snapshot(parts_, state, cycle.snapshot->snapshot, observer, stop);
    }
    const source::Point point = parts_.machine.freeze({state.job->job, cycle.number}, copy_.quiesce, stop);
    SnapshotTaken fact{cycle.number, point.snapshot,       std::string(word(point.consistency)), point.remark,
                       {},           point.unmerged_before};
    for (const source::FrozenDisk& disk : point.disks) fact.disks.push_back({disk.key, disk.capacity, disk.change_id});
    journal.append(fact);
    if (!point.remark.empty() && copy_.quiesce != source::Quiesce::never) observer.warned(point.remark);
  }

 private:
  bool copied(const State& state, const CycleState& cycle) const {
    for (const FrozenDiskFact& disk : cycle.snapshot->disks) {
      if (copy_.skip.contains(disk.disk)) continue;
      const auto known = state.disks.find(disk.disk);
      if (known == state.disks.end() || known->second.copied_in != cycle.number) return false;
    }
    return true;
  }

  Parts parts_;
  CopyOptions copy_;
  Kind kind_;
};

class Thaw final : public Step {
 public:
  Thaw(const Parts& parts, Kind kind) : parts_(parts), kind_(kind) {}
  std::string_view name() const noexcept override { return "remove the snapshot"; }
  bool done(const State& state) const override {
    const CycleState* cycle = open_cycle(state, kind_);
    return !cycle || !cycle->snapshot || cycle->snapshot_removed;
  }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const CycleState& cycle = *open_cycle(state, kind_);
    remove_snapshot(parts_, state, cycle.snapshot->snapshot, observer, stop);
    // A creation whose reply was lost may have been carried out late, beside the one that was used.
    remove_snapshots(parts_, state, observer, stop);
    journal.append(SnapshotRemoved{cycle.number, cycle.snapshot->snapshot});
  }

 private:
  Parts parts_;
  Kind kind_;
};

class Detach final : public Step {
 public:
  explicit Detach(const Parts& parts) : parts_(parts) {}
  std::string_view name() const noexcept override { return "detach volumes"; }
  bool done(const State& state) const override {
    for (const auto& [key, disk] : state.disks)
      if (disk.attached) return false;
    return true;
  }
  void run(const State& state, Journal& journal, Observer&, std::stop_token stop) override {
    for (const auto& [key, disk] : state.disks) {
      if (!disk.attached) continue;
      parts_.cloud.detach(disk.volume, stop);
      journal.append(DiskDetached{key, disk.volume});
    }
  }

 private:
  Parts parts_;
};

class EndCycle final : public Step {
 public:
  EndCycle(const Parts&, Kind kind) : kind_(kind) {}
  std::string_view name() const noexcept override { return "end the cycle"; }
  bool bookkeeping() const noexcept override { return true; }
  bool done(const State& state) const override { return !open_cycle(state, kind_); }
  void run(const State& state, Journal& journal, Observer&, std::stop_token) override {
    journal.append(CycleEnded{open_cycle(state, kind_)->number});
  }

 private:
  Kind kind_;
};

}  // namespace

void remove_snapshot(const Parts& parts, const State& state, const SnapshotId& snapshot, Observer& observer,
                     std::stop_token stop) {
  const auto cycle = std::find_if(state.cycles.begin(), state.cycles.end(), [&](const CycleState& of) {
    return of.snapshot && of.snapshot->snapshot == snapshot;
  });
  const bool unmerged_before = cycle != state.cycles.end() && cycle->snapshot->unmerged_before;
  const std::string left_to_do = parts.machine.thaw(snapshot, state.job->job, unmerged_before, stop);
  if (!left_to_do.empty()) observer.warned(left_to_do);
}

void remove_snapshots(const Parts& parts, const State& state, Observer& observer, std::stop_token stop) {
  for (const SnapshotId& left : parts.machine.snapshots_of(state.job->job, stop)) {
    observer.said(fmt::format("removing snapshot {} that an interrupted run left behind", left.value));
    remove_snapshot(parts, state, left, observer, stop);
  }
}

std::unique_ptr<Step> begin_cycle(const Parts& parts, Kind kind) { return std::make_unique<BeginCycle>(parts, kind); }
std::unique_ptr<Step> freeze(const Parts& parts, const CopyOptions& copy, Kind kind) {
  return std::make_unique<Freeze>(parts, copy, kind);
}
std::unique_ptr<Step> thaw(const Parts& parts, Kind kind) { return std::make_unique<Thaw>(parts, kind); }
std::unique_ptr<Step> detach(const Parts& parts) { return std::make_unique<Detach>(parts); }
std::unique_ptr<Step> end_cycle(const Parts& parts, Kind kind) { return std::make_unique<EndCycle>(parts, kind); }

}  // namespace vmferry::job::steps
