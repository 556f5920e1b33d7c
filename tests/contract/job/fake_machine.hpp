// A virtual machine in memory whose guest never stops writing: disks, snapshots, change tracking by epochs. Its frozen
// disks are served by real nbdkit, so that the real copy engine reads them. Can be made to die around any call.
#pragma once

#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "log/log.hpp"
#include "process/process.hpp"
#include "source/machine.hpp"
#include "support/lab.hpp"

namespace vmferry::job {

class FakeMachine final : public source::Machine {
 public:
  // Called before (false) and after (true) each call that changes something. May throw.
  std::function<void(const std::string& call, bool acted)> around = [](const std::string&, bool) {};

  bool tools_running = true;
  std::string name = "web01";        // whoever runs vSphere may change it at any time
  bool serves_another_disk = false;  // and says so only when all of it was read
  // How change tracking may be wrong: nothing has changed, an old growth is not allocated, the history ends in an
  // answer.
  bool hides_changes = false, forgets_growth = false, loses_history_midway = false;
  bool unmerged = false;                   // files of removed snapshots wait, for whoever takes the next one
  std::optional<bool> told_of_unmerged{};  // by the last thaw of a snapshot that was gone
  std::function<void()> on_check;          // of a served disk. May throw
  // When a copy was told of all that it is to copy but for one block, and before it hears of that. May block.
  std::function<void()> midway;
  bool guest_sleeps = false;  // and writes nothing

  FakeMachine();

  model::Vm describe(std::stop_token stop) override;
  bool ensure_tracking(const source::Tag& tag, std::stop_token stop) override;
  source::Point freeze(const source::Tag& tag, source::Quiesce quiesce, std::stop_token stop) override;
  std::optional<source::Point> recall(const SnapshotId& snapshot, std::stop_token stop) override;
  std::string thaw(const SnapshotId& snapshot, const JobId& job, bool unmerged_before, std::stop_token stop) override;
  std::vector<SnapshotId> snapshots_of(const JobId& job, std::stop_token stop) override;
  std::unique_ptr<copy::Source> serve(const source::Point& point, model::DiskKey disk, std::stop_token stop) override;
  std::unique_ptr<copy::Work> changed(const source::Point& point, model::DiskKey disk,
                                      const std::optional<model::ChangeId>& since, std::stop_token stop) override;
  bool written_since(const model::Disk& disk, const model::ChangeId& since, std::stop_token stop) override;
  void power_off(source::Stop how, std::chrono::seconds patience, std::stop_token stop) override;

  std::size_t snapshots() const { return snapshots_.size(); }
  std::string bytes(model::DiskKey disk) const { return disks_.at(disk).bytes; }
  std::string frozen(const SnapshotId& snapshot, model::DiskKey disk) const {
    return last_frozen_.at(snapshot).at(disk);
  }
  bool on() const { return on_; }
  void power_on() { on_ = true; }
  void lose_snapshots() { snapshots_.clear(); }  // removed by somebody
  // Started, written to and shut down by somebody.
  void run_unseen() {
    on_ = true;
    guest_writes();
    on_ = false;
  }
  void add_disk(model::DiskKey key, std::size_t bytes);
  bool answers_without_snapshot = true;
  void reset_tracking() { uuid_ += "x"; }
  void grow(model::DiskKey key, std::size_t bytes);
  // The guest writes what was there before.
  void put_back(model::DiskKey key, const std::string& bytes);
  std::vector<model::DiskKey> keys() const;

 private:
  static constexpr std::uint64_t block = 65536;
  struct Disk {
    std::string bytes;
    std::vector<int> epochs;  // when each block was last written
    std::size_t before_growth = 0;
  };
  struct Frozen {
    source::Tag tag;
    int epoch = 0;
    std::string uuid;
    bool off = false;
    bool unmerged_before = false;
    std::map<model::DiskKey, Disk> disks;
  };
  void guest_writes();
  source::Point point_of(const SnapshotId& id, const Frozen& frozen) const;

  std::map<model::DiskKey, Disk> disks_;
  std::map<SnapshotId, Frozen> snapshots_;
  std::map<SnapshotId, std::map<model::DiskKey, std::string>>
      last_frozen_;  // for proofs, also after the snapshot is gone
  bool on_ = true;
  int epoch_ = 1;
  int next_ = 1;
  std::string uuid_ = "u";
  std::mt19937 random_{7};
  process::SystemRunner runner_;
  log::Log log_;
  support::TemporaryDirectory directory_;
};

}  // namespace vmferry::job
