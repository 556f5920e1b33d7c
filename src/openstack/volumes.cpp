// Cinder's v3 API, docs.openstack.org/api-ref/block-storage/v3/.
#include "openstack/volumes.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::volumes {

namespace {

using nlohmann::json;

constexpr std::chrono::seconds deletion_patience(600);
constexpr std::chrono::seconds extension_patience(600);

std::string path_of(const VolumeId& id) {
  if (id.empty()) throw Error(Fault::bug, "a volume without an id was asked for");
  return "/volumes/" + http::encode(id.value);
}

Volume read(const Fields& f) {
  Volume volume;
  volume.id.value = f.text("id");
  volume.name = f.text("name");
  volume.status = f.text("status");
  volume.gib = static_cast<std::uint64_t>(std::max<std::int64_t>(0, f.number("size")));
  volume.type = f.text("volume_type");
  volume.availability_zone = f.text("availability_zone");
  volume.bootable = f.flag("bootable");
  volume.multiattach = f.flag("multiattach");
  volume.encrypted = f.flag("encrypted");
  volume.metadata = f.map("metadata");
  volume.image_metadata = f.map("volume_image_metadata");
  for (const Fields& a : f.each("attachments"))
    volume.attachments.push_back({a.text("attachment_id"), ServerId{a.text("server_id")}, a.text("device")});
  if (volume.id.empty()) throw Error(Fault::data, "Cinder showed a volume without an id");
  return volume;
}

std::string dump(const json& body) { return body.dump(-1, ' ', false, json::error_handler_t::replace); }

bool carries(const Metadata& has, const Metadata& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& pair) {
    const auto found = has.find(pair.first);
    return found != has.end() && found->second == pair.second;
  });
}

void act(Service& service, const VolumeId& id, const json& body, const std::string& doing, std::stop_token stop) {
  Call call;
  call.method = "POST";
  call.path = path_of(id) + "/action";
  call.body = dump(body);
  call.doing = doing;
  call.idempotent = true;
  service.call(call, stop);
}

// Cinder tells why a volume failed only in its messages (since 3.5: by resource): "Could not find any available
// weighted backend". Nothing when there is none or they may not be read.
std::string reason_for(Service& service, const VolumeId& id, std::stop_token stop) {
  if (service.microversion() < Microversion{3, 5}) return {};
  try {
    for (const Fields& message :
         service.list("/messages?resource_uuid=" + http::encode(id.value), "messages", "read Cinder's messages", stop))
      if (const std::string text = message.text("user_message"); !text.empty()) return text;
  } catch (const Error&) {
    // The volume's error is the news, not that its reason cannot be read.
  }
  return {};
}

[[noreturn]] void throw_failed(Service& service, const Volume& volume, std::stop_token stop) {
  const std::string reason = reason_for(service, volume.id, stop);
  throw Error(Fault::unavailable,
              fmt::format("volume {} ('{}') went into status {}{}; look at it with: openstack volume show {}",
                          volume.id.value, volume.name, volume.status,
                          reason.empty() ? ": Cinder gives no reason, ask the cloud's operator" : ": " + reason,
                          volume.id.value),
              volume.status);
}

// The refusal with the numbers of the project's quota, which Cinder's text does not always have.
[[noreturn]] void throw_quota(Service& service, const Refused& refused, std::uint64_t count, std::uint64_t gib,
                              std::stop_token stop) {
  std::string message = refused.what();
  try {
    if (const auto lacking = limits(service, stop).lacking(count, gib))
      message = fmt::format("{} ({})", *lacking, message);
  } catch (const Error&) {
    // Cinder's own words must do.
  }
  throw Error(Fault::quota, message, refused.name());
}

Volume post(Service& service, const VolumeWish& wish, const ExistingVolume* existing, const std::string& doing,
            std::stop_token stop) {
  json volume{{"name", wish.name}, {"metadata", wish.metadata}};
  if (existing) {
    volume["host"] = existing->host;
    volume["ref"] = {{existing->key, existing->reference}};
  } else {
    volume["size"] = wish.gib;
  }
  if (!wish.description.empty()) volume["description"] = wish.description;
  if (!wish.type.empty()) volume["volume_type"] = wish.type;
  if (!wish.availability_zone.empty()) volume["availability_zone"] = wish.availability_zone;
  if (!wish.image.empty()) volume["imageRef"] = wish.image.value;
  Call call;
  call.method = "POST";
  call.path = existing ? "/manageable_volumes" : "/volumes";
  call.body = dump(json{{"volume", std::move(volume)}});
  call.doing = doing;
  try {
    return read(Fields::parse(service.call(call, stop).body, "Cinder's answer").at("volume"));
  } catch (const Refused& refused) {
    if (refused.fault() == Fault::quota) throw_quota(service, refused, 1, wish.gib, stop);
    throw;
  }
}

}  // namespace

