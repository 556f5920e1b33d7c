// A VM on vSphere as a source. Whatever is made there carries a tag first, so that a run that died, or a reply that was
// lost, leaves nothing that the next run does not recognize; whatever does not carry it is never touched.
#include "source/vmware/machine.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/sync.hpp"
#include "vsphere/changed_areas.hpp"
#include "vsphere/inventory.hpp"
#include "vsphere/power.hpp"
#include "vsphere/properties.hpp"
#include "vsphere/snapshots.hpp"
#include "vsphere/tasks.hpp"

namespace vmferry::source::vmware {

namespace {

using namespace std::chrono_literals;

constexpr std::string_view snapshot_name = "vmferry";
constexpr std::string_view marker = "vmferry job=";
// How long a machine may take to be seen off after its power-off task has ended.
constexpr std::chrono::seconds confirmation{60};

std::string_view word(Consistency consistency) {
  switch (consistency) {
    case Consistency::application:
      return "application";
    case Consistency::powered_off:
      return "off";
    case Consistency::crash:
      break;
  }
  return "crash";
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : std::string("unknown");
}

// The value behind " key=" in a description, up to the next blank.
std::string field(const std::string& description, std::string_view key) {
  const std::string wanted = fmt::format(" {}=", key);
  const auto at = description.find(wanted);
  if (at == std::string::npos) return {};
  const auto from = at + wanted.size();
  return description.substr(from, description.find(' ', from) - from);
}

// Fields a machine reads come first, then what is for people.
std::string describe_tag(const Tag& tag, std::string_view purpose, Consistency consistency, const std::string& remark) {
  std::string text = fmt::format("{}{} cycle={} purpose={} consistency={} host={} pid={}", marker, tag.job.value,
                                 tag.cycle, purpose, word(consistency), host_name(), ::getpid());
  if (!remark.empty()) text += fmt::format(" remark: {}", remark);
  return text;
}

struct Mark {
  Tag tag;
  bool activates_tracking = false;  // made only to switch tracking on; no point to copy from
  Consistency consistency = Consistency::crash;
  std::string remark;
};

std::optional<Mark> parse_mark(const std::string& name, const std::string& description) {
  if (name != snapshot_name || !description.starts_with(marker)) return std::nullopt;
  Mark mark;
  mark.tag.job.value = description.substr(marker.size(), description.find(' ', marker.size()) - marker.size());
  const std::string cycle = field(description, "cycle");
  const auto [end, problem] = std::from_chars(cycle.data(), cycle.data() + cycle.size(), mark.tag.cycle);
  if (mark.tag.job.empty() || problem != std::errc() || end != cycle.data() + cycle.size()) return std::nullopt;
  mark.activates_tracking = field(description, "purpose") == "tracking";
  const std::string consistency = field(description, "consistency");
  if (consistency == "application") mark.consistency = Consistency::application;
  if (consistency == "off") mark.consistency = Consistency::powered_off;
  constexpr std::string_view remark = " remark: ";
  if (const auto at = description.find(remark); at != std::string::npos)
    mark.remark = description.substr(at + remark.size());
  return mark;
}

std::optional<Mark> parse_mark(const model::Snapshot& snapshot) {
  return parse_mark(snapshot.name, snapshot.description);
}

bool is_point(const model::Snapshot& snapshot, const Tag& tag) {
  const auto mark = parse_mark(snapshot);
  return mark && !mark->activates_tracking && mark->tag.job == tag.job && mark->tag.cycle == tag.cycle;
}

bool is_activation(const model::Snapshot& snapshot, const JobId& job) {
  const auto mark = parse_mark(snapshot);
  return mark && mark->activates_tracking && mark->tag.job == job;
}

// Disks that change tracking can follow: it knows no independent disk, no physical RDM, no shared bus.
bool trackable(const model::Disk& disk) {
  return disk.mode == model::DiskMode::persistent && !disk.shared && disk.backing != model::Backing::rdm_physical &&
         disk.backing != model::Backing::raw_device && disk.backing != model::Backing::other;
}

// A fault of a quiesced snapshot after which one without quiescing may work. vSphere reports guests that will not be
// quiesced under many names, so the list is of those that would hit the second attempt as well.
bool may_be_the_quiescing(const vsphere::FaultError& e) {
  if (e.fault() == Fault::auth || e.fault() == Fault::not_found || e.fault() == Fault::quota) return false;
  static constexpr std::array<std::string_view, 7> hopeless{
      "RestrictedVersion", "NotEnoughLicenses", "LicenseExpired", "TaskInProgress",
      "HostNotConnected",  "HostCommunication", "NotSupported"};
  return std::find(hopeless.begin(), hopeless.end(), e.name()) == hopeless.end();
}

std::string one_line(std::string text, std::size_t longest) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  if (text.size() > longest) {
    // Not in the middle of a UTF-8 sequence.
    while (longest > 0 && (static_cast<unsigned char>(text[longest]) & 0xc0U) == 0x80U) --longest;
    text.resize(longest);
  }
  return text;
}

// The answer of QueryChangedDiskAreas as work for the copy engine.
class ChangedWork final : public copy::Work {
 public:
  ChangedWork(vsphere::Session& session, model::VmId vm, SnapshotId snapshot, FrozenDisk disk,
              std::optional<model::ChangeId> since)
      : session_(session),
        disk_(std::move(disk)),
        allocated_(!since),
        areas_(disk_.capacity, fmt::format("disk {} of {}", disk_.key.value, vm.value),
               [&session, vm, snapshot, key = disk_.key, from = since ? since->text() : std::string("*")](
                   std::uint64_t start, std::stop_token stop) {
                 return vsphere::query_changed_areas(session, vm, snapshot, key, start, from, stop);
               }) {}

