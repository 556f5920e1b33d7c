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
// Addresses of the subnet that are not given away; nothing when the cloud does not tell (by default it tells
// administrators only).
std::optional<std::uint64_t> free_addresses(Service& network, const std::string& network_id,
                                            const std::string& subnet_id, std::stop_token stop);
SecurityGroup find_security_group(Service& network, const std::string& id_or_name, std::stop_token stop);

}  // namespace networks
}  // namespace vmferry::openstack
