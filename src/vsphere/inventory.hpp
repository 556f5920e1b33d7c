// Finding virtual machines and describing them. Knows vSphere's folders, datacenters and vApps.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "model/vm.hpp"
#include "vsphere/session.hpp"

namespace vmferry::vsphere {

// A line of `vmferry inventory`.
struct ListedVm {
  model::VmId id;
  std::string path;  // "/DC0/vm/folder/web01", stored spelling (%2f for a slash in a name)
  std::string name;
  model::Power power = model::Power::off;
  int disks = 0;
  std::uint64_t bytes = 0;  // sum of the disks' capacities
  bool tracking_enabled = false;
  bool is_template = false;
  std::string guest;
  std::string uuid;
  std::string instance_uuid;
};

// All virtual machines that this user may see, by path.
std::vector<ListedVm> list(Session& session, std::stop_token stop);

// By inventory path ("/DC0/vm/web01"), moref ("vm-42"), BIOS or instance UUID, or unique name, in the sense that fits.
// Error(not_found) lists near names and what there is; Error(conflict) lists the paths of an ambiguous name.
model::VmId find(Session& session, const std::string& wanted, std::stop_token stop);

// Everything about one machine, its inventory path and host included. Error(not_found) when it is gone.
model::Vm describe(Session& session, const model::VmId& vm, std::stop_token stop);

// The datacenter a VM lives in, with its path as /folder's dcPath wants it: "DC0", "folder/DC0"; "ha-datacenter" on
// ESXi.
struct Datacenter {
  Moref ref;
  std::string path;
};
Datacenter datacenter_of(Session& session, const model::VmId& vm, std::stop_token stop);

// Where its files are.
struct Datastore {
  Moref ref;
  std::string name;
};
std::vector<Datastore> datastores_of(Session& session, const model::VmId& vm, std::stop_token stop);

Moref vm_ref(const model::VmId& vm);

// The sentence of a miss (pure): near names first, then up to 50 paths.
std::string explain_miss(const std::string& wanted, const std::vector<ListedVm>& all);

// The choice by name or path among what there is (pure). Nothing found: empty. Several: Error(conflict).
model::VmId choose(const std::string& wanted, const std::vector<ListedVm>& all);

}  // namespace vmferry::vsphere
