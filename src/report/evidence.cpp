// A second fold over the facts, beside job::fold: that one asks how to go on, this one what happened when.
#include "report/evidence.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.hpp"
#include "job/state.hpp"

namespace vmferry::report {

namespace {

std::uint64_t bytes_in(const std::vector<ByteRange>& ranges) { return RangeSet(ranges).bytes(); }

class Telling {
 public:
  Evidence told;

  // After the last fact: what is in the cloud of a disk that was copied since is right if that changed nothing.
  void settle() {
    for (const auto& [key, older] : older_) {
      Disk& disk = disk_of(key);
      if (disk.root && !disk.root->digest.empty() && older.image && older.image->content == disk.root->digest)
        bring_back(disk, older);
    }
  }

  void add(const job::Fact& fact) {
    at_ = fact.at;
    std::visit([this](const auto& body) { on(body); }, fact.body);
    before_ = fact.at;
  }

 private:
  void on(const job::JobCreated& f) { told.job = f; }
  void on(const job::RunBegan& f) {
    const bool resumed = open_ || (asked_ && !told.done);
    told.interruptions += resumed;
    told.runs.push_back({at_, f.command, f.version, resumed});
  }
  void on(const job::VolumeAllocated& f) {
    Disk disk;
    disk.key = f.disk;
    disk.volume = f.volume.value;
    disk.volume_name = f.volume_name;
    disk.label = f.label;
    disk.file = f.file;
    disk.adopted = f.adopted;
    if (f.bytes > 0) disk.capacity = f.bytes;
    disk.change_id = f.base;
    disk.complete = f.base.has_value();
    if (const Disk* old = find(f.disk)) disk.tracking_doubted = old->tracking_doubted;
    disk_of(f.disk) = disk;
    older_.erase(f.disk);
  }
  void on(const job::CycleBegan& f) {
    Cycle cycle;
    cycle.number = f.cycle;
    cycle.final = f.final;
    cycle.began = at_;
    told.cycles.push_back(cycle);
    open_ = true;
    // The shutdown came first, but is this cycle's.
    for (auto phase = told.phases.rbegin(); phase != told.phases.rend() && phase->name == "shutdown"; ++phase)
      if (f.final && phase->cycle == 0) phase->cycle = f.cycle;
  }
  void on(const job::SnapshotTaken& f) {
    Cycle* cycle = cycle_of(f.cycle);
    if (!cycle) return;
    // Of a cycle that goes on with another snapshot, the time between the runs is no part of the taking.
    phase("snapshot", cycle->frozen ? before_ : cycle->began);
    // What was copied of another moment is copied again.
    if (!cycle->snapshot.empty() && cycle->snapshot != f.snapshot.value) cycle->copies.clear();
    cycle->frozen = at_;
    cycle->snapshot = f.snapshot.value;
    cycle->consistency = f.consistency;
    cycle->remark = f.remark;
    copying_ = at_;
  }
  void on(const job::DiskAttaching&) {
    // After an interruption a copy goes on from here, with the snapshot of before.
    if (!told.runs.empty() && told.runs.back().at > copying_) copying_ = at_;
  }
  void on(const job::DiskCopied& f) {
    Disk& disk = disk_of(f.disk);
    DiskCopy copy{
        f.disk,    at_, f.seconds,   f.full,  f.reason,          f.read,      f.written,         f.equal, f.zeroed,
        f.audited, {},  f.change_id, f.strip, f.conversion_kept, f.transport, f.transport_reason};
    if (!f.full) copy.before = disk.change_id;
    disk.change_id = f.change_id;
    disk.capacity = f.capacity;
    disk.complete = true;
    if (!f.conversion_kept) {
      disk.damaged = 0;
      damage_.erase(f.disk);
      disk.root.reset();
      disk.rewritten.reset();
      told.converted = false;
      sum(disk, f);
      set_aside(disk);
    }
    if (Cycle* cycle = cycle_of(f.cycle)) cycle->copies.push_back(copy);
    stretch("copy", copying_);
  }
  void on(const job::SnapshotRemoved&) { phase("remove snapshot", before_); }
  void on(const job::DiskDetached&) { stretch("detach", before_); }
  void on(const job::CycleEnded& f) {
    if (Cycle* cycle = cycle_of(f.cycle)) cycle->ended = at_;
    open_ = false;
  }
  void on(const job::ShutdownBegan& f) {
    asked_ = true;
    shutdown_ = f.at;
  }
  void on(const job::PoweredOff&) { phase("shutdown", shutdown_); }
  void on(const job::PoweredOnAgain&) {
    asked_ = false;
    abandon();
  }
  void on(const job::FinalCopyDoubted&) { abandon(); }
  void on(const job::HandedOver&) {
    handed_over_ = at_;
    // What was there of the disks was found right before this, and is the server's now.
    for (const auto& [key, older] : older_) bring_back(disk_of(key), older);
    older_.clear();
  }
  void on(const job::ConversionCommitting& f) {
    Disk& disk = disk_of(f.disk);
    set_aside(disk);
    if (!f.ranges.empty()) disk.rewritten = disk.rewritten.value_or(0) + bytes_in(f.ranges);
  }
  void on(const job::GuestConverted& f) {
    told.converted = true;
    phase("conversion", at_ - static_cast<std::int64_t>(f.seconds * 1000));
  }
  void on(const job::DamageFound& f) {
    RangeSet& damage = damage_[f.disk];  // the same may be found again
    damage.add(RangeSet(f.ranges));
    disk_of(f.disk).damaged = damage.bytes();
    forget(disk_of(f.disk));
  }
  void on(const job::DiskVerified& f) {
    told.verifications.push_back({at_, f.disk, f.read, f.unknown, f.different, f.seconds});
    stretch("verify", at_ - static_cast<std::int64_t>(f.seconds * 1000));
  }
  void on(const job::DigestsRecorded& f) {
    disk_of(f.disk).root = Root{f.cycle, f.bytes,   f.chunk,
                                f.zero,  f.unknown, f.algorithm,
                                f.root,  f.strip,   disk_of(f.disk).rewritten.has_value()};
  }
  void on(const job::TrackingDoubted& f) { disk_of(f.disk).tracking_doubted = true; }
  void on(const job::ImageUploaded& f) {
    Disk& disk = disk_of(f.disk);
    forget(disk);
    disk.image = f;
    stretch("delivery", at_ - static_cast<std::int64_t>(f.seconds * 1000));
  }
  void on(const job::VolumeDelivered& f) {
    Disk& disk = disk_of(f.disk);
    // Of an image that was sent before the last copy, which changed nothing then.
    if (const auto older = older_.find(f.disk);
        older != older_.end() && older->second.image && older->second.image->image == f.image)
      disk.image = older->second.image;
    older_.erase(f.disk);
    disk.delivered = f.volume.value;
    stretch("delivery", before_);
  }
  void on(const job::ImagesRemoved& f) { told.images_kept = f.kept; }
  void on(const job::ServerLaunched& f) {
    told.server = f.server.value;
    told.server_state = f.state;
    phase("server", handed_over_);
  }
  void on(const job::CutoverDone& f) { told.done = f.at; }
  void on(const job::VolumeDiscarded& f) {
    std::erase_if(told.disks, [&](const Disk& disk) { return disk.key == f.disk; });
  }
  void on(const job::Aborted&) {
    for (Disk& disk : told.disks) forget(disk);
  }
  void on(const auto&) {}

