// What the flags say, as values: mappings, sizes, rates, and which flags make no sense together.
#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "base/error.hpp"
#include "config/flags.hpp"
#include "plan/plan.hpp"

namespace vmferry::config {

namespace {

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// Nothing when it is none, or too large.
std::optional<std::uint64_t> size_of(const std::string& text) {
  static const std::regex form("([0-9]{1,15})([kKmMgGtT]?)(i?[bB])?");
  std::smatch m;
  if (!std::regex_match(text, m, form)) return std::nullopt;
  const std::uint64_t bytes = std::stoull(m[1]);
  const char unit = m[2].length() ? static_cast<char>(std::tolower(m[2].str()[0])) : '\0';
  const int shift = unit == 'k' ? 10 : unit == 'm' ? 20 : unit == 'g' ? 30 : unit == 't' ? 40 : 0;
  if (shift > 0 && bytes > (UINT64_MAX >> shift)) return std::nullopt;
  return bytes << shift;
}

std::uint64_t parse_in_flight(const std::string& text) {
  const auto bytes = size_of(text);
  if (!bytes || *bytes < (1 << 20) || *bytes > (1 << 30))
    throw Error(Fault::usage, fmt::format("--esxi-in-flight {}: give 1M to 1G", text));
  return *bytes;
}

void finish_flavors(Options& o, const Raw& raw) {
  for (const std::string& text : raw.allowed_flavors) {
    const auto kind = plan::parse_reserved(lower(text));
    if (!kind)
      throw Error(Fault::usage,
                  fmt::format("--allow-flavors {}: gpu, pinned, huge-pages, bare-metal and private are known", text));
    o.openstack.allowed_flavors.insert(*kind);
  }
  const bool named = !o.cutover.flavor.empty() && o.cutover.flavor != "auto";
  if (named && (o.openstack.create_flavor || !raw.allowed_flavors.empty()))
    throw Error(Fault::usage,
                fmt::format("--flavor {} is the one, so --allow-flavors and --create-flavor make no sense beside it",
                            o.cutover.flavor));
}

void finish_volume_types(Options& o, const Raw& raw) {
  for (const std::string& text : raw.volume_types) {
    const std::size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size())
      throw Error(Fault::usage, fmt::format("--volume-type-mapping {}: give DATASTORE=TYPE", text));
    if (!o.openstack.volume_types.emplace(text.substr(0, equals), text.substr(equals + 1)).second)
      throw Error(Fault::usage,
                  fmt::format("--volume-type-mapping {}: {} is given twice", text, text.substr(0, equals)));
  }
}

// The reference comes last and may hold anything.
void finish_existing_volumes(Options& o, const Raw& raw) {
  if (!raw.existing_volumes.empty() && o.target != "openstack")
    throw Error(Fault::usage,
                fmt::format("--existing-volume is for volumes that are attached, not for --target {}", o.target));
  for (const std::string& text : raw.existing_volumes) {
    static const std::regex form("disk=([0-9]{1,9}),host=([^,]+@[^,]+#[^,]+),(source-name|source-id)=(.+)");
    std::smatch parts;
    if (!std::regex_match(text, parts, form))
      throw Error(Fault::usage,
                  fmt::format("--existing-volume {}: give disk=KEY,host=HOST@BACKEND#POOL,source-name=NAME", text));
    const model::DiskKey disk{std::stoi(parts[1].str())};
    if (!o.openstack.existing_volumes.emplace(disk, ExistingVolume{parts[2], parts[3], parts[4]}).second)
      throw Error(Fault::usage, fmt::format("--existing-volume {}: disk {} is given twice", text, disk.value));
  }
}

// DIR, or NAME=DIR; a name of a datastore has no slash.
void finish_local_disk_paths(Options& o, const Raw& raw) {
  for (const std::string& text : raw.local_disk_paths) {
    const std::size_t equals = text.find('=');
    const bool named = equals != std::string::npos && text.find('/') > equals;
    const std::string name = named ? text.substr(0, equals) : "", directory = named ? text.substr(equals + 1) : text;
    if (directory.empty() || (named && name.empty()))
      throw Error(Fault::usage, fmt::format("--local-disk-path {}: give DIR or NAME=DIR", text));
    if (named ? !o.vmware.datastores.emplace(name, directory).second : !o.vmware.datastore_directory.empty())
      throw Error(Fault::usage,
                  fmt::format("--local-disk-path {}: a folder is given already for {}; for several datastores give "
                              "NAME=DIR",
                              text, named ? name : "datastores without a name"));
    if (!named) o.vmware.datastore_directory = directory;
  }
}

// HOST, HOST:PORT, [ADDRESS]:PORT or a bare IPv6 address.
void finish_esxi_ssh(Options& o, const Raw& raw) {
  EsxiSsh& ssh = o.vmware.esxi_ssh;
  if (raw.esxi_ssh_address.empty()) return;
  static const std::regex form("(?:\\[([0-9a-fA-F:.]+)\\]|([^:/@\\s]+))(?::([0-9]{1,5}))?|([0-9a-fA-F:.]+)");
  std::smatch parts;
  if (!std::regex_match(raw.esxi_ssh_address, parts, form) || (parts[3].matched && std::stoi(parts[3]) > 65535))
    throw Error(Fault::usage, fmt::format("--esxi-ssh-address {}: give HOST or HOST:PORT", raw.esxi_ssh_address));
  ssh.host = parts[1].matched ? parts[1] : parts[2].matched ? parts[2] : parts[4];
  if (parts[3].matched) ssh.port = std::stoi(parts[3]);
}

void finish_proxy(Options& o, const Raw& raw) {
  config::Vmware& wish = o.vmware;
  if (!wish.may_read_by("hotadd") && (!wish.proxy_vm.empty() || !raw.proxy_ssh.empty()))
    throw Error(Fault::usage, "--proxy-vm and --proxy-ssh go with the transport hotadd, which --transport leaves out");
  if (raw.proxy_ssh.empty()) {
    if (!wish.proxy_ssh_key.empty() || !wish.proxy_ssh_known_hosts.empty())
      throw Error(Fault::usage, "--proxy-ssh-key and --proxy-ssh-known-hosts go with --proxy-ssh USER@HOST only");
    return;
  }
  // The port stands behind the last colon; an IPv6 address in brackets has colons of its own.
  static const std::regex form(R"(([^@\s-][^@\s]*@)?(\[[0-9A-Fa-f:.]+\]|[^@:\s-][^@:\s]*)(:([0-9]{1,5}))?)");
  std::smatch parts;
  if (!std::regex_match(raw.proxy_ssh, parts, form))
    throw Error(Fault::usage, fmt::format("--proxy-ssh {}: give USER@HOST or USER@HOST:PORT", raw.proxy_ssh));
  std::string host = parts[2].str();
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  wish.proxy_ssh = parts[1].str() + host;
  if (parts[4].matched) wish.proxy_ssh_port = std::stoi(parts[4].str());
  if (wish.proxy_ssh_port < 1 || wish.proxy_ssh_port > 65535)
    throw Error(Fault::usage, fmt::format("--proxy-ssh {}: there is no such port", raw.proxy_ssh));
}

void finish_server_metadata(Options& o, const Raw& raw) {
  for (const std::string& text : raw.server_metadata) {
    const std::size_t equals = text.find('=');
    const std::string key = text.substr(0, equals);
    if (equals == std::string::npos || key.empty() || key.size() > 255 || text.size() - equals - 1 > 255)
      throw Error(Fault::usage, fmt::format("--server-metadata {}: give KEY=VALUE, each at most 255 characters", text));
    if (key.starts_with("vmferry_"))
      throw Error(Fault::usage, fmt::format("--server-metadata {}: vmferry_... are vmferry's own", text));
    o.openstack.server_metadata[key] = text.substr(equals + 1);
  }
}

}  // namespace

