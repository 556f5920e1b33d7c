// The fold: one small rule for each kind of fact.
#include "job/state.hpp"

#include <algorithm>

namespace vmferry::job {

namespace {

struct Folding {
  State state;
  std::int64_t at = 0;

  CycleState* cycle(int number) {
    for (CycleState& c : state.cycles)
      if (c.number == number) return &c;
    return nullptr;
  }

  void operator()(const JobCreated& f) { state.job = f; }
  void operator()(const RunBegan&) {}  // for those who read about it later, as DiskVerified is
  void operator()(const DiskVerified&) {}
  void operator()(const DigestsRecorded& f) { state.disks[f.disk].digested_in = f.cycle; }
  void operator()(const TrackingEnsured& f) {
    state.tracking_ensured = true;
    state.tracking_available = f.available;
  }
  void operator()(const VolumeAllocated& f) {
    DiskState disk;  // another volume: nothing that was true of an earlier one holds for it
    disk.volume = f.volume;
    if (const auto old = state.disks.find(f.disk); old != state.disks.end())
      disk.tracking_doubted = old->second.tracking_doubted;
    disk.base = f.base;
    disk.complete = f.base.has_value();
    if (f.base) disk.capacity = f.bytes;
    state.disks[f.disk] = disk;
    state.converted = false;
  }
  void operator()(const CycleBegan& f) {
    CycleState c;
    c.number = f.cycle;
    c.final = f.final;
    c.began_at = at;
    state.cycles.push_back(c);
  }
  void operator()(const SnapshotTaken& f) {
    CycleState* c = cycle(f.cycle);
    if (!c) return;
    // All disks of a cycle come from one snapshot: with another snapshot, what was copied from the first one counts as
    // a base, no longer as this cycle's copy.
    if (c->snapshot && c->snapshot->snapshot != f.snapshot)
      for (auto& [key, disk] : state.disks)
        if (disk.copied_in == f.cycle) disk.copied_in = 0;
    c->snapshot = f;
    c->snapshot_removed = false;
  }
  void operator()(const DiskProgressed& f) {
    std::vector<Layer>& layers = state.disks[f.disk].layers;
    const RangeSet now(f.ranges);
    state.disks[f.disk].rewritten.subtract(now);  // from here on as good as any other byte of an unfinished copy
    state.converted = false;
    // A later copy of the same bytes takes the place of an earlier one.
    for (Layer& layer : layers) layer.done.subtract(now);
    const auto same = [&](const Layer& layer) { return layer.snapshot == f.snapshot && layer.capacity == f.capacity; };
    auto found = std::find_if(layers.begin(), layers.end(), same);
    if (found == layers.end()) found = layers.insert(layers.end(), Layer{f.snapshot, f.change_id, f.capacity, {}});
    found->done.add(now);
  }
  void operator()(const DiskCopied& f) {
    DiskState& disk = state.disks[f.disk];
    disk.layers.clear();
    disk.base = f.change_id;
    disk.capacity = f.capacity;
    disk.complete = true;
    disk.handed_over = false;
    disk.copied_in = f.cycle;
    if (!f.conversion_kept) {
      disk.digested_in = 0;
      disk.rewritten = {};
      disk.disowned = false;
      state.converted = false;
    }
    disk.last_full = f.full;
    disk.last_reason = f.reason;
    disk.last_read = f.read;
    disk.last_written = f.written;
    disk.last_seconds = f.seconds;
    if (!f.transport.empty()) {
      disk.last_transport = f.transport;
      disk.last_transport_reason = f.transport_reason;
      disk.transport_speed = static_cast<double>(f.transport_speed.value_or(0));
      disk.transport_anew = f.transport_anew;
    }
  }
  void operator()(const DiskRemembered& f) { state.disks[f.disk].remembered_in = f.cycle; }
  void operator()(const SnapshotRemoved& f) {
    CycleState* c = cycle(f.cycle);
    if (c && c->snapshot && c->snapshot->snapshot == f.snapshot) c->snapshot_removed = true;
  }
  void operator()(const DiskAttaching& f) { state.disks[f.disk].attached = true; }
  void operator()(const DiskDetached& f) { state.disks[f.disk].attached = false; }
  void operator()(const CycleEnded& f) {
    if (CycleState* c = cycle(f.cycle)) {
      c->ended = true;
      c->ended_at = at;
    }
  }
  void operator()(const PortEnsured& f) { state.ports[f.mac] = f; }
  void operator()(const ShutdownBegan& f) {
    if (!state.shutdown_at) state.shutdown_at = f.at;
  }
  void operator()(const PoweredOff&) { state.powered_off = true; }
  // The final cycle's point is no longer the last word on the machine. Nothing goes on from it: the next cycle is a new
  // one.
  void abandon_final_cycle() {
    for (CycleState& c : state.cycles) {
      if (!c.final) continue;
      c.final = false;
      if (!c.ended) c.ended_at = at;
      c.ended = true;
    }
  }
  void operator()(const PoweredOnAgain&) {
    state.powered_off = false;
    state.shutdown_at.reset();
    abandon_final_cycle();
  }
  void operator()(const FinalCopyDoubted&) { abandon_final_cycle(); }
  void operator()(const HandedOver&) {
    for (auto& [key, disk] : state.disks) {
      // The server has the volume that was delivered; the disk itself stays here.
      if (disk.delivered) {
        disk.delivered_used = true;
        continue;
      }
      disk.handed_over = true;
      disk.layers.clear();
    }
  }
  void operator()(const HandoverTakenBack&) {
    for (auto& [key, disk] : state.disks) disk.handed_over = disk.delivered_used = false;
  }
  void operator()(const ImageUploaded& f) { state.disks[f.disk].image = f; }
  void operator()(const VolumeDelivered& f) {
    state.disks[f.disk].delivered = f;
    state.disks[f.disk].delivered_used = false;
  }
  void operator()(const ImagesRemoved&) {
    for (auto& [key, disk] : state.disks) disk.image.reset();
  }
  void operator()(const ConversionCommitting& f) {
    for (const ByteRange& range : f.ranges) state.disks[f.disk].rewritten.add(range);
    state.disks[f.disk].layers.clear();
    state.disks[f.disk].disowned |= !f.ranges.empty();
    state.converted = false;
  }
  void operator()(const DamageFound& f) {
    for (const ByteRange& range : f.ranges) state.disks[f.disk].rewritten.add(range);
    state.disks[f.disk].layers.clear();
    state.disks[f.disk].disowned = true;
    // Mended, the disk has the digests again that the damaged one was taken to have when it was sent.
    if (!state.disks[f.disk].delivered_used) {
      state.disks[f.disk].image.reset();
      state.disks[f.disk].delivered.reset();
    }
    state.converted = false;
  }
  void operator()(const TrackingDoubted& f) { state.disks[f.disk].tracking_doubted = true; }
  void operator()(const GuestConverted&) { state.converted = true; }
  void operator()(const ServerLaunched& f) { state.server = f; }
  void operator()(const CutoverDone& f) { state.cutover = f; }
  void operator()(const VolumeDiscarded& f) { state.disks.erase(f.disk); }
  void operator()(const PortDiscarded& f) {
    std::erase_if(state.ports, [&](const auto& entry) { return entry.second.port == f.port; });
  }
  void operator()(const Aborted&) { state.aborted = true; }
};

}  // namespace

State fold(std::span<const Fact> facts) {
  Folding folding;
  for (const Fact& fact : facts) {
    folding.at = fact.at;
    std::visit(folding, fact.body);
  }
  return std::move(folding.state);
}

const CycleState* State::open_cycle() const noexcept {
  return !cycles.empty() && !cycles.back().ended ? &cycles.back() : nullptr;
}

std::string State::phase() const {
  if (aborted) return "aborted";
  if (cutover) return "done";
  if (shutdown_at) return "cutting over";
  if (open_cycle()) return "copying";
  return cycles.empty() ? "new" : "synced";
}

bool State::is_of(const std::string& instance_uuid) const noexcept {
  return !job || job->instance_uuid.empty() || instance_uuid.empty() || job->instance_uuid == instance_uuid;
}

}  // namespace vmferry::job
