// Undoing: what a stopped run must not leave behind, and what `abort` takes back. Only what a fact or our tag names.
#include <fmt/format.h>

#include <functional>
#include <set>

#include "base/time_limit.hpp"
#include "job/itinerary.hpp"
#include "job/steps/steps.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::job {

namespace {

// Tries one undoing; a failure is told, not thrown, so that the others get their turn.
bool attempt(Observer& observer, const std::string& what, const std::function<void()>& act) noexcept {
  try {
    act();
    return true;
  } catch (const Cancelled&) {
    observer.warned(fmt::format("no time was left to {}; `vmferry abort` or the next run will do it", what));
  } catch (const std::exception& e) {
    observer.warned(fmt::format("could not {}: {}; `vmferry abort` or the next run will try again", what, e.what()));
  }
  return false;
}

bool drop_snapshots(const Parts& parts, const State& state, Journal& journal, Observer& observer,
                    std::stop_token stop) {
  bool all = true;
  const CycleState* cycle = state.open_cycle();
  if (cycle && cycle->snapshot && !cycle->snapshot_removed) {
    const SnapshotId snapshot = cycle->snapshot->snapshot;
    all &= attempt(observer, fmt::format("remove snapshot {}", snapshot.value), [&] {
      observer.said(fmt::format("removing snapshot {} ...", snapshot.value));
      steps::remove_snapshot(parts, state, snapshot, observer, stop);
      journal.append(SnapshotRemoved{cycle->number, snapshot});
    });
  }
  all &= attempt(observer, "look for snapshots left behind",
                 [&] { steps::remove_snapshots(parts, state, observer, stop); });
  return all;
}

bool drop_attachments(const Parts& parts, const State& state, Journal& journal, Observer& observer,
                      std::stop_token stop, bool every) {
  bool all = true;
  for (const auto& [key, disk] : state.disks)
    if (disk.attached || every)
      all &= attempt(observer, fmt::format("detach volume {}", disk.volume.value), [&, key = key] {
        if (state.disks.at(key).attached)
          observer.said(fmt::format("detaching volume {} ...", state.disks.at(key).volume.value));
        parts.cloud.detach(state.disks.at(key).volume, stop);
        journal.append(DiskDetached{key, state.disks.at(key).volume});
      });
  return all;
}

// By fact and by tag: a port may have been made just before a crash.
bool drop_ports(const Parts& parts, const State& state, Journal& journal, Observer& observer, std::stop_token stop) {
  std::set<PortId> made;
  for (const auto& [mac, port] : state.ports)
    if (port.created) made.insert(port.port);
  bool all = attempt(observer, "look for ports of this job", [&] {
    for (const PortId& port : parts.cloud.ports_of(state.job->job, stop)) made.insert(port);
  });
  for (const PortId& port : made)
    all &= attempt(observer, fmt::format("delete port {}", port.value), [&] {
      parts.cloud.discard_port(port, state.job->job, stop);
      journal.append(PortDiscarded{port});
      observer.said(fmt::format("port {} is deleted", port.value));
    });
  return all;
}

// Volumes that were made just before a crash, so that no fact names them: found by their tag.
bool drop_unrecorded_volumes(const Parts& parts, const State& state, Observer& observer, std::stop_token stop) {
  return attempt(observer, "look for volumes that no fact names", [&] {
    for (const model::Disk& disk : parts.machine.describe(stop).disks) {
      if (state.disks.contains(disk.key)) continue;
      const auto left = parts.cloud.find(steps::tag_of(state, disk), stop);
      if (!left) continue;
      const auto owner = left->memory.find(target::memory_key::job);
      if (owner == left->memory.end() || owner->second != state.job->job.value) continue;
      parts.cloud.discard(left->id, state.job->job, stop);
      observer.said(fmt::format("volume {} is deleted", left->id.value));
    }
  });
}

// They are there for the next job to overwrite: what their server wrote was given up with this one.
bool give_volumes_free(const Parts& parts, const State& state, Observer& observer, std::stop_token stop) {
  return attempt(observer, "look for volumes that a server had", [&] {
    for (const model::Disk& disk : parts.machine.describe(stop).disks) {
      if (!state.disks.contains(disk.key)) continue;
      const auto left = parts.cloud.find(steps::tag_of(state, disk), stop);
      if (!left) continue;
      const auto word = [&](const char* key) { return target::value(left->memory, key); };
      const std::string& ours = state.job->job.value;
      if (word(target::memory_key::job) == ours && word(target::memory_key::moved) == ours)
        parts.cloud.remember(left->id, {{target::memory_key::moved, "no"}}, stop);
    }
  });
}

}  // namespace

