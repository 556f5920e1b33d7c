// Disks in a machine's configuration, and changing it: existing files are attached to it and detached again, never
// created or destroyed. A change is made against the version of the configuration that was read, so that neither a lost
// reply nor a competitor leads to a second one. Knows nothing of why disks are attached.
#pragma once

#include <compare>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "model/vm.hpp"
#include "vsphere/session.hpp"

namespace vmferry::vsphere {

struct ScsiSlot {
  int bus = 0;
  int unit = 0;
  auto operator<=>(const ScsiSlot&) const = default;
};
std::string to_string(const ScsiSlot& slot);                       // "scsi1:3"
std::optional<ScsiSlot> parse_scsi_slot(const std::string& text);  // nothing for any other text

struct AttachedDisk {
  std::int32_t key = 0;
  std::optional<ScsiSlot> slot;    // nothing: at no SCSI controller
  std::vector<std::string> files;  // the backing's file, then its parents'
  std::string uuid;                // "6000C29a-...", as the server spells it
  std::uint64_t capacity = 0;
};

struct ScsiController {
  std::int32_t key = 0;
  bool paravirtual = true;
  bool sas = false;
  bool shared = false;  // with other machines, which see its disks too
  bool operator==(const ScsiController&) const = default;
};

// What a machine's configuration says, at one moment.
struct Configuration {
  std::string version;  // changeVersion
  std::string name;
  std::string uuid;  // of its SMBIOS
  std::string instance_uuid;
  bool on = false;
  std::map<int, ScsiController> scsi_controllers;  // by bus
  std::set<ScsiSlot> taken;                        // by devices of any kind
  std::vector<AttachedDisk> disks;
  std::map<std::string, std::string> settings;  // extraConfig
};

// FaultError "ManagedObjectNotFound" when the machine is gone.
Configuration configuration(Session& session, const model::VmId& vm, std::stop_token stop);
Configuration parse_configuration(const std::vector<Node>& devices, const std::vector<Node>& extra);  // for tests

// Throws when there is none: whatever is remembered about the machine by its instance UUID would never be found again.
void require_instance_uuid(const Configuration& configuration);

// Where the next disk goes, other than to `avoid`: the lowest unit of the pvscsi controllers there are, else of one
// more; only when there can be no more, of another kind's. Never of one that is shared with other machines. Nothing
// when four controllers are full. 15 disks a controller: pvscsi takes more since vSphere 6.7, in some guests only.
std::optional<ScsiSlot> free_slot(const Configuration& configuration, const std::set<ScsiSlot>& avoid = {});

struct Attachment {
  ScsiSlot slot;
  std::string file;  // "[datastore1] web01/web01.vmdk"
  std::uint64_t capacity = 0;
};

// One change, of which the server makes all or nothing.
struct Change {
  std::optional<Attachment> attach;             // as independent_nonpersistent: what is written to it goes nowhere
  std::vector<AttachedDisk> detach;             // their files stay
  std::map<std::string, std::string> settings;  // extraConfig; an empty value takes one away
};

// Asks `wish` what is missing in the configuration as it is, and makes that change, until nothing is missing. Gives
// the configuration that `wish` was content with. Waits for other tasks on the machine. A disk is never attached a
// second time because it was not seen after the first.
Configuration bring_about(Session& session, const model::VmId& vm,
                          const std::function<std::optional<Change>(const Configuration&)>& wish,
                          const std::string& what, std::stop_token stop);

// For tests.
Call reconfiguration(const model::VmId& vm, const Configuration& as_read, const Change& change);

// Machines with this UUID, of their SMBIOS or their instance.
std::vector<model::VmId> machines_with_uuid(Session& session, const std::string& uuid, bool instance,
                                            std::stop_token stop);

}  // namespace vmferry::vsphere
