// The guest writes whenever somebody looks: between any two calls something changed.
#include "fake_machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "base/error.hpp"
#include "served.hpp"

namespace vmferry::job {

namespace {

class Doubtful final : public copy::Source {
 public:
  explicit Doubtful(std::unique_ptr<copy::Source> inner) : inner_(std::move(inner)) {}
  std::uint64_t bytes() const override { return inner_->bytes(); }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override { return inner_->connect(std::move(stop)); }
  void check(std::stop_token) override { throw copy::BytesInDoubt("the file was replaced"); }

 private:
  std::unique_ptr<copy::Source> inner_;
};

class Watched final : public copy::Source {
 public:
  Watched(std::unique_ptr<copy::Source> inner, std::function<void()> on_check)
      : inner_(std::move(inner)), on_check_(std::move(on_check)) {}
  std::uint64_t bytes() const override { return inner_->bytes(); }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override { return inner_->connect(std::move(stop)); }
  void check(std::stop_token) override { on_check_(); }

 private:
  std::unique_ptr<copy::Source> inner_;
  std::function<void()> on_check_;
};

// All but the last block, then that one.
class InTwo final : public copy::Work {
 public:
  InTwo(RangeSet ranges, std::uint64_t block, std::function<void()> midway)
      : ranges_(std::move(ranges)), block_(block), midway_(std::move(midway)) {}
  std::optional<std::vector<ByteRange>> next(std::stop_token) override {
    if (ranges_.empty() || step_ == 2) return std::nullopt;
    ByteRange last = ranges_.ranges().back();
    const std::uint64_t begin = std::max(last.offset, (last.end() - 1) / block_ * block_);
    last = {begin, last.end() - begin};
    if (step_++ == 1) {
      midway_();
      return std::vector{last};
    }
    RangeSet first = ranges_;
    first.subtract(last);
    return std::vector<ByteRange>(first.ranges().begin(), first.ranges().end());
  }
  std::optional<std::uint64_t> total() const override { return ranges_.bytes(); }

 private:
  RangeSet ranges_;
  std::uint64_t block_;
  std::function<void()> midway_;
  int step_ = 0;
};

class EndsMidway final : public copy::Work {
 public:
  explicit EndsMidway(std::unique_ptr<copy::Work> inner) : inner_(std::move(inner)) {}
  std::optional<std::vector<ByteRange>> next(std::stop_token stop) override {
    if (std::exchange(begun_, true)) throw source::HistoryLost("the tracking file is damaged");
    return inner_->next(std::move(stop));
  }
  std::optional<std::uint64_t> total() const override { return inner_->total(); }

 private:
  std::unique_ptr<copy::Work> inner_;
  bool begun_ = false;
};

}  // namespace

FakeMachine::FakeMachine() {
  // Odd sizes: neither is a whole number of blocks.
  add_disk(model::DiskKey{2000}, 5 * block + 512);
  add_disk(model::DiskKey{2001}, 3 * block + 1024);
}

void FakeMachine::add_disk(model::DiskKey key, std::size_t bytes) {
  Disk disk;
  disk.bytes.resize(bytes);
  for (std::size_t i = 0; i < bytes; i += 3) disk.bytes[i] = static_cast<char>(random_());
  // A hole, so that zeroes are part of every copy.
  for (std::size_t i = block; i < 2 * block; ++i) disk.bytes[i] = 0;
  disk.epochs.assign((bytes + block - 1) / block, epoch_);
  disks_[key] = disk;
}

void FakeMachine::grow(model::DiskKey key, std::size_t bytes) {
  Disk& disk = disks_.at(key);
  disk.before_growth = disk.bytes.size() / block * block;
  for (std::size_t i = disk.bytes.size(); i < bytes; ++i) disk.bytes.push_back(static_cast<char>(random_()));
  disk.epochs.resize((bytes + block - 1) / block, epoch_);
}

void FakeMachine::put_back(model::DiskKey key, const std::string& bytes) {
  Disk& disk = disks_.at(key);
  disk.bytes = bytes;
  std::fill(disk.epochs.begin(), disk.epochs.end(), epoch_);
}

std::vector<model::DiskKey> FakeMachine::keys() const {
  std::vector<model::DiskKey> all;
  for (const auto& [key, disk] : disks_) all.push_back(key);
  return all;
}

void FakeMachine::guest_writes() {
  if (!on_ || guest_sleeps) return;
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
  vm.name = name;
  vm.power = on_ ? model::Power::on : model::Power::off;
  vm.tools_running = tools_running;
  vm.tracking_supported = vm.tracking_enabled = true;
  for (const auto& [key, disk] : disks_) {
    model::Disk d;
    d.key = key;
    d.label = fmt::format("Hard disk {}", key.value - 1999);
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
  point.unmerged_before = frozen.unmerged_before;
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
  snapshots_[id] = Frozen{tag, epoch_++, uuid_, !on_, unmerged, disks_};
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

std::string FakeMachine::thaw(const SnapshotId& snapshot, const JobId& job, bool unmerged_before, std::stop_token) {
  const auto found = snapshots_.find(snapshot);
  if (found == snapshots_.end()) {
    told_of_unmerged = unmerged_before;
    return {};
  }
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
  std::ofstream(file, std::ios::binary) << (serves_another_disk ? std::string(bytes.size(), 'x') : bytes);
  if (serves_another_disk) return std::make_unique<Doubtful>(serve_file(runner_, file, directory_.path(), log_, stop));
  auto served = serve_file(runner_, file, directory_.path(), log_, stop);
  if (on_check) return std::make_unique<Watched>(std::move(served), on_check);
  return served;
}

std::unique_ptr<copy::Work> FakeMachine::changed(const source::Point& point, model::DiskKey key,
                                                 const std::optional<model::ChangeId>& since, std::stop_token) {
  const Frozen& frozen = snapshots_.at(point.snapshot);
  const Disk& disk = frozen.disks.at(key);
  if (since && since->uuid != frozen.uuid) throw source::HistoryLost("another uuid");
  RangeSet ranges;
  if (since && hides_changes) return copy::work(ranges);
  for (std::size_t i = 0; i < disk.epochs.size(); ++i) {
    if (forgets_growth && disk.before_growth != 0 && i * block >= disk.before_growth) break;
    if (!since || disk.epochs[i] > std::stoi(since->number)) ranges.add({i * block, block});
  }
  if (midway) return std::make_unique<InTwo>(ranges.aligned(512, disk.bytes.size()), block, midway);
  auto work = copy::work(ranges.aligned(512, disk.bytes.size()));
  if (since && loses_history_midway) return std::make_unique<EndsMidway>(std::move(work));
  return work;
}

bool FakeMachine::written_since(const model::Disk& disk, const model::ChangeId& since, std::stop_token) {
  if (on_ || !answers_without_snapshot || since.uuid != uuid_) throw source::HistoryLost("not without a snapshot");
  const std::vector<int>& epochs = disks_.at(disk.key).epochs;
  return std::any_of(epochs.begin(), epochs.end(), [&](int epoch) { return epoch > std::stoi(since.number); });
}

void FakeMachine::power_off(source::Stop, std::chrono::seconds, std::stop_token) {
  if (!on_) return;
  around("power_off", false);
  guest_writes();
  on_ = false;
  around("power_off", true);
}

}  // namespace vmferry::job
