// Snapshots of a machine: what there is, making one, removing one, and the disks one has frozen. Neither creation nor
// removal is ever repeated blindly: after a lost reply the task and the tree are looked at first.
#pragma once

#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "model/vm.hpp"
#include "vsphere/session.hpp"

namespace vmferry::vsphere {

struct SnapshotTree {
  std::vector<model::Snapshot> snapshots;  // parents first
  const model::Snapshot* find(const SnapshotId& id) const noexcept;
};
SnapshotTree snapshots(Session& session, const model::VmId& vm, std::stop_token stop);

struct SnapshotWish {
  std::string name;
  std::string description;
  bool quiesce = false;  // memory is never part of it
  // Recognizes the wanted snapshot however it came to be: made by this call whose reply was lost, or by an earlier run.
  std::function<bool(const model::Snapshot&)> is_it;
};
// Returns the existing one when it is already there or a task under way is making it.
SnapshotId create_snapshot(Session& session, const model::VmId& vm, const SnapshotWish& wish, std::stop_token stop);

// Removes this one (not its children) and consolidates its disks. Already gone is success.
void remove_snapshot(Session& session, const model::VmId& vm, const SnapshotId& snapshot, std::stop_token stop);

// The disks as this snapshot froze them, with their changeIds. Nothing when the snapshot is gone.
std::optional<std::vector<model::Disk>> frozen_disks(Session& session, const SnapshotId& snapshot,
                                                     std::stop_token stop);

// Switches change tracking on in the configuration. It acts only after a stun: a snapshot's creation or removal, or a
// power cycle.
void enable_tracking(Session& session, const model::VmId& vm, std::stop_token stop);

// Redo files are left over from a removal that could not finish.
bool consolidation_needed(Session& session, const model::VmId& vm, std::stop_token stop);

// Merges such redo files into their disks; with nothing to merge, success. May take hours.
void consolidate_disks(Session& session, const model::VmId& vm, std::stop_token stop);

}  // namespace vmferry::vsphere