void release(const Parts& parts, Journal& journal, Observer& observer, std::chrono::seconds deadline) noexcept {
  const TimeLimit limit(deadline);
  attempt(observer, "clean up", [&] {
    const std::vector<Fact> facts = journal.facts();
    const State state = fold(facts);
    if (!state.job) return;
    // The snapshot first: it grows on the production datastore, an attachment only waits.
    drop_snapshots(parts, state, journal, observer, limit.token());
    drop_attachments(parts, state, journal, observer, limit.token(), false);
    parts.converter.clear();
    // Half an image is of no use to anybody.
    if (state.shutdown_at && !state.server)
      attempt(observer, "look for images left behind",
              [&] { steps::sweep_broken_images(parts, state, observer, limit.token()); });
  });
}

void abort(const Parts& parts, Journal& journal, Observer& observer, bool delete_volumes, std::stop_token stop) {
  const std::vector<Fact> facts = journal.facts();
  const State state = fold(facts);
  if (!state.job) throw Error(Fault::bug, "a job without its first fact");
  if (const auto server = parts.cloud.find_server(state.job->job, stop))
    throw Error(Fault::conflict,
                fmt::format("server {} was made from these volumes; delete it first if the migration shall be undone",
                            server->value));
  bool all = drop_snapshots(parts, state, journal, observer, stop);
  // All of them: an attachment that was on its way when its run was stopped may have arrived since.
  all &= drop_attachments(parts, state, journal, observer, stop, true);
  all &= drop_ports(parts, state, journal, observer, stop);
  // No replica of the machine, whatever becomes of that.
  bool swept = true;
  all &= attempt(observer, "delete what was delivered",
                 [&] { swept = steps::undo_delivery(parts, state, delete_volumes, observer, stop); });
  all &= swept;
  parts.converter.clear();
  if (delete_volumes)
    for (const auto& [key, disk] : state.disks)
      all &= attempt(observer, fmt::format("delete volume {}", disk.volume.value), [&, key = key] {
        parts.cloud.discard(state.disks.at(key).volume, state.job->job, stop);
        journal.append(VolumeDiscarded{key, state.disks.at(key).volume});
        observer.said(fmt::format("volume {} is deleted", state.disks.at(key).volume.value));
      });
  all &= delete_volumes ? drop_unrecorded_volumes(parts, state, observer, stop)
                        : give_volumes_free(parts, state, observer, stop);
  if (!all)
    throw Error(Fault::unavailable,
                fmt::format("not everything of {} could be undone; see the warnings, then run `vmferry abort` again",
                            state.job->vm_name));
  journal.append(Aborted{delete_volumes});
  if (!state.shutdown_at) return;
  if (parts.machine.describe(stop).power != model::Power::off)
    observer.said(fmt::format("{} runs; if the cutover had asked its guest to shut down, it may still do so",
                              state.job->vm_name));
  else
    observer.said(fmt::format("{} was shut down by the cutover and is off: power it on in vSphere when you are ready",
                              state.job->vm_name));
}

void let_go(target::Cloud& cloud, const JobId& finished, const model::Vm& vm,
            const std::function<void(const std::string&)>& say, std::stop_token stop) {
  if (const auto server = cloud.find_server(finished, stop))
    throw Error(Fault::conflict,
                fmt::format("server {} of the finished cutover of {} is still there and uses the volumes; delete it "
                            "(they are kept), then run the same command again, which deletes the ports that vmferry "
                            "made for it",
                            server->value, vm.name));
  // Nobody else would: the next job makes its own, as its mapping says, and abort knows only those.
  for (const PortId& port : cloud.ports_of(finished, stop)) {
    cloud.discard_port(port, finished, stop);
    say(fmt::format("port {} of the finished cutover is deleted; the next cutover makes a new one", port.value));
  }
  // A run that died after the server was made may have left images. The server's own volumes are kept.
  target::Delivery::Keep keep;
  keep.every_volume = true;
  if (target::Delivery* delivery = cloud.delivery()) delivery->sweep(finished, keep, stop);
}

}  // namespace vmferry::job
