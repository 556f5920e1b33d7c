// Nova flavors: listed, found by id or name, made.
#pragma once

#include <cstdint>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "openstack/service.hpp"

namespace vmferry::openstack {

struct Flavor {
  std::string id;
  std::string name;
  int vcpus = 0;
  std::int64_t ram_mib = 0;
  std::int64_t disk_gib = 0;
  bool disabled = false;
  bool is_public = true;
  std::map<std::string, std::string> extra_specs;  // only of list_with_specs()
  bool specs_shown = false;                        // the cloud lets this user see them
};

namespace flavors {

std::vector<Flavor> list(Service& compute, std::stop_token stop);
// With their extra specs, as far as the cloud shows them to this user.
std::vector<Flavor> list_with_specs(Service& compute, std::stop_token stop);
// A flavor of that name without a disk of its own, or the one there is when it has that size. Error(conflict) when it
// has another one, Error(auth) when only administrators may make flavors (Nova's default).
Flavor ensure(Service& compute, const std::string& name, int vcpus, std::int64_t ram_mib, std::stop_token stop);
// Error(config) naming the flavors there are; Error(conflict) when several have that name.
Flavor find(Service& compute, const std::string& id_or_name, std::stop_token stop);

}  // namespace flavors
}  // namespace vmferry::openstack