std::string what_is_wrong_with_endpoint(const std::string& endpoint) {
  if (endpoint.find('/') != std::string::npos)
    return fmt::format("{}: give the host alone (vcenter.example or vcenter.example:443), without https:// and path",
                       endpoint);
  static const std::regex form(R"((\[[0-9A-Fa-f:.]+\]|[^:@?#\s\[\]]+)(:([0-9]{1,5}))?)");
  std::smatch parts;
  const bool good = std::regex_match(endpoint, parts, form) &&
                    (!parts[3].matched || (std::stoi(parts[3]) >= 1 && std::stoi(parts[3]) <= 65535));
  if (good) return "";
  return fmt::format("{}: give HOST or HOST:PORT, an IPv6 address in brackets; a port is 1 to 65535", endpoint);
}

// Bytes a second; 0: no limit.
std::uint64_t parse_rate(const char* flag, const std::string& text) {
  if (text == "none") return 0;
  const auto bytes = size_of(text);
  if (!bytes || *bytes < 64 * 1024)
    throw Error(Fault::usage,
                fmt::format("{} {}: give a size of at least 64K (a second), 50M or 1GiB, or none", flag, text));
  return *bytes;
}

bool Vmware::may_read_by(const std::string& name) const {
  return transports.empty() || std::find(transports.begin(), transports.end(), name) != transports.end();
}