  // In the cloud, of a disk as it was before its last copy.
  struct Older {
    std::optional<job::ImageUploaded> image;
    std::string delivered;
  };
  void set_aside(Disk& disk) {
    if (!disk.image && disk.delivered.empty()) return;
    older_[disk.key] = {disk.image, disk.delivered};
    disk.image.reset();
    disk.delivered.clear();
  }
  void forget(Disk& disk) {
    older_.erase(disk.key);
    disk.image.reset();
    disk.delivered.clear();
  }
  static void bring_back(Disk& disk, const Older& older) {
    if (!disk.image) disk.image = older.image;
    if (disk.delivered.empty()) disk.delivered = older.delivered;
  }

  void abandon() {
    for (Cycle& cycle : told.cycles) {
      if (!cycle.final || cycle.abandoned) continue;
      cycle.abandoned = true;
      if (!cycle.ended) cycle.ended = at_;
      open_ = false;
    }
  }

  static void sum(Disk& disk, const job::DiskCopied& f) {
    const bool first = disk.read == 0 && disk.written == 0 && !disk.equal;
    const auto plus = [&](std::optional<std::uint64_t>& all, const std::optional<std::uint64_t>& more) {
      all = more && (first || all) ? std::optional(all.value_or(0) + *more) : std::nullopt;
    };
    plus(disk.equal, f.equal);
    plus(disk.zeroed, f.zeroed);
    disk.read += f.read;
    disk.written += f.written;
  }

