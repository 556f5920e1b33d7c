// os-brick, in a child: what this host can tell Cinder of itself, and a volume connected here or no longer. Knows no
// attachment; whose a volume is is decided before.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>

#include "base/id.hpp"
#include "log/log.hpp"
#include "process/process.hpp"

namespace vmferry::target::openstack {

struct BrickOptions {
  std::filesystem::path python = "/usr/bin/python3";  // one that has os-brick
  std::string host;                                   // this host's name, as storage knows it
  std::string address;           // of this host in the storage network; empty = the one towards Cinder
  std::filesystem::path mounts;  // a folder of this host's alone: one folder a volume in it, while it is mounted
  std::filesystem::path locks;   // shared by all that connect volumes here
  std::chrono::seconds patience{300};
};

// A volume as os-brick connected it.
struct Connected {
  std::filesystem::path path;  // a device or a file
  std::string kind;            // "nfs", "iscsi"...
  std::string wwn;             // as os-brick saw it; empty = it did not look
  std::string name;            // what the storage calls it: "volume-5f3a...", may be empty
};

// Blocks as long as the storage takes. Error(tool) without Python or os-brick, naming the package; Error(unavailable)
// with os-brick's words when it cannot. Thread-safe.
class Brick {
 public:
  Brick(BrickOptions options, process::Runner& runner, log::Log& log);

  // This host's connector (JSON). `cinder`: URL of the service, towards which the address is looked for.
  std::string connector(const std::string& cinder, std::stop_token stop) const;
  // `connection_info` as Cinder gave it. Connected already is success. Error(unsupported) for what cannot be written as
  // it is: encrypted, read-only, an image that is not raw.
  Connected connect(const VolumeId& volume, const std::string& connection_info, std::stop_token stop) const;
  // Without `connection_info` only what is left of it here is taken away. Not connected is success.
  void disconnect(const VolumeId& volume, const std::optional<std::string>& connection_info,
                  std::stop_token stop) const;

 private:
  std::filesystem::path mounts_of(const VolumeId& volume) const { return options_.mounts / volume.value; }
  std::string ask(const std::string& doing, std::string request, std::stop_token stop) const;

  BrickOptions options_;
  process::Runner& runner_;
  log::Log& log_;
};

}  // namespace vmferry::target::openstack
