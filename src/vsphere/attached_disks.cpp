// ReconfigVM_Task for disks that exist already. The order of elements is that of the schema, which vSphere insists on.
#include "vsphere/attached_disks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "vsphere/inventory.hpp"
#include "vsphere/machine_config.hpp"
#include "vsphere/properties.hpp"
#include "vsphere/tasks.hpp"

namespace vmferry::vsphere {

namespace {

using namespace std::chrono_literals;

constexpr int buses = 4;            // "Each virtual machine can have a maximum of four SCSI controllers"
constexpr int units = 16;           // "z is a virtual device node from 0 to 15"
constexpr int controller_unit = 7;  // "By default, the SCSI controller is assigned to virtual device node (z:7)":
// https://pubs.vmware.com/vsphere-51/topic/com.vmware.vsphere.vm_admin.doc/GUID-5872D173-A076-42FE-8D0B-9DB0EB0E7362.html

constexpr std::int32_t new_controller = -101;  // keys of what is being added are negative
constexpr std::int32_t new_disk = -201;

constexpr std::chrono::seconds blocked_patience{600};
constexpr std::chrono::seconds blocked_pause{2};
constexpr int unseen = 5;         // changes that were made and then not seen, or looks for a disk that was attached
constexpr int competitors = 100;  // that changed the configuration between our look and our change

const std::vector<std::string>& reconfiguring() {
  static const std::vector<std::string> verbs{"reconfigure", "reconfigVM", "reconfigVMTask"};
  return verbs;
}

bool is_scsi(const std::string& type) {
  return type == "ParaVirtualSCSIController" || type == "VirtualLsiLogicController" ||
         type == "VirtualLsiLogicSASController" || type == "VirtualBusLogicController" ||
         type == "VirtualSCSIController";
}

AttachedDisk parse_attached(const Node& device, std::optional<ScsiSlot> slot) {
  AttachedDisk disk;
  disk.key = static_cast<std::int32_t>(device["key"].integer_or(0));
  disk.slot = slot;
  const Node backing = device["backing"];
  disk.uuid = backing["uuid"].text();
  disk.capacity =
      static_cast<std::uint64_t>(device["capacityInBytes"].integer_or(device["capacityInKB"].integer_or(0) * 1024));
  // 32 snapshots are the most there can be; a reply that goes on and on shall not exhaust us.
  int depth = 0;
  for (Node at = backing; at && depth < 100; at = at["parent"], ++depth)
    if (const std::string file = at["fileName"].text(); !file.empty()) disk.files.push_back(file);
  return disk;
}

ScsiController parse_controller(const Node& device) {
  ScsiController found;
  found.key = static_cast<std::int32_t>(device["key"].integer_or(0));
  found.paravirtual = device.type() == "ParaVirtualSCSIController";
  found.sas = device.type() == "VirtualLsiLogicSASController";
  const std::string sharing = device["sharedBus"].text();
  found.shared = !sharing.empty() && sharing != "noSharing";
  return found;
}

void add_controller(Call& call, int bus) {
  call.open("deviceChange", "VirtualDeviceConfigSpec")
      .text("operation", "add")
      .open("device", "ParaVirtualSCSIController")
      .number("key", new_controller)
      .number("busNumber", bus)
      .text("sharedBus", "noSharing")
      .close()
      .close();
}

// "If no file operation is specified in the VirtualDeviceSpec, then any backing filenames in the VirtualDevice must
// refer to files that already exist":
// https://raw.githubusercontent.com/yavijava/yavijava.github.io/master/docs/vim.vm.device.VirtualDeviceSpec.html
void add_disk(Call& call, const Attachment& attachment, std::int32_t controller) {
  call.open("deviceChange", "VirtualDeviceConfigSpec")
      .text("operation", "add")
      .open("device", "VirtualDisk")
      .number("key", new_disk)
      .open("backing", "VirtualDiskFlatVer2BackingInfo")
      .text("fileName", attachment.file)
      .text("diskMode", "independent_nonpersistent")
      .close()
      .number("controllerKey", controller)
      .number("unitNumber", attachment.slot.unit)
      .number("capacityInKB", static_cast<std::int64_t>(attachment.capacity / 1024))
      .close()
      .close();
}

// Without a file operation: "destroy" would delete the file, which is the source machine's.
void remove_disk(Call& call, const AttachedDisk& disk) {
  call.open("deviceChange", "VirtualDeviceConfigSpec")
      .text("operation", "remove")
      .open("device", "VirtualDisk")
      .number("key", disk.key)
      .number("capacityInKB", static_cast<std::int64_t>(disk.capacity / 1024))
      .close()
      .close();
}

// An attachment that was made, or may have been.
struct Attached {
  std::string version;  // of the configuration that it named
  bool surely = false;
  // It names a version that still stands, so it has not acted; and of it and the next one that does, one is refused.
  bool has_not_acted(const Configuration& now) const { return !surely && !version.empty() && version == now.version; }
};

Error not_seen(const Session& session, const Configuration& as_read, const std::string& what, bool surely) {
  if (surely)
    return Error(Fault::data, fmt::format("{} accepted a change of {} ({}), but does not show it: this user may not be "
                                          "allowed to read all of its configuration, or somebody detached the disk at "
                                          "once; see its settings in vSphere, and run the same command again",
                                          session.server(), as_read.name, what));
  return Error(
      Fault::conflict,
      fmt::format("whether {} made a change of {} ({}) is not known: the reply was lost, its configuration has "
                  "changed since, and does not show it; run the same command again",
                  session.server(), as_read.name, what));
}

std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

}  // namespace

std::string to_string(const ScsiSlot& slot) { return fmt::format("scsi{}:{}", slot.bus, slot.unit); }

std::optional<ScsiSlot> parse_scsi_slot(const std::string& text) {
  constexpr std::string_view prefix = "scsi";
  const auto colon = text.find(':');
  if (!text.starts_with(prefix) || colon == std::string::npos) return std::nullopt;
  const auto bus = number(std::string_view(text).substr(prefix.size(), colon - prefix.size()));
  const auto unit = number(std::string_view(text).substr(colon + 1));
  if (!bus || !unit || *bus >= buses) return std::nullopt;
  return ScsiSlot{*bus, *unit};
}

Configuration parse_configuration(const std::vector<Node>& devices, const std::vector<Node>& extra) {
  Configuration found;
  std::map<std::int64_t, int> bus_of;  // controller key -> bus
  for (const Node& device : devices) {
    if (!is_scsi(device.type())) continue;
    const int bus = static_cast<int>(device["busNumber"].integer_or(0));
    const ScsiController controller = parse_controller(device);
    bus_of[controller.key] = bus;
    found.scsi_controllers[bus] = controller;
    found.taken.insert({bus, static_cast<int>(device["scsiCtlrUnitNumber"].integer_or(controller_unit))});
  }
  for (const Node& device : devices) {
    std::optional<ScsiSlot> slot;
    const auto bus = bus_of.find(device["controllerKey"].integer_or(0));
    if (const auto unit = device["unitNumber"].integer(); unit && bus != bus_of.end())
      slot = ScsiSlot{bus->second, static_cast<int>(*unit)};
    if (slot) found.taken.insert(*slot);
    if (device.type() == "VirtualDisk") found.disks.push_back(parse_attached(device, slot));
  }
  for (const Node& option : extra) found.settings[option["key"].text()] = option["value"].text();
  return found;
}

Configuration configuration(Session& session, const model::VmId& vm, std::stop_token stop) {
  const ObjectProperties object = read(session, vm_ref(vm),
                                       {"name", "config.changeVersion", "config.uuid", "config.instanceUuid",
                                        "config.hardware.device", "config.extraConfig", "runtime.powerState"},
                                       stop);
  const Node devices = object["config.hardware.device"];
  const std::string name = unescape_name(object["name"].text());
  if (!devices)
    throw Error(Fault::conflict, fmt::format("the configuration of {} ({}) cannot be read: it is inaccessible or "
                                             "orphaned, or this user lacks System.Read on it",
                                             name.empty() ? "the machine" : name, vm.value));
  Configuration found = parse_configuration(devices.children(), object["config.extraConfig"].children());
  found.version = object["config.changeVersion"].text();
  found.name = name;
  found.uuid = object["config.uuid"].text();
  found.instance_uuid = object["config.instanceUuid"].text();
  found.on = object["runtime.powerState"].text() == "poweredOn";
  return found;
}

void require_instance_uuid(const Configuration& configuration) {
  if (!configuration.instance_uuid.empty()) return;
  throw Error(
      Fault::unsupported,
      fmt::format("vSphere shows no instance UUID of {}, by which what is attached would be found again, so "
                  "nothing is attached or detached: see that this user may read its configuration (System.Read), "
                  "or use another transport",
                  configuration.name));
}

// Linux sees a disk come and go on pvscsi by itself. With LSI Logic Parallel it has to be told to look
// (https://knowledge.broadcom.com/external/article?articleNumber=344007) and keeps the device of a disk that left; with
// LSI Logic SAS it misses some. Both are known issues in VMware's own tests of guests (ansible-vsphere-gos-validation).
std::optional<ScsiSlot> free_slot(const Configuration& configuration, const std::set<ScsiSlot>& avoid) {
  enum class Controller { paravirtual, none_yet, other };
  for (const Controller wanted : {Controller::paravirtual, Controller::none_yet, Controller::other})
    for (int bus = 0; bus < buses; ++bus) {
      const auto found = configuration.scsi_controllers.find(bus);
      const bool there = found != configuration.scsi_controllers.end();
      if (there && found->second.shared) continue;
      const Controller kind = !there                      ? Controller::none_yet
                              : found->second.paravirtual ? Controller::paravirtual
                                                          : Controller::other;
      if (kind != wanted) continue;
      for (int unit = 0; unit < units; ++unit) {
        const ScsiSlot slot{bus, unit};
        if (unit != controller_unit && !configuration.taken.contains(slot) && !avoid.contains(slot)) return slot;
      }
    }
  return std::nullopt;
}

Call reconfiguration(const model::VmId& vm, const Configuration& as_read, const Change& change) {
  Call call("ReconfigVM_Task", vm_ref(vm));
  call.open("spec");
  if (!as_read.version.empty()) call.text("changeVersion", as_read.version);
  for (const AttachedDisk& disk : change.detach) remove_disk(call, disk);
  if (change.attach) {
    const auto controller = as_read.scsi_controllers.find(change.attach->slot.bus);
    const bool there = controller != as_read.scsi_controllers.end();
    if (!there) add_controller(call, change.attach->slot.bus);
    add_disk(call, *change.attach, there ? controller->second.key : new_controller);
  }
  for (const auto& [key, value] : change.settings)
    call.open("extraConfig", "OptionValue").text("key", key).text("value", value, "xsd:string").close();
  call.close();
  return call;
}

Configuration bring_about(Session& session, const model::VmId& vm,
                          const std::function<std::optional<Change>(const Configuration&)>& wish,
                          const std::string& what, std::stop_token stop) {
  const auto deadline = session.clock().mono() + blocked_patience;
  // One whose reply was lost, in this run or one that died, still acts: what it leads to is looked at, not what is
  // there while it runs.
  await_unfinished(session, vm_ref(vm), reconfiguring(), reconfiguration_patience, stop);
  std::optional<Attached> attached;
  for (int attempt = 0, made = 0, looks = 0;; ++attempt) {
    const Configuration as_read = configuration(session, vm, stop);
    const std::optional<Change> change = wish(as_read);
    if (!change) return as_read;
    if (change->attach && attached && !attached->has_not_acted(as_read)) {
      if (++looks > unseen) throw not_seen(session, as_read, what, attached->surely);
      sleep_or_cancel(session.clock(), 1s, stop);
      continue;
    }
    if (made == unseen)
      throw Error(Fault::data,
                  fmt::format("{} accepted a change of {} ({}) {} times, but does not show it: this user may "
                              "not be allowed to read all of its configuration",
                              session.server(), as_read.name, what, made));
    try {
      const Moref task = session.call(reconfiguration(vm, as_read, *change), Repeat::never, stop)["returnval"].moref();
      await(session, task, fmt::format("ReconfigVM_Task ({}) on {}", what, as_read.name), reconfiguration_patience,
            stop);
      ++made;
      if (change->attach) attached = Attached{as_read.version, true};
    } catch (const http::Broken& broken) {
      if (!broken.may_have_acted() || attempt > competitors) throw;
      if (change->attach) attached = Attached{as_read.version, false};
      session.log().warning("the reply to ReconfigVM_Task was lost; looking at the configuration", {{"vm", vm.value}});
      sleep_or_cancel(session.clock(), 1s, stop);
      await_unfinished(session, vm_ref(vm), reconfiguring(), reconfiguration_patience, stop);
    } catch (const FaultError& e) {
      // "ConcurrentAccess ... another operation has modified the datastructure": look again.
      if (e.name() == "ConcurrentAccess" && attempt < competitors) continue;
      if (e.name() == "ManagedObjectNotFound" && attempt < competitors) {  // the task was forgotten, or the VM
        if (change->attach) attached = Attached{as_read.version, false};
        continue;
      }
      if (e.name() != "TaskInProgress" || session.clock().mono() > deadline) throw;
      if (!await_unfinished(session, vm_ref(vm), {}, std::nullopt, stop))
        sleep_or_cancel(session.clock(), blocked_pause, stop);
    }
  }
}

std::vector<model::VmId> machines_with_uuid(Session& session, const std::string& uuid, bool instance,
                                            std::stop_token stop) {
  Call call("FindAllByUuid", session.content().search_index);
  call.text("uuid", uuid).flag("vmSearch", true).flag("instanceUuid", instance);
  std::vector<model::VmId> found;
  for (const Node& ref : session.call(call, Repeat::freely, stop).all("returnval"))
    if (const Moref moref = ref.moref(); moref.type == "VirtualMachine") found.push_back({moref.value});
  return found;
}

}  // namespace vmferry::vsphere
