// deploy, check and destroy share one set of flags, grouped by who knows them.
#include "config/host_options.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.hpp"
#include "config/flags.hpp"

namespace vmferry::config {

namespace {

// What stands in the help above the flags, and says whose they are.
const std::string deploy_group = "For deploy", ssh_group = "For deploy and check", check_group = "For check",
                  destroy_group = "For destroy", any_group = "OpenStack";

void add_deploy(CLI::App& app, Host& host, OpenStack& openstack) {
  const auto option = [&](const char* flag, auto& value, const char* what, const char* type) {
    return app.add_option(flag, value, what)->type_name(type)->group(deploy_group);
  };
  option("--image", host.image, "Image of the server, id or name: a Linux with cloud-init and an SSH server", "IMAGE");
  option("--flavor", host.flavor, "Flavor of the server, id or name", "FLAVOR");
  option("--network", host.network, "Network of its port, id or name", "NETWORK");
  option("--key-pair", host.key_pair,
         "Key pair that it lets in: one that is there, or with --public-key the name of a new one (default: --name)",
         "NAME");
  option("--public-key", host.public_key,
         "Public key to import as a key pair (default: ~/.ssh/id_ed25519.pub or another id_*.pub, unless --key-pair)",
         "FILE");
  option("--ssh-from", host.ssh_from,
         "Addresses that may reach its SSH port; may be repeated (default: all, 0.0.0.0/0 and ::/0)", "CIDR");
  option("--floating-ip-network", host.floating_network, "Give it a floating IP of this external network, id or name",
         "NETWORK");
  option("--availability-zone", openstack.availability_zone, "Availability zone of the server", "AZ");
  option("--user-data", host.user_data, "cloud-init's user data, at most 48 KiB", "FILE");
  app.add_flag("--config-drive", host.config_drive, "Give it its metadata on a config drive, too")->group(deploy_group);
  option("--boot-volume", host.boot_volume,
         "Boot from a new volume of this size, deleted with the server (default: the flavor's disk)", "GIB[,TYPE]");
  option("--ssh-timeout", host.ssh_timeout, "Seconds to wait for SSH once it runs (default 600)", "SECONDS")
      ->check(CLI::Range(1, 86400).description(""));
}

void add_ssh(CLI::App& app, Host& host) {
  app.add_option("--ssh-port", host.ssh_port, "Port of its SSH server (default 22)")
      ->check(CLI::Range(1, 65535).description(""))
      ->type_name("PORT")
      ->group(ssh_group);
  app.add_option("--ssh-address", host.ssh_address,
                 "Where SSH answers, when it is reached by another address (a jump host, NAT)")
      ->type_name("HOST[:PORT]")
      ->group(ssh_group);
  app.add_flag("--no-wait-ssh", host.no_wait_ssh, "Do not ask whether SSH answers")->group(ssh_group);
}

void add_check(CLI::App& app, OpenStack& openstack) {
  const auto option = [&](const char* flag, auto& value, const char* what, const char* type) {
    app.add_option(flag, value, what)->type_name(type)->group(check_group);
  };
  option("--instance-id", openstack.instance_id, "Look at this instance, whoever made it", "UUID");
  option("--volume-availability-zone", openstack.volume_availability_zone,
         "Availability zone of the volumes that will be attached", "AZ");
  option("--metadata-url", openstack.metadata_url, "Nova's metadata service, which tells whether this is the host",
         "URL");
  option("--device-dir", openstack.device_directory, "Where attached volumes appear by id (default /dev/disk/by-id)",
         "DIR");
}

bool knows(const std::string& action, const std::string& group) {
  if (group == deploy_group) return action == "deploy";
  if (group == ssh_group) return action == "deploy" || action == "check";
  if (group == check_group) return action == "check";
  if (group == destroy_group) return action == "destroy";
  return true;
}

}  // namespace

const char* const host_footer =
    "The conversion host is the instance on which vmferry runs: the volumes of the machines are attached to it. deploy makes it in the project\n"
    "and waits until SSH answers, check looks at whether it can serve (run it there, too), destroy removes what deploy made. Every command\n"
    "may be repeated: nothing is made twice, and nothing is removed that does not carry the mark of this host.\n\n"
    "Example:\n"
    "  vmferry host deploy --os-cloud mycloud --image debian-12 --flavor m1.medium --network private \\\n"
    "    --floating-ip-network public --public-key ~/.ssh/id_ed25519.pub --ssh-from 198.51.100.0/24\n"
    "  vmferry host check --os-cloud mycloud\n"
    "  vmferry host destroy --os-cloud mycloud";

void add_host(CLI::App& app, Options& o) {
  app.add_option("action", o.host.action, "deploy, check or destroy")
      ->required()
      ->check(CLI::IsMember({"deploy", "check", "destroy"}).description(""))
      ->type_name("");
  app.add_option("--name", o.host.name, "Name of the host, by which it is found again (default vmferry-host)")
      ->type_name("NAME")
      ->group(any_group);
  add_cloud(app, o, any_group, "OpenStack project, name or id");
  add_deploy(app, o.host, o.openstack);
  add_ssh(app, o.host);
  add_check(app, o.openstack);
  app.add_flag("--yes", o.host.yes, "Do not ask before anything is deleted")->group(destroy_group);
  app.add_option("--record", o.record_directory, "Store every exchange with OpenStack, redacted, in this folder")
      ->type_name("DIR")
      ->group(general_group);
}

void finish_host(const CLI::App& app, Options& o) {
  Host& host = o.host;
  for (const CLI::Option* option : app.get_options())
    if (option->count() > 0 && !knows(host.action, option->get_group()))
      throw Error(Fault::usage, fmt::format("{} makes no sense with vmferry host {}; see vmferry host --help",
                                            option->get_name(), host.action));
  if (host.action != "deploy") return;
  std::string missing;
  for (const auto& [flag, value] :
       {std::pair{"--image", &host.image}, std::pair{"--flavor", &host.flavor}, std::pair{"--network", &host.network}})
    if (value->empty()) missing += std::string(missing.empty() ? "" : ", ") + flag;
  if (!missing.empty()) throw Error(Fault::usage, "vmferry host deploy needs " + missing);
  for (std::string& prefix : host.ssh_from) prefix = parse_prefix(prefix);
  std::sort(host.ssh_from.begin(), host.ssh_from.end());
  host.ssh_from.erase(std::unique(host.ssh_from.begin(), host.ssh_from.end()), host.ssh_from.end());
  if (!host.boot_volume.empty())
    std::tie(host.boot_volume_gib, host.boot_volume_type) = parse_boot_volume(host.boot_volume);
}

std::pair<std::uint64_t, std::string> parse_boot_volume(const std::string& text) {
  const std::size_t comma = std::min(text.find(','), text.size());
  std::uint64_t gib = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + comma, gib);
  const std::string type = comma < text.size() ? text.substr(comma + 1) : "";
  const bool good = error == std::errc() && end == text.data() + comma && gib > 0 && gib <= 65536 &&
                    (comma == text.size() || !type.empty());
  if (!good)
    throw Error(Fault::usage,
                fmt::format("--boot-volume {}: give a number of GiB, and if wanted a type: 20,fast", text));
  return {gib, type};
}

std::string parse_prefix(const std::string& text) {
  const auto bad = [&] {
    return Error(Fault::usage, fmt::format("--ssh-from {}: give an IPv4 or IPv6 prefix, 198.51.100.0/24", text));
  };
  const std::size_t slash = std::min(text.find('/'), text.size());
  const std::string address = text.substr(0, slash);
  for (const int family : {AF_INET, AF_INET6}) {
    std::array<unsigned char, 16> bytes{};
    if (::inet_pton(family, address.c_str(), bytes.data()) != 1) continue;
    unsigned longest = family == AF_INET ? 32 : 128, length = longest;
    const char* const end = text.data() + text.size();
    if (slash < text.size() && (std::from_chars(text.data() + slash + 1, end, length).ptr != end ||
                                slash + 1 == text.size() || length > longest))
      throw bad();
    // Another spelling of the same network would be another rule.
    for (unsigned bit = length; bit < longest; ++bit)
      bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] & ~(0x80u >> bit % 8));
    std::array<char, INET6_ADDRSTRLEN> plain{};
    ::inet_ntop(family, bytes.data(), plain.data(), plain.size());
    return fmt::format("{}/{}", plain.data(), length);
  }
  throw bad();
}

}  // namespace vmferry::config
