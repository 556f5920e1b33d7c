// Which flavor a machine's server gets, and whether the project may have such a server. Makes a flavor only when told
// to. Knows nothing of jobs.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "model/vm.hpp"
#include "openstack/cloud.hpp"
#include "openstack/flavors.hpp"
#include "plan/finding.hpp"
#include "plan/flavor.hpp"

namespace vmferry::target::openstack {

struct FlavorRules {
  std::string wanted;                // id or name; empty or "auto" = the smallest that holds the machine
  std::set<plan::Reserved> allowed;  // with auto: these too
  bool create = false;               // with auto: make one when none holds the machine
  bool automatic() const { return wanted.empty() || wanted == "auto"; }
};

// What the server gets beside flavor, disks and ports.
struct ServerSettings {
  std::string key_pair;
  std::string user_data;  // as the guest shall see it
  bool config_drive = false;
  std::string group;  // of servers, id or name
  std::string host;
  std::vector<std::string> tags;
  std::map<std::string, std::string> metadata;
  // More metadata, asked for only while there is no server yet; what `metadata` says wins. May be empty.
  std::function<std::map<std::string, std::string>(std::stop_token)> labels = {};
  std::map<std::string, std::string> all_metadata(std::stop_token stop) const;
};

struct ChosenFlavor {
  ::vmferry::openstack::Flavor flavor;
  std::string reason;  // a sentence; empty for a flavor that was named
};

// Error(config) that names what there is when none suits.
ChosenFlavor choose_flavor(::vmferry::openstack::Cloud& cloud, const FlavorRules& rules, const model::Vm& vm,
                           std::stop_token stop);
// What choose_flavor() would come to, and whether the project's quota allows such a server. Changes nothing.
void judge_server(::vmferry::openstack::Cloud& cloud, const FlavorRules& rules, const model::Vm& vm,
                  std::vector<plan::Finding>& found, std::stop_token stop);

}  // namespace vmferry::target::openstack
