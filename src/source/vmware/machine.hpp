// source::Machine for a VM on vSphere: snapshots that carry our tag, change tracking, shutting down; the bytes come
// through a Transport. Speaks to vSphere through src/vsphere only; knows no target and no job.
#pragma once

#include <memory>
#include <string>

#include "base/clock.hpp"
#include "log/log.hpp"
#include "source/machine.hpp"
#include "source/vmware/transport.hpp"
#include "vsphere/session.hpp"

namespace vmferry::source::vmware {

struct MachineOptions {
  model::VmId vm;
  // What the VM's instance UUID must be: a moref that was recorded earlier may by now name another machine. Empty =
  // take what is there.
  std::string instance_uuid;
};

// Throws Error(not_found) when there is no such VM any more, Error(conflict) when its moref names another one.
std::unique_ptr<Machine> machine(vsphere::Session& session, MachineOptions options,
                                 std::unique_ptr<Transport> transport, log::Log& log, std::stop_token stop);

// The tag as it stands in a snapshot. Name: "vmferry". Description: "vmferry job=<id> cycle=<n> ...": what follows is
// for people.
std::string tag_description(const Tag& tag);
// The job and cycle of a description that tag_description() made; nothing for anybody else's.
std::optional<Tag> parse_tag(const std::string& name, const std::string& description);

}  // namespace vmferry::source::vmware