  const Disk* find(model::DiskKey key) const {
    const auto found =
        std::find_if(told.disks.begin(), told.disks.end(), [&](const Disk& disk) { return disk.key == key; });
    return found == told.disks.end() ? nullptr : &*found;
  }
  Disk& disk_of(model::DiskKey key) {
    if (const Disk* found = find(key)) return const_cast<Disk&>(*found);
    Disk disk;
    disk.key = key;
    return told.disks.emplace_back(disk);
  }
  Cycle* cycle_of(int number) {
    for (Cycle& cycle : told.cycles)
      if (cycle.number == number) return &cycle;
    return nullptr;
  }
  // The cycle that something belongs to that happens now.
  int now_in() const { return open_ && !told.cycles.empty() ? told.cycles.back().number : 0; }
  void phase(const char* name, std::int64_t began) {
    told.phases.push_back({name, now_in(), std::min(began, at_), at_});  // a clock may have been set back
  }
  // What several disks do beside or after one another, without anything else between, is one phase.
  void stretch(const char* name, std::int64_t began) {
    const bool goes_on = !told.phases.empty() && told.phases.back().name == name &&
                         told.phases.back().cycle == now_in() &&
                         (told.runs.empty() || told.runs.back().at <= told.phases.back().began);
    if (goes_on)
      told.phases.back().ended = std::max(told.phases.back().ended, at_);
    else
      phase(name, began);
  }

  std::map<model::DiskKey, RangeSet> damage_;
  std::map<model::DiskKey, Older> older_;
  std::int64_t at_ = 0, before_ = 0;
  std::int64_t copying_ = 0, shutdown_ = 0, handed_over_ = 0;
  bool open_ = false;   // a cycle is
  bool asked_ = false;  // to shut down
};

std::string why_no_root(const Disk& disk, int copied_in) {
  if (copied_in == 0) return "it was never copied whole";
  if (!disk.root || disk.root->cycle != copied_in)
    return "its digests were not recorded after its last copy: a run was interrupted, or made by an older version";
  if (disk.root->digest.empty())
    return fmt::format("{} bytes of the volume were written by another tool or host", disk.root->unknown);
  return "";
}

int copied_last_in(const Evidence& told, model::DiskKey key) {
  for (auto cycle = told.cycles.rbegin(); cycle != told.cycles.rend(); ++cycle)
    for (const DiskCopy& copy : cycle->copies)
      if (copy.disk == key) return cycle->number;
  return 0;
}

}  // namespace

std::string Disk::name() const {
  return label.empty() ? fmt::format("disk {}", key.value) : fmt::format("{} ({})", label, key.value);
}

Evidence evidence_of(std::span<const job::Fact> facts) {
  if (facts.empty() || !std::holds_alternative<job::JobCreated>(facts.front().body))
    throw Error(Fault::data, "a job in the journal does not begin with its making: nothing can be shown of it");
  Telling telling;
  for (const job::Fact& fact : facts) telling.add(fact);
  telling.settle();
  Evidence& told = telling.told;
  told.created = facts.front().at;
  told.last = facts.back().at;
  told.phase = job::fold(facts).phase();
  told.downtime = job::downtime_of(facts);
  std::sort(told.disks.begin(), told.disks.end(), [](const Disk& a, const Disk& b) { return a.key < b.key; });
  for (Disk& disk : told.disks) {
    const int copied_in = copied_last_in(told, disk.key);
    disk.no_root = why_no_root(disk, copied_in);
    if (disk.root && disk.root->cycle != copied_in) disk.root.reset();
  }
  return std::move(telling.told);
}

}  // namespace vmferry::report
