// Which OpenStack instance is this host? Asked of the metadata service, which answers only inside an instance.
#pragma once

#include <stop_token>
#include <string>

#include "base/id.hpp"
#include "http/http.hpp"

namespace vmferry::openstack {

inline constexpr const char* default_metadata_url = "http://169.254.169.254/openstack/latest/meta_data.json";

// `transport` without proxy. Error(config) that explains and names --instance-id when it cannot be reached or says no
// id.
ServerId this_instance(http::Transport& transport, const std::string& metadata_url, std::stop_token stop);

}  // namespace vmferry::openstack
