// The way to a conversion host, one piece after the other. Each is looked for by its mark before it is made, so the
// same call goes on after a crash or a lost reply anywhere.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "base/error.hpp"
#include "openstack/attachments.hpp"
#include "openstack/errors.hpp"
#include "openstack/flavors.hpp"
#include "openstack/images.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/networks.hpp"
#include "openstack/volumes.hpp"
#include "target/cloud.hpp"
#include "target/openstack/conversion_host.hpp"
#include "target/openstack/room.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;
using plan::Finding;
using plan::Level;

// In this order: a run that died between the two left what no one asks for by itself, so the next one goes on.
const std::vector<std::string>& everybody() {
  static const std::vector<std::string> prefixes{"::/0", "0.0.0.0/0"};
  return prefixes;
}

class Deployment {
 public:
  Deployment(client::Cloud& cloud, const HostWish& wish, const Saying& saying, std::stop_token stop)
      : cloud_(cloud), wish_(wish), saying_(saying), stop_(stop) {}

  Host run() {
    saying_("looking at what is there");
    parts_ = find_host(cloud_, wish_.name, stop_);
    network_ = client::networks::find(cloud_.network(stop_), wish_.network, stop_);
    if (!wish_.floating_network.empty())
      external_ = client::networks::find(cloud_.network(stop_), wish_.floating_network, stop_).id;
    judge_existing();
    if (parts_.servers.empty())
      prepare();
    else
      compare();
    ensure_group();
    ensure_key_pair();
    ensure_rules();
    ensure_port();
    ensure_floating_ip();
    ensure_server();
    return std::move(host_);
  }

 private:
  void add(const std::string& kind, const std::string& name, const std::string& id, bool made) {
    host_.pieces.push_back({kind, name, id, made});
  }
  const client::Server* server() const { return parts_.servers.empty() ? nullptr : &parts_.servers.front(); }
  std::string mark() const { return host_mark(wish_.name); }

  void judge_existing();
  void prepare();
  void compare();
  std::string image_of_server() const;
  void choose_key_pair();
  void judge_image(std::vector<Finding>& found);
  void ensure_group();
  void ensure_key_pair();
  std::vector<std::string> prefixes(const std::vector<client::SecurityRule>& ours) const;
  void ensure_rules();
  void ensure_port();
  void ensure_floating_ip();
  void ensure_server();
  client::Server create_server();
  client::Server await_active(const ServerId& id);

  client::Cloud& cloud_;
  const HostWish& wish_;
  const Saying& saying_;
  std::stop_token stop_;
  HostParts parts_;
  client::Network network_;
  std::string external_;  // network of the floating IP
  client::Flavor flavor_;
  client::Image image_;
  std::string key_pair_;                 // that the server gets
  std::optional<MadeKeyPair> made_key_;  // when it is ours
  client::SecurityGroupRules group_;
  client::Port port_;
  Host host_;
};

// ---- before anything is made

void Deployment::judge_existing() {
  if (parts_.servers.size() > 1)
    throw Error(Fault::conflict,
                fmt::format("{} servers carry the mark of the host '{}': delete all but one, or use `vmferry host "
                            "destroy --name {}`",
                            parts_.servers.size(), wish_.name, wish_.name));
  for (const client::Port& port : parts_.ports)
    if (port.network != network_.id)
      throw Error(Fault::conflict,
                  fmt::format("the host '{}' has a port in another network ({}): use that network, another --name, or "
                              "`vmferry host destroy --name {}` first",
                              wish_.name, port.network, wish_.name));
  const client::Server* there = server();
  if (!there || there->status == "BUILD" || there->status == "ACTIVE") return;
  if (there->status == "ERROR")
    throw Error(Fault::conflict,
                fmt::format("server {} of the host '{}' is in status ERROR{}{}: remove it with `vmferry host destroy "
                            "--name {}`, then deploy again",
                            there->id.value, wish_.name, there->fault.empty() ? "" : ": ", there->fault, wish_.name));
  throw Error(Fault::conflict,
              fmt::format("server {} of the host '{}' is {}: bring it to ACTIVE (openstack server start "
                          "{}), or remove it with `vmferry host destroy --name {}`",
                          there->id.value, wish_.name, there->status, there->id.value, wish_.name));
}

void Deployment::judge_image(std::vector<Finding>& found) {
  const auto problem = [&](const std::string& fact, const std::string& remedy) {
    found.push_back({Level::problem, "image " + image_.name, fact, remedy, Fault::config});
  };
  if (image_.status != "active") problem(fmt::format("it is {}, not active", image_.status), "use another image");
  if (image_.min_ram_mib > flavor_.ram_mib)
    problem(fmt::format("it needs {} MiB of memory, and flavor {} has {}", image_.min_ram_mib, flavor_.name,
                        flavor_.ram_mib),
            "use a larger flavor");
  const auto disk = wish_.boot_volume_gib > 0 ? static_cast<std::int64_t>(wish_.boot_volume_gib) : flavor_.disk_gib;
  if (disk > 0 && image_.min_disk_gib > disk)
    problem(fmt::format("it needs a disk of {} GiB, and would get {}", image_.min_disk_gib, disk),
            fmt::format("add --boot-volume {}", image_.min_disk_gib));
}

