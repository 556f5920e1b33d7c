// Glance images by id or name, looked up before a server is made from one.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>

#include "openstack/service.hpp"

namespace vmferry::openstack {

struct Image {
  std::string id;
  std::string name;
  std::string status;  // "active" when servers can be made from it
  std::int64_t min_disk_gib = 0;
  std::int64_t min_ram_mib = 0;
  std::string admin_user;  // the property os_admin_user: who may log in; mostly empty
};

namespace images {

// Error(config) naming some that there are; Error(conflict) with the ids when several have that name.
Image find(Service& image, const std::string& id_or_name, std::stop_token stop);

}  // namespace images
}  // namespace vmferry::openstack
