// OpenStack without a conversion host: disks are kept in a folder, and come to the cloud as images when the machine is
// off. Volumes, devices and memory are the folder's; ports, flavor and server are OpenStack's.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

#include "base/clock.hpp"
#include "log/log.hpp"
#include "openstack/cloud.hpp"
#include "openstack/images.hpp"
#include "process/process.hpp"
#include "target/cloud.hpp"
#include "target/openstack/openstack_cloud.hpp"

namespace vmferry::target::image {

enum class Method { automatic, direct, import };

struct Options {
  std::filesystem::path directory;
  std::string format = "qcow2";  // or "raw"
  Method method = Method::automatic;
  openstack::Options openstack;             // as a target; without a conversion host
  std::chrono::seconds patience{6 * 3600};  // until the cloud has stored an image, or made a volume of one
};

// All that is given outlives the result, which is thread-safe as far as a folder is.
std::unique_ptr<Cloud> image_cloud(Options options, std::shared_ptr<::vmferry::openstack::Cloud> cloud,
                                   process::Runner& runner, Clock& clock, log::Log& log);

// Pure: what an image that became active says of itself, against what was sent.
enum class Proof {
  hash,       // of the same bytes: compare os_hash_value with the hash of what was sent
  md5,        // likewise, but the cloud has only the MD5
  raw_hash,   // the cloud made it raw: compare with the hash of the raw disk
  none,       // nothing can be compared
  different,  // it cannot be what was sent
};
Proof proof_of(const ::vmferry::openstack::Image& stored, const std::string& sent_format, std::uint64_t sent_bytes,
               std::uint64_t disk_bytes);

}  // namespace vmferry::target::image
