// Volumes attached to an instance by Nova (never through Cinder: a user may not delete an attachment that Nova owns,
// and with an application credential even its own). Knows nothing of devices on this host.
#pragma once

#include <chrono>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/service.hpp"
#include "openstack/volumes.hpp"

namespace vmferry::openstack {

struct Attached {
  VolumeId volume;
  ServerId server;
  std::string device;             // Nova's guess; find the device by its serial instead
  bool ends_with_server = false;  // deleted when the server is; before microversion 2.79 Nova does not say
};

namespace attachments {

// The volumes attached to the instance.
std::vector<Attached> list(Service& compute, const ServerId& server, std::stop_token stop);
// Attaches and waits until Cinder says in-use. Already attached there is success; attached elsewhere is Error(conflict)
// naming the server. A volume or instance in the middle of another change is waited for.
void attach(Service& compute, Service& volume, const ServerId& server, const VolumeId& id,
            std::chrono::seconds patience, std::stop_token stop);
// Detaches and waits until both Nova and Cinder agree. Not attached, or no such volume, is success.
void detach(Service& compute, Service& volume, const ServerId& server, const VolumeId& id,
            std::chrono::seconds patience, std::stop_token stop);

}  // namespace attachments
}  // namespace vmferry::openstack
