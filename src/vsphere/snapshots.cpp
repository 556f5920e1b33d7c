// Creation and removal as "look, act, and look again when the answer was lost". A request whose reply was lost may also
// reach its execution late, so the look is repeated for a while before the act is.
#include "vsphere/snapshots.hpp"

#include <fmt/format.h>

#include "vsphere/inventory.hpp"
#include "vsphere/machine_config.hpp"
#include "vsphere/properties.hpp"
#include "vsphere/tasks.hpp"

namespace vmferry::vsphere {

namespace {

using namespace std::chrono_literals;

// How long another task on the same VM (a backup's snapshot, a vMotion) may stand in the way.
constexpr std::chrono::seconds blocked_patience{600};
constexpr std::chrono::seconds blocked_pause{5};
constexpr int lost_replies = 5;

Moref snapshot_ref(const SnapshotId& id) { return {"VirtualMachineSnapshot", id.value}; }

// Task descriptions as vCenter ("VirtualMachine.createSnapshot", "vim.vm.Snapshot.remove") and ESXi spell them.
const std::vector<std::string>& creating() {
  static const std::vector<std::string> verbs{"createSnapshot", "createSnapshotEx"};
  return verbs;
}
const std::vector<std::string>& removing() {
  static const std::vector<std::string> verbs{"Snapshot.remove", "removeSnapshot", "removeAllSnapshots"};
  return verbs;
}

std::optional<SnapshotId> existing(Session& session, const model::VmId& vm, const SnapshotWish& wish,
                                   std::stop_token stop) {
  for (const model::Snapshot& snapshot : snapshots(session, vm, stop).snapshots)
    if (wish.is_it(snapshot)) return snapshot.id;
  return std::nullopt;
}

// Also when it is only just being made.
std::optional<SnapshotId> settled(Session& session, const model::VmId& vm, const SnapshotWish& wish,
                                  std::stop_token stop) {
  if (auto found = existing(session, vm, wish, stop)) return found;
  if (!await_unfinished(session, vm_ref(vm), creating(), std::nullopt, stop)) return std::nullopt;
  return existing(session, vm, wish, stop);
}

std::optional<SnapshotId> after_a_lost_reply(Session& session, const model::VmId& vm, const SnapshotWish& wish,
                                             std::stop_token stop) {
  session.log().warning("the reply to CreateSnapshot_Task was lost; looking for the snapshot", {{"vm", vm.value}});
  for (int look = 0; look < 5; ++look) {
    if (auto found = settled(session, vm, wish, stop)) return found;
    sleep_or_cancel(session.clock(), 1s, stop);
  }
  return std::nullopt;
}

// Another task holds the VM: wait for it, as long as it is worth it.
void wait_for_others(Session& session, const model::VmId& vm, const FaultError& refusal,
                     std::chrono::steady_clock::time_point deadline, std::stop_token stop) {
  if (session.clock().mono() > deadline) throw refusal;
  if (!await_unfinished(session, vm_ref(vm), {}, std::nullopt, stop))
    sleep_or_cancel(session.clock(), blocked_pause, stop);
}

bool gone(Session& session, const model::VmId& vm, const SnapshotId& snapshot, std::stop_token stop) {
  try {
    return snapshots(session, vm, stop).find(snapshot) == nullptr;
  } catch (const FaultError& e) {
    if (e.name() == "ManagedObjectNotFound") return true;
    throw;
  }
}

// Runs a task on the VM that changes nothing when it is done twice.
void run_repeatable(Session& session, const model::VmId& vm, const Call& call, const char* what, Patience patience,
                    std::stop_token stop) {
  const auto deadline = session.clock().mono() + blocked_patience;
  for (;;) {
    try {
      const Moref task = session.call(call, Repeat::freely, stop)["returnval"].moref();
      await(session, task, fmt::format("{} on {}", what, vm.value), patience, stop);
      return;
    } catch (const FaultError& e) {
      if (e.name() != "TaskInProgress") throw;
      wait_for_others(session, vm, e, deadline, stop);
    }
  }
}

}  // namespace

const model::Snapshot* SnapshotTree::find(const SnapshotId& id) const noexcept {
  for (const model::Snapshot& snapshot : snapshots)
    if (snapshot.id == id) return &snapshot;
  return nullptr;
}

SnapshotTree snapshots(Session& session, const model::VmId& vm, std::stop_token stop) {
  return {parse_snapshots(read(session, vm_ref(vm), {"snapshot"}, stop)["snapshot"])};
}

SnapshotId create_snapshot(Session& session, const model::VmId& vm, const SnapshotWish& wish, std::stop_token stop) {
  if (auto found = settled(session, vm, wish, stop)) return *found;
  const auto deadline = session.clock().mono() + blocked_patience;
  for (int lost = 0;;) {
    try {
      Call call("CreateSnapshot_Task", vm_ref(vm));
      call.text("name", wish.name)
          .text("description", wish.description)
          .flag("memory", false)
          .flag("quiesce", wish.quiesce);
      const Moref task = session.call(call, Repeat::never, stop)["returnval"].moref();
      const SnapshotId id{
          await(session, task, fmt::format("CreateSnapshot_Task on {}", vm.value), std::nullopt, stop).moref().value};
      if (!id.empty()) return id;
      if (auto found = existing(session, vm, wish, stop)) return *found;
      throw Error(Fault::data, fmt::format("{} says it made a snapshot of {}, but names none and shows none",
                                           session.server(), vm.value));
    } catch (const http::Broken& broken) {
      if (!broken.may_have_acted()) throw;
      if (auto found = after_a_lost_reply(session, vm, wish, stop)) return *found;
      if (++lost > lost_replies) throw;
    } catch (const FaultError& e) {
      if (e.name() == "ManagedObjectNotFound") {
        // The task was forgotten before its end was seen; or the VM is gone, which this says too.
        if (auto found = settled(session, vm, wish, stop)) return *found;
        throw;
      }
      if (e.name() != "TaskInProgress") throw;
      wait_for_others(session, vm, e, deadline, stop);
      if (auto found = settled(session, vm, wish, stop)) return *found;
    }
  }
}

void remove_snapshot(Session& session, const model::VmId& vm, const SnapshotId& snapshot, std::stop_token stop) {
  const auto deadline = session.clock().mono() + blocked_patience;
  for (int lost = 0;;) {
    try {
      if (!snapshots(session, vm, stop).find(snapshot)) return;
      // Perhaps ours already, from a call whose reply was lost or a run that died: consolidation may take hours.
      if (await_unfinished(session, vm_ref(vm), removing(), std::nullopt, stop)) {
        if (!snapshots(session, vm, stop).find(snapshot)) return;
      }
      Call call("RemoveSnapshot_Task", snapshot_ref(snapshot));
      call.flag("removeChildren", false).flag("consolidate", true);
      const Moref task = session.call(call, Repeat::never, stop)["returnval"].moref();
      await(session, task, fmt::format("RemoveSnapshot_Task on {} of {}", snapshot.value, vm.value), std::nullopt,
            stop);
      return;
    } catch (const http::Broken& broken) {
      if (!broken.may_have_acted() || ++lost > lost_replies) throw;
      session.log().warning("the reply to RemoveSnapshot_Task was lost; looking at the snapshots", {{"vm", vm.value}});
      sleep_or_cancel(session.clock(), 1s, stop);
    } catch (const FaultError& e) {
      if (e.name() == "ManagedObjectNotFound") {
        // The snapshot is gone, or its VM with it, or the task was forgotten: only in the last case is there work left.
        if (gone(session, vm, snapshot, stop)) return;
        if (++lost > lost_replies) throw;
        continue;
      }
      if (e.name() != "TaskInProgress") throw;
      wait_for_others(session, vm, e, deadline, stop);
    }
  }
}

std::optional<std::vector<model::Disk>> frozen_disks(Session& session, const SnapshotId& snapshot,
                                                     std::stop_token stop) {
  try {
    const Node devices =
        read(session, snapshot_ref(snapshot), {"config.hardware.device"}, stop)["config.hardware.device"];
    if (!devices)
      throw Error(Fault::data,
                  fmt::format("{} shows no devices in the configuration of {}: the user may lack System.Read",
                              session.server(), snapshot.value));
    return parse_disks(devices.children());
  } catch (const FaultError& e) {
    if (e.name() == "ManagedObjectNotFound") return std::nullopt;
    throw;
  }
}

void enable_tracking(Session& session, const model::VmId& vm, std::stop_token stop) {
  Call call("ReconfigVM_Task", vm_ref(vm));
  call.open("spec").flag("changeTrackingEnabled", true).close();
  run_repeatable(session, vm, call, "ReconfigVM_Task (changeTrackingEnabled)", reconfiguration_patience, stop);
}

bool consolidation_needed(Session& session, const model::VmId& vm, std::stop_token stop) {
  const char* property = "runtime.consolidationNeeded";
  return read(session, vm_ref(vm), {property}, stop)[property].flag_or(false);
}

void consolidate_disks(Session& session, const model::VmId& vm, std::stop_token stop) {
  run_repeatable(session, vm, Call("ConsolidateVMDisks_Task", vm_ref(vm)), "ConsolidateVMDisks_Task", std::nullopt,
                 stop);
}

}  // namespace vmferry::vsphere
