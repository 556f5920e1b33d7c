// Glance's v2 API, docs.openstack.org/api-ref/image/v2/#images.
#include "openstack/images.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "base/error.hpp"

namespace vmferry::openstack::images {

namespace {

Image read(const Fields& f) {
  Image image;
  image.id = f.text("id");
  image.name = f.text("name");
  image.status = f.text("status");
  image.min_disk_gib = f.number("min_disk");
  image.min_ram_mib = f.number("min_ram");
  image.admin_user = f.text("os_admin_user");
  if (image.id.empty()) throw Error(Fault::data, "Glance showed an image without an id");
  return image;
}

std::optional<Image> look_up(Service& service, const std::string& id, std::stop_token stop) {
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

}  // namespace

Image find(Service& service, const std::string& id_or_name, std::stop_token stop) {
  if (id_or_name.empty()) throw Error(Fault::bug, "an image without a name was asked for");
  if (auto image = look_up(service, id_or_name, stop)) return *std::move(image);
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

}  // namespace vmferry::openstack::images
