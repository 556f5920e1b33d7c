// What a virtual machine is to us: a few disks and some metadata. Plain data; no I/O, no behaviour beyond ==.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/id.hpp"

namespace vmferry::model {

// The source's own id of a machine (vSphere: the managed object reference, "vm-42"). Stable while it is registered
// there; differs between a vCenter and its ESXi hosts.
using VmId = Id<struct VmTag>;

// The key of a disk device in its VM (vSphere: VirtualDevice.key, 2000...). Stable for the life of the disk.
struct DiskKey {
  std::int32_t value = 0;
  auto operator<=>(const DiskKey&) const = default;
};
std::string to_string(DiskKey key);

// A point in the change history of one disk: "UUID/number". Another UUID means that history was lost in between.
struct ChangeId {
  std::string uuid;
  std::string number;
  bool operator==(const ChangeId&) const = default;
  static std::optional<ChangeId> parse(const std::string& text);
  std::string text() const { return uuid + "/" + number; }
};

enum class Firmware { bios, efi };
enum class Power { on, off, suspended };
enum class DiskMode { persistent, independent_persistent, independent_nonpersistent, nonpersistent, undoable, append };
enum class Backing { flat, sparse, se_sparse, rdm_physical, rdm_virtual, raw_device, other };

struct Disk {
  DiskKey key;
  std::string label;           // "Hard disk 1"
  std::uint64_t capacity = 0;  // bytes
  Backing backing = Backing::flat;
  std::string file;         // "[datastore1] web01/web01.vmdk"
  bool has_parent = false;  // the file is a redo layer above another file (a snapshot exists)
  bool thin = false;
  DiskMode mode = DiskMode::persistent;
  bool shared = false;  // shared bus or multi-writer: another VM may write it
  int bus = 0;          // controller's bus number, then the disk's unit on it: the boot order
  int unit = 0;
  std::string controller;             // "pvscsi", "lsilogic", "ide", "sata", "nvme"...
  std::optional<ChangeId> change_id;  // as the configuration it was read from says (live or snapshot)
  std::string uuid;                   // the backing's, "6000C293-a221-..."; empty when not said
  std::string content_id;             // the backing's: 32 hex digits on ESXi; sure only of what nobody writes to
  bool operator==(const Disk&) const = default;
};

struct Nic {
  std::int32_t key = 0;
  std::string label;    // "Network adapter 1"
  std::string summary;  // "VM Network"
  std::string mac;      // lower case, colons
  std::string network;
  std::string kind;  // "vmxnet3", "e1000"...
  bool connected = true;
  bool operator==(const Nic&) const = default;
};

struct Snapshot {
  SnapshotId id;
  std::string name;
  std::string description;
  SnapshotId parent;  // empty for a root
  bool operator==(const Snapshot&) const = default;
};

struct Vm {
  VmId id;
  std::string name;
  std::string path;  // inventory path, "/DC0/vm/web01"
  std::string uuid;  // BIOS UUID
  std::string instance_uuid;
  std::string guest_id;  // "debian12_64Guest"
  std::string guest_name;
  std::string hardware_version;  // "vmx-19"
  Firmware firmware = Firmware::bios;
  bool secure_boot = false;
  Power power = Power::on;
  bool tools_running = false;
  int vcpus = 1;
  std::uint64_t memory = 0;         // bytes
  bool tracking_supported = false;  // changeTrackingSupported
  bool tracking_enabled = false;    // changeTrackingEnabled in the configuration (it acts only after a stun)
  bool consolidation_needed = false;
  std::string host;         // name of the host it runs on
  std::vector<Disk> disks;  // in boot order: by controller kind, bus, unit
  std::vector<Nic> nics;
  std::vector<Snapshot> snapshots;  // parents before children
  bool operator==(const Vm&) const = default;
};

}  // namespace vmferry::model
