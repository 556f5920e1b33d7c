// Neutron's security groups, docs.openstack.org/api-ref/network/v2/#security-groups-security-groups.
#include "openstack/security_groups.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::security_groups {

namespace {

using nlohmann::json;

constexpr std::chrono::seconds removal_patience(60);

std::string path_of(const std::string& id) {
  if (id.empty()) throw Error(Fault::bug, "a security group without an id was asked for");
  return "/security-groups/" + http::encode(id);
}

std::string dump(const json& body) { return body.dump(-1, ' ', false, json::error_handler_t::replace); }

SecurityGroupRules read(const Fields& f) {
  SecurityGroupRules group{f.text("id"), f.text("name"), f.text("description"), {}};
  if (group.id.empty()) throw Error(Fault::data, "Neutron showed a security group without an id");
  for (const Fields& rule : f.each("security_group_rules"))
    group.rules.push_back({rule.text("id"), rule.text("direction"), rule.text("ethertype"), rule.text("protocol"),
                           rule.number("port_range_min"), rule.number("port_range_max"), rule.text("remote_ip_prefix"),
                           rule.text("description")});
  return group;
}

}  // namespace

std::vector<SecurityGroupRules> list(Service& network, const std::string& project_id, std::stop_token stop) {
  std::vector<SecurityGroupRules> groups;
  // An administrator would see those of every project.
  for (const Fields& item : network.list("/security-groups?project_id=" + http::encode(project_id), "security_groups",
                                         "list security groups", stop))
    groups.push_back(read(item));
  return groups;
}

SecurityGroupRules create(Service& network, const std::string& project_id, const std::string& name,
                          const std::string& description, std::stop_token stop) {
  if (description.empty()) throw Error(Fault::bug, "a security group was to be made without a mark to find it by");
  const std::string doing = fmt::format("create security group '{}'", name);
  return make_once<SecurityGroupRules>(
      network, doing,
      [&] {
        Call call;
        call.method = "POST";
        call.path = "/security-groups";
        call.body = dump(json{{"security_group", {{"name", name}, {"description", description}}}});
        call.doing = doing;
        return read(Fields::parse(network.call(call, stop).body, "Neutron's answer").at("security_group"));
      },
      [&]() -> std::optional<SecurityGroupRules> {
        for (SecurityGroupRules& group : list(network, project_id, stop))
          if (group.description == description) return std::move(group);
        return std::nullopt;
      },
      stop);
}

void describe(Service& network, const std::string& id, const std::string& description, std::stop_token stop) {
  Call call;
  call.method = "PUT";
  call.path = path_of(id);
  call.body = dump(json{{"security_group", {{"description", description}}}});
  call.doing = fmt::format("describe security group {}", id);
  call.idempotent = true;
  network.call(call, stop);
}

void allow(Service& network, const RuleWish& wish, std::stop_token stop) {
  const bool ipv6 = wish.from.find(':') != std::string::npos;
  const json rule{
      {"security_group_id", wish.group},     {"direction", "ingress"},         {"protocol", "tcp"},
      {"ethertype", ipv6 ? "IPv6" : "IPv4"}, {"port_range_min", wish.port},    {"port_range_max", wish.port},
      {"remote_ip_prefix", wish.from},       {"description", wish.description}};
  Call call;
  call.method = "POST";
  call.path = "/security-group-rules";
  call.body = dump(json{{"security_group_rule", rule}});
  call.doing = fmt::format("let {} in to port {}", wish.from, wish.port);
  // Neutron refuses a second rule that says the same, so a repetition does no harm.
  call.idempotent = true;
  call.accept = {409};
  const http::Response response = network.call(call, stop);
  if (response.status == 409 && error_name(response) != "SecurityGroupRuleExists")
    throw refusal("Neutron", call.doing, response);
}

void remove_rule(Service& network, const std::string& id, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = "/security-group-rules/" + http::encode(id);
  call.doing = fmt::format("delete the security group rule {}", id);
  call.idempotent = true;
  call.accept = {404};
  network.call(call, stop);
}

void remove(Service& network, const std::string& id, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = path_of(id);
  call.doing = fmt::format("delete security group {}", id);
  call.idempotent = true;
  call.accept = {404, 409};
  http::Response last;
  const bool gone = poll(
      network, removal_patience,
      [&] {
        last = network.call(call, stop);
        if (last.status == 409 && error_name(last) != "SecurityGroupInUse") throw refusal("Neutron", call.doing, last);
        return last.status != 409;
      },
      stop);
  if (!gone) throw refusal("Neutron", call.doing, last);
}

}  // namespace vmferry::openstack::security_groups
