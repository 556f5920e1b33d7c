// Neutron floating IPs, found by description, made once even if a reply is lost.
#pragma once

#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/service.hpp"

namespace vmferry::openstack {

struct FloatingIp {
  std::string id;
  std::string address;
  std::string network;  // the external one
  PortId port;          // empty = given to none
  std::string description;
  std::string project;
};

namespace floating_ips {

// Every one with exactly that description.
// `project`: only its own, since an administrator sees those of all.
std::vector<FloatingIp> find_by_description(Service& network, const std::string& description,
                                            const std::string& project, std::stop_token stop);
// The one that leads to the port, whoever made it.
std::optional<FloatingIp> of_port(Service& network, const PortId& port, std::stop_token stop);
// From the external network (id), for that port. After a lost reply it is known by port and description.
FloatingIp create(Service& network, const std::string& external_network, const PortId& port,
                  const std::string& description, std::stop_token stop);
FloatingIp give(Service& network, const std::string& id, const PortId& port, std::stop_token stop);
void remove(Service& network, const std::string& id, std::stop_token stop);  // already gone is success

}  // namespace floating_ips
}  // namespace vmferry::openstack
