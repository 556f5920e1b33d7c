// Glance images: looked up before a server is made from one; made once even if a reply is lost, filled with bytes,
// waited for. Knows nothing of jobs or disks.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/service.hpp"

namespace vmferry::openstack {

struct Image {
  std::string id;
  std::string name;
  std::string status;  // "active" when servers can be made from it
  std::int64_t min_disk_gib = 0;
  std::int64_t min_ram_mib = 0;
  std::string admin_user;  // the property os_admin_user: who may log in; mostly empty
  std::string disk_format;
  std::int64_t bytes = -1;                        // of what is stored; -1: nothing is, yet
  std::string hash_algorithm;                     // "sha512"; empty before Rocky
  std::string hash;                               // of what is stored, hexadecimal
  std::string md5;                                // likewise; a cloud may leave it out
  std::string failed_import;                      // stores that an import failed for; mostly empty
  std::map<std::string, std::string> properties;  // those whose name begins with "vmferry_"
};

struct ImageWish {
  std::string name;
  std::string disk_format;  // "raw", "qcow2"
  std::int64_t min_disk_gib = 0;
  std::map<std::string, std::string> properties;
  // The part of `properties` that only this image has: after a lost reply the image is looked for by it before another
  // one is made. Must not be empty.
  std::map<std::string, std::string> tag;
};

namespace images {

// Error(config) naming some that there are; Error(conflict) with the ids when several have that name.
Image find(Service& image, const std::string& id_or_name, std::stop_token stop);

// An image without bytes (status "queued"), of this project alone.
Image create(Service& image, const ImageWish& wish, std::stop_token stop);
std::optional<Image> look_up(Service& image, const ImageId& id, std::stop_token stop);
// The project's own that carry every one of these properties.
std::vector<Image> find_tagged(Service& image, const std::map<std::string, std::string>& properties,
                               std::stop_token stop);
// Whether bytes can be staged and imported (the method glance-direct).
bool may_import(Service& image, std::stop_token stop);
// Blocks until all is sent; never repeated by itself. What a failure has left in the image is not known. Error(quota)
// where there is no room.
void put_data(Service& image, const ImageId& id, http::Upload& data, std::stop_token stop);
void stage_data(Service& image, const ImageId& id, http::Upload& data, std::stop_token stop);
// Begins it; what was staged becomes the image.
void import_staged(Service& image, const ImageId& id, std::stop_token stop);
// Glance writes down the size when all of it is staged. False = the time is up. Calls that are not answered are no
// news, here and in the next.
bool wait_until_staged(Service& image, const ImageId& id, std::uint64_t bytes, std::chrono::seconds patience,
                       std::stop_token stop);
// Error(unavailable) with Glance's reason at once when it cannot become active any more.
Image wait_until_active(Service& image, const ImageId& id, std::chrono::seconds patience, std::stop_token stop);
// Waits until it is gone. Already gone is success. Error(conflict): its store says that it is in use.
void remove(Service& image, const ImageId& id, std::stop_token stop);

}  // namespace images
}  // namespace vmferry::openstack