namespace {

void finish_transports(Options& o, const Raw& raw) {
  for (const std::string& name : raw.transports) {
    if (name == "auto" && raw.transports.size() > 1)
      throw Error(Fault::usage,
                  "--transport: auto stands alone; without it the transports are tried in the order given");
    if (std::find(o.vmware.transports.begin(), o.vmware.transports.end(), name) == o.vmware.transports.end())
      o.vmware.transports.push_back(name);
  }
  if (o.vmware.transports == std::vector<std::string>{"auto"}) o.vmware.transports.clear();
  if (!o.vmware.transports.empty() && o.vmware.may_read_by("file") && raw.local_disk_paths.empty())
    throw Error(Fault::usage, "--transport file needs --local-disk-path DIR, the mount point of the VM's datastore");
}

}  // namespace

void finish(Options& o, Raw& raw) {
  finish_server_metadata(o, raw);
  finish_flavors(o, raw);
  finish_volume_types(o, raw);
  finish_existing_volumes(o, raw);
  o.copy.quiesce = raw.quiesce == "always"  ? source::Quiesce::always
                   : raw.quiesce == "never" ? source::Quiesce::never
                                            : source::Quiesce::automatic;
  for (const std::int32_t key : raw.skip_disks) o.copy.skip.insert(model::DiskKey{key});
  for (const std::string& text : raw.networks) o.cutover.networks.push_back(parse_network_mapping(text));
  o.copy.audit = raw.audit / 100;
  o.verify.sample = raw.sample / 100;
  o.cutover.shutdown_patience = std::chrono::seconds(raw.shutdown_timeout);
  o.cutover.availability_zone = o.openstack.availability_zone;
  o.disk_bus = lower(o.disk_bus);
  o.vmware.compression = lower(o.vmware.compression);
  if (!raw.request_size.empty()) {
    const std::uint64_t bytes = size_of(raw.request_size).value_or(0);
    // NFC through vCenter refuses larger reads ("Failed to allocate"), and everything must stay sector-aligned.
    if (bytes < 64 * 1024 || bytes > 2 * 1024 * 1024 || bytes % 65536 != 0)
      throw Error(Fault::usage,
                  fmt::format("--request-size {}: give a multiple of 64K between 64K and 2M", raw.request_size));
    o.copy.tuning.request = static_cast<std::uint32_t>(bytes);
  }
  if (!raw.bandwidth.empty()) o.bandwidth = parse_rate("--bandwidth", raw.bandwidth);
  if (!raw.host_bandwidth.empty()) o.limits.host_bandwidth = parse_rate("--host-bandwidth", raw.host_bandwidth);
  if (!raw.esxi_in_flight.empty()) o.limits.esxi_in_flight = parse_in_flight(raw.esxi_in_flight);
  finish_local_disk_paths(o, raw);
  finish_transports(o, raw);
  if (!o.vmware.vddk_transports.empty() && !o.vmware.may_read_by("vddk"))
    throw Error(Fault::usage, "--vddk-transports goes with the transport vddk, which --transport leaves out");
  finish_esxi_ssh(o, raw);
  finish_proxy(o, raw);
  const bool folder = (o.target.starts_with("local:") || o.target.starts_with("image:")) && o.target.size() > 6;
  if (o.target != "openstack" && !folder)
    throw Error(Fault::usage, fmt::format("--target {}: give openstack, image:DIR or local:DIR", o.target));
  if (!o.libvirt.empty() && o.to_openstack())
    throw Error(Fault::usage, "--libvirt URI goes with --target local:DIR only");
  const bool insecure_and_pinned = o.vmware.insecure && (!o.vmware.fingerprint.empty() || !o.vmware.ca_file.empty());
  if (insecure_and_pinned)
    throw Error(
        Fault::usage,
        "--vmware-insecure accepts any certificate, so --vmware-ca and --vmware-fingerprint make no sense beside it");
  if (o.verb == Verb::cutover && o.cutover.networks.empty())
    throw Error(
        Fault::usage,
        "cutover needs a --network-mapping mac=MAC,network-id=ID[,subnet-id=ID] for each network adapter of the VM");
}