void Deployment::prepare() {
  flavor_ = client::flavors::find(cloud_.compute(stop_), wish_.flavor, stop_);
  image_ = client::images::find(cloud_.image(stop_), wish_.image, stop_);
  if (!wish_.availability_zone.empty())
    client::servers::check_availability_zone(cloud_.compute(stop_), wish_.availability_zone, stop_);
  if (!wish_.boot_volume_type.empty()) client::volumes::find_type(cloud_.volume(stop_), wish_.boot_volume_type, stop_);
  choose_key_pair();
  std::vector<Finding> found;
  judge_image(found);
  if (const auto lacking =
          client::servers::limits(cloud_.compute(stop_), stop_).lacking(flavor_.vcpus, flavor_.ram_mib))
    found.push_back({Level::problem, cloud_.describe(),
                     fmt::format("a server of flavor {} cannot be made: {}", flavor_.name, *lacking),
                     "have Nova's quota raised, or delete servers", Fault::quota});
  if (wish_.boot_volume_gib > 0) {
    judge_volumes(cloud_, "", 1, wish_.boot_volume_gib, found, stop_);
    if (!wish_.boot_volume_type.empty())
      judge_volumes(cloud_, wish_.boot_volume_type, 1, wish_.boot_volume_gib, found, stop_);
    client::servers::check_boot_volume(cloud_.compute(stop_), wish_.boot_volume_type);
  }
  if (parts_.ports.empty()) judge_network(cloud_, Countable::ports, 1, found, stop_);
  if (parts_.groups.empty()) {
    // A new group has two rules, that let everything out.
    const std::size_t rules = 2 + (wish_.ssh_from ? *wish_.ssh_from : everybody()).size();
    judge_network(cloud_, Countable::security_groups, 1, found, stop_);
    judge_network(cloud_, Countable::security_rules, rules, found, stop_);
  }
  if (!external_.empty() && parts_.floating_ips.empty())
    judge_network(cloud_, Countable::floating_ips, 1, found, stop_);
  plan::refuse(fmt::format("the conversion host '{}' cannot be made", wish_.name), found);
}

// Its image's id; a server on a volume tells none, but its boot volume remembers.
std::string Deployment::image_of_server() const {
  if (!server()->image.empty()) return server()->image;
  for (const client::Attached& attached : client::attachments::list(cloud_.compute(stop_), server()->id, stop_)) {
    const auto volume = client::volumes::look_up(cloud_.volume(stop_), attached.volume, stop_);
    if (volume && volume->bootable && !value(volume->image_metadata, "image_id").empty())
      return value(volume->image_metadata, "image_id");
  }
  return "";
}

// A server that is there stays as it is; who wishes another one shall know.
void Deployment::compare() {
  const auto tell = [&](const std::string& has, const std::string& wished) {
    host_.remarks.push_back(
        fmt::format("server {} is there already and stays as it is: it has {}, not {}; for another "
                    "one `vmferry host destroy --name {}` first",
                    server()->id.value, has, wished, wish_.name));
  };
  const auto if_found = [&](const std::function<void()>& question) {
    try {
      question();
    } catch (const Error& e) {
      // What was wished is not there any more.
      if (e.fault() != Fault::config && e.fault() != Fault::conflict) throw;
      host_.remarks.emplace_back(e.what());
    }
  };
  const std::string& flavor = server()->flavor;
  if (!flavor.empty() && flavor != wish_.flavor)
    if_found([&] {
      const client::Flavor wished = client::flavors::find(cloud_.compute(stop_), wish_.flavor, stop_);
      if (wished.name != flavor && wished.id != flavor) tell("flavor " + flavor, wished.name);
    });
  const std::string image = image_of_server();
  if (!image.empty() && image != wish_.image)
    if_found([&] {
      const client::Image wished = client::images::find(cloud_.image(stop_), wish_.image, stop_);
      if (wished.id != image) tell("image " + image, fmt::format("{} ({})", wished.name, wished.id));
    });
}

