// Neutron's floating IPs, docs.openstack.org/api-ref/network/v2/#floating-ips-floatingips.
#include "openstack/floating_ips.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::floating_ips {

namespace {

using nlohmann::json;

std::string path_of(const std::string& id) {
  if (id.empty()) throw Error(Fault::bug, "a floating IP without an id was asked for");
  return "/floatingips/" + http::encode(id);
}

FloatingIp read(const Fields& f) {
  FloatingIp ip{
      f.text("id"),          f.text("floating_ip_address"), f.text("floating_network_id"), PortId{f.text("port_id")},
      f.text("description"), f.text("project_id")};
  if (ip.id.empty()) throw Error(Fault::data, "Neutron showed a floating IP without an id");
  return ip;
}

std::vector<FloatingIp> list_where(Service& network, const std::string& query, std::stop_token stop) {
  std::vector<FloatingIp> found;
  for (const Fields& item : network.list("/floatingips?" + query, "floatingips", "list floating IPs", stop))
    found.push_back(read(item));
  return found;
}

FloatingIp post(Service& network, const std::string& external_network, const PortId& port,
                const std::string& description, const std::string& doing, std::stop_token stop) {
  Call call;
  call.method = "POST";
  call.path = "/floatingips";
  const json body{{"floating_network_id", external_network}, {"port_id", port.value}, {"description", description}};
  call.body = json{{"floatingip", body}}.dump(-1, ' ', false, json::error_handler_t::replace);
  call.doing = doing;
  try {
    return read(Fields::parse(network.call(call, stop).body, "Neutron's answer").at("floatingip"));
  } catch (const Refused& refused) {
    if (refused.name() != "ExternalGatewayForFloatingIPNotFound") throw;
    throw Error(Fault::config,
                fmt::format("{}: no router joins the two networks; choose another --network or --floating-ip-network",
                            refused.what()),
                refused.name());
  }
}

}  // namespace

std::vector<FloatingIp> find_by_description(Service& network, const std::string& description,
                                            const std::string& project, std::stop_token stop) {
  if (description.empty()) throw Error(Fault::bug, "floating IPs without a description were asked for");
  std::vector<FloatingIp> found = list_where(network, "description=" + http::encode(description), stop);
  // A filter that a cloud does not know may be ignored silently.
  std::erase_if(found, [&](const FloatingIp& ip) { return ip.description != description || ip.project != project; });
  return found;
}

std::optional<FloatingIp> of_port(Service& network, const PortId& port, std::stop_token stop) {
  if (port.empty()) throw Error(Fault::bug, "the floating IP of a port without an id was asked for");
  for (FloatingIp& ip : list_where(network, "port_id=" + http::encode(port.value), stop))
    if (ip.port == port) return std::move(ip);
  return std::nullopt;
}

FloatingIp create(Service& network, const std::string& external_network, const PortId& port,
                  const std::string& description, std::stop_token stop) {
  const std::string doing = fmt::format("create a floating IP from network {}", external_network);
  return make_once<FloatingIp>(
      network, doing, [&] { return post(network, external_network, port, description, doing, stop); },
      [&]() -> std::optional<FloatingIp> {
        const auto found = of_port(network, port, stop);
        return found && found->description == description ? found : std::nullopt;
      },
      stop);
}

FloatingIp give(Service& network, const std::string& id, const PortId& port, std::stop_token stop) {
  Call call;
  call.method = "PUT";
  call.path = path_of(id);
  call.body = json{{"floatingip", {{"port_id", port.value}}}}.dump(-1, ' ', false, json::error_handler_t::replace);
  call.doing = fmt::format("give floating IP {} to port {}", id, port.value);
  call.idempotent = true;
  return read(Fields::parse(network.call(call, stop).body, "Neutron's answer").at("floatingip"));
}

void remove(Service& network, const std::string& id, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = path_of(id);
  call.doing = fmt::format("delete floating IP {}", id);
  call.idempotent = true;
  call.accept = {404};
  network.call(call, stop);
}

}  // namespace vmferry::openstack::floating_ips
