// Nova's v2.1 API, docs.openstack.org/api-ref/compute/.
#include "openstack/servers.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::servers {

namespace {

using nlohmann::json;

std::string path_of(const ServerId& id) {
  if (id.empty()) throw Error(Fault::bug, "a server without an id was asked for");
  return "/servers/" + http::encode(id.value);
}

Server read(const Fields& f) {
  Server server;
  server.id.value = f.text("id");
  server.name = f.text("name");
  server.status = f.text("status");
  server.task = f.text("OS-EXT-STS:task_state");
  server.fault = f.at("fault").text("message");
  server.availability_zone = f.text("OS-EXT-AZ:availability_zone");
  server.flavor = f.at("flavor").text("original_name");
  if (server.flavor.empty()) server.flavor = f.at("flavor").text("id");
  server.image = f.at_if_object("image").text("id");
  for (const Fields& volume : f.each("os-extended-volumes:volumes_attached"))
    if (volume.flag("delete_on_termination")) server.own_volumes.push_back(VolumeId{volume.text("id")});
  server.metadata = f.map("metadata");
  if (server.id.empty()) throw Error(Fault::data, "Nova showed a server without an id");
  return server;
}

std::vector<Server> list_where(Service& compute, const std::function<bool(const Server&)>& wanted,
                               std::stop_token stop) {
  std::vector<Server> found;
  // Nova's name filter is a regular expression of its database, and metadata is no filter for plain users: all are
  // read.
  for (const Fields& item : compute.list("/servers/detail", "servers", "list servers", stop))
    if (Server server = read(item); server.status != "DELETED" && server.status != "SOFT_DELETED" && wanted(server))
      found.push_back(std::move(server));
  return found;
}

bool carries(const Metadata& has, const Metadata& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& pair) {
    const auto found = has.find(pair.first);
    return found != has.end() && found->second == pair.second;
  });
}

// What the guest is given at its first boot.
void add_guest_settings(json& server, const ServerWish& wish) {
  if (!wish.key_name.empty()) server["key_name"] = wish.key_name;
  if (!wish.user_data.empty()) server["user_data"] = http::base64(wish.user_data);
  if (wish.config_drive) server["config_drive"] = true;
}

// The image that a server without volumes boots from: docs.openstack.org/nova/latest/user/block-device-mapping.html.
void add_image(json& server, const Service& compute, const ServerWish& wish) {
  if (wish.boot_volume_gib == 0) {
    server["imageRef"] = wish.image_id;
    return;
  }
  json device{{"source_type", "image"}, {"destination_type", "volume"},        {"uuid", wish.image_id},
              {"boot_index", 0},        {"volume_size", wish.boot_volume_gib}, {"delete_on_termination", true}};
  check_boot_volume(compute, wish.boot_volume_type);
  if (!wish.boot_volume_type.empty()) device["volume_type"] = wish.boot_volume_type;
  server["block_device_mapping_v2"] = json::array({std::move(device)});
}

std::string body_of(const Service& compute, const ServerWish& wish) {
  json server{{"name", wish.name}, {"flavorRef", wish.flavor_id}, {"metadata", wish.metadata}};
  json devices = json::array();
  for (std::size_t i = 0; i < wish.volumes.size(); ++i)
    devices.push_back({{"source_type", "volume"},
                       {"destination_type", "volume"},
                       {"uuid", wish.volumes[i].value},
                       {"boot_index", i},
                       // The volumes are the migrated machine: they outlive a server that somebody deletes.
                       {"delete_on_termination", false}});
  if (!wish.volumes.empty())
    server["block_device_mapping_v2"] = std::move(devices);
  else
    add_image(server, compute, wish);
  add_guest_settings(server, wish);
  json nics = json::array();
  for (const PortId& port : wish.ports) nics.push_back({{"port", port.value}});
  if (!nics.empty())
    server["networks"] = std::move(nics);
  else if (compute.microversion() >= Microversion{2, 37})
    server["networks"] = "none";
  if (!wish.availability_zone.empty()) server["availability_zone"] = wish.availability_zone;
  if (!wish.host.empty()) server["host"] = wish.host;
  if (!wish.tags.empty()) server["tags"] = wish.tags;
  json body{{"server", std::move(server)}};
  if (!wish.group.empty()) body["os:scheduler_hints"] = {{"group", wish.group}};
  return body.dump(-1, ' ', false, json::error_handler_t::replace);
}

