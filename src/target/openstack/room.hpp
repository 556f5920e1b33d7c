// Whether a project has room for what shall come: quotas, addresses, slots. Only asks; every question that the cloud
// refuses to answer is left out. Knows nothing of jobs.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "openstack/cloud.hpp"
#include "openstack/networks.hpp"
#include "plan/finding.hpp"
#include "target/cloud.hpp"

namespace vmferry::target::openstack {

// Disks that one machine takes: QEMU's i440fx has 32 slots on its one PCI bus, and some are taken by the machine
// itself.
inline constexpr std::size_t usual_slots = 26;

// `count` volumes and `gib` GiB more in all: by the limits of that type; empty = by the project's.
void judge_volumes(::vmferry::openstack::Cloud& cloud, const std::string& type, std::uint64_t count, std::uint64_t gib,
                   std::vector<plan::Finding>& found, std::stop_token stop);
// `count` more of what Neutron counts.
enum class Countable { ports, security_groups, security_rules, floating_ips };
void judge_network(::vmferry::openstack::Cloud& cloud, Countable kind, std::uint64_t count,
                   std::vector<plan::Finding>& found, std::stop_token stop);
// A new port's addresses: the wanted ones must be in a subnet of the network where they can be chosen, and free;
// without any, the subnet must have one left, or without that a subnet of each family. With `or_any`, one that cannot
// be had is only a warning.
void judge_addresses(::vmferry::openstack::Cloud& cloud, const ::vmferry::openstack::Network& network,
                     const NetworkChoice& choice, bool or_any, std::vector<plan::Finding>& found, std::stop_token stop);
// `count` more disks on the conversion host.
void judge_slots(::vmferry::openstack::Cloud& cloud, const ServerId& host, std::size_t count,
                 std::vector<plan::Finding>& found, std::stop_token stop);

// Pure: whether an IPv4 or IPv6 address is in a network ("10.0.0.0/24"). False for what is neither.
bool in_cidr(const std::string& address, const std::string& cidr);
// Pure: whether two texts are one address ("FD00:0::1" and "fd00::1").
bool same_address(const std::string& a, const std::string& b);

}  // namespace vmferry::target::openstack
