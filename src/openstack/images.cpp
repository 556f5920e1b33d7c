// Glance's v2 API, docs.openstack.org/api-ref/image/v2/#images.
#include "openstack/images.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::images {

namespace {

using nlohmann::json;

constexpr std::chrono::seconds deletion_patience(600);
constexpr std::string_view our_properties = "vmferry_";

std::string path_of(const ImageId& id) {
  if (id.empty()) throw Error(Fault::bug, "an image without an id was asked for");
  return "/images/" + http::encode(id.value);
}

bool carries(const Image& image, const std::map<std::string, std::string>& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& pair) {
    const auto found = image.properties.find(pair.first);
    return found != image.properties.end() && found->second == pair.second;
  });
}

Image read(const Fields& f) {
  Image image;
  image.id = f.text("id");
  image.name = f.text("name");
  image.status = f.text("status");
  image.min_disk_gib = f.number("min_disk");
  image.min_ram_mib = f.number("min_ram");
  image.admin_user = f.text("os_admin_user");
  image.disk_format = f.text("disk_format");
  image.bytes = f.number("size", -1);
  image.hash_algorithm = f.text("os_hash_algo");
  image.hash = f.text("os_hash_value");
  image.md5 = f.text("checksum");
  image.failed_import = f.text("os_glance_failed_import");
  for (const std::string& key : f.keys())
    if (key.starts_with(our_properties)) image.properties[key] = f.text(key);
  if (image.id.empty()) throw Error(Fault::data, "Glance showed an image without an id");
  return image;
}

std::optional<Image> by_id(Service& service, const std::string& id, std::stop_token stop) {
  Call call;
  call.path = "/images/" + http::encode(id);
  call.doing = fmt::format("show image {}", id);
  // 400: some releases want an id to look like one.
  call.accept = {400, 404};
  const http::Response response = service.call(call, stop);
  if (response.status != 200) return std::nullopt;
  return read(Fields::parse(response.body, "Glance's answer"));
}

// A cloud may have hundreds of public images: the newest few must do.
std::string some_names(Service& service, std::stop_token stop) {
  constexpr std::size_t enough = 20;
  std::vector<std::string> names;
  for (const Fields& item : service.list("/images?status=active", "images", "list images", stop))
    names.push_back(item.text("name").empty() ? item.text("id") : item.text("name"));
  const std::size_t more = names.size() > enough ? names.size() - enough : 0;
  names.resize(names.size() - more);
  return fmt::format("{}{}", fmt::join(names, ", "), more == 0 ? "" : fmt::format(" and {} more", more));
}

Image post(Service& service, const ImageWish& wish, const std::string& doing, std::stop_token stop) {
  json image{
      {"name", wish.name}, {"disk_format", wish.disk_format}, {"container_format", "bare"}, {"visibility", "private"}};
  if (wish.min_disk_gib > 0) image["min_disk"] = wish.min_disk_gib;
  for (const auto& [key, value] : wish.properties) image[key] = value;
  Call call;
  call.method = "POST";
  call.path = "/images";
  call.body = image.dump(-1, ' ', false, json::error_handler_t::replace);
  call.doing = doing;
  return read(Fields::parse(service.call(call, stop).body, "Glance's answer"));
}

void send(Service& service, const ImageId& id, const std::string& place, http::Upload& data, std::stop_token stop) {
  Call call;
  call.method = "PUT";
  call.path = path_of(id) + place;
  call.upload = &data;
  call.doing = fmt::format("take {} bytes for image {}", data.bytes(), id.value);
  service.call(call, stop);
}

// The same in the middle of a long wait: that Glance, or what is in front of it, does not answer for a while is no news
// of the image. Nothing then; `gone` tells an image that is not there.
std::optional<Image> glance_at(Service& service, const ImageId& id, bool& gone, std::stop_token stop) {
  gone = false;
  try {
    auto found = look_up(service, id, stop);
    gone = !found;
    return found;
  } catch (const Error& e) {
    if (e.fault() != Fault::unavailable && e.fault() != Fault::timeout) throw;
    service.log().warning("the image cannot be looked at now", {{"image", id.value}, {"reason", e.what()}});
    return std::nullopt;
  }
}

// Glance tells why an import failed only in the image's tasks, since 2.12 (docs.openstack.org/api-ref/image/v2/, "Show
// tasks associated with image"). Nothing when they may not be read.
std::string reason_for(Service& service, const ImageId& id, std::stop_token stop) {
  try {
    for (const Fields& task : service.list(path_of(id) + "/tasks", "tasks", "read Glance's tasks", stop))
      if (const std::string text = task.text("message"); task.text("status") == "failure" && !text.empty()) return text;
  } catch (const Error&) {
    // That it failed is the news, not that its reason cannot be read.
  }
  return {};
}

}  // namespace

Image find(Service& service, const std::string& id_or_name, std::stop_token stop) {
  if (id_or_name.empty()) throw Error(Fault::bug, "an image without a name was asked for");
  if (auto image = by_id(service, id_or_name, stop)) return *std::move(image);
  std::vector<Image> named;
  for (const Fields& item :
       service.list("/images?name=" + http::encode(id_or_name), "images", "list images by name", stop))
    if (Image image = read(item); image.name == id_or_name) named.push_back(std::move(image));
  if (named.size() == 1) return named.front();
  if (named.size() > 1) {
    std::vector<std::string> ids;
    ids.reserve(named.size());
    for (const Image& image : named) ids.push_back(image.id);
    throw Error(Fault::conflict, fmt::format("{} images are called '{}': give the id of one: {}", named.size(),
                                             id_or_name, fmt::join(ids, ", ")));
  }
  throw Error(Fault::config, fmt::format("the cloud has no image '{}' that this project may use; it has: {}",
                                         id_or_name, some_names(service, stop)));
}

