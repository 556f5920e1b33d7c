// Nova servers made from volumes and ports; made once even if a reply is lost. Knows nothing of jobs.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/service.hpp"
#include "openstack/volumes.hpp"

namespace vmferry::openstack {

struct Server {
  ServerId id;
  std::string name;
  std::string status;  // BUILD, ACTIVE, ERROR, SHUTOFF...
  std::string task;    // OS-EXT-STS:task_state
  std::string fault;   // Nova's words when status is ERROR
  std::string availability_zone;
  std::string flavor;                 // its name; before microversion 2.47 its id
  std::string image;                  // id; empty: it runs from a volume
  std::vector<VolumeId> own_volumes;  // deleted with it; Nova says so from microversion 2.3 on
  Metadata metadata;
};

struct ServerWish {
  std::string name;
  std::string flavor_id;
  std::vector<VolumeId> volumes;  // boot order; kept when the server is deleted
  std::vector<PortId> ports;      // NIC order
  std::string availability_zone;
  Metadata metadata;
  Metadata tag;  // the part of `metadata` that only this server has; must not be empty
  std::string key_name;
  std::string user_data;  // as the guest shall see it
  bool config_drive = false;
  std::string group;              // id of a server group
  std::string host;               // only administrators may choose it; from microversion 2.74 on
  std::vector<std::string> tags;  // from microversion 2.52 on
  // Without volumes, the image that it boots from; a boot volume is made from it and goes with the server.
  std::string image_id;
  std::uint64_t boot_volume_gib = 0;  // 0 = no volume: the flavor's own disk
  std::string boot_volume_type;       // name or id; empty = the cloud's default
};

namespace servers {

// Returns when Nova knows it (status BUILD): wait_for_active() it.
Server create(Service& compute, const ServerWish& wish, std::stop_token stop);
Server get(Service& compute, const ServerId& id, std::stop_token stop);  // Error(not_found)
std::optional<Server> look_up(Service& compute, const ServerId& id, std::stop_token stop);
std::vector<Server> find(Service& compute, const Metadata& metadata, std::stop_token stop);
std::vector<Server> find_by_name(Service& compute, const std::string& name, std::stop_token stop);
// ERROR ends it at once with Nova's fault text.
Server wait_for_active(Service& compute, const ServerId& id, std::chrono::seconds patience, std::stop_token stop);
// Waits until it is gone. Already gone is success. Its volumes and ports that were given to it stay.
void remove(Service& compute, const ServerId& id, std::chrono::seconds patience, std::stop_token stop);
// The id of a server group; Error(config) naming those there are, Error(conflict) when several have that name.
std::string find_group(Service& compute, const std::string& id_or_name, std::stop_token stop);
// Error(unsupported) when this cloud's Nova is too old for a wish.
void check_wish(const Service& compute, const std::string& host, const std::vector<std::string>& tags);
void check_boot_volume(const Service& compute, const std::string& type);  // empty: any will do
// Error(config) naming the zones there are.
void check_availability_zone(Service& compute, const std::string& name, std::stop_token stop);

// Compute limits of the project; -1 = none. Memory in MiB.
struct Limits {
  std::int64_t instances = -1, instances_used = 0;
  std::int64_t cores = -1, cores_used = 0;
  std::int64_t ram_mib = -1, ram_mib_used = 0;
  std::int64_t metadata = -1;  // entries of one server
  std::optional<std::string> lacking(std::int64_t cores_wanted, std::int64_t ram_mib_wanted) const;
};
Limits limits(Service& compute, std::stop_token stop);

}  // namespace servers
}  // namespace vmferry::openstack