// Whether the key pair is there, and whose it is. Only its absence lets us make it, and then we say so beforehand.
void Deployment::choose_key_pair() {
  key_pair_ = wish_.key_pair.empty() ? wish_.name : wish_.key_pair;
  client::Service& compute = cloud_.compute(stop_);
  if (wish_.public_key.empty()) {
    client::keypairs::get(compute, key_pair_, stop_);
    if (parts_.key_pair && parts_.key_pair->name == key_pair_) made_key_ = parts_.key_pair;
  } else {
    const auto there = client::keypairs::look_up(compute, key_pair_, stop_);
    if (there)  // throws when it is another key
      client::keypairs::ensure(compute, key_pair_, wish_.public_key, stop_);
    const MadeKeyPair ours{key_pair_, client::keypairs::fingerprint_of(wish_.public_key)};
    if (!there || parts_.key_pair == ours) made_key_ = ours;
  }
  if (parts_.key_pair && parts_.key_pair != made_key_)
    throw Error(
        Fault::conflict,
        fmt::format("an earlier run imported key pair '{}' for the host '{}': give the same key again, or begin "
                    "anew after `vmferry host destroy --name {}`",
                    parts_.key_pair->name, wish_.name, wish_.name));
}

// ---- piece by piece

void Deployment::ensure_group() {
  client::Service& network = cloud_.network(stop_);
  const std::string wanted = host_mark(wish_.name, server() ? parts_.key_pair : made_key_);
  const bool made = parts_.groups.empty();
  if (made) {
    if (server())
      throw Error(Fault::conflict,
                  fmt::format("the security group of the host '{}' is gone, and others cannot be told to its server by "
                              "vmferry: `vmferry host destroy --name {}`, then deploy again",
                              wish_.name, wish_.name));
    saying_("making the security group");
    group_ = client::security_groups::create(network, cloud_.project_id(), wish_.name, wanted, stop_);
  } else {
    group_ = *std::min_element(parts_.groups.begin(), parts_.groups.end(),
                               [](const auto& a, const auto& b) { return a.id < b.id; });
    // Before the key pair is made: afterwards nobody could tell that it is ours.
    if (group_.description != wanted) client::security_groups::describe(network, group_.id, wanted, stop_);
  }
  add("security group", group_.name, group_.id, made);
}

void Deployment::ensure_key_pair() {
  if (const client::Server* there = server()) {
    if (parts_.key_pair) add("key pair", parts_.key_pair->name, "", false);
    saying_(fmt::format("server {} is there already", there->id.value));
    return;
  }
  const bool made = made_key_ && !client::keypairs::look_up(cloud_.compute(stop_), key_pair_, stop_);
  if (made) {
    saying_(fmt::format("importing the public key as key pair {}", key_pair_));
    client::keypairs::ensure(cloud_.compute(stop_), key_pair_, wish_.public_key, stop_);
  }
  add("key pair", key_pair_, "", made);
}

std::vector<std::string> Deployment::prefixes(const std::vector<client::SecurityRule>& ours) const {
  if (wish_.ssh_from) return *wish_.ssh_from;
  std::vector<std::string> now;
  now.reserve(ours.size());
  for (const client::SecurityRule& rule : ours) now.push_back(rule.from);
  // See everybody(): the first of the two alone is a run that died.
  if (now.empty() || now == std::vector<std::string>{everybody().front()}) return everybody();
  return now;
}

void Deployment::ensure_rules() {
  client::Service& network = cloud_.network(stop_);
  std::vector<client::SecurityRule> ours;
  for (client::SecurityRule rule : group_.rules) {
    if (rule.direction != "ingress" || rule.description != mark()) continue;
    if (rule.from.empty()) rule.from = rule.family == "IPv6" ? "::/0" : "0.0.0.0/0";
    ours.push_back(std::move(rule));
  }
  // Of a host that is there they are whole, and what its owner has made of them since is his.
  if (server() && !wish_.ssh_from) {
    host_.open_to_all = std::any_of(ours.begin(), ours.end(),
                                    [](const client::SecurityRule& rule) { return rule.from.ends_with("/0"); });
    return;
  }
  std::vector<std::string> missing = prefixes(ours);
  host_.open_to_all = std::any_of(missing.begin(), missing.end(), [](const auto& p) { return p.ends_with("/0"); });
  std::vector<std::string> superfluous;  // ids
  for (const client::SecurityRule& rule : ours) {
    const auto wanted = std::find(missing.begin(), missing.end(), rule.from);
    if (wanted != missing.end() && rule.first_port == wish_.ssh_port && rule.last_port == wish_.ssh_port)
      missing.erase(wanted);
    else
      superfluous.push_back(rule.id);
  }
  // First what is wanted: a run that dies between the two must not look like one that has no rules yet.
  for (const std::string& prefix : missing)
    client::security_groups::allow(network, {group_.id, wish_.ssh_port, prefix, mark()}, stop_);
  for (const std::string& id : superfluous) client::security_groups::remove_rule(network, id, stop_);
}

