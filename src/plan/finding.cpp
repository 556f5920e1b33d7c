// One small rule for each thing that can be wrong with a machine.
#include "plan/finding.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "plan/plan.hpp"

namespace vmferry::plan {

namespace {

// Whether a disk that is a layer stays one. Without any snapshot one was not merged; nobody is about to do that.
bool stays_layered(const model::Vm& vm, const Wish& wish) {
  return vm.snapshots.empty() || std::any_of(vm.snapshots.begin(), vm.snapshots.end(), [&](const model::Snapshot& one) {
           return !wish.leaving.contains(one.id);
         });
}

void judge_disks(const model::Vm& vm, const Wish& wish, std::vector<Finding>& found) {
  for (const model::Disk& disk : vm.disks) {
    if (wish.skip.contains(disk.key)) continue;
    const std::string name = fmt::format("{} ({})", disk.label, disk.key.value);
    if (const auto reason = impossible(disk))
      found.push_back(
          {Level::problem, name, *reason, fmt::format("or leave it out with --skip-disk {}", disk.key.value)});
    else if (disk.has_parent && wish.reads_flat_files && stays_layered(vm, wish))
      found.push_back(
          {Level::problem, name,
           "it lies above somebody's snapshot, and a disk like that cannot be read over https or from files",
           "remove the machine's snapshots (a backup in progress removes its own when it ends)"});
  }
  const auto kept = std::count_if(vm.disks.begin(), vm.disks.end(),
                                  [&](const model::Disk& disk) { return !wish.skip.contains(disk.key); });
  if (kept == 0) found.push_back({Level::problem, vm.name, "it has no disk to migrate", ""});
}

void judge_tracking(const model::Vm& vm, std::vector<Finding>& found) {
  if (!vm.tracking_supported)
    found.push_back(
        {Level::warning, vm.name,
         fmt::format("it cannot track changed blocks ({}): every cycle copies everything", vm.hardware_version),
         "upgrade its virtual hardware to version 7 or later while it is off"});
  else if (!vm.tracking_enabled)
    found.push_back(
        {Level::note, vm.name,
         "changed block tracking is off; the first migrate switches it on, with a snapshot that stuns it for a moment",
         ""});
}

}  // namespace

std::string_view word(Level level) noexcept {
  switch (level) {
    case Level::problem:
      return "problem";
    case Level::warning:
      return "warning";
    case Level::note:
      break;
  }
  return "note";
}

std::vector<Finding> judge_guest(const model::Vm& vm, const Wish& wish) {
  std::vector<Finding> found;
  if (vm.power == model::Power::suspended) {
    found.push_back({wish.cutover ? Level::problem : Level::warning, vm.name,
                     "it is suspended: what its memory holds is on no disk", "resume it before the cutover"});
    return found;
  }
  if (vm.power == model::Power::off || vm.tools_running) return found;
  found.push_back({Level::warning, vm.name,
                   "VMware Tools do not run in its guest: file systems are not at rest in the snapshots",
                   "install or start open-vm-tools"});
  if (wish.cutover && !wish.force_power_off)
    found.push_back({Level::problem, vm.name, "without VMware Tools its guest cannot be asked to shut down",
                     "start them, shut it down by hand before the cutover, or add --force-poweroff"});
  return found;
}

std::vector<Finding> judge_machine(const model::Vm& vm, const Wish& wish) {
  std::vector<Finding> found;
  judge_disks(vm, wish, found);
  if (wish.tracking) judge_tracking(vm, found);
  if (wish.exports && vm.power != model::Power::off)
    found.push_back({Level::problem, vm.name,
                     "it is not off, and --transport export reads whole disks of machines that are off only",
                     "shut it down, or use another transport"});
  if (vm.consolidation_needed)
    found.push_back(
        {Level::warning, vm.name,
         "its disks need consolidation: an earlier snapshot was not fully removed, and the next one may not be readable",
         "consolidate its disks in vSphere"});
  for (Finding& finding : judge_guest(vm, wish)) found.push_back(std::move(finding));
  if (vm.firmware == model::Firmware::efi)
    found.push_back({Level::note, vm.name,
                     fmt::format("it boots by UEFI{}: the cloud's hosts must have such a firmware",
                                 vm.secure_boot ? " with secure boot" : ""),
                     ""});
  return found;
}

std::vector<Finding> judge_nics(const model::Vm& vm, const std::set<std::string>& mapped) {
  std::vector<Finding> found;
  std::set<std::string> unused = mapped;
  for (const model::Nic& nic : vm.nics) {
    unused.erase(nic.mac);
    if (mapped.contains(nic.mac)) continue;
    found.push_back(
        {Level::problem,
         fmt::format("{} (MAC {}, on \"{}\")", nic.label, nic.mac, nic.network.empty() ? nic.summary : nic.network),
         "it has no network on the other side", fmt::format("add --network-mapping mac={},network-id=ID", nic.mac),
         Fault::usage});
  }
  for (const std::string& mac : unused)
    found.push_back({Level::warning, fmt::format("--network-mapping mac={}", mac),
                     fmt::format("{} has no adapter with that MAC address", vm.name), ""});
  return found;
}

std::vector<Finding> judge_datastores(const model::Vm& vm, const std::string& flag,
                                      const std::set<std::string>& named) {
  std::set<std::string> own;
  for (const model::Disk& disk : vm.disks) own.insert(datastore_of(disk.file));
  std::vector<Finding> found;
  for (const std::string& name : named)
    if (!own.contains(name))
      found.push_back({Level::warning, fmt::format("{} {}", flag, name),
                       fmt::format("{} has no disk on '{}' (it has {})", vm.name, name, fmt::join(own, ", ")),
                       "correct the name, unless it is meant for other machines"});
  return found;
}

void refuse(const std::string& what, const std::vector<Finding>& found) {
  std::string problems;
  std::optional<Fault> fault;
  for (const Finding& finding : found) {
    if (finding.level != Level::problem) continue;
    if (!fault) fault = finding.fault;
    problems +=
        fmt::format("\n  {}: {}{}{}", finding.object, finding.fact, finding.remedy.empty() ? "" : "; ", finding.remedy);
  }
  if (fault) throw Error(*fault, what + ":" + problems);
}

Privileges privileges(const Wish& wish) {
  Privileges needed;
  if (wish.tracking) needed.on_machine.emplace_back("VirtualMachine.Config.ChangeTracking");
  for (const char* privilege : {"VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot",
                                "VirtualMachine.Provisioning.DiskRandomRead"})
    needed.on_machine.emplace_back(privilege);
  if (wish.exports) needed.on_machine.emplace_back("VApp.Export");
  if (wish.cutover) needed.on_machine.emplace_back("VirtualMachine.Interact.PowerOff");
  if (wish.https) needed.on_datacenter = {"Datastore.Browse", "Datastore.FileManagement"};
  if (!wish.hotadd) return needed;
  needed.on_machine.emplace_back("VirtualMachine.Config.AdvancedConfig");
  needed.on_proxy = {"VirtualMachine.Config.AddExistingDisk", "VirtualMachine.Config.RemoveDisk",
                     "VirtualMachine.Config.AddRemoveDevice", "VirtualMachine.Config.AdvancedConfig"};
  return needed;
}

}  // namespace vmferry::plan
