// Reading by VMware's VDDK, which speaks to vCenter and the ESXi host itself: nbdkit's own vddk plugin where it is
// installed, else the one that comes with vmferry. VDDK is not ours and comes from a folder that the user names.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "source/vmware/transport.hpp"

namespace vmferry::source::vmware {

// Which plugin reads and where VDDK is.
struct Vddk {
  std::filesystem::path plugin;  // ours, used when nbdkit has none of its own; need not exist
  std::filesystem::path libdir;  // of VDDK; empty: where the plugin looks by itself
};

// What nbdkit is to be called with: "vddk" or the path of ours. Error(tool) or Error(config) when no disk can be read
// this way here: no plugin, or no VDDK in the folder.
std::string usable_plugin(const Vddk& vddk, process::Runner& runner, std::stop_token stop);

struct VddkOptions {
  Vddk vddk;
  std::string endpoint;  // "vcenter.example:443"
  std::string user;
  Secret password;
  http::Trust trust;        // the same judgement of the certificate as for the API
  std::string vm;           // moref
  std::string transports;   // VDDK's modes, "nbdssl:nbd"; empty: VDDK chooses
  std::string compression;  // "zlib"...; empty: none
  std::filesystem::path run_directory;
  std::shared_ptr<copy::Permits> permits;  // for connections to the machine's host; may be null
  std::chrono::seconds patience{60};       // with an open, and with the first look at a disk
};
std::unique_ptr<Transport> vddk_transport(VddkOptions options, process::Runner& runner, log::Log& log,
                                          std::stop_token stop);

}  // namespace vmferry::source::vmware
