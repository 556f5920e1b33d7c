// A folder as a cloud: DIR/<vm name>/<volume name>.img are sparse raw images with a record beside each, and
// launching writes a libvirt domain that boots from them beside them, and starts it if it was told where. <vm name> is
// the machine's when its job began. For someone without
// OpenStack, and for a look at what would arrive.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "base/clock.hpp"
#include "log/log.hpp"
#include "target/cloud.hpp"
#include "target/local/libvirt.hpp"

namespace vmferry::target::local {

struct Options {
  std::filesystem::path directory;
  std::string disk_bus = "virtio";  // or "scsi"
  std::string domain_kind = "kvm";  // or "qemu"
  std::optional<Libvirt> libvirt =
      std::nullopt;  // where the domain is defined and started; without one it is only written
};

// A volume's id is "<vm folder>/<volume name>", a port's its MAC, a server's the path of its XML.
std::unique_ptr<Cloud> local_cloud(Options options, Clock& clock, log::Log& log);

// A machine's name as the name of a folder or file: what a path or libvirt cannot hold becomes a dash.
std::string file_name(const std::string& text);

}  // namespace vmferry::target::local
