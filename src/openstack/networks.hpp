// Neutron networks, subnets and security groups, looked up before anything is changed.
#pragma once

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "openstack/service.hpp"

namespace vmferry::openstack {

struct Network {
  std::string id;
  std::string name;
  std::vector<std::string> subnets;  // ids
};

struct Subnet {
  std::string id;
  std::string name;
  std::string network;
  std::string cidr;
  bool automatic = false;  // its addresses come from the ports' MACs (SLAAC): none can be asked for
};

struct FreeAddresses {
  std::string subnet;  // id
  std::string cidr;
  std::int64_t family = 0;  // 4, 6
  std::int64_t left = 0;    // at most what fits here
};

struct SecurityGroup {
  std::string id;
  std::string name;
};

namespace networks {

// By id or name; Error(config) naming what there is, Error(conflict) when several have that name.
Network find(Service& network, const std::string& id_or_name, std::stop_token stop);
// Only of that network; Error(config) when it belongs to another.
Subnet find_subnet(Service& network, const Network& of, const std::string& id_or_name, std::stop_token stop);
std::vector<Subnet> subnets_of(Service& network, const Network& of, std::stop_token stop);
// Of each subnet, addresses that are not given away; nothing when the cloud does not tell (by default it tells
// administrators only).
std::vector<FreeAddresses> free_addresses(Service& network, const std::string& network_id, std::stop_token stop);
// How many more of "port", "security_group", "security_group_rule" or "floatingip" the project may have; nothing when
// there is no limit.
std::optional<std::int64_t> room(Service& network, const std::string& project_id, const std::string& kind,
                                 std::stop_token stop);
SecurityGroup find_security_group(Service& network, const std::string& id_or_name, std::stop_token stop);

}  // namespace networks
}  // namespace vmferry::openstack