[[noreturn]] void throw_failed(const Server& server) {
  throw Error(Fault::unavailable,
              fmt::format("server {} ('{}') went into status ERROR: {}; see: openstack server show {}", server.id.value,
                          server.name, server.fault.empty() ? "Nova gives no reason" : server.fault, server.id.value),
              "ERROR");
}

}  // namespace

Server create(Service& compute, const ServerWish& wish, std::stop_token stop) {
  if (wish.tag.empty() || !carries(wish.metadata, wish.tag))
    throw Error(Fault::bug, "a server was to be made without a tag to find it by");
  if (wish.volumes.empty() && wish.image_id.empty())
    throw Error(Fault::bug, fmt::format("server '{}' was to be made without volumes", wish.name));
  const std::string doing = fmt::format("create server '{}'", wish.name);
  const auto post = [&] {
    Call call;
    call.method = "POST";
    call.path = "/servers";
    call.body = body_of(compute, wish);
    call.doing = doing;
    // The answer has little more than the id.
    const std::string id = Fields::parse(compute.call(call, stop).body, "Nova's answer").at("server").text("id");
    if (id.empty()) throw Error(Fault::data, "Nova made a server without telling its id");
    return ServerId{id};
  };
  const auto look = [&]() -> std::optional<ServerId> {
    const std::vector<Server> found = find(compute, wish.tag, stop);
    if (found.empty()) return std::nullopt;
    return found.front().id;
  };
  const ServerId id = make_once<ServerId>(compute, doing, post, look, stop);
  // One that somebody has deleted by now was there: who waits for it hears of that.
  if (auto server = look_up(compute, id, stop)) return *std::move(server);
  Server gone;
  gone.id = id;
  gone.name = wish.name;
  return gone;
}

std::optional<Server> look_up(Service& compute, const ServerId& id, std::stop_token stop) {
  Call call;
  call.path = path_of(id);
  call.doing = fmt::format("show server {}", id.value);
  call.accept = {404};
  const http::Response response = compute.call(call, stop);
  if (response.status == 404) return std::nullopt;
  return read(Fields::parse(response.body, "Nova's answer").at("server"));
}

Server get(Service& compute, const ServerId& id, std::stop_token stop) {
  auto server = look_up(compute, id, stop);
  if (!server)
    throw Error(Fault::not_found,
                fmt::format("there is no server {} in this project: was it deleted, or is it another cloud or project?",
                            id.value));
  return *std::move(server);
}

std::vector<Server> find(Service& compute, const Metadata& metadata, std::stop_token stop) {
  if (metadata.empty()) throw Error(Fault::bug, "servers were to be found by no metadata at all");
  return list_where(
      compute, [&](const Server& server) { return carries(server.metadata, metadata); }, stop);
}

std::vector<Server> find_by_name(Service& compute, const std::string& name, std::stop_token stop) {
  return list_where(
      compute, [&](const Server& server) { return server.name == name; }, stop);
}

Server wait_for_active(Service& compute, const ServerId& id, std::chrono::seconds patience, std::stop_token stop) {
  Server now;
  const bool active = poll(
      compute, patience,
      [&] {
        now = get(compute, id, stop);
        if (now.status == "ERROR") throw_failed(now);
        return now.status == "ACTIVE";
      },
      stop);
  if (!active)
    throw Error(Fault::timeout, fmt::format("server {} ('{}') is still {}{} after {} s", id.value, now.name, now.status,
                                            now.task.empty() ? "" : ", " + now.task, patience.count()));
  return now;
}

void remove(Service& compute, const ServerId& id, std::chrono::seconds patience, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = path_of(id);
  call.doing = fmt::format("delete server {}", id.value);
  call.idempotent = true;
  call.accept = {404};
  if (compute.call(call, stop).status == 404) return;
  Server last;
  const bool gone = poll(
      compute, patience,
      [&] {
        const auto now = look_up(compute, id, stop);
        if (!now || now->status == "DELETED" || now->status == "SOFT_DELETED") return true;
        last = *now;
        return false;
      },
      stop);
  if (!gone)
    throw Error(Fault::timeout,
                fmt::format("server {} is still there ({}{}) {} s after it was deleted", id.value, last.status,
                            last.fault.empty() ? "" : ": " + last.fault, patience.count()));
}

