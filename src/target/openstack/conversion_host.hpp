// The conversion host in an OpenStack project: a server with its port, floating IP, security group and key pair, made
// once, found again by its mark, removed by it. Knows nothing of jobs; what runs inside the host is not its business.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "openstack/cloud.hpp"
#include "openstack/floating_ips.hpp"
#include "openstack/ports.hpp"
#include "openstack/security_groups.hpp"
#include "openstack/servers.hpp"
#include "plan/finding.hpp"
#include "target/openstack/ssh_greeting.hpp"

namespace vmferry::target::openstack {

struct HostWish {
  std::string name;  // see check_host_name(); everything that is made carries it
  std::string image, flavor, network;
  std::string key_pair;    // empty = the host's name
  std::string public_key;  // "ssh-ed25519 AAAA..."; empty = the key pair is there already
  // Prefixes that may reach the SSH port. Nothing = what an existing host has, for a new one everybody.
  std::optional<std::vector<std::string>> ssh_from;
  int ssh_port = 22;
  std::string floating_network;  // empty = no floating IP
  std::string availability_zone;
  std::string user_data;
  bool config_drive = false;
  std::uint64_t boot_volume_gib = 0;  // 0 = it boots from the image, on the flavor's disk
  std::string boot_volume_type;
  std::chrono::seconds server_patience{900};
};

// One thing that a host is made of, as a line of a table.
struct Piece {
  std::string kind;  // "server", "port"...
  std::string name;
  std::string id;
  bool made = false;  // by this call
};

struct Host {
  ServerId id;
  std::string status;
  std::string address;       // where to reach it: the floating IP, else the fixed one; may be empty
  std::string admin_user;    // as the image has it; mostly empty
  bool open_to_all = false;  // everybody may reach its SSH port
  std::vector<Piece> pieces;
  std::vector<std::string> remarks;  // what is not as it was wished
};

// Called with a sentence on what is done or waited for now.
using Saying = std::function<void(const std::string&)>;

// A key pair that deploy_host() made: Nova lets it carry no mark, so the others do.
struct MadeKeyPair {
  std::string name;
  std::string fingerprint;  // may be empty
  bool operator==(const MadeKeyPair&) const = default;
};

// What carries the mark of the host of that name.
struct HostParts {
  std::string name;
  std::vector<::vmferry::openstack::Server> servers;
  std::vector<::vmferry::openstack::FloatingIp> floating_ips;
  std::vector<::vmferry::openstack::Port> ports;
  std::vector<::vmferry::openstack::SecurityGroupRules> groups;
  std::optional<MadeKeyPair> key_pair;
  bool empty() const { return servers.empty() && floating_ips.empty() && ports.empty() && groups.empty(); }
};

// Error(usage): letters, digits, - and _, 1 to 63 of them, as Nova wants names of key pairs.
void check_host_name(const std::string& name);

HostParts find_host(::vmferry::openstack::Cloud& cloud, const std::string& name, std::stop_token stop);

// Makes what is missing and waits until the server is ACTIVE. What cannot work is told before anything is made.
Host deploy_host(::vmferry::openstack::Cloud& cloud, const HostWish& wish, const Saying& saying, std::stop_token stop);

// Error(conflict) that names the volumes, besides its own boot volume, that are attached to it.
void refuse_while_used(::vmferry::openstack::Cloud& cloud, const HostParts& parts, std::stop_token stop);
// Pure: whether a floating IP is free or leads to one of the ports.
bool leads_to(const ::vmferry::openstack::FloatingIp& ip, const std::vector<::vmferry::openstack::Port>& ports);
// As lines of a table; `made` says nothing there.
std::vector<Piece> pieces_of(const HostParts& parts);
// Removes all that, in an order in which what is left can be found again.
void destroy_host(::vmferry::openstack::Cloud& cloud, const HostParts& parts, const Saying& saying,
                  std::stop_token stop);

struct HostQuestion {
  std::string name;
  std::string instance_id;       // look at this server instead, whoever made it
  std::optional<ServerId> here;  // the instance that we run in, as far as that is known
  bool or_here = false;          // look at that one when no host of the name was deployed
  std::string volume_zone;       // of the volumes that migrations will make; empty = the cloud's choice
  bool ask_ssh = true;
  std::optional<Address> ssh_address;
  int ssh_port = 22;
};

// What speaks for and against the server as a conversion host. The server that was looked at, if there is one.
std::optional<ServerId> examine_host(::vmferry::openstack::Cloud& cloud, const HostQuestion& question,
                                     std::vector<plan::Finding>& found, std::stop_token stop);

// Pure: the mark of ports and floating IPs; with the key pair that was made, the mark of the security group.
std::string host_mark(const std::string& name, const std::optional<MadeKeyPair>& key_pair = std::nullopt);
// Pure: whether a description is the mark of that host; `key_pair` gets what it tells of one.
bool is_host_mark(const std::string& description, const std::string& name, std::optional<MadeKeyPair>* key_pair);

// Metadata of the server.
namespace host_key {
inline constexpr const char* host = "vmferry_host";  // the host's name: the mark
inline constexpr const char* key_pair = "vmferry_host_key_pair";
inline constexpr const char* fingerprint = "vmferry_host_key_fingerprint";
inline constexpr const char* boot = "vmferry_host_boot";  // "volume": made with it, and goes with it
}  // namespace host_key

}  // namespace vmferry::target::openstack