target::NetworkChoice parse_network_mapping(const std::string& text) {
  target::NetworkChoice choice;
  std::string security;
  const std::map<std::string, std::string*> once{{"mac", &choice.mac},
                                                 {"network-id", &choice.network},
                                                 {"subnet-id", &choice.subnet},
                                                 {"port-security", &security}};
  const std::map<std::string, std::vector<std::string>*> often{
      {"ip", &choice.ips}, {"security-group", &choice.security_groups}, {"allowed-address", &choice.allowed_addresses}};
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    at = comma + 1;
    const std::size_t equals = part.find('=');
    const std::string key = part.substr(0, equals), value = equals == std::string::npos ? "" : part.substr(equals + 1);
    const auto single = once.find(key);
    const auto list = often.find(key);
    if ((single == once.end() && list == often.end()) || value.empty())
      throw Error(Fault::usage, fmt::format("--network-mapping {}: \"{}\" is not one of mac=, network-id=, subnet-id=, "
                                            "ip=, security-group=, allowed-address=, port-security=",
                                            text, part));
    if (list != often.end()) {
      list->second->push_back(value);
      continue;
    }
    if (!single->second->empty())
      throw Error(Fault::usage, fmt::format("--network-mapping {}: {} is given twice", text, key));
    *single->second = value;
  }
  choice.mac = lower(choice.mac);
  static const std::regex mac("([0-9a-f]{2}:){5}[0-9a-f]{2}");
  if (!std::regex_match(choice.mac, mac))
    throw Error(Fault::usage,
                fmt::format("--network-mapping {}: mac={} is no MAC address (00:50:56:ab:cd:ef)", text, choice.mac));
  if (choice.network.empty())
    throw Error(Fault::usage, fmt::format("--network-mapping {}: network-id= is missing", text));
  if (!security.empty() && security != "on" && security != "off")
    throw Error(Fault::usage, fmt::format("--network-mapping {}: port-security={}: on or off", text, security));
  if (!security.empty()) choice.port_security = security == "on";
  if (choice.port_security == false && (!choice.security_groups.empty() || !choice.allowed_addresses.empty()))
    throw Error(Fault::usage, fmt::format("--network-mapping {}: with port-security=off everything may pass, so "
                                          "security-group= and allowed-address= make no sense beside it",
                                          text));
  return choice;
}

std::uint64_t parse_size(const std::string& text) {
  if (const auto bytes = size_of(text)) return *bytes;
  throw Error(Fault::usage, fmt::format("\"{}\" is no size (64K, 2M, 1GiB)", text));
}

}  // namespace vmferry::config
