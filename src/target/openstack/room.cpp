// Limits come in three dialects: Cinder's and Neutron's quota with use, and Neutron's availability of addresses, which
// ordinary users may not see by default.
#include "target/openstack/room.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <map>
#include <set>

#include "base/error.hpp"
#include "openstack/attachments.hpp"
#include "openstack/ports.hpp"
#include "openstack/volumes.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;
using plan::Finding;
using plan::Level;

void problem(std::vector<Finding>& found, Fault fault, std::string object, std::string fact, std::string remedy) {
  found.push_back({Level::problem, std::move(object), std::move(fact), std::move(remedy), fault});
}

// What cannot be asked is not known to be wrong.
void if_answered(const std::function<void()>& question) {
  try {
    question();
  } catch (const Error&) {
  }
}

}  // namespace

void judge_volumes(client::Cloud& cloud, const std::string& type, std::uint64_t count, std::uint64_t gib,
                   std::vector<Finding>& found, std::stop_token stop) {
  if (count == 0 && gib == 0) return;
  if_answered([&] {
    const auto judge = [&](const client::volumes::Limits& limits, const std::string& of) {
      if (const auto lacking = limits.lacking(count, gib))
        problem(found, Fault::quota, cloud.describe(),
                fmt::format("it has no room for {} more volume{} of {} GiB in all{}: {}", count, count == 1 ? "" : "s",
                            gib, of, *lacking),
                "have Cinder's quota raised, or delete volumes");
    };
    if (type.empty())
      judge(client::volumes::limits(cloud.volume(stop), stop), "");
    else
      judge(client::volumes::type_limits(cloud.volume(stop), cloud.project_id(), type, stop), " of type " + type);
  });
}

void judge_network(client::Cloud& cloud, Countable kind, std::uint64_t count, std::vector<Finding>& found,
                   std::stop_token stop) {
  struct Names {
    const char* neutrons;
    const char* one;
  };
  static const std::map<Countable, Names> names{{Countable::ports, {"port", "port"}},
                                                {Countable::security_groups, {"security_group", "security group"}},
                                                {Countable::security_rules, {"security_group_rule", "security rule"}},
                                                {Countable::floating_ips, {"floatingip", "floating IP"}}};
  if (count == 0) return;
  const Names& name = names.at(kind);
  if_answered([&] {
    const auto left = client::networks::room(cloud.network(stop), cloud.project_id(), name.neutrons, stop);
    if (left && *left < static_cast<std::int64_t>(count))
      problem(found, Fault::quota, cloud.describe(),
              fmt::format("{} more {}{} {} needed, and its quota has room for {}", count, name.one,
                          count == 1 ? "" : "s", count == 1 ? "is" : "are", std::max<std::int64_t>(*left, 0)),
              fmt::format("have Neutron's quota raised, or delete {}s", name.one));
  });
}

namespace {

// A port takes an address of the wanted subnet; without one, of each family that the network has.
void judge_free(client::Service& service, const client::Network& network, const std::optional<client::Subnet>& subnet,
                const std::string& object, std::vector<Finding>& found, std::stop_token stop) {
  if_answered([&] {
    std::map<std::int64_t, std::vector<std::string>> families;
    std::set<std::int64_t> roomy;
    for (const client::FreeAddresses& of : client::networks::free_addresses(service, network.id, stop)) {
      if (subnet && of.subnet != subnet->id) continue;
      if (of.left > 0) roomy.insert(of.family);
      families[of.family].push_back(of.cidr);
    }
    for (const auto& [family, cidrs] : families)
      if (!roomy.contains(family))
        problem(found, Fault::quota, object,
                fmt::format("its subnet{} {} ha{} no free address", cidrs.size() == 1 ? "" : "s",
                            fmt::join(cidrs, " and "), cidrs.size() == 1 ? "s" : "ve"),
                "name a subnet that has one by subnet-id=, or free an address");
  });
}

}  // namespace