namespace {

Volume make(Service& service, const VolumeWish& wish, const ExistingVolume* existing, const std::string& doing,
            std::stop_token stop) {
  if (wish.tag.empty() || !carries(wish.metadata, wish.tag))
    throw Error(Fault::bug, "a volume was to be made without a tag to find it by");
  return make_once<Volume>(
      service, doing, [&] { return post(service, wish, existing, doing, stop); },
      [&]() -> std::optional<Volume> {
        const std::vector<Volume> found = find(service, wish.tag, stop);
        if (found.empty()) return std::nullopt;
        return found.front();
      },
      stop);
}

}  // namespace

Volume create(Service& service, const VolumeWish& wish, std::stop_token stop) {
  if (wish.gib == 0) throw Error(Fault::bug, fmt::format("volume '{}' was to be made with no size", wish.name));
  return make(service, wish, nullptr, fmt::format("create volume '{}' of {} GiB", wish.name, wish.gib), stop);
}

Volume manage(Service& service, const VolumeWish& wish, const ExistingVolume& existing, std::stop_token stop) {
  // "manageable_volumes" came with 3.8 (Newton); before it was an extension of another name.
  if (service.microversion() < Microversion{3, 8})
    throw Error(Fault::unsupported, "this Cinder is too old to take over a volume that its back end has");
  const std::string doing =
      fmt::format("take {} of {} over as volume '{}'", existing.reference, existing.host, wish.name);
  return make(service, wish, &existing, doing, stop);
}

std::optional<Volume> look_up(Service& service, const VolumeId& id, std::stop_token stop) {
  Call call;
  call.path = path_of(id);
  call.doing = fmt::format("show volume {}", id.value);
  call.accept = {404};
  const http::Response response = service.call(call, stop);
  if (response.status == 404) return std::nullopt;
  return read(Fields::parse(response.body, "Cinder's answer").at("volume"));
}

Volume get(Service& service, const VolumeId& id, std::stop_token stop) {
  auto volume = look_up(service, id, stop);
  if (!volume)
    throw Error(Fault::not_found,
                fmt::format("there is no volume {} in this project: was it deleted, or is it another cloud or project?",
                            id.value));
  return *std::move(volume);
}

std::vector<Volume> find(Service& service, const Metadata& metadata, std::stop_token stop) {
  if (metadata.empty()) throw Error(Fault::bug, "volumes were to be found by no metadata at all");
  const std::string doing = "list volumes by metadata";
  std::vector<Fields> items;
  try {
    // Cinder reads a Python dictionary, which JSON of texts is.
    items = service.list("/volumes/detail?metadata=" + http::encode(dump(json(metadata))), "volumes", doing, stop);
  } catch (const Refused& refused) {
    // An operator can switch the filter off (resource_query_filters_file); then all are looked at.
    if (refused.status() != 400) throw;
    items = service.list("/volumes/detail", "volumes", doing, stop);
  }
  std::vector<Volume> found;
  for (const Fields& item : items) {
    Volume volume = read(item);
    // Filters that a cloud does not allow may also be ignored silently.
    if (carries(volume.metadata, metadata)) found.push_back(std::move(volume));
  }
  return found;
}

std::vector<Volume> find_by_name(Service& service, const std::string& name, std::stop_token stop) {
  std::vector<Volume> found;
  for (const Fields& item :
       service.list("/volumes/detail?name=" + http::encode(name), "volumes", "list volumes by name", stop))
    if (Volume volume = read(item); volume.name == name) found.push_back(std::move(volume));
  return found;
}

void update_metadata(Service& service, const VolumeId& id, const Metadata& metadata, std::stop_token stop) {
  if (metadata.empty()) return;
  Call call;
  call.method = "POST";
  call.path = path_of(id) + "/metadata";
  call.body = dump(json{{"metadata", metadata}});
  call.doing = fmt::format("set metadata of volume {}", id.value);
  call.idempotent = true;
  service.call(call, stop);
}

