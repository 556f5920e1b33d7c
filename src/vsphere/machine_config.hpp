// From vSphere's description of a virtual machine to ours. Pure: XML nodes in, model values out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/vm.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::vsphere {

// What describe() must be given; `path` and `host` are left to the caller.
const std::vector<std::string>& machine_properties();
model::Vm parse_machine(const ObjectProperties& properties);

// The disks of a VirtualHardware's <device> elements, in boot order. `devices`: a config's hardware.device list, live
// or of a snapshot. `boot_order`: keys of bootOptions.bootOrder's disks.
std::vector<model::Disk> parse_disks(const std::vector<Node>& devices,
                                     const std::vector<std::int32_t>& boot_order = {});

// model::Disk::controller for a type of vSphere ("ParaVirtualSCSIController": "pvscsi"); empty for what is none.
std::string controller_kind(const std::string& type);

// A VirtualMachineSnapshotInfo as a list, parents first.
std::vector<model::Snapshot> parse_snapshots(const Node& info);

// "name" of an inventory object as a user knows it: vSphere stores '/', '\' and '%' as %2f, %5c and %25.
std::string unescape_name(const std::string& stored);

}  // namespace vmferry::vsphere
