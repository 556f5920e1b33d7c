// Neutron lookups by id or name, docs.openstack.org/api-ref/network/v2/.
#include "openstack/networks.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

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

Subnet subnet(const Fields& item) {
  // is_auto_address_subnet of neutron/common/ipv6_utils.py.
  bool automatic = false;
  for (const char* mode : {"ipv6_address_mode", "ipv6_ra_mode"})
    if (const std::string set = item.text(mode); set == "slaac" || set == "dhcpv6-stateless") automatic = true;
  return {item.text("id"), item.text("name"), item.text("network_id"), item.text("cidr"), automatic};
}

std::string in_network(const Network& of) { return "network_id=" + http::encode(of.id); }

}  // namespace

Network find(Service& network, const std::string& id_or_name, std::stop_token stop) {
  const Fields item = pick(network, "networks", "network", "", id_or_name, stop);
  return {item.text("id"), item.text("name"), item.texts("subnets")};
}

Subnet find_subnet(Service& network, const Network& of, const std::string& id_or_name, std::stop_token stop) {
  return subnet(pick(network, "subnets", "subnet", in_network(of), id_or_name, stop));
}

std::vector<Subnet> subnets_of(Service& network, const Network& of, std::stop_token stop) {
  std::vector<Subnet> all;
  for (const Fields& item : network.list("/subnets?" + in_network(of), "subnets", "list subnets", stop))
    all.push_back(subnet(item));
  return all;
}

std::vector<FreeAddresses> free_addresses(Service& network, const std::string& network_id, std::stop_token stop) {
  Call call;
  call.path = "/network-ip-availabilities/" + http::encode(network_id);
  call.doing = "show the free addresses of network " + network_id;
  call.accept = {403, 404};
  const http::Response response = network.call(call, stop);
  // Neutron leaves the data in the body of its refusal: the status alone counts.
  if (response.status != 200) return {};
  const Fields availability = Fields::parse(response.body, "Neutron's answer").at("network_ip_availability");
  std::vector<FreeAddresses> all;
  for (const Fields& of : availability.each("subnet_ip_availability"))
    all.push_back({of.text("subnet_id"), of.text("cidr"), of.number("ip_version"),
                   std::max<std::int64_t>(of.number("total_ips") - of.number("used_ips"), 0)});
  return all;
}

std::optional<std::int64_t> room(Service& network, const std::string& project_id, const std::string& kind,
                                 std::stop_token stop) {
  // https://docs.openstack.org/api-ref/network/v2/#show-quota-details-for-a-tenant
  const Fields quota =
      network.get("/quotas/" + http::encode(project_id) + "/details.json", "show the project's network quota", stop)
          .at("quota")
          .at(kind);
  const std::int64_t limit = quota.number("limit", -1);
  if (limit < 0) return std::nullopt;
  return limit - quota.number("used") - quota.number("reserved");
}

SecurityGroup find_security_group(Service& network, const std::string& id_or_name, std::stop_token stop) {
  const Fields item = pick(network, "security_groups", "security group", "", id_or_name, stop);
  return {item.text("id"), item.text("name")};
}

}  // namespace vmferry::openstack::networks
