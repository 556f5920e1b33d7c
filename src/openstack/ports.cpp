// Neutron ports, docs.openstack.org/api-ref/network/v2/#ports.
#include "openstack/ports.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::ports {

namespace {

using nlohmann::json;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

Port read(const Fields& f) {
  Port port;
  port.id.value = f.text("id");
  port.name = f.text("name");
  port.description = f.text("description");
  port.mac = lower(f.text("mac_address"));
  port.network = f.text("network_id");
  port.project = f.text("project_id");
  port.status = f.text("status");
  port.device_id = f.text("device_id");
  for (const Fields& ip : f.each("fixed_ips")) port.fixed_ips.push_back({ip.text("subnet_id"), ip.text("ip_address")});
  port.security_groups = f.texts("security_groups");
  for (const Fields& pair : f.each("allowed_address_pairs")) port.allowed_addresses.push_back(pair.text("ip_address"));
  // A cloud without that extension checks every port.
  port.port_security = !f.has("port_security_enabled") || f.flag("port_security_enabled");
  if (port.id.empty()) throw Error(Fault::data, "Neutron showed a port without an id");
  return port;
}

std::optional<Port> find_where(Service& network, const std::string& query, const std::string& mac,
                               std::stop_token stop) {
  for (const Fields& item : network.list("/ports?" + query, "ports", "list ports", stop))
    if (Port port = read(item); port.mac == mac) return port;
  return std::nullopt;
}

std::string body_of(const PortWish& wish) {
  json port{{"network_id", wish.network}, {"name", wish.name}, {"description", wish.description}};
  if (!wish.mac.empty()) port["mac_address"] = lower(wish.mac);
  for (const FixedIp& fixed : wish.fixed_ips) {
    json address = json::object();
    if (!fixed.subnet.empty()) address["subnet_id"] = fixed.subnet;
    if (!fixed.ip.empty()) address["ip_address"] = fixed.ip;
    port["fixed_ips"].push_back(std::move(address));
  }
  for (const std::string& allowed : wish.allowed_addresses)
    port["allowed_address_pairs"].push_back({{"ip_address", allowed}});
  if (!wish.security_groups.empty()) port["security_groups"] = wish.security_groups;
  if (wish.port_security) port["port_security_enabled"] = *wish.port_security;
  // Neutron refuses to lift it from a port that has a group, and the default one comes by itself.
  if (wish.port_security == false) port["security_groups"] = json::array();
  return json{{"port", std::move(port)}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

Port post(Service& network, const PortWish& wish, const std::string& doing, std::stop_token stop) {
  Call call;
  call.method = "POST";
  call.path = "/ports";
  call.body = body_of(wish);
  call.doing = doing;
  try {
    return read(Fields::parse(network.call(call, stop).body, "Neutron's answer").at("port"));
  } catch (const Refused& refused) {
    if (refused.status() != 403 || refused.fault() != Fault::auth) throw;
    // Neutron's default policy for create_port:mac_address and :fixed_ips.
    throw Error(
        Fault::auth,
        fmt::format(
            "{} (on a network that is shared by another project, only its owner or an administrator may choose the MAC or IP "
            "of a port: use a network of this project, or have the port made for you; a port with this MAC is used as it is)",
            refused.what()),
        refused.name());
  }
}

}  // namespace

std::optional<Port> find_by_mac(Service& network, const std::string& network_id, const std::string& mac,
                                std::stop_token stop) {
  const std::string wanted = lower(mac), in_network = "network_id=" + http::encode(network_id);
  if (auto port = find_where(network, in_network + "&mac_address=" + http::encode(wanted), wanted, stop)) return port;
  // Whether the filter minds the case depends on the cloud's database, and old ports may be in upper case.
  return find_where(network, in_network, wanted, stop);
}

std::optional<Port> find_by_ip(Service& network, const std::string& network_id, const std::string& ip,
                               std::stop_token stop) {
  const std::string wanted = canonical(ip);
  const std::string query =
      "/ports?network_id=" + http::encode(network_id) + "&fixed_ips=" + http::encode("ip_address=" + wanted);
  for (const Fields& item : network.list(query, "ports", "list ports", stop)) {
    Port port = read(item);
    for (const FixedIp& fixed : port.fixed_ips)
      if (fixed.ip == wanted) return port;
  }
  return std::nullopt;
}

std::vector<Port> find_by_description(Service& network, const std::string& description, const std::string& project,
                                      std::stop_token stop) {
  if (description.empty()) throw Error(Fault::bug, "ports without a description were asked for");
  std::vector<Port> found;
  for (const Fields& item :
       network.list("/ports?description=" + http::encode(description), "ports", "list ports", stop))
    if (Port port = read(item); port.description == description && (project.empty() || port.project == project))
      found.push_back(std::move(port));
  return found;
}

std::optional<Port> look_up(Service& network, const PortId& id, std::stop_token stop) {
  if (id.empty()) throw Error(Fault::bug, "a port without an id was asked for");
  Call call;
  call.path = "/ports/" + http::encode(id.value);
  call.doing = fmt::format("show port {}", id.value);
  call.accept = {404};
  const http::Response response = network.call(call, stop);
  if (response.status == 404) return std::nullopt;
  return read(Fields::parse(response.body, "Neutron's answer").at("port"));
}

MadePort ensure(Service& network, const PortWish& wish, std::stop_token stop) {
  if (auto port = find_by_mac(network, wish.network, wish.mac, stop)) return {*std::move(port), false};
  const std::string doing = fmt::format("create port {} in network {}", lower(wish.mac), wish.network);
  const auto ours = [&](const Port& port) {
    return MadePort{port, !wish.description.empty() && port.description == wish.description};
  };
  try {
    return make_once<MadePort>(
        network, doing,
        [&] {
          return MadePort{post(network, wish, doing, stop), true};
        },
        [&]() -> std::optional<MadePort> {
          const auto port = find_by_mac(network, wish.network, wish.mac, stop);
          if (!port) return std::nullopt;
          return ours(*port);
        },
        stop);
  } catch (const Refused& refused) {
    if (refused.status() != 409) throw;
    // "MacAddressInUse": somebody was quicker, or it was us and a retry beneath did not know.
    if (const auto port = find_by_mac(network, wish.network, wish.mac, stop)) return ours(*port);
    throw;
  }
}

Port create(Service& network, const PortWish& wish, std::stop_token stop) {
  if (wish.description.empty()) throw Error(Fault::bug, "a port was to be made without a description to find it by");
  const std::string doing = fmt::format("create port '{}' in network {}", wish.name, wish.network);
  return make_once<Port>(
      network, doing, [&] { return post(network, wish, doing, stop); },
      [&]() -> std::optional<Port> {
        for (Port& port : find_by_description(network, wish.description, wish.project, stop))
          if (port.network == wish.network) return std::move(port);
        return std::nullopt;
      },
      stop);
}

std::vector<Port> of_server(Service& network, const ServerId& server, std::stop_token stop) {
  if (server.empty()) throw Error(Fault::bug, "the ports of a server without an id were asked for");
  std::vector<Port> found;
  for (const Fields& item : network.list("/ports?device_id=" + http::encode(server.value), "ports", "list ports", stop))
    if (Port port = read(item); port.device_id == server.value) found.push_back(std::move(port));
  return found;
}

void remove(Service& network, const PortId& id, std::stop_token stop) {
  if (id.empty()) throw Error(Fault::bug, "a port without an id was to be deleted");
  Call call;
  call.method = "DELETE";
  call.path = "/ports/" + http::encode(id.value);
  call.doing = fmt::format("delete port {}", id.value);
  call.idempotent = true;
  call.accept = {404};
  network.call(call, stop);
}

std::string canonical(const std::string& ip) {
  std::array<unsigned char, 16> bytes{};
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (::inet_pton(AF_INET6, ip.c_str(), bytes.data()) != 1) return ip;
  return ::inet_ntop(AF_INET6, bytes.data(), text.data(), text.size());
}

std::string address(const Port& port) {
  const auto v4 = std::find_if(port.fixed_ips.begin(), port.fixed_ips.end(),
                               [](const FixedIp& fixed) { return fixed.ip.find(':') == std::string::npos; });
  if (v4 != port.fixed_ips.end()) return v4->ip;
  return port.fixed_ips.empty() ? "" : port.fixed_ips.front().ip;
}

}  // namespace vmferry::openstack::ports
