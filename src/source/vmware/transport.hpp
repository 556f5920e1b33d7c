// One way to read a frozen VMware disk, ending in NBD connections. `https` reads the datastore's /folder through
// nbdkit's curl plugin; `file` reads datastores that are mounted here (or folders with VMDK or raw files); `ssh` reads
// the flat files on the ESXi host through nbdkit's ssh plugin; `export` downloads whole disks. Knows how to read; not
// how disks get frozen.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
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
#include "vsphere/session.hpp"

namespace vmferry::source::vmware {

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;  // "https", "file", "ssh"
  // A connection of it is one to the machine's ESXi host.
  virtual bool counted() const { return true; }
  // False: the first connection may take as long as a copy of the whole disk, so it is no way to try just to see.
  virtual bool quick() const { return true; }
  // Why this disk cannot be read this way (a redo layer, a file that is not there...), as a sentence; nothing when it
  // can as far as is known without trying.
  virtual std::optional<std::string> refuses(const FrozenDisk& disk) const = 0;
  // The bytes of `disk` as frozen in `point`, which must outlive what is returned. Throws Error(unsupported) with
  // refuses()'s sentence. Blocks, for as long as the way needs to be made; several disks may be asked for at once.
  virtual std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token stop) = 0;
  // Called before any snapshot of the machine is removed: when it returns, nothing at the source's side holds a file of
  // the machine open for this transport, whichever run asked for that and whether it still lives. Throws when that is
  // not so; then the snapshot stays.
  virtual void let_go(std::stop_token /*stop*/) {}
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

struct FileOptions {
  std::filesystem::path directory;  // of every datastore that `datastores` does not name; may be empty
  std::map<std::string, std::filesystem::path> datastores;  // by name
  std::filesystem::path run_directory;
};
// Mount points of datastores (a folder that holds "web01/web01.vmdk"), or folders with the disks' files side by side.
std::unique_ptr<Transport> file_transport(FileOptions options, process::Runner& runner, log::Log& log);

struct SshOptions {
  std::string host;  // the ESXi host's address
  int port = 22;
  std::string user = "root";
  Secret password;                    // empty: keys only
  std::filesystem::path identity;     // a private key; empty: the agent's and the user's own
  std::filesystem::path known_hosts;  // empty: the user's and the system's
  std::filesystem::path run_directory;
};
// The flat files below /vmfs/volumes of an ESXi host, by sftp.
std::unique_ptr<Transport> ssh_transport(SshOptions options, process::Runner& runner, log::Log& log);

struct ExportOptions {
  vsphere::Session* session = nullptr;
  model::VmId vm;
  std::string endpoint;         // "vcenter.example:443"
  http::Trust trust;            // the same judgement of the certificate as for the API
  std::filesystem::path spool;  // where downloads are kept: room for the disks that are copied at a time
  std::filesystem::path run_directory;
};
// The disks as vSphere exports them (HttpNfcLease), whole and only of a machine that was off when it was frozen.
std::unique_ptr<Transport> export_transport(ExportOptions options, process::Runner& runner, log::Log& log);
// Ends the export that a run on this host left when it died: until its lease times out the machine can do nothing else.
// Whoever calls this knows that no other run of this machine lives.
void end_interrupted_export(const ExportOptions& options, log::Log& log, std::stop_token stop);

}  // namespace vmferry::source::vmware
