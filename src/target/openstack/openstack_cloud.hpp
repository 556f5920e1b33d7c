// OpenStack as a target: Cinder volumes that Nova or os-brick attaches to this host, Neutron ports and a Nova
// server at the end. Names and metadata are migratekit's plus our tag, so that either program goes on with
// the other's volumes.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "openstack/cloud.hpp"
#include "openstack/instance.hpp"
#include "openstack/volumes.hpp"
#include "target/cloud.hpp"
#include "target/device_identity.hpp"
#include "target/openstack/attacher.hpp"
#include "target/openstack/placement.hpp"

namespace vmferry::target::openstack {

struct BrickMode {
  BrickAttaching attaching;
  process::Runner* runner = nullptr;  // not owned; outlives the cloud
};

struct Options {
  std::string volume_type;                          // name or id; empty = the cloud's default
  std::map<std::string, std::string> volume_types;  // by datastore; other disks get volume_type
  std::map<model::DiskKey, ::vmferry::openstack::ExistingVolume> existing_volumes;  // of these disks; none is made
  std::string volume_availability_zone;                                             // empty = the cloud's default
  std::string availability_zone;             // of the server; empty = the cloud's choice
  std::string disk_bus = "virtio";           // or "scsi"
  std::vector<std::string> security_groups;  // ids or names; empty = the default one
  bool conversion_host = true;               // false: this is none, and volumes are never attached here
  std::optional<BrickMode> brick;            // --attach brick; without it Nova attaches
  std::string instance_id;                   // of this host; empty = as instance_sources say
  ::vmferry::openstack::InstanceSources instance_sources;
  std::filesystem::path device_directory = "/dev/disk/by-id";
  std::shared_ptr<const DeviceIdentity> identity;  // empty = sysfs
  bool vz_unsafe_volume_by_name = false;           // find volumes by their name alone
  bool trust_change_id = false;                    // go on from migratekit's change ids without reading everything once
  bool again = false;                              // overwrite volumes that another job gave to a server
  bool adopt_osm = false;                          // take over vmware-migration-kit's volumes, found by name alone
  bool any_address = false;                        // where a wanted address cannot be had, take another
  std::string host;                                // this machine's name, for messages

  // What the cutover will ask for, as far as it is known.
  FlavorRules flavor;
  ServerSettings server;
  std::vector<NetworkChoice> networks;

  std::chrono::seconds volume_patience{600};  // until a volume can be used
  std::chrono::seconds attach_patience{300};  // until Nova and Cinder agree
  std::chrono::seconds device_patience{120};  // until the device appears here
  std::chrono::seconds server_patience{900};
};

// `metadata` reaches the metadata service, without a proxy; null without a conversion host. `clock` and `log` outlive
// the result. Thread-safe.
std::unique_ptr<Cloud> openstack_cloud(Options options, std::shared_ptr<::vmferry::openstack::Cloud> cloud,
                                       std::unique_ptr<http::Transport> metadata, Clock& clock, log::Log& log);

}  // namespace vmferry::target::openstack
