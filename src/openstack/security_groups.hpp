// Neutron security groups with their rules, found by description (names may repeat), made once even if a reply is
// lost. Looking one up by name is networks.hpp.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "openstack/service.hpp"

namespace vmferry::openstack {

struct SecurityRule {
  std::string id;
  std::string direction;  // "ingress", "egress"
  std::string family;     // "IPv4", "IPv6"
  std::string protocol;   // "tcp"; empty = any
  std::int64_t first_port = 0, last_port = 0;
  std::string from;  // remote_ip_prefix; empty = anywhere
  std::string description;
};

struct SecurityGroupRules {
  std::string id;
  std::string name;
  std::string description;
  std::vector<SecurityRule> rules;
};

// Lets TCP to one port in.
struct RuleWish {
  std::string group;  // id
  int port = 0;
  std::string from;  // an IPv4 or IPv6 prefix, "192.0.2.0/24"
  std::string description;
};

namespace security_groups {

// All of the project.
std::vector<SecurityGroupRules> list(Service& network, const std::string& project_id, std::stop_token stop);
// `description` is what a lost reply is looked for by: only this group may have it.
SecurityGroupRules create(Service& network, const std::string& project_id, const std::string& name,
                          const std::string& description, std::stop_token stop);
void describe(Service& network, const std::string& id, const std::string& description, std::stop_token stop);
// A rule that lets the same in is success.
void allow(Service& network, const RuleWish& wish, std::stop_token stop);
void remove_rule(Service& network, const std::string& id, std::stop_token stop);  // already gone is success
// Waits a little while a port that is being deleted still has it. Already gone is success.
void remove(Service& network, const std::string& id, std::stop_token stop);

}  // namespace security_groups
}  // namespace vmferry::openstack
