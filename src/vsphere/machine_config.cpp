// Reading VirtualMachine properties. Type names are those of the vSphere Web Services API reference.
#include "vsphere/machine_config.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <tuple>

#include <fmt/format.h>

namespace vmferry::vsphere {

namespace {

struct Controller {
  std::string kind;  // as model::Disk::controller
  int order = 9;     // among kinds of controllers, for the boot order
  int bus = 0;
  bool shared = false;
};

struct ControllerKind {
  std::string_view type;
  std::string_view kind;
  int order;
};

// Device keys run SCSI 2000.., IDE 3000.., SATA 16000.., NVMe 31000.. and the firmware tries SCSI first.
constexpr ControllerKind controller_kinds[] = {
    {"ParaVirtualSCSIController", "pvscsi", 0},
    {"VirtualLsiLogicController", "lsilogic", 0},
    {"VirtualLsiLogicSASController", "lsisas1068", 0},
    {"VirtualBusLogicController", "buslogic", 0},
    {"VirtualSCSIController", "scsi", 0},
    {"VirtualIDEController", "ide", 1},
    {"VirtualAHCIController", "sata", 2},
    {"VirtualSATAController", "sata", 2},
    {"VirtualNVMEController", "nvme", 3},
    {"VirtualUSBController", "usb", 8},
    {"VirtualUSBXHCIController", "usb", 8},
};

std::int32_t narrow(std::int64_t value, std::string_view what) {
  if (value < std::numeric_limits<std::int32_t>::min() || value > std::numeric_limits<std::int32_t>::max())
    throw Error(Fault::data, fmt::format("the server's {} is out of range: {}", what, value));
  return static_cast<std::int32_t>(value);
}

std::map<std::int32_t, Controller> controllers_of(const std::vector<Node>& devices) {
  std::map<std::int32_t, Controller> found;
  for (const Node& device : devices) {
    const std::string type = device.type();
    const auto* known = std::find_if(std::begin(controller_kinds), std::end(controller_kinds),
                                     [&](const ControllerKind& k) { return k.type == type; });
    if (known == std::end(controller_kinds)) continue;
    Controller controller{std::string(known->kind), known->order, 0, false};
    controller.bus = narrow(device["busNumber"].integer_or(0), "busNumber");
    const std::string sharing = device["sharedBus"].text();
    controller.shared = !sharing.empty() && sharing != "noSharing";
    found[narrow(device["key"].integer_or(0), "device key")] = controller;
  }
  return found;
}

model::DiskMode mode_of(const std::string& text) {
  if (text == "independent_persistent") return model::DiskMode::independent_persistent;
  if (text == "independent_nonpersistent") return model::DiskMode::independent_nonpersistent;
  if (text == "nonpersistent") return model::DiskMode::nonpersistent;
  if (text == "undoable") return model::DiskMode::undoable;
  if (text == "append") return model::DiskMode::append;
  return model::DiskMode::persistent;
}

model::Backing backing_of(const Node& backing) {
  const std::string type = backing.type();
  if (type == "VirtualDiskFlatVer2BackingInfo" || type == "VirtualDiskFlatVer1BackingInfo") return model::Backing::flat;
  if (type == "VirtualDiskSparseVer2BackingInfo" || type == "VirtualDiskSparseVer1BackingInfo")
    return model::Backing::sparse;
  if (type == "VirtualDiskSeSparseBackingInfo") return model::Backing::se_sparse;
  if (type == "VirtualDiskRawDiskMappingVer1BackingInfo")
    return backing["compatibilityMode"].text() == "virtualMode" ? model::Backing::rdm_virtual
                                                                : model::Backing::rdm_physical;
  if (type == "VirtualDiskRawDiskVer2BackingInfo" || type == "VirtualDiskPartitionedRawDiskVer2BackingInfo")
    return model::Backing::raw_device;
  return model::Backing::other;
}

std::uint64_t capacity_of(const Node& device, model::DiskKey key) {
  // capacityInBytes (vSphere API 5.5) is exact; older hosts know whole KiB only.
  std::int64_t bytes = 0;
  if (const auto exact = device["capacityInBytes"].integer()) {
    bytes = *exact;
  } else {
    const std::int64_t kib = device["capacityInKB"].integer_or(0);
    if (kib < 0 || kib > std::numeric_limits<std::int64_t>::max() / 1024)
      throw Error(Fault::data, fmt::format("the server's capacity of disk {} is impossible: {} KiB", key.value, kib));
    bytes = kib * 1024;
  }
  if (bytes < 0)
    throw Error(Fault::data, fmt::format("the server's capacity of disk {} is impossible: {} bytes", key.value, bytes));
  return static_cast<std::uint64_t>(bytes);
}

model::Disk parse_disk(const Node& device, const std::map<std::int32_t, Controller>& controllers) {
  model::Disk disk;
  disk.key.value = narrow(device["key"].integer_or(0), "device key");
  disk.label = device["deviceInfo"]["label"].text();
  disk.capacity = capacity_of(device, disk.key);
  const Node backing = device["backing"];
  disk.backing = backing_of(backing);
  // RawDiskVer2 names its file differently.
  disk.file = backing["fileName"] ? backing["fileName"].text() : backing["descriptorFileName"].text();
  disk.has_parent = static_cast<bool>(backing["parent"]);
  disk.thin = backing["thinProvisioned"].flag_or(false);
  disk.mode = mode_of(backing["diskMode"].text());
  const std::string sharing = backing["sharing"].text();
  disk.shared = !sharing.empty() && sharing != "sharingNone";
  if (const Node change = backing["changeId"]) disk.change_id = model::ChangeId::parse(change.text());
  disk.uuid = backing["uuid"].text();
  disk.content_id = backing["contentId"].text();
  disk.unit = narrow(device["unitNumber"].integer_or(0), "unitNumber");
  const auto controller = controllers.find(narrow(device["controllerKey"].integer_or(0), "controllerKey"));
  if (controller != controllers.end()) {
    disk.controller = controller->second.kind;
    disk.bus = controller->second.bus;
    disk.shared = disk.shared || controller->second.shared;
  }
  return disk;
}

struct NicKind {
  std::string_view type;
  std::string_view kind;
};
constexpr NicKind nic_kinds[] = {
    {"VirtualVmxnet3", "vmxnet3"}, {"VirtualVmxnet3Vrdma", "vmxnet3vrdma"},
    {"VirtualVmxnet2", "vmxnet2"}, {"VirtualVmxnet", "vmxnet"},
    {"VirtualE1000", "e1000"},     {"VirtualE1000e", "e1000e"},
    {"VirtualPCNet32", "pcnet32"}, {"VirtualSriovEthernetCard", "sriov"},
};

std::vector<model::Nic> parse_nics(const std::vector<Node>& devices) {
  std::vector<model::Nic> nics;
  for (const Node& device : devices) {
    const std::string type = device.type();
    const auto* known =
        std::find_if(std::begin(nic_kinds), std::end(nic_kinds), [&](const NicKind& k) { return k.type == type; });
    // A card of a kind we do not know still has an address that a port must get.
    if (known == std::end(nic_kinds) && !device["macAddress"]) continue;
    model::Nic nic;
    nic.key = narrow(device["key"].integer_or(0), "device key");
    nic.label = device["deviceInfo"]["label"].text();
    nic.summary = device["deviceInfo"]["summary"].text();
    nic.mac = device["macAddress"].text();
    for (char& c : nic.mac) {
      if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
      if (c == '-') c = ':';
    }
    const Node backing = device["backing"];
    nic.network = backing["deviceName"].text();
    // A distributed port group and an opaque network are known by id here; describe() looks the former's name up.
    if (nic.network.empty()) nic.network = backing["port"]["portgroupKey"].text();
    if (nic.network.empty()) nic.network = backing["opaqueNetworkId"].text();
    nic.kind = known == std::end(nic_kinds) ? type : std::string(known->kind);
    nic.connected = device["connectable"]["connected"].flag_or(true);
    nics.push_back(std::move(nic));
  }
  return nics;
}

void walk_snapshots(const std::vector<Node>& trees, const SnapshotId& parent, std::vector<model::Snapshot>& into,
                    int depth) {
  // vSphere allows 32 levels; a reply that goes on and on must not exhaust the stack.
  if (depth > 500) throw Error(Fault::data, "the server's snapshot tree is deeper than any vSphere allows");
  for (const Node& tree : trees) {
    model::Snapshot snapshot;
    snapshot.id.value = tree["snapshot"].moref().value;
    snapshot.name = unescape_name(tree["name"].text());
    snapshot.description = tree["description"].text();
    snapshot.parent = parent;
    into.push_back(snapshot);
    walk_snapshots(tree.all("childSnapshotList"), snapshot.id, into, depth + 1);
  }
}

// "vmx-19" -> 19; 0 when it does not say.
int hardware_number(const std::string& version) {
  const auto dash = version.rfind('-');
  if (dash == std::string::npos) return 0;
  int number = 0;
  std::from_chars(version.data() + dash + 1, version.data() + version.size(), number);
  return number;
}

std::vector<std::int32_t> boot_order_of(const Node& options) {
  std::vector<std::int32_t> keys;
  for (const Node& entry : options.all("bootOrder"))
    if (const auto key = entry["deviceKey"].integer();
        key && entry.type() == "VirtualMachineBootOptionsBootableDiskDevice")
      keys.push_back(narrow(*key, "boot order key"));
  return keys;
}

}  // namespace

std::string controller_kind(const std::string& type) {
  for (const ControllerKind& known : controller_kinds)
    if (known.type == type) return std::string(known.kind);
  return {};
}

std::string unescape_name(const std::string& stored) {
  std::string name;
  for (std::size_t i = 0; i < stored.size(); ++i) {
    if (stored[i] == '%' && i + 2 < stored.size()) {
      std::string code = stored.substr(i + 1, 2);
      code[1] = static_cast<char>(code[1] | 0x20);
      const char plain = code == "2f" ? '/' : code == "5c" ? '\\' : code == "25" ? '%' : '\0';
      if (plain != '\0') {
        name += plain;
        i += 2;
        continue;
      }
    }
    name += stored[i];
  }
  return name;
}

const std::vector<std::string>& machine_properties() {
  static const std::vector<std::string> paths{"name",
                                              "config.uuid",
                                              "config.instanceUuid",
                                              "config.guestId",
                                              "config.guestFullName",
                                              "config.version",
                                              "config.firmware",
                                              "config.bootOptions",
                                              "config.hardware",
                                              "config.changeTrackingEnabled",
                                              "runtime.powerState",
                                              "runtime.host",
                                              "runtime.consolidationNeeded",
                                              "guest.toolsRunningStatus",
                                              "snapshot",
                                              "capability.changeTrackingSupported"};
  return paths;
}

std::vector<model::Disk> parse_disks(const std::vector<Node>& devices, const std::vector<std::int32_t>& boot_order) {
  const std::map<std::int32_t, Controller> controllers = controllers_of(devices);
  using Place = std::tuple<std::size_t, int, int, int, std::int32_t>;
  std::vector<std::pair<Place, model::Disk>> placed;
  for (const Node& device : devices) {
    if (device.type() != "VirtualDisk") continue;
    model::Disk disk = parse_disk(device, controllers);
    const auto chosen = std::find(boot_order.begin(), boot_order.end(), disk.key.value);
    const auto controller = controllers.find(static_cast<std::int32_t>(device["controllerKey"].integer_or(0)));
    const int kind = controller == controllers.end() ? 9 : controller->second.order;
    const Place place{static_cast<std::size_t>(chosen - boot_order.begin()), kind, disk.bus, disk.unit, disk.key.value};
    placed.emplace_back(place, std::move(disk));
  }
  std::sort(placed.begin(), placed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<model::Disk> disks;
  for (auto& entry : placed) disks.push_back(std::move(entry.second));
  return disks;
}

std::vector<model::Snapshot> parse_snapshots(const Node& info) {
  std::vector<model::Snapshot> snapshots;
  walk_snapshots(info.all("rootSnapshotList"), {}, snapshots, 0);
  return snapshots;
}

model::Vm parse_machine(const ObjectProperties& properties) {
  model::Vm vm;
  vm.id.value = properties.object.value;
  vm.name = unescape_name(properties["name"].text());
  const Node hardware = properties["config.hardware"];
  if (!hardware)
    throw Error(Fault::conflict,
                fmt::format("the configuration of {} ({}) cannot be read: it is inaccessible or orphaned, or this "
                            "user lacks System.Read on it",
                            vm.name.empty() ? "the machine" : vm.name, vm.id.value));
  vm.uuid = properties["config.uuid"].text();
  vm.instance_uuid = properties["config.instanceUuid"].text();
  vm.guest_id = properties["config.guestId"].text();
  vm.guest_name = properties["config.guestFullName"].text();
  vm.hardware_version = properties["config.version"].text();
  vm.firmware = properties["config.firmware"].text() == "efi" ? model::Firmware::efi : model::Firmware::bios;
  const Node boot = properties["config.bootOptions"];
  vm.secure_boot = boot["efiSecureBootEnabled"].flag_or(false);
  const std::string power = properties["runtime.powerState"].text();
  vm.power = power == "poweredOff"  ? model::Power::off
             : power == "suspended" ? model::Power::suspended
                                    : model::Power::on;
  vm.tools_running = properties["guest.toolsRunningStatus"].text() == "guestToolsRunning";
  vm.vcpus = narrow(hardware["numCPU"].integer_or(1), "numCPU");
  const std::int64_t mib = hardware["memoryMB"].integer_or(0);
  if (mib < 0 || mib > (std::int64_t{1} << 40))
    throw Error(Fault::data, fmt::format("the memory size of {} is impossible: {} MiB", vm.name, mib));
  vm.memory = static_cast<std::uint64_t>(mib) * 1024 * 1024;
  // Change tracking needs hardware version 7 whatever else is said (Virtual Disk Programming Guide).
  vm.tracking_supported =
      properties["capability.changeTrackingSupported"].flag_or(false) && hardware_number(vm.hardware_version) >= 7;
  vm.tracking_enabled = properties["config.changeTrackingEnabled"].flag_or(false);
  vm.consolidation_needed = properties["runtime.consolidationNeeded"].flag_or(false);
  const std::vector<Node> devices = hardware.all("device");
  vm.disks = parse_disks(devices, boot_order_of(boot));
  vm.nics = parse_nics(devices);
  vm.snapshots = parse_snapshots(properties["snapshot"]);
  return vm;
}

}  // namespace vmferry::vsphere
