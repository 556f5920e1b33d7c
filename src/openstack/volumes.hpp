// Cinder volumes: made once even if a reply is lost, found by metadata, waited for. Knows nothing of jobs or disks.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/service.hpp"

namespace vmferry::openstack {

using Metadata = std::map<std::string, std::string>;

struct VolumeAttachment {
  std::string id;
  ServerId server;     // empty: attached to a host that is no instance
  std::string device;  // as Nova calls it, "/dev/vdb": never to be trusted
};

struct Volume {
  VolumeId id;
  std::string name;
  std::string status;  // creating, available, in-use, ...
  std::uint64_t gib = 0;
  std::string type;
  std::string availability_zone;
  bool bootable = false;
  bool multiattach = false;
  bool encrypted = false;  // what was never written does not read as zeroes
  Metadata metadata;
  Metadata image_metadata;
  std::vector<VolumeAttachment> attachments;
};

struct VolumeWish {
  std::string name;
  std::string description;
  std::uint64_t gib = 0;
  std::string type;               // name or id; empty = the cloud's default
  std::string availability_zone;  // empty = the cloud's default
  ImageId image;                  // whose bytes it holds at first; empty = it is empty
  Metadata metadata;
  // The part of `metadata` that only this volume has: after a lost reply the volume is looked for by it before
  // another one is made. Must not be empty.
  Metadata tag;
};

// What a back end has already and Cinder shall call a volume: docs.openstack.org/api-ref/block-storage/v3/
// "Manage an existing volume". Usually only administrators may.
struct ExistingVolume {
  std::string host;  // "host@backend#pool", as in `cinder get-pools`
  std::string key;   // what the driver knows it by: "source-name" or "source-id"
  std::string reference;
};

namespace volumes {

// Returns when Cinder knows it (status "creating"): wait_for() it. A quota error says the numbers.
Volume create(Service& volume, const VolumeWish& wish, std::stop_token stop);
// The same for one that the back end has; its size is what is there, `wish.gib` is not looked at.
Volume manage(Service& volume, const VolumeWish& wish, const ExistingVolume& existing, std::stop_token stop);
Volume get(Service& volume, const VolumeId& id, std::stop_token stop);  // Error(not_found)
std::optional<Volume> look_up(Service& volume, const VolumeId& id, std::stop_token stop);
// All that carry every one of these pairs.
std::vector<Volume> find(Service& volume, const Metadata& metadata, std::stop_token stop);
std::vector<Volume> find_by_name(Service& volume, const std::string& name, std::stop_token stop);
// Adds or replaces these keys, keeps the others.
void update_metadata(Service& volume, const VolumeId& id, const Metadata& metadata, std::stop_token stop);
void remove_metadata(Service& volume, const VolumeId& id, const std::string& key,
                     std::stop_token stop);  // absent is success
void set_bootable(Service& volume, const VolumeId& id, bool bootable, std::stop_token stop);
void set_image_metadata(Service& volume, const VolumeId& id, const Metadata& properties, std::stop_token stop);
// Absent is success.
void unset_image_metadata(Service& volume, const VolumeId& id, const std::string& key, std::stop_token stop);
// Waits until it is that large. Already as large is success.
void extend(Service& volume, const VolumeId& id, std::uint64_t gib, std::stop_token stop);
// Cinder forgets it, the back end keeps it; waits until it is gone from Cinder. Usually only administrators may.
void unmanage(Service& volume, const VolumeId& id, std::stop_token stop);
// Waits until it is gone. Already gone is success.
void remove(Service& volume, const VolumeId& id, std::stop_token stop);
// Polls until the status is one of `wanted`. An error status ends it at once with Cinder's reason where it gives one.
Volume wait_for(Service& volume, const VolumeId& id, const std::vector<std::string>& wanted,
                std::chrono::seconds patience, std::stop_token stop);

// A status that is on its way to another one.
bool is_passing(const std::string& status);
// Throws Error(unavailable) when the volume is in an error status.
void refuse_error(const Volume& volume);

struct Type {
  std::string id;
  std::string name;
};
// By name or id; Error(config) naming the types there are.
Type find_type(Service& volume, const std::string& name_or_id, std::stop_token stop);
// Error(config) naming the zones there are.
void check_availability_zone(Service& volume, const std::string& name, std::stop_token stop);

// Limits of the project; -1 = none.
struct Limits {
  std::int64_t volumes = -1, volumes_used = 0;
  std::int64_t gib = -1, gib_used = 0;
  // Why `count` more volumes of `gib` GiB in all would be refused; nothing when they fit.
  std::optional<std::string> lacking(std::uint64_t count, std::uint64_t gib_wanted) const;
};
Limits limits(Service& volume, std::stop_token stop);
// Those of one volume type, which a cloud may set beside the project's; `type` by name or id.
Limits type_limits(Service& volume, const std::string& project_id, const std::string& type, std::stop_token stop);

}  // namespace volumes
}  // namespace vmferry::openstack