  std::optional<std::vector<ByteRange>> next(std::stop_token stop) override {
    if (given_up_) return std::nullopt;
    try {
      return areas_.next(stop);
    } catch (const vsphere::FaultError& e) {
      if (e.fault() == Fault::auth || e.name() == "ManagedObjectNotFound") throw;
      if (allocated_) {
        // "*" may fail on some datastores: then everything from here on counts as allocated.
        session_.log().info("the allocated areas are not known; the rest of the disk is read in full",
                            {{"disk", model::to_string(disk_.key)}, {"reason", e.what()}});
        given_up_ = true;
        return std::vector<ByteRange>{{areas_.covered(), disk_.capacity - areas_.covered()}};
      }
      if (lost(e))
        throw HistoryLost(fmt::format("the change history of disk {} is lost: {}", disk_.key.value, e.what()));
      throw;
    }
  }
  std::optional<std::uint64_t> total() const override { return std::nullopt; }

 private:
  // A changeId that is not known any more is InvalidArgument, a stale or damaged tracking file FileFault. An unknown
  // device key is InvalidArgument too, but no matter of history.
  static bool lost(const vsphere::FaultError& e) {
    if (e.name() == "InvalidArgument") return e.property() != "deviceKey" && e.property() != "snapshot";
    return e.name() == "FileFault" || e.name() == "FileNotFound" || e.name() == "CannotAccessFile" ||
           e.name() == "CorruptedFile";
  }

  vsphere::Session& session_;
  FrozenDisk disk_;
  bool allocated_;
  vsphere::ChangedAreas areas_;
  bool given_up_ = false;
};

// What a transport reads of a snapshot, for as long as vSphere has that snapshot. A transport that reads files would
// not notice: below a snapshot that was removed they are written again.
class SnapshotSource final : public copy::Source {
 public:
  SnapshotSource(std::unique_ptr<copy::Source> inner, vsphere::Session& session, model::VmId vm, std::string name,
                 SnapshotId snapshot)
      : inner_(std::move(inner)),
        session_(session),
        vm_(std::move(vm)),
        name_(std::move(name)),
        snapshot_(std::move(snapshot)) {}

