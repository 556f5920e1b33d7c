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

std::uint64_t parse_in_flight(const std::string& text) {
  const std::uint64_t bytes = parse_size(text);
  if (bytes < (1 << 20) || bytes > (1 << 30))
    throw Error(Fault::usage, fmt::format("--esxi-in-flight {}: give 1M to 1G", text));
  return bytes;
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

// Bytes a second; 0: no limit.
std::uint64_t parse_rate(const char* flag, const std::string& text) {
  if (text == "none") return 0;
  const std::uint64_t bytes = parse_size(text);
  if (bytes < 64 * 1024)
    throw Error(Fault::usage, fmt::format("{} {}: give at least 64K (a second), or none", flag, text));
  return bytes;
}

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
  if (!raw.request_size.empty()) {
    const std::uint64_t bytes = parse_size(raw.request_size);
    // NFC through vCenter refuses larger reads ("Failed to allocate"), and everything must stay sector-aligned.
    if (bytes < 64 * 1024 || bytes > 2 * 1024 * 1024 || bytes % 65536 != 0)
      throw Error(Fault::usage,
                  fmt::format("--request-size {}: give a multiple of 64K between 64K and 2M", raw.request_size));
    o.copy.tuning.request = static_cast<std::uint32_t>(bytes);
  }
  if (!raw.bandwidth.empty()) o.bandwidth = parse_rate("--bandwidth", raw.bandwidth);
  if (!raw.host_bandwidth.empty()) o.limits.host_bandwidth = parse_rate("--host-bandwidth", raw.host_bandwidth);
  if (!raw.esxi_in_flight.empty()) o.limits.esxi_in_flight = parse_in_flight(raw.esxi_in_flight);
  if (o.vmware.transport == "file" && o.vmware.datastore_directory.empty())
    throw Error(Fault::usage, "--transport file needs --datastore-dir DIR, the mount point of the VM's datastore");
  if (!o.vmware.datastore_directory.empty()) o.vmware.transport = "file";
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
  if (o.to_openstack())
    for (const target::NetworkChoice& choice : o.cutover.networks)
      if (choice.subnet.empty())
        throw Error(Fault::usage, fmt::format("--network-mapping mac={}: subnet-id= is missing", choice.mac));
  if (o.verb == Verb::cutover && o.cutover.networks.empty())
    throw Error(
        Fault::usage,
        "cutover needs a --network-mapping mac=MAC,network-id=ID,subnet-id=ID for each network adapter of the VM");
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
  static const std::regex form("([0-9]{1,15})([kKmMgGtT]?)(i?[bB])?");
  std::smatch m;
  if (!std::regex_match(text, m, form))
    throw Error(Fault::usage, fmt::format("\"{}\" is no size (64K, 2M, 1GiB)", text));
  std::uint64_t bytes = std::stoull(m[1]);
  const char unit = m[2].length() ? static_cast<char>(std::tolower(m[2].str()[0])) : '\0';
  const int shift = unit == 'k' ? 10 : unit == 'm' ? 20 : unit == 'g' ? 30 : unit == 't' ? 40 : 0;
  if (shift > 0 && bytes > (UINT64_MAX >> shift)) throw Error(Fault::usage, fmt::format("\"{}\" is too large", text));
  return bytes << shift;
}

}  // namespace vmferry::config
