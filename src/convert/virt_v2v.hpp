// Conversion by virt-v2v-in-place on qcow2 overlays. Programs it runs: qemu-img, virt-v2v-in-place (which runs
// libguestfs' appliance), qemu-nbd.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "convert/converter.hpp"
#include "log/log.hpp"
#include "process/process.hpp"

namespace vmferry::convert {

struct VirtV2vOptions {
  std::filesystem::path directory;      // of this job alone: overlays and virt-v2v's own files; made when needed
  std::filesystem::path run_directory;  // for sockets: short
  // Handed on to virt-v2v: LIBGUESTFS_*, VIRTIO_WIN, VIRT_TOOLS_DATA_DIR... Without LIBGUESTFS_BACKEND, "direct" is
  // used.
  std::map<std::string, std::string> environment;
};

std::unique_ptr<Converter> virt_v2v(VirtV2vOptions options, process::Runner& runner, log::Log& log);

// What of a process's environment a conversion needs.
std::map<std::string, std::string> conversion_environment(const std::map<std::string, std::string>& environment);

// The guest as virt-v2v wants to hear of it (virt-v2v(1), "Minimal XML for -i libvirtxml option").
std::string guest_xml(const model::Vm& vm, const std::vector<std::filesystem::path>& overlays);

}  // namespace vmferry::convert