void judge_addresses(client::Cloud& cloud, const client::Network& network, const NetworkChoice& choice, bool or_any,
                     std::vector<Finding>& found, std::stop_token stop) {
  client::Service& service = cloud.network(stop);
  const std::string object = fmt::format("network {}", network.name.empty() ? network.id : network.name);
  std::optional<client::Subnet> subnet;
  if (!choice.subnet.empty()) subnet = client::networks::find_subnet(service, network, choice.subnet, stop);
  if (choice.ips.empty()) {
    // Nova's PortRequiresFixedIP, which would come when the machine is off.
    if (network.subnets.empty())
      problem(found, Fault::config, object,
              "it has no subnet: a port there gets no address, and Nova takes no such port",
              fmt::format("choose another network in the --network-mapping of {}, or add a subnet to it", choice.mac));
    else
      judge_free(service, network, subnet, object, found, stop);
    return;
  }
  std::vector<client::Subnet> subnets;
  if_answered([&] { subnets = client::networks::subnets_of(service, network, stop); });
  const auto cannot = [&](Fault fault, const std::string& fact, const std::string& remedy) {
    if (or_any)
      found.push_back({Level::warning, object, fact, "another one will be taken (--fallback-to-dhcp)", fault});
    else
      problem(found, fault, object, fact, fmt::format("{} in the --network-mapping of {}", remedy, choice.mac));
  };
  for (const std::string& ip : choice.ips) {
    // With several addresses each finds its own subnet.
    if (subnet && choice.ips.size() == 1 && !in_cidr(ip, subnet->cidr)) {
      cannot(Fault::config, fmt::format("address {} is not in its subnet {}", ip, subnet->cidr),
             "correct ip= or subnet-id=");
      continue;
    }
    const auto home = std::find_if(subnets.begin(), subnets.end(),
                                   [&](const client::Subnet& candidate) { return in_cidr(ip, candidate.cidr); });
    if (home == subnets.end() && !subnets.empty()) {
      std::vector<std::string> cidrs;
      for (const client::Subnet& candidate : subnets) cidrs.push_back(candidate.cidr);
      cannot(Fault::config, fmt::format("address {} is in none of its subnets ({})", ip, fmt::join(cidrs, ", ")),
             "correct ip=");
      continue;
    }
    if (home != subnets.end() && home->automatic) {
      cannot(Fault::config,
             fmt::format("address {} cannot be chosen: in subnet {} they come from the MACs (SLAAC)", ip, home->cidr),
             "leave that ip= out");
      continue;
    }
    if_answered([&] {
      const auto holder = client::ports::find_by_ip(service, network.id, ip, stop);
      if (holder && holder->mac != choice.mac)
        cannot(Fault::conflict,
               fmt::format("address {} is in use by port {} (MAC {})", ip, holder->id.value, holder->mac),
               "free it, or choose another with ip=");
    });
  }
}

void judge_slots(client::Cloud& cloud, const ServerId& host, std::size_t count, std::vector<Finding>& found,
                 std::stop_token stop) {
  if (count == 0) return;
  if_answered([&] {
    const std::size_t attached = client::attachments::list(cloud.compute(stop), host, stop).size();
    if (attached + count <= usual_slots) return;
    found.push_back({Level::warning, fmt::format("conversion host {}", host.value),
                     fmt::format("{} volumes are attached to it and {} more are needed: few hypervisors take more than "
                                 "{} on one machine",
                                 attached, count, usual_slots),
                     "let other migrations end first, or use another conversion host", Fault::quota});
  });
}

bool in_cidr(const std::string& address, const std::string& cidr) {
  const std::size_t slash = cidr.find('/');
  if (slash == std::string::npos) return false;
  const std::string network = cidr.substr(0, slash);
  std::size_t bits = 0;
  const char* end = cidr.data() + cidr.size();
  if (std::from_chars(cidr.data() + slash + 1, end, bits).ptr != end) return false;
  for (const int family : {AF_INET, AF_INET6}) {
    std::array<unsigned char, 16> a{}, n{};
    if (::inet_pton(family, address.c_str(), a.data()) != 1 || ::inet_pton(family, network.c_str(), n.data()) != 1)
      continue;
    if (bits > (family == AF_INET ? 32 : 128)) return false;
    for (std::size_t bit = 0; bit < bits; ++bit)
      if (((a[bit / 8] ^ n[bit / 8]) >> (7 - bit % 8) & 1) != 0) return false;
    return true;
  }
  return false;
}

bool same_address(const std::string& a, const std::string& b) {
  return client::ports::canonical(a) == client::ports::canonical(b);
}

}  // namespace vmferry::target::openstack
