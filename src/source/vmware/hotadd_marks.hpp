// How machines tell what vmferry has attached: a setting of the proxy for each disk, made in one change with the disk,
// and a setting of the source machine for each proxy, made before. What carries no such mark is not ours.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "vsphere/attached_disks.hpp"
#include "vsphere/snapshots.hpp"

namespace vmferry::source::vmware {

// On the proxy. Key: "vmferry.hotadd.scsi1:3".
struct DiskMark {
  std::string vm;    // instance UUID of the machine whose disk it is
  std::string run;   // of one transport object: a lost reply's disk is recognized by it
  std::string host;  // for people; blanks become "_"
  std::string file;  // as it was attached
  JobId job{};       // that froze it: while it has a snapshot, somebody may be reading. Older marks name none
  bool operator==(const DiskMark&) const = default;
};
std::string disk_mark_key(const vsphere::ScsiSlot& slot);
std::string to_string(const DiskMark& mark);
std::optional<DiskMark> parse_disk_mark(const std::string& value);

// On the source. Key: "vmferry.hotadd.proxy.<instance UUID of the proxy>", value: its moref, then what is for people.
std::string proxy_mark_key(const std::string& proxy_instance_uuid);
std::string proxy_mark(const model::VmId& proxy, const std::string& name, const std::string& host);
// An empty value takes it away; one that is there stays as it is.
void set_mark(vsphere::Session& session, const model::VmId& vm, const std::string& key, const std::string& value,
              std::stop_token stop);
struct MarkedProxy {
  std::string instance_uuid;
  model::VmId vm;  // as it was then
};
std::vector<MarkedProxy> marked_proxies(const vsphere::Configuration& source);

// A disk on a proxy that is marked as one of `vm`.
struct MarkedDisk {
  vsphere::ScsiSlot slot;
  DiskMark mark;
  std::optional<vsphere::AttachedDisk> disk;  // nothing: the mark is all there is, or another file is there
};
std::vector<MarkedDisk> marked_disks(const vsphere::Configuration& proxy, const std::string& vm);
// Those of all machines, by their instance UUIDs.
std::map<std::string, std::vector<MarkedDisk>> marked_disks(const vsphere::Configuration& proxy);
std::string places(const std::vector<MarkedDisk>& disks);  // "scsi0:1, scsi1:3"

// On whose behalf marks are judged.
struct Owner {
  std::string run;          // its own
  std::vector<JobId> jobs;  // that no other run works on: the lock of the machine, which is theirs, is held
  bool everything = false;  // the user says that no run lives
};
// Takes out of `disks` what a run of another host may be reading, and gives it: what is attached, not the owner's, and
// of a job that has a snapshot.
std::vector<MarkedDisk> take_out_others(std::vector<MarkedDisk>& disks, const Owner& owner,
                                        const vsphere::SnapshotTree& snapshots);
// The same for the snapshots that `vm` has now: to be asked after the marks were read, for a snapshot is there before
// its disks are attached. A machine that is gone has none.
std::vector<MarkedDisk> take_out_others(vsphere::Session& session, const model::VmId& vm,
                                        std::vector<MarkedDisk>& disks, const Owner& owner, std::stop_token stop);

// Detaches the disks marked as ones of `vm` that `choose` leaves in the list, and takes their marks away. `before` may
// object by throwing. Returns when the proxy's configuration has none of them.
using Choose = std::function<void(std::vector<MarkedDisk>&)>;
using Before = std::function<void(const vsphere::Configuration& proxy, const std::vector<MarkedDisk>&)>;
vsphere::Configuration detach_marked(vsphere::Session& session, const model::VmId& proxy, const std::string& vm,
                                     const Choose& choose, const Before& before, std::stop_token stop);

// All but others' on all proxies that the source machine names; then its marks of proxies that have none of its disks
// any more. What stays attached, a sentence for each proxy. FaultError "ManagedObjectNotFound" when the machine is
// gone.
std::vector<std::string> release_marked(vsphere::Session& session, const model::VmId& vm, const Owner& owner,
                                        const Before& before, std::stop_token stop);
// What release_marked() would leave attached. Changes nothing.
std::vector<std::string> attached_by_others(vsphere::Session& session, const model::VmId& vm, const Owner& owner,
                                            std::stop_token stop);

}  // namespace vmferry::source::vmware