  std::uint64_t bytes() const override { return inner_->bytes(); }
  void prepare(copy::Progress& progress, std::stop_token stop) override { inner_->prepare(progress, std::move(stop)); }
  bool costly() const override { return inner_->costly(); }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override { return inner_->connect(std::move(stop)); }
  std::unique_ptr<copy::Permit> permit() override { return inner_->permit(); }
  void failed(ByteRange range) noexcept override { inner_->failed(range); }
  copy::Way way() const override { return inner_->way(); }
  void check(std::stop_token stop) override {
    inner_->check(stop);
    if (vsphere::snapshots(session_, vm_, stop).find(snapshot_)) return;
    throw Error(Fault::conflict, fmt::format("snapshot {} of {} was removed by somebody else while it was being read; "
                                             "run the same command again to continue with a new one",
                                             snapshot_.value, name_));
  }

 private:
  const std::unique_ptr<copy::Source> inner_;
  vsphere::Session& session_;
  const model::VmId vm_;
  const std::string name_;
  const SnapshotId snapshot_;
};

class VsphereMachine final : public Machine {
 public:
  VsphereMachine(vsphere::Session& session, MachineOptions options, std::unique_ptr<Transport> transport, log::Log& log)
      : session_(session), options_(std::move(options)), transport_(std::move(transport)), log_(log) {}

  model::Vm describe(std::stop_token stop) override;
  bool ensure_tracking(const Tag& tag, std::stop_token stop) override;
  Point freeze(const Tag& tag, Quiesce quiesce, std::stop_token stop) override;
  std::optional<Point> recall(const SnapshotId& snapshot, std::stop_token stop) override;
  std::string thaw(const SnapshotId& snapshot, const JobId& job, bool unmerged_before, std::stop_token stop) override;
  std::vector<SnapshotId> snapshots_of(const JobId& job, std::stop_token stop) override;
  std::unique_ptr<copy::Source> serve(const Point& point, model::DiskKey disk, std::stop_token stop) override;
  std::unique_ptr<copy::Work> changed(const Point& point, model::DiskKey disk,
                                      const std::optional<model::ChangeId>& since, std::stop_token stop) override;
  bool written_since(const model::Disk& disk, const model::ChangeId& since, std::stop_token stop) override;
  void power_off(Stop how, std::chrono::seconds patience, std::stop_token stop) override;

 private:
  void remove_activations(const JobId& job, std::stop_token stop);
  void activate_tracking(const Tag& tag, std::stop_token stop);
  SnapshotId take(const Tag& tag, bool quiesce, Consistency consistency, const std::string& remark,
                  std::stop_token stop);
  SnapshotId take_quiesced(const Tag& tag, const model::Vm& vm, Quiesce quiesce, std::stop_token stop);
  void let_go(std::stop_token stop);
  void remove(const SnapshotId& snapshot, std::stop_token stop);
  std::string consolidate_after(bool unmerged_before, std::stop_token stop);
  void stop_guest(Stop how, std::chrono::seconds patience, std::stop_token stop);

  // As people know it; its id until it was described.
  std::string name() {
    auto known = name_.lock();
    return known->empty() ? options_.vm.value : *known;
  }

