// The guest writes whenever somebody looks: between any two calls something changed.
#include "fake_machine.hpp"

#include <fmt/format.h>

#include <fstream>

#include "base/error.hpp"
#include "served.hpp"

namespace vmferry::job {

FakeMachine::FakeMachine() {
  // Odd sizes: neither is a whole number of blocks.
  for (const auto& [key, size] : std::map<int, std::size_t>{{2000, 5 * block + 512}, {2001, 3 * block + 1024}}) {
    Disk disk;
    disk.bytes.resize(size);
    for (std::size_t i = 0; i < size; i += 3) disk.bytes[i] = static_cast<char>(random_());
    // A hole, so that zeroes are part of every copy.
    for (std::size_t i = block; i < 2 * block; ++i) disk.bytes[i] = 0;
    disk.epochs.assign((size + block - 1) / block, 1);
    disks_[model::DiskKey{key}] = disk;
  }
}

std::vector<model::DiskKey> FakeMachine::keys() const {
  std::vector<model::DiskKey> all;
  for (const auto& [key, disk] : disks_) all.push_back(key);
  return all;
}

void FakeMachine::guest_writes() {
  if (!on_) return;
  for (auto& [key, disk] : disks_) {
    const std::size_t at = random_() % disk.epochs.size();
    const std::size_t begin = at * block, end = std::min(disk.bytes.size(), begin + block);
    const bool zero = random_() % 5 == 0;
    for (std::size_t i = begin; i < end; ++i) disk.bytes[i] = zero ? '\0' : static_cast<char>(random_());
    disk.epochs[at] = epoch_;
  }
}

model::Vm FakeMachine::describe(std::stop_token) {
  guest_writes();
  model::Vm vm;
  vm.id = model::VmId{"vm-1"};
  vm.name = "web01";
  vm.power = on_ ? model::Power::on : model::Power::off;
  vm.tools_running = tools_running;
  vm.tracking_supported = vm.tracking_enabled = true;
  for (const auto& [key, disk] : disks_) {
    model::Disk d;
    d.key = key;
    d.label = fmt::format("Hard disk {}", key.value - 1999);
    d.object_id = fmt::format("1-{}", key.value);
    d.capacity = disk.bytes.size();
    vm.disks.push_back(d);
  }
  model::Nic nic;
  nic.label = "Network adapter 1";
  nic.mac = "00:50:56:00:00:01";
  vm.nics.push_back(nic);
  return vm;
}

bool FakeMachine::ensure_tracking(const source::Tag&, std::stop_token) {
  around("ensure_tracking", false);
  around("ensure_tracking", true);
  return true;
}

source::Point FakeMachine::point_of(const SnapshotId& id, const Frozen& frozen) const {
  source::Point point;
  point.snapshot = id;
  point.consistency = frozen.off ? source::Consistency::powered_off : source::Consistency::crash;
  for (const auto& [key, disk] : frozen.disks)
    point.disks.push_back(
        {key, disk.bytes.size(), model::ChangeId{frozen.uuid, std::to_string(frozen.epoch)}, "", false});
  return point;
}

source::Point FakeMachine::freeze(const source::Tag& tag, source::Quiesce, std::stop_token) {
  guest_writes();
  for (const auto& [id, frozen] : snapshots_)
    if (frozen.tag.job == tag.job && frozen.tag.cycle == tag.cycle) return point_of(id, frozen);
  around("freeze", false);
  const SnapshotId id{fmt::format("snapshot-{}", next_++)};
  snapshots_[id] = Frozen{tag, epoch_++, uuid_, !on_, disks_};
  for (const auto& [key, disk] : disks_) last_frozen_[id][key] = disk.bytes;
  around("freeze", true);
  return point_of(id, snapshots_.at(id));
}

std::optional<source::Point> FakeMachine::recall(const SnapshotId& snapshot, std::stop_token) {
  guest_writes();
  const auto found = snapshots_.find(snapshot);
  if (found == snapshots_.end()) return std::nullopt;
  return point_of(found->first, found->second);
}

std::string FakeMachine::thaw(const SnapshotId& snapshot, const JobId& job, std::stop_token) {
  const auto found = snapshots_.find(snapshot);
  if (found == snapshots_.end()) return {};
  if (found->second.tag.job != job) throw Error(Fault::conflict, "somebody else's snapshot");
  around("thaw", false);
  snapshots_.erase(snapshot);
  around("thaw", true);
  return {};
}

std::vector<SnapshotId> FakeMachine::snapshots_of(const JobId& job, std::stop_token) {
  std::vector<SnapshotId> ours;
  for (const auto& [id, frozen] : snapshots_)
    if (frozen.tag.job == job) ours.push_back(id);
  return ours;
}

std::unique_ptr<copy::Source> FakeMachine::serve(const source::Point& point, model::DiskKey disk,
                                                 std::stop_token stop) {
  const std::string& bytes = snapshots_.at(point.snapshot).disks.at(disk).bytes;
  const auto file = directory_.path() / fmt::format("{}-{}", point.snapshot.value, disk.value);
  std::ofstream(file, std::ios::binary) << bytes;
  return serve_file(runner_, file, directory_.path(), log_, stop);
}

std::unique_ptr<copy::Work> FakeMachine::changed(const source::Point& point, model::DiskKey key,
                                                 const std::optional<model::ChangeId>& since, std::stop_token) {
  const Frozen& frozen = snapshots_.at(point.snapshot);
  const Disk& disk = frozen.disks.at(key);
  if (since && since->uuid != frozen.uuid) throw source::HistoryLost("another uuid");
  RangeSet ranges;
  for (std::size_t i = 0; i < disk.epochs.size(); ++i)
    if (!since || disk.epochs[i] > std::stoi(since->number)) ranges.add({i * block, block});
  return copy::work(ranges.aligned(512, disk.bytes.size()));
}

void FakeMachine::power_off(source::Stop, std::chrono::seconds, std::stop_token) {
  if (!on_) return;
  around("power_off", false);
  guest_writes();
  on_ = false;
  around("power_off", true);
}

}  // namespace vmferry::job
