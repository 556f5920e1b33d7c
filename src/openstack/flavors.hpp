// Nova flavors by id or name.
#pragma once

#include <cstdint>
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
};

namespace flavors {

std::vector<Flavor> list(Service& compute, std::stop_token stop);
// Error(config) naming the flavors there are; Error(conflict) when several have that name.
Flavor find(Service& compute, const std::string& id_or_name, std::stop_token stop);

}  // namespace flavors
}  // namespace vmferry::openstack