Image create(Service& service, const ImageWish& wish, std::stop_token stop) {
  if (wish.tag.empty()) throw Error(Fault::bug, "an image was to be made without a tag to find it by");
  const std::string doing = fmt::format("create image '{}'", wish.name);
  return make_once<Image>(
      service, doing, [&] { return post(service, wish, doing, stop); },
      [&]() -> std::optional<Image> {
        std::vector<Image> found = find_tagged(service, wish.tag, stop);
        if (found.empty()) return std::nullopt;
        return std::move(found.front());
      },
      stop);
}

std::optional<Image> look_up(Service& service, const ImageId& id, std::stop_token stop) {
  if (id.empty()) throw Error(Fault::bug, "an image without an id was asked for");
  return by_id(service, id.value, stop);
}

std::vector<Image> find_tagged(Service& service, const std::map<std::string, std::string>& properties,
                               std::stop_token stop) {
  if (properties.empty()) throw Error(Fault::bug, "images were to be found by no property at all");
  std::string query = "?visibility=private";
  for (const auto& [key, value] : properties) query += fmt::format("&{}={}", http::encode(key), http::encode(value));
  std::vector<Image> found;
  for (const Fields& item : service.list("/images" + query, "images", "list images by property", stop))
    if (Image image = read(item); carries(image, properties)) found.push_back(std::move(image));
  return found;
}

bool may_import(Service& service, std::stop_token stop) {
  Call call;
  call.path = "/info/import";
  call.doing = "list its import methods";
  call.accept = {404};  // before Queens, or switched off
  const http::Response response = service.call(call, stop);
  if (response.status != 200) return false;
  const std::vector<std::string> methods =
      Fields::parse(response.body, "Glance's answer").at("import-methods").texts("value");
  return std::find(methods.begin(), methods.end(), "glance-direct") != methods.end();
}

void put_data(Service& service, const ImageId& id, http::Upload& data, std::stop_token stop) {
  send(service, id, "/file", data, stop);
}

void stage_data(Service& service, const ImageId& id, http::Upload& data, std::stop_token stop) {
  send(service, id, "/stage", data, stop);
}

void import_staged(Service& service, const ImageId& id, std::stop_token stop) {
  Call call;
  call.method = "POST";
  call.path = path_of(id) + "/import";
  call.body = R"({"method":{"name":"glance-direct"}})";
  call.doing = fmt::format("import image {}", id.value);
  try {
    make_once<bool>(
        service, call.doing,
        [&] {
          service.call(call, stop);
          return true;
        },
        [&]() -> std::optional<bool> {
          bool gone = false;
          const auto now = glance_at(service, id, gone, stop);
          if (now && now->status != "uploading") return true;
          return std::nullopt;
        },
        stop);
  } catch (const Refused& refused) {
    // The second of two is refused when the first one was late.
    const auto now = look_up(service, id, stop);
    if (refused.status() != 409 || !now || (now->status != "importing" && now->status != "active")) throw;
  }
}

bool wait_until_staged(Service& service, const ImageId& id, std::uint64_t bytes, std::chrono::seconds patience,
                       std::stop_token stop) {
  return poll(
      service, patience,
      [&] {
        bool gone = false;
        const auto now = glance_at(service, id, gone, stop);
        return now && now->status == "uploading" && now->bytes == static_cast<std::int64_t>(bytes);
      },
      stop);
}

Image wait_until_active(Service& service, const ImageId& id, std::chrono::seconds patience, std::stop_token stop) {
  Image now;
  now.status = "as it was";
  const bool reached = poll(
      service, patience,
      [&] {
        bool gone = false;
        auto found = glance_at(service, id, gone, stop);
        if (!found && !gone) return false;
        now = found ? *std::move(found) : Image{};
        if (now.status == "active") return true;
        const bool under_way = now.status == "saving" || now.status == "uploading" || now.status == "importing";
        if (under_way && now.failed_import.empty()) return false;
        const std::string reason = reason_for(service, id, stop);
        throw Error(Fault::unavailable,
                    fmt::format("image {} did not become active: it is {}{}", id.value,
                                now.status.empty() ? "gone" : now.status,
                                reason.empty() ? "; Glance gives no reason, ask the cloud's operator" : ": " + reason),
                    now.status);
      },
      stop);
  if (!reached)
    throw Error(Fault::timeout, fmt::format("image {} is still {} after {} s", id.value, now.status, patience.count()));
  return now;
}

void remove(Service& service, const ImageId& id, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = path_of(id);
  call.doing = fmt::format("delete image {}", id.value);
  call.idempotent = true;
  call.accept = {404};
  if (service.call(call, stop).status == 404) return;
  std::string status;
  const bool gone = poll(
      service, deletion_patience,
      [&] {
        const auto now = look_up(service, id, stop);
        if (now) status = now->status;
        // With delayed_delete its scrubber removes the bytes later.
        return !now || now->status == "deleted" || now->status == "pending_delete";
      },
      stop);
  if (!gone)
    throw Error(Fault::timeout, fmt::format("image {} is still there ({}) {} s after it was deleted", id.value, status,
                                            deletion_patience.count()));
}

}  // namespace vmferry::openstack::images
