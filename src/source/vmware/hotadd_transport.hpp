// Reading the frozen disks of a machine by attaching them to another one, the proxy (VMware's HotAdd), with public
// calls of the API alone. Whatever is attached is marked first, on both machines, so that any later run on any host
// finds it.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "log/log.hpp"
#include "model/vm.hpp"
#include "process/process.hpp"
#include "source/vmware/guest_disks.hpp"
#include "source/vmware/transport.hpp"
#include "vsphere/session.hpp"

namespace vmferry::source::vmware {

struct HotaddOptions {
  model::VmId vm;                    // whose disks
  std::string proxy;                 // path, moref, UUID or name of the proxy; empty: this host
  std::filesystem::path root = "/";  // of the proxy, as its guest sees it
  std::optional<Ssh> ssh;            // how to reach a proxy that is not this host
  std::string host;                  // this host's name, for the marks
  std::vector<JobId> jobs;           // of this machine, that no other run works on: whose lock is held
  bool everything = false;  // the user says that no run of this machine lives: let go of other jobs' disks, too
  std::filesystem::path run_directory;
  std::chrono::seconds disappearance{30};  // how long a device may stay in the guest after its disk was detached
};
// The guest in which disks are to appear.
std::unique_ptr<Guest> guest_of(const HotaddOptions& options, process::Runner& runner, log::Log& log);

struct Proxy {
  model::VmId vm;
  std::string name;
  std::string instance_uuid;
  bool tells_uuids = false;  // disk.EnableUUID
};
// The machine whose guest that is. Throws with the remedy when there is none, or none that can take the disks.
Proxy find_proxy(const HotaddOptions& options, Guest& guest, vsphere::Session& session, std::stop_token stop);

// Throws when a run on another host has disks of this machine attached: no snapshot could be removed while it reads.
void refuse_attached_by_others(const HotaddOptions& options, vsphere::Session& session, std::stop_token stop);

// Touches nothing until the first serve().
std::unique_ptr<Transport> hotadd_transport(HotaddOptions options, vsphere::Session& session, process::Runner& runner,
                                            log::Log& log);

// What an earlier run attached by hotadd must be gone before a snapshot is removed, whichever way this run reads: this
// one's let_go() sees to that, then to `inner`'s.
std::unique_ptr<Transport> letting_go_of_attached(std::unique_ptr<Transport> inner, HotaddOptions options,
                                                  vsphere::Session& session, process::Runner& runner, log::Log& log);

}  // namespace vmferry::source::vmware