  vsphere::Session& session_;
  MachineOptions options_;
  std::unique_ptr<Transport> transport_;
  log::Log& log_;
  Sync<std::string> name_;
};

model::Vm VsphereMachine::describe(std::stop_token stop) {
  model::Vm vm = vsphere::describe(session_, options_.vm, stop);
  *name_.lock() = vm.name;
  if (!options_.instance_uuid.empty() && vm.instance_uuid != options_.instance_uuid)
    throw Error(
        Fault::conflict,
        fmt::format(
            "{} is now another machine ('{}', instance UUID {}) than the one this job began with ({}): the machine was "
            "registered anew or the address leads to another vCenter. Start a new job for it.",
            options_.vm.value, vm.name, vm.instance_uuid, options_.instance_uuid));
  return vm;
}

void VsphereMachine::remove_activations(const JobId& job, std::stop_token stop) {
  for (const model::Snapshot& snapshot : vsphere::snapshots(session_, options_.vm, stop).snapshots)
    if (is_activation(snapshot, job)) {
      const bool unmerged_before = vsphere::consolidation_needed(session_, options_.vm, stop);
      remove(snapshot.id, stop);
      if (const std::string left = consolidate_after(unmerged_before, stop); !left.empty()) log_.warning(left);
    }
}

void VsphereMachine::activate_tracking(const Tag& tag, std::stop_token stop) {
  log_.info("activating change tracking by a snapshot that is removed at once", {{"vm", options_.vm.value}});
  vsphere::SnapshotWish wish;
  wish.name = snapshot_name;
  wish.description = describe_tag(tag, "tracking", Consistency::crash, "");
  wish.is_it = [&](const model::Snapshot& snapshot) { return is_activation(snapshot, tag.job); };
  vsphere::create_snapshot(session_, options_.vm, wish, stop);
  remove_activations(tag.job, stop);
}

bool VsphereMachine::ensure_tracking(const Tag& tag, std::stop_token stop) {
  remove_activations(tag.job, stop);  // of a run that died in between
  model::Vm vm = describe(stop);
  if (!vm.tracking_supported) {
    log_.warning("this machine cannot track changes (hardware version below 7, or a host that does not support it)",
                 {{"vm", vm.name}, {"hardware", vm.hardware_version}});
    return false;
  }
  if (std::none_of(vm.disks.begin(), vm.disks.end(), trackable)) return false;
  if (!vm.tracking_enabled) {
    try {
      vsphere::enable_tracking(session_, options_.vm, stop);
    } catch (const vsphere::FaultError& e) {
      if (e.name() != "NotSupported") throw;
      log_.warning("change tracking cannot be switched on", {{"vm", vm.name}, {"reason", e.what()}});
      return false;
    }
    vm = describe(stop);
  }
  const auto acts = [](const model::Vm& of) {
    return std::all_of(of.disks.begin(), of.disks.end(),
                       [](const model::Disk& disk) { return !trackable(disk) || disk.change_id; });
  };
  if (acts(vm)) return true;
  // Also of a machine that is off: else its first snapshot has no change ids yet, and the cycle after it reads all
  // again.
  activate_tracking(tag, stop);
  vm = describe(stop);
  if (acts(vm) || vm.power != model::Power::on) return true;
  log_.warning(
      "change tracking is switched on but does not act on every disk; snapshots that were there before can be the reason",
      {{"vm", vm.name}, {"snapshots", std::to_string(vm.snapshots.size())}});
  return std::any_of(vm.disks.begin(), vm.disks.end(),
                     [](const model::Disk& disk) { return trackable(disk) && disk.change_id; });
}

SnapshotId VsphereMachine::take(const Tag& tag, bool quiesce, Consistency consistency, const std::string& remark,
                                std::stop_token stop) {
  vsphere::SnapshotWish wish;
  wish.name = snapshot_name;
  wish.description = describe_tag(tag, "copy", consistency, remark);
  wish.quiesce = quiesce;
  wish.is_it = [&](const model::Snapshot& snapshot) { return is_point(snapshot, tag); };
  return vsphere::create_snapshot(session_, options_.vm, wish, stop);
}

SnapshotId VsphereMachine::take_quiesced(const Tag& tag, const model::Vm& vm, Quiesce quiesce, std::stop_token stop) {
  if (quiesce == Quiesce::never) return take(tag, false, Consistency::crash, "quiescing was not wanted", stop);
  if (!vm.tools_running) {
    if (quiesce == Quiesce::always)
      throw Error(
          Fault::conflict,
          fmt::format(
              "{} cannot be quiesced because VMware Tools are not running in it: install or start open-vm-tools in the "
              "guest, or allow a crash-consistent snapshot with --quiesce auto or never",
              vm.name),
          "ToolsUnavailable");
    return take(tag, false, Consistency::crash, "VMware Tools are not running in the guest", stop);
  }
  try {
    return take(tag, true, Consistency::application, "", stop);
  } catch (const vsphere::FaultError& e) {
    if (!may_be_the_quiescing(e)) throw;
    if (quiesce == Quiesce::always)
      throw Error(
          Fault::conflict,
          fmt::format(
              "the quiesced snapshot of {} failed ({}). See the guest's event log, or allow a crash-consistent snapshot "
              "with --quiesce auto or never.",
              vm.name, e.what()),
          e.name());
    log_.warning("quiescing failed; taking a crash-consistent snapshot instead",
                 {{"vm", vm.name}, {"reason", e.what()}});
    const std::string said =
        e.detail().message.empty() ? e.name() : fmt::format("{}: {}", e.name(), e.detail().message);
    return take(tag, false, Consistency::crash, one_line(fmt::format("quiescing failed ({})", said), 300), stop);
  }
}

Point VsphereMachine::freeze(const Tag& tag, Quiesce quiesce, std::stop_token stop) {
  const model::Vm vm = describe(stop);
  if (vm.consolidation_needed)
    log_.warning(
        "the machine's disks need consolidation, which slows its snapshots down: consolidate them in vSphere when it is convenient",
        {{"vm", vm.name}});
  SnapshotId snapshot;
  if (vm.power == model::Power::off)
    snapshot = take(tag, false, Consistency::powered_off, "", stop);
  else
    snapshot = take_quiesced(tag, vm, quiesce, stop);
  std::optional<Point> point = recall(snapshot, stop);
  if (!point)
    throw Error(Fault::conflict,
                fmt::format("the snapshot {} of {} was removed by somebody as soon as it was made: see which backup or "
                            "clean-up removes foreign snapshots, then start again",
                            snapshot.value, vm.name));
  // What was off when we looked may have been started before the snapshot was made.
  if (point->consistency == Consistency::powered_off &&
      vsphere::power_state(session_, options_.vm, stop) != model::Power::off) {
    point->consistency = Consistency::crash;
    point->remark = "the machine was started while the snapshot was made";
  }
  point->unmerged_before = vm.consolidation_needed;
  return *point;
}

std::optional<Point> VsphereMachine::recall(const SnapshotId& snapshot, std::stop_token stop) {
  // Looked up in this machine's own tree: a moref recorded earlier may name another machine's snapshot by now.
  const vsphere::SnapshotTree tree = vsphere::snapshots(session_, options_.vm, stop);
  const model::Snapshot* known = tree.find(snapshot);
  if (!known) return std::nullopt;
  const auto disks = vsphere::frozen_disks(session_, snapshot, stop);
  if (!disks) return std::nullopt;
  Point point;
  point.snapshot = snapshot;
  if (const auto mark = parse_mark(*known)) {
    point.consistency = mark->consistency;
    point.remark = mark->remark;
  }
  for (const model::Disk& disk : *disks)
    point.disks.push_back(
        {disk.key, disk.capacity, disk.change_id, disk.file, disk.has_parent, disk.uuid, disk.content_id});
  return point;
}

std::string VsphereMachine::thaw(const SnapshotId& snapshot, const JobId& job, bool unmerged_before,
                                 std::stop_token stop) {
  try {
    const vsphere::SnapshotTree tree = vsphere::snapshots(session_, options_.vm, stop);
    const model::Snapshot* known = tree.find(snapshot);
    if (!known) {
      let_go(stop);  // somebody removed it; what was opened of it may still be held
      // Or we did, and were stopped before its files were merged.
      return consolidate_after(unmerged_before, stop);
    }
    const auto mark = parse_mark(*known);
    if (!mark || mark->tag.job != job)
      throw Error(Fault::conflict,
                  fmt::format("the snapshot {} ('{}') of {} is not one of this job's: it is left alone", snapshot.value,
                              known->name, options_.vm.value));
    unmerged_before = vsphere::consolidation_needed(session_, options_.vm, stop);
    remove(snapshot, stop);
    return consolidate_after(unmerged_before, stop);
  } catch (const vsphere::FaultError& e) {
    if (e.name() != "ManagedObjectNotFound") throw;
    let_go(stop);
    return {};  // gone, with its machine perhaps: what was wanted
  }
}

// What is not found there is another thing than the snapshot, whose removal may not be taken for done.
void VsphereMachine::let_go(std::stop_token stop) {
  try {
    transport_->let_go(stop);
  } catch (const vsphere::FaultError& e) {
    if (e.name() != "ManagedObjectNotFound") throw;
    throw Error(e.fault(), e.explain());
  }
}

void VsphereMachine::remove(const SnapshotId& snapshot, std::stop_token stop) {
  let_go(stop);
  try {
    vsphere::remove_snapshot(session_, options_.vm, snapshot, stop);
  } catch (const vsphere::FaultError& e) {
    // A removal whose consolidation failed (a backup held a file) is an error too, but the snapshot is gone.
    if (vsphere::snapshots(session_, options_.vm, stop).find(snapshot)) throw;
    log_.warning("a snapshot was removed, but merging its files failed",
                 {{"vm", options_.vm.value}, {"reason", e.what()}});
  }
}

// What our snapshot left behind is ours to merge; what was there before it is not: it may take hours and stun the
// machine.
std::string VsphereMachine::consolidate_after(bool unmerged_before, std::stop_token stop) {
  if (!vsphere::consolidation_needed(session_, options_.vm, stop)) return {};
  std::string reason = "it was needed before this snapshot, too";
  if (!unmerged_before) {
    log_.info("consolidating the machine's disks", {{"vm", options_.vm.value}});
    try {
      vsphere::consolidate_disks(session_, options_.vm, stop);
      return {};
    } catch (const vsphere::FaultError& e) {
      reason = e.what();
    }
  }
  return fmt::format(
      "the files of removed snapshots of {} are still to be merged ({}): consolidate its disks in vSphere; until then its next "
      "cycle may not be readable",
      name(), reason);
}

std::vector<SnapshotId> VsphereMachine::snapshots_of(const JobId& job, std::stop_token stop) {
  // A creation that was told to start and never waited for still makes its snapshot.
  vsphere::await_unfinished(session_, vsphere::vm_ref(options_.vm), {"createSnapshot", "createSnapshotEx"},
                            std::nullopt, stop);
  std::vector<SnapshotId> ours;
  for (const model::Snapshot& snapshot : vsphere::snapshots(session_, options_.vm, stop).snapshots)
    if (const auto mark = parse_mark(snapshot); mark && mark->tag.job == job) ours.push_back(snapshot.id);
  return ours;
}

const FrozenDisk& must_have(const Point& point, model::DiskKey disk) {
  const FrozenDisk* frozen = point.find(disk);
  if (!frozen)
    throw Error(Fault::not_found, fmt::format("the snapshot {} has no disk {}: it was added later or removed before",
                                              point.snapshot.value, disk.value));
  return *frozen;
}

std::unique_ptr<copy::Source> VsphereMachine::serve(const Point& point, model::DiskKey disk, std::stop_token stop) {
  return std::make_unique<SnapshotSource>(transport_->serve(point, must_have(point, disk), stop), session_, options_.vm,
                                          name(), point.snapshot);
}

std::unique_ptr<copy::Work> VsphereMachine::changed(const Point& point, model::DiskKey disk,
                                                    const std::optional<model::ChangeId>& since, std::stop_token) {
  const FrozenDisk& frozen = must_have(point, disk);
  if (!since && !frozen.change_id) {
    // Without tracking the question is a fault for certain.
    const std::array whole{ByteRange{0, frozen.capacity}};
    return copy::work(RangeSet(whole));
  }
  if (since && !frozen.change_id)
    throw HistoryLost(fmt::format("the change history of disk {} is lost: change tracking is off for it", disk.value));
  if (since && since->uuid != frozen.change_id->uuid)
    throw HistoryLost(fmt::format("the change history of disk {} is lost: it was begun anew in between (from {} to {})",
                                  disk.value, since->text(), frozen.change_id->text()));
  return std::make_unique<ChangedWork>(session_, options_.vm, point.snapshot, frozen, since);
}

bool VsphereMachine::written_since(const model::Disk& disk, const model::ChangeId& since, std::stop_token stop) {
  try {
    ChangedWork work(session_, options_.vm, {}, {disk.key, disk.capacity, since, disk.file, disk.has_parent, {}, {}},
                     since);
    while (const auto ranges = work.next(stop))
      if (!ranges->empty()) return true;
    return false;
  } catch (const vsphere::FaultError& e) {
    // A host that refuses this form of the question may still answer the one about a snapshot.
    if (e.fault() == Fault::auth || e.name() == "ManagedObjectNotFound") throw;
    throw HistoryLost(fmt::format("what was written to disk {} is not known: {}", disk.key.value, e.what()));
  }
}

void VsphereMachine::stop_guest(Stop how, std::chrono::seconds patience, std::stop_token stop) {
  try {
    vsphere::shut_down_guest(session_, options_.vm, stop);
  } catch (const vsphere::FaultError& e) {
    if (e.name() != "ToolsUnavailable") throw;
    if (how == Stop::guest)
      throw Error(
          Fault::conflict,
          fmt::format("the guest of {} cannot be asked to shut down because VMware Tools are not running in it: "
                      "start open-vm-tools, shut it down by hand, or add --force-poweroff",
                      name()),
          e.name());
    log_.warning("VMware Tools are not running; switching the machine off without asking the guest",
                 {{"vm", options_.vm.value}});
    vsphere::power_off(session_, options_.vm, stop);
    return;
  }
  if (vsphere::wait_until_off(session_, options_.vm, patience, stop)) return;
  if (how == Stop::guest)
    throw Error(
        Fault::timeout,
        fmt::format("the guest of {} did not shut down within {} seconds: see its console, give it more time with "
                    "--shutdown-timeout, or add --force-poweroff",
                    name(), patience.count()));
  log_.warning("the guest did not shut down in time; switching the machine off", {{"vm", options_.vm.value}});
  vsphere::power_off(session_, options_.vm, stop);
}

void VsphereMachine::power_off(Stop how, std::chrono::seconds patience, std::stop_token stop) {
  describe(stop);  // the right machine, before anything irreversible
  const model::Power power = vsphere::power_state(session_, options_.vm, stop);
  if (power == model::Power::off) return;
  if (power == model::Power::suspended && how != Stop::power)
    throw Error(
        Fault::conflict,
        fmt::format("{} is suspended, and what its memory holds would be lost: resume it in vSphere, shut its guest "
                    "down and run the same command again",
                    name()));
  if (how == Stop::power)
    vsphere::power_off(session_, options_.vm, stop);
  else
    stop_guest(how, patience, stop);
  if (!vsphere::wait_until_off(session_, options_.vm, confirmation, stop))
    throw Error(Fault::timeout,
                fmt::format("{} was switched off but is not seen off: somebody may have started it again", name()));
}

}  // namespace

std::unique_ptr<Machine> machine(vsphere::Session& session, MachineOptions options,
                                 std::unique_ptr<Transport> transport, log::Log& log, std::stop_token stop) {
  auto made = std::make_unique<VsphereMachine>(session, std::move(options), std::move(transport), log);
  made->describe(stop);  // there, and the right one
  return made;
}

std::string tag_description(const Tag& tag) { return describe_tag(tag, "copy", Consistency::crash, ""); }

std::optional<Tag> parse_tag(const std::string& name, const std::string& description) {
  if (const auto mark = parse_mark(name, description)) return mark->tag;
  return std::nullopt;
}

}  // namespace vmferry::source::vmware
