// Neutron lookups by id or name, docs.openstack.org/api-ref/network/v2/.
#include "openstack/networks.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.hpp"

namespace vmferry::openstack::networks {

namespace {

// The one of `key` ("networks") with that id or name. `filter` narrows the list ("network_id=..."), may be empty.
Fields pick(Service& service, const std::string& key, const std::string& kind, const std::string& filter,
            const std::string& id_or_name, std::stop_token stop) {
  const std::string path = key == "security_groups" ? "/security-groups" : "/" + key;
  const std::vector<Fields> all =
      service.list(filter.empty() ? path : path + "?" + filter, key, fmt::format("list {}s", kind), stop);
  std::vector<Fields> named;
  std::vector<std::string> names;
  for (const Fields& item : all) {
    if (item.text("id") == id_or_name) return item;
    if (item.text("name") == id_or_name) named.push_back(item);
    names.push_back(item.text("name").empty() ? item.text("id") : item.text("name"));
  }
  if (named.size() == 1) return named.front();
  if (named.size() > 1) {
    std::vector<std::string> ids;
    for (const Fields& item : named) ids.push_back(item.text("id"));
    throw Error(Fault::conflict, fmt::format("{} {}s are called '{}': give the id of one: {}", named.size(), kind,
                                             id_or_name, fmt::join(ids, ", ")));
  }
  throw Error(Fault::config, fmt::format("there is no {} '{}'{}; there are: {}", kind, id_or_name,
                                         filter.empty() ? "" : " in that network", fmt::join(names, ", ")));
}

}  // namespace

Network find(Service& network, const std::string& id_or_name, std::stop_token stop) {
  const Fields item = pick(network, "networks", "network", "", id_or_name, stop);
  return {item.text("id"), item.text("name"), item.texts("subnets")};
}

Subnet find_subnet(Service& network, const Network& of, const std::string& id_or_name, std::stop_token stop) {
  const Fields item = pick(network, "subnets", "subnet", "network_id=" + http::encode(of.id), id_or_name, stop);
  return {item.text("id"), item.text("name"), item.text("network_id"), item.text("cidr")};
}

SecurityGroup find_security_group(Service& network, const std::string& id_or_name, std::stop_token stop) {
  const Fields item = pick(network, "security_groups", "security group", "", id_or_name, stop);
  return {item.text("id"), item.text("name")};
}

}  // namespace vmferry::openstack::networks