std::string find_group(Service& compute, const std::string& id_or_name, std::stop_token stop) {
  std::vector<std::string> same_name, names;
  for (const Fields& group : compute.list("/os-server-groups", "server_groups", "list server groups", stop)) {
    if (group.text("id") == id_or_name) return id_or_name;
    if (group.text("name") == id_or_name) same_name.push_back(group.text("id"));
    names.push_back(group.text("name"));
  }
  if (same_name.size() == 1) return same_name.front();
  if (same_name.size() > 1)
    throw Error(Fault::conflict,
                fmt::format("{} server groups are called '{}': give the id of one", same_name.size(), id_or_name));
  throw Error(Fault::config, fmt::format("the project has no server group '{}'; it has: {}", id_or_name,
                                         names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))));
}

void check_wish(const Service& compute, const std::string& host, const std::vector<std::string>& tags) {
  const auto need = [&](Microversion since, const char* what) {
    if (compute.microversion() < since)
      throw Error(Fault::unsupported, fmt::format("{} needs microversion {} of Nova; this cloud has {}", what,
                                                  since.text(), compute.microversion().text()));
  };
  if (!host.empty()) need({2, 74}, "--server-host");
  if (!tags.empty()) need({2, 52}, "--server-tag");
}

void check_boot_volume(const Service& compute, const std::string& type) {
  if (type.empty() || compute.microversion() >= Microversion{2, 67}) return;
  throw Error(Fault::unsupported,
              fmt::format("this cloud's Nova (microversion {}) cannot choose the type of a boot volume: leave it out",
                          compute.microversion().text()));
}

void check_availability_zone(Service& compute, const std::string& name, std::stop_token stop) {
  // "zone:host" and "zone:host:node" are for administrators; the zone is the first part.
  const std::string zone_name = name.substr(0, name.find(':'));
  std::vector<std::string> names;
  for (const Fields& zone :
       compute.list("/os-availability-zone", "availabilityZoneInfo", "list availability zones", stop)) {
    if (zone.text("zoneName") == zone_name && zone.at("zoneState").flag("available")) return;
    names.push_back(zone.text("zoneName"));
  }
  throw Error(Fault::config, fmt::format("there is no availability zone '{}' for servers, or it is down; there are: {}",
                                         name, fmt::join(names, ", ")));
}

std::optional<std::string> Limits::lacking(std::int64_t cores_wanted, std::int64_t ram_mib_wanted) const {
  if (instances >= 0 && instances_used + 1 > instances)
    return fmt::format("the project may have {} servers and has {}, so one more does not fit", instances,
                       instances_used);
  if (cores >= 0 && cores_used + cores_wanted > cores)
    return fmt::format("the project may use {} cores and uses {}, so {} more do not fit", cores, cores_used,
                       cores_wanted);
  if (ram_mib >= 0 && ram_mib_used + ram_mib_wanted > ram_mib)
    return fmt::format("the project may use {} MiB of memory and uses {} MiB, so {} MiB more do not fit", ram_mib,
                       ram_mib_used, ram_mib_wanted);
  return std::nullopt;
}

Limits limits(Service& compute, std::stop_token stop) {
  const Fields absolute = compute.get("/limits", "show the project's limits", stop).at("limits").at("absolute");
  Limits limits;
  limits.instances = absolute.number("maxTotalInstances", -1);
  limits.instances_used = absolute.number("totalInstancesUsed");
  limits.cores = absolute.number("maxTotalCores", -1);
  limits.cores_used = absolute.number("totalCoresUsed");
  limits.ram_mib = absolute.number("maxTotalRAMSize", -1);
  limits.ram_mib_used = absolute.number("totalRAMUsed");
  limits.metadata = absolute.number("maxServerMeta", -1);
  return limits;
}

}  // namespace vmferry::openstack::servers