void Deployment::ensure_port() {
  const bool made = parts_.ports.empty();
  if (made) {
    if (server())
      throw Error(Fault::conflict, fmt::format("the port of the host '{}' is gone: `vmferry host destroy --name {}`, "
                                               "then deploy again",
                                               wish_.name, wish_.name));
    saying_(fmt::format("making a port in network {}", network_.name));
    client::PortWish port;
    port.name = wish_.name;
    port.description = mark();
    port.project = cloud_.project_id();
    port.network = network_.id;
    port.security_groups = {group_.id};
    port_ = client::ports::create(cloud_.network(stop_), port, stop_);
  } else {
    // The one that the server has; without a server any of them, but always the same.
    port_ = *std::min_element(parts_.ports.begin(), parts_.ports.end(), [&](const auto& a, const auto& b) {
      const auto rank = [&](const client::Port& p) {
        return std::pair(!(server() && p.device_id == server()->id.value), p.id.value);
      };
      return rank(a) < rank(b);
    });
  }
  host_.address = client::ports::address(port_);
  add("port", host_.address, port_.id.value, made);
}

void Deployment::ensure_floating_ip() {
  client::Service& network = cloud_.network(stop_);
  client::FloatingIp ip;
  bool made = false;
  if (!parts_.floating_ips.empty()) {
    ip = parts_.floating_ips.front();
    if (!leads_to(ip, {port_}) && !leads_to(ip, parts_.ports))
      throw Error(Fault::conflict,
                  fmt::format("floating IP {} of the host '{}' was given to port {}, which is not the host's: take it "
                              "from there, or its description (openstack floating ip set {})",
                              ip.address, wish_.name, ip.port.value, ip.id));
    if (ip.port != port_.id) ip = client::floating_ips::give(network, ip.id, port_.id, stop_);
  } else if (!external_.empty()) {
    saying_("making a floating IP");
    ip = client::floating_ips::create(network, external_, port_.id, mark(), stop_);
    made = true;
  } else {
    return;
  }
  host_.address = ip.address;
  add("floating IP", ip.address, ip.id, made);
}

client::Server Deployment::create_server() {
  client::ServerWish wish;
  wish.name = wish_.name;
  wish.flavor_id = flavor_.id;
  wish.image_id = image_.id;
  wish.boot_volume_gib = wish_.boot_volume_gib;
  wish.boot_volume_type = wish_.boot_volume_type;
  wish.ports = {port_.id};
  wish.availability_zone = wish_.availability_zone;
  wish.key_name = key_pair_;
  wish.user_data = wish_.user_data;
  wish.config_drive = wish_.config_drive;
  wish.tag = {{host_key::host, wish_.name}};
  wish.metadata = wish.tag;
  if (made_key_) {
    wish.metadata[host_key::key_pair] = made_key_->name;
    wish.metadata[host_key::fingerprint] = made_key_->fingerprint;
  }
  if (wish_.boot_volume_gib > 0) wish.metadata[host_key::boot] = "volume";
  try {
    return client::servers::create(cloud_.compute(stop_), wish, stop_);
  } catch (const client::Refused& refused) {
    // "Only volume-backed servers are allowed for flavors with zero disk."
    const bool no_disk =
        refused.status() == 403 && std::string_view(refused.what()).find("zero disk") != std::string::npos;
    if (!no_disk) throw;
    throw Error(Fault::config,
                fmt::format("flavor {} has no disk of its own, and this cloud lets no server boot without one: add "
                            "--boot-volume GIB, or use another flavor ({})",
                            flavor_.name, refused.what()),
                refused.name());
  }
}

// Nova takes minutes where it copies the image first; the terminal must not stay silent that long.
client::Server Deployment::await_active(const ServerId& id) {
  constexpr std::chrono::seconds between_words(10);
  client::Service& compute = cloud_.compute(stop_);
  const auto end = compute.clock().mono() + wish_.server_patience;
  for (;;) {
    try {
      return client::servers::wait_for_active(compute, id, between_words, stop_);
    } catch (const Error& e) {
      if (e.fault() != Fault::timeout || compute.clock().mono() >= end) throw;
    }
    const client::Server now = client::servers::get(compute, id, stop_);
    saying_(fmt::format("server {} is {}{}{}", id.value, now.status, now.task.empty() ? "" : ", ", now.task));
  }
}

void Deployment::ensure_server() {
  const bool made = server() == nullptr;
  if (made) saying_(fmt::format("making the server from image {}", image_.name));
  const client::Server there = made ? create_server() : *server();
  if (there.status != "ACTIVE") saying_(fmt::format("waiting until server {} is ACTIVE", there.id.value));
  const client::Server now = await_active(there.id);
  host_.id = now.id;
  host_.status = now.status;
  host_.admin_user = image_.admin_user;
  add("server", now.name, now.id.value, made);
}

}  // namespace

Host deploy_host(client::Cloud& cloud, const HostWish& wish, const Saying& saying, std::stop_token stop) {
  return Deployment(cloud, wish, saying, stop).run();
}

}  // namespace vmferry::target::openstack
