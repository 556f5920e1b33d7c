// Which OpenStack instance is this host? Told by the metadata service, by the config drive, or by the firmware's
// identity, all of which Nova fills in.
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>

#include "base/id.hpp"
#include "http/http.hpp"

namespace vmferry::openstack {

struct InstanceSources {
  std::string metadata_url = "http://169.254.169.254/openstack/latest/meta_data.json";
  // A drive with this label is the config drive: docs.openstack.org/nova/latest/user/config-drive.html
  std::filesystem::path config_drive = "/dev/disk/by-label/config-2";
  std::filesystem::path firmware = "/sys/class/dmi/id";
};

// Asks them in this order, the first that knows is believed. `transport` without proxy. Error(config) that says what
// each answered and names --instance-id when none knows. Blocks for 10 s at most.
ServerId this_instance(http::Transport& transport, const InstanceSources& sources, std::stop_token stop);

}  // namespace vmferry::openstack