void remove_metadata(Service& service, const VolumeId& id, const std::string& key, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = path_of(id) + "/metadata/" + http::encode(key);
  call.doing = fmt::format("remove metadata '{}' of volume {}", key, id.value);
  call.idempotent = true;
  call.accept = {404};
  if (service.call(call, stop).status != 404) return;
  // 404 is the key's or the volume's.
  get(service, id, stop);
}

void set_bootable(Service& service, const VolumeId& id, bool bootable, std::stop_token stop) {
  act(service, id, {{"os-set_bootable", {{"bootable", bootable}}}}, fmt::format("mark volume {} as bootable", id.value),
      stop);
}

void set_image_metadata(Service& service, const VolumeId& id, const Metadata& properties, std::stop_token stop) {
  if (properties.empty()) return;
  act(service, id, {{"os-set_image_metadata", {{"metadata", properties}}}},
      fmt::format("set image properties of volume {}", id.value), stop);
}

void unset_image_metadata(Service& service, const VolumeId& id, const std::string& key, std::stop_token stop) {
  Call call;
  call.method = "POST";
  call.path = path_of(id) + "/action";
  call.body = dump(json{{"os-unset_image_metadata", {{"key", key}}}});
  call.doing = fmt::format("remove image property '{}' of volume {}", key, id.value);
  call.idempotent = true;
  call.accept = {404};
  if (service.call(call, stop).status == 404) get(service, id, stop);  // the key's or the volume's
}

void extend(Service& service, const VolumeId& id, std::uint64_t gib, std::stop_token stop) {
  const std::string doing = fmt::format("extend volume {} to {} GiB", id.value, gib);
  const Volume before = get(service, id, stop);
  if (before.gib < gib && before.status != "extending") {
    Call call;
    call.method = "POST";
    call.path = path_of(id) + "/action";
    call.body = dump(json{{"os-extend", {{"new_size", gib}}}});
    call.doing = doing;
    try {
      make_once<bool>(
          service, doing,
          [&] {
            service.call(call, stop);
            return true;
          },
          [&]() -> std::optional<bool> {
            const Volume now = get(service, id, stop);
            if (now.gib >= gib || now.status == "extending") return true;
            return std::nullopt;
          },
          stop);
    } catch (const Refused& refused) {
      if (refused.fault() == Fault::quota) throw_quota(service, refused, 0, gib - before.gib, stop);
      throw;
    }
  }
  Volume now;
  const bool large = poll(
      service, extension_patience,
      [&] {
        now = get(service, id, stop);
        if (now.status.rfind("error", 0) == 0) throw_failed(service, now, stop);
        return now.gib >= gib && now.status != "extending";
      },
      stop);
  if (!large)
    throw Error(Fault::timeout, fmt::format("volume {} is still of {} GiB and {} after {} s; {} GiB were asked for",
                                            id.value, now.gib, now.status, extension_patience.count(), gib));
}

namespace {

// By deletion, or by what else makes Cinder forget it.
void remove_by(Service& service, const VolumeId& id, Call call, std::stop_token stop) {
  // The second of two deletions finds "deleting" (400) or nothing (404).
  call.idempotent = true;
  call.accept = {404};
  try {
    if (service.call(call, stop).status == 404) return;
  } catch (const Refused& refused) {
    const auto now = look_up(service, id, stop);
    if (now && now->status != "deleting") throw;
  }
  std::string status;
  const bool gone = poll(
      service, deletion_patience,
      [&] {
        const auto now = look_up(service, id, stop);
        if (!now) return true;
        if (now->status.rfind("error", 0) == 0) throw_failed(service, *now, stop);
        status = now->status;
        return false;
      },
      stop);
  if (!gone)
    throw Error(Fault::timeout, fmt::format("volume {} is still there ({}) {} s after it was deleted", id.value, status,
                                            deletion_patience.count()));
}

}  // namespace

void remove(Service& service, const VolumeId& id, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = path_of(id);
  call.doing = fmt::format("delete volume {}", id.value);
  remove_by(service, id, std::move(call), stop);
}

void unmanage(Service& service, const VolumeId& id, std::stop_token stop) {
  Call call;
  call.method = "POST";
  call.path = path_of(id) + "/action";
  call.body = dump(json{{"os-unmanage", json::object()}});
  call.doing = fmt::format("let Cinder forget volume {}", id.value);
  remove_by(service, id, std::move(call), stop);
}

