// Neutron ports, found by MAC and network, made once even if a reply is lost (Neutron allows a MAC once per network).
#pragma once

#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/service.hpp"

namespace vmferry::openstack {

struct FixedIp {
  std::string subnet;
  std::string ip;
  bool operator==(const FixedIp&) const = default;
};

struct Port {
  PortId id;
  std::string name;
  std::string description;
  std::string mac;  // lower case
  std::string network;
  std::string project;
  std::string status;
  std::string device_id;  // the server that has it; empty = free
  std::vector<FixedIp> fixed_ips;
  std::vector<std::string> security_groups;
  std::vector<std::string> allowed_addresses;
  bool port_security = true;
};

struct PortWish {
  std::string name;
  std::string description;                   // marks it as ours; the tag that a lost reply and a later run look for
  std::string network;                       // id
  std::string mac;                           // any case; empty = any, for create() only
  std::vector<FixedIp> fixed_ips;            // each with a subnet's id, an address or both; empty = any
  std::vector<std::string> security_groups;  // ids; empty = the default one
  std::vector<std::string> allowed_addresses = {};
  std::optional<bool> port_security = {};  // false: no security groups, no check of the sender; nothing = the network's
  std::string project = {};                // only for create(): whose ports are looked at after a lost reply
};

struct MadePort {
  Port port;
  bool created = false;  // by this call (also when its reply was lost)
};

namespace ports {

std::optional<Port> find_by_mac(Service& network, const std::string& network_id, const std::string& mac,
                                std::stop_token stop);
std::optional<Port> find_by_ip(Service& network, const std::string& network_id, const std::string& ip,
                               std::stop_token stop);
// Every port with exactly that description. `project`: only its own, since an administrator sees all; empty = all.
std::vector<Port> find_by_description(Service& network, const std::string& description, const std::string& project,
                                      std::stop_token stop);
std::optional<Port> look_up(Service& network, const PortId& id, std::stop_token stop);
// The port with that MAC in that network, or a new one. A found one that a server has, or without the wanted IP, is
// returned as it is: the caller judges.
MadePort ensure(Service& network, const PortWish& wish, std::stop_token stop);
// A new port; after a lost reply it is looked for by its description, which no other port of that network may have.
Port create(Service& network, const PortWish& wish, std::stop_token stop);
// The ports that the server has.
std::vector<Port> of_server(Service& network, const ServerId& server, std::stop_token stop);
void remove(Service& network, const PortId& id, std::stop_token stop);  // already gone is success
// As Neutron stores and compares addresses: one of IPv6 can be written in many ways. Other text as it is.
std::string canonical(const std::string& ip);
// By which it is spoken to: its first one of IPv4, which more places reach, or else its first. Empty: it has none.
std::string address(const Port& port);

}  // namespace ports
}  // namespace vmferry::openstack
