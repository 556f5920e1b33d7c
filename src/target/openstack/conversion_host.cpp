// Found and removed again: the marks. Nothing goes by its name alone, but for the key pair, which cannot carry a mark:
// the security group, made first and removed last, remembers it.
#include "target/openstack/conversion_host.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "base/error.hpp"
#include "openstack/attachments.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/volumes.hpp"
#include "target/cloud.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;

constexpr std::chrono::seconds removal_patience(300);
constexpr std::string_view fingerprint_word = " key-fingerprint=", key_pair_word = " key-pair=";

// The volume that deploy_host() had Nova make for it. A machine's volumes outlive every server.
bool is_own_boot_volume(client::Cloud& cloud, const client::Server& server, const client::Attached& attached,
                        std::stop_token stop) {
  // The list of attachments tells so only from microversion 2.79 on.
  const bool ends_with_it = attached.ends_with_server || std::find(server.own_volumes.begin(), server.own_volumes.end(),
                                                                   attached.volume) != server.own_volumes.end();
  if (!ends_with_it || value(server.metadata, host_key::boot) != "volume") return false;
  const auto volume = client::volumes::look_up(cloud.volume(stop), attached.volume, stop);
  return volume && volume->bootable && !volume->metadata.contains(memory_key::migrate_kit);
}

void remove_key_pair(client::Cloud& cloud, const MadeKeyPair& made, const Saying& saying, std::stop_token stop) {
  client::Service& compute = cloud.compute(stop);
  const auto pair = client::keypairs::look_up(compute, made.name, stop);
  if (!pair) {
    // Key pairs are users', not projects'.
    saying(
        fmt::format("key pair {} is not among this user's: it is gone, or another user deployed the host", made.name));
    return;
  }
  if (made.fingerprint.empty() || pair->fingerprint != made.fingerprint) {
    saying(fmt::format("key pair {} stays: {}", made.name,
                       made.fingerprint.empty()
                           ? "nothing tells whether it is the one that was imported"
                           : fmt::format("it is another key by now (fingerprint {})", pair->fingerprint)));
    return;
  }
  saying(fmt::format("deleting key pair {}", made.name));
  client::keypairs::remove(compute, made.name, stop);
}

}  // namespace

void check_host_name(const std::string& name) {
  const bool good = !name.empty() && name.size() <= 63 && std::isalnum(static_cast<unsigned char>(name.front())) &&
                    std::all_of(name.begin(), name.end(), [](unsigned char c) {
                      return c < 0x80 && (std::isalnum(c) != 0 || c == '-' || c == '_');
                    });
  if (!good)
    throw Error(Fault::usage,
                fmt::format("--name {}: give 1 to 63 letters, digits, - and _, the first a letter or digit", name));
}

std::string host_mark(const std::string& name, const std::optional<MadeKeyPair>& key_pair) {
  std::string mark = "vmferry host=" + name;
  // The name comes last: it may have spaces.
  if (key_pair) mark += fmt::format("{}{}{}{}", fingerprint_word, key_pair->fingerprint, key_pair_word, key_pair->name);
  return mark;
}

bool is_host_mark(const std::string& description, const std::string& name, std::optional<MadeKeyPair>* key_pair) {
  const std::string bare = host_mark(name);
  if (!description.starts_with(bare)) return false;
  const std::string rest = description.substr(bare.size());
  if (rest.empty()) return true;
  const std::size_t pair = rest.find(key_pair_word);
  if (!rest.starts_with(fingerprint_word) || pair == std::string::npos) return false;
  if (key_pair)
    *key_pair = MadeKeyPair{rest.substr(pair + key_pair_word.size()),
                            rest.substr(fingerprint_word.size(), pair - fingerprint_word.size())};
  return true;
}

HostParts find_host(client::Cloud& cloud, const std::string& name, std::stop_token stop) {
  check_host_name(name);
  HostParts parts;
  parts.name = name;
  client::Service& network = cloud.network(stop);
  parts.servers = client::servers::find(cloud.compute(stop), {{host_key::host, name}}, stop);
  parts.floating_ips = client::floating_ips::find_by_description(network, host_mark(name), cloud.project_id(), stop);
  parts.ports = client::ports::find_by_description(network, host_mark(name), cloud.project_id(), stop);
  for (client::SecurityGroupRules& group : client::security_groups::list(network, cloud.project_id(), stop))
    if (is_host_mark(group.description, name, &parts.key_pair)) parts.groups.push_back(std::move(group));
  for (const client::Server& server : parts.servers)
    if (const std::string pair = value(server.metadata, host_key::key_pair); !pair.empty())
      parts.key_pair = MadeKeyPair{pair, value(server.metadata, host_key::fingerprint)};
  return parts;
}

