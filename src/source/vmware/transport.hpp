// One way to read a frozen VMware disk, ending in NBD connections. `https` reads the datastore's /folder through
// nbdkit's curl plugin; `file` reads a datastore that is mounted here (or a folder of flat VMDK or raw files). Knows
// how to read; not how disks get frozen.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "base/secret.hpp"
#include "copy/copy.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "nbdkit/nbdkit.hpp"
#include "process/process.hpp"
#include "source/machine.hpp"

namespace vmferry::source::vmware {

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;  // "https", "file"
  // Why this disk cannot be read this way (a redo layer, a file that is not there...), as a sentence; nothing when it
  // can.
  virtual std::optional<std::string> refuses(const FrozenDisk& disk) const = 0;
  // The frozen bytes. Throws Error(unsupported) with refuses()'s sentence.
  virtual std::unique_ptr<copy::Source> serve(const FrozenDisk& disk, std::stop_token stop) = 0;
};

// A valid session cookie ("vmware_soap_session=..."). `renew`: the one given before was refused, log in again.
using CookieSource = std::function<Secret(bool renew, std::stop_token stop)>;

struct HttpsOptions {
  std::string endpoint;    // "vcenter.example:443"
  std::string datacenter;  // dcPath: "DC0", "folder/DC0"; "ha-datacenter" on ESXi
  http::Trust trust;       // the same judgement of the certificate as for the API
  CookieSource cookie;
  std::filesystem::path run_directory;  // for sockets, 0700
};
std::unique_ptr<Transport> https_transport(HttpsOptions options, process::Runner& runner, log::Log& log);

// `directory` is the mount point of the datastore (it holds "web01/web01-flat.vmdk"), or a folder with the disks'
// files.
std::unique_ptr<Transport> file_transport(std::filesystem::path directory, process::Runner& runner,
                                          std::filesystem::path run_directory, log::Log& log);

}  // namespace vmferry::source::vmware