Volume wait_for(Service& service, const VolumeId& id, const std::vector<std::string>& wanted,
                std::chrono::seconds patience, std::stop_token stop) {
  Volume now;
  const bool reached = poll(
      service, patience,
      [&] {
        now = get(service, id, stop);
        if (std::find(wanted.begin(), wanted.end(), now.status) != wanted.end()) return true;
        if (now.status.rfind("error", 0) == 0) throw_failed(service, now, stop);
        return false;
      },
      stop);
  if (!reached)
    throw Error(Fault::timeout, fmt::format("volume {} ('{}') is still {} after {} s; waited for {}", id.value,
                                            now.name, now.status, patience.count(), fmt::join(wanted, " or ")));
  return now;
}

bool is_passing(const std::string& status) {
  static const std::vector<std::string> passing{"creating",    "attaching",  "detaching",       "reserved",
                                                "downloading", "extending",  "uploading",       "retyping",
                                                "maintenance", "backing-up", "restoring-backup"};
  return std::find(passing.begin(), passing.end(), status) != passing.end();
}

void refuse_error(const Volume& volume) {
  if (volume.status.rfind("error", 0) != 0) return;
  throw Error(Fault::unavailable,
              fmt::format("volume {} ('{}') is in status {}; look at it with: openstack volume show {}",
                          volume.id.value, volume.name, volume.status, volume.id.value),
              volume.status);
}

Type find_type(Service& service, const std::string& name_or_id, std::stop_token stop) {
  std::vector<std::string> names;
  for (const Fields& item : service.list("/types", "volume_types", "list volume types", stop)) {
    Type type{item.text("id"), item.text("name")};
    if (type.id == name_or_id || type.name == name_or_id) return type;
    names.push_back(type.name);
  }
  throw Error(Fault::config,
              fmt::format("the cloud has no volume type '{}'; it has: {}", name_or_id, fmt::join(names, ", ")));
}

void check_availability_zone(Service& service, const std::string& name, std::stop_token stop) {
  std::vector<std::string> names;
  for (const Fields& zone :
       service.list("/os-availability-zone", "availabilityZoneInfo", "list availability zones", stop)) {
    if (zone.text("zoneName") == name && zone.at("zoneState").flag("available")) return;
    names.push_back(zone.text("zoneName"));
  }
  throw Error(Fault::config, fmt::format("there is no availability zone '{}' for volumes, or it is down; there are: {}",
                                         name, fmt::join(names, ", ")));
}

std::optional<std::string> Limits::lacking(std::uint64_t count, std::uint64_t gib_wanted) const {
  if (gib >= 0 && static_cast<std::int64_t>(gib_wanted) > gib - gib_used)
    return fmt::format("the project may have {} GiB in volumes and {} GiB are used, so {} GiB more do not fit", gib,
                       gib_used, gib_wanted);
  if (volumes >= 0 && static_cast<std::int64_t>(count) > volumes - volumes_used)
    return fmt::format("the project may have {} volumes and has {}, so {} more {} not fit", volumes, volumes_used,
                       count, count == 1 ? "does" : "do");
  return std::nullopt;
}

Limits limits(Service& service, std::stop_token stop) {
  const Fields absolute = service.get("/limits", "show the project's limits", stop).at("limits").at("absolute");
  Limits limits;
  limits.volumes = absolute.number("maxTotalVolumes", -1);
  limits.volumes_used = absolute.number("totalVolumesUsed");
  limits.gib = absolute.number("maxTotalVolumeGigabytes", -1);
  limits.gib_used = absolute.number("totalGigabytesUsed");
  return limits;
}

Limits type_limits(Service& service, const std::string& project_id, const std::string& type, std::stop_token stop) {
  const std::string name = find_type(service, type, stop).name;
  // https://docs.openstack.org/api-ref/block-storage/v3/#show-quota-usage-for-a-project: "volumes_TYPE",
  // "gigabytes_TYPE".
  const Fields quota =
      service.get("/os-quota-sets/" + http::encode(project_id) + "?usage=true", "show the project's quota", stop)
          .at("quota_set");
  const Fields count = quota.at("volumes_" + name), size = quota.at("gigabytes_" + name);
  return {count.number("limit", -1), count.number("in_use") + count.number("reserved"), size.number("limit", -1),
          size.number("in_use") + size.number("reserved")};
}

}  // namespace vmferry::openstack::volumes