bool leads_to(const client::FloatingIp& ip, const std::vector<client::Port>& ports) {
  return ip.port.empty() ||
         std::any_of(ports.begin(), ports.end(), [&](const client::Port& port) { return port.id == ip.port; });
}

void refuse_while_used(client::Cloud& cloud, const HostParts& parts, std::stop_token stop) {
  std::vector<std::string> volumes;
  for (const client::Server& server : parts.servers)
    for (const client::Attached& attached : client::attachments::list(cloud.compute(stop), server.id, stop)) {
      if (is_own_boot_volume(cloud, server, attached, stop)) continue;
      const auto volume = client::volumes::look_up(cloud.volume(stop), attached.volume, stop);
      volumes.push_back(fmt::format("{} ('{}')", attached.volume.value, volume ? volume->name : ""));
    }
  if (!volumes.empty())
    throw Error(Fault::conflict,
                fmt::format("{} still has {} volume{} of others: {}; a migration may be using it. `vmferry abort` for "
                            "that machine detaches them (or: openstack server remove volume {} VOLUME)",
                            parts.name, volumes.size(), volumes.size() == 1 ? "" : "s", fmt::join(volumes, ", "),
                            parts.servers.front().id.value));
  for (const client::FloatingIp& ip : parts.floating_ips)
    if (!leads_to(ip, parts.ports))
      throw Error(Fault::conflict,
                  fmt::format("floating IP {} of {} was given to port {}, which is not the host's: take "
                              "it from there, or its description (openstack floating ip set {})",
                              ip.address, parts.name, ip.port.value, ip.id));
  for (const client::Port& port : parts.ports) {
    if (port.device_id.empty()) continue;
    const bool ours = std::any_of(parts.servers.begin(), parts.servers.end(),
                                  [&](const client::Server& s) { return s.id.value == port.device_id; });
    if (!ours && client::servers::look_up(cloud.compute(stop), ServerId{port.device_id}, stop))
      throw Error(Fault::conflict, fmt::format("port {} of {} is in use by another server, {}: detach it there first",
                                               port.id.value, parts.name, port.device_id));
  }
}

std::vector<Piece> pieces_of(const HostParts& parts) {
  std::vector<Piece> pieces;
  for (const client::Server& server : parts.servers) pieces.push_back({"server", server.name, server.id.value, false});
  for (const client::FloatingIp& ip : parts.floating_ips) pieces.push_back({"floating IP", ip.address, ip.id, false});
  for (const client::Port& port : parts.ports)
    pieces.push_back({"port", port.fixed_ips.empty() ? port.name : client::ports::address(port), port.id.value, false});
  if (parts.key_pair) pieces.push_back({"key pair", parts.key_pair->name, "", false});
  for (const client::SecurityGroupRules& group : parts.groups)
    pieces.push_back({"security group", group.name, group.id, false});
  return pieces;
}

void destroy_host(client::Cloud& cloud, const HostParts& parts, const Saying& saying, std::stop_token stop) {
  refuse_while_used(cloud, parts, stop);
  for (const client::Server& server : parts.servers) {
    saying(fmt::format("deleting server {} ({})", server.name, server.id.value));
    client::servers::remove(cloud.compute(stop), server.id, removal_patience, stop);
  }
  client::Service& network = cloud.network(stop);
  for (const client::FloatingIp& ip : parts.floating_ips) {
    saying(fmt::format("deleting floating IP {}", ip.address));
    client::floating_ips::remove(network, ip.id, stop);
  }
  for (const client::Port& port : parts.ports) {
    saying(fmt::format("deleting port {}", port.id.value));
    client::ports::remove(network, port.id, stop);
  }
  if (parts.key_pair) remove_key_pair(cloud, *parts.key_pair, saying, stop);
  // Last: it remembers the key pair.
  for (const client::SecurityGroupRules& group : parts.groups) {
    saying(fmt::format("deleting security group {} ({})", group.name, group.id));
    client::security_groups::remove(network, group.id, stop);
  }
}

}  // namespace vmferry::target::openstack
