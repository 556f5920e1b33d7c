// How a volume comes to this host and goes again: by Nova, when this host is an instance of the cloud, or by os-brick
// from anywhere. All that a target knows of either way.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "openstack/cloud.hpp"
#include "openstack/instance.hpp"
#include "openstack/volumes.hpp"
#include "plan/finding.hpp"
#include "target/device_identity.hpp"
#include "target/openstack/brick.hpp"

namespace vmferry::target::openstack {

// Where an attached volume is, and what proves, for as long as it is open, that it is that volume.
struct Place {
  std::filesystem::path path;
  std::shared_ptr<const DeviceIdentity> identity;  // shows the volume's id, or the beginning of it, as serial
};

// Thread-safe. All calls block.
class Attacher {
 public:
  virtual ~Attacher() = default;
  // Errors of its settings, before anything is changed.
  virtual void check(std::stop_token stop) = 0;
  // What speaks against `count` more volumes here.
  virtual void judge(std::size_t count, std::vector<plan::Finding>& found, std::stop_token stop) = 0;
  // What somebody who asks how volumes would come here wants to know.
  virtual void tell(std::vector<plan::Finding>&, std::stop_token) {}
  virtual bool is_here(const ::vmferry::openstack::Volume& volume, std::stop_token stop) = 0;
  // Attached already is success. Error(conflict) that names who else has it.
  virtual Place attach(const VolumeId& volume, std::stop_token stop) = 0;
  // Confirmed on return. Not attached, or no such volume, is success; what others attached stays. What this host has by
  // the other way is Error(conflict): refuse_bricks(), refuse_novas().
  virtual void detach(const VolumeId& volume, std::stop_token stop) = 0;
};

// Throws Error(conflict) that names the remedy when this machine has the volume by --attach brick, or any machine that
// is still at it, or, with `of_any`, any machine at all. For --attach nova, which could only wait for it.
void refuse_bricks(::vmferry::openstack::Service& service, const ::vmferry::openstack::Volume& volume, bool of_any,
                   std::stop_token stop);
// Throws Error(conflict) that names the remedy when Nova has attached the volume to this host. Which instance that is
// is only asked where the answer is at hand: `instance_id`, or when that is empty the system UUID in `firmware`.
void refuse_novas(::vmferry::openstack::Service& service, const VolumeId& volume, const std::string& instance_id,
                  const std::filesystem::path& firmware, std::stop_token stop);

struct NovaAttaching {
  std::string instance_id;  // of this host; empty = as instance_sources say
  ::vmferry::openstack::InstanceSources instance_sources;
  std::filesystem::path device_directory;
  std::shared_ptr<const DeviceIdentity> identity;
  std::string here;                           // "this host (ferry1)"
  std::chrono::seconds attach_patience{300};  // until Nova and Cinder agree
  std::chrono::seconds device_patience{120};  // until the device appears
};
// What is passed by reference outlives the result.
std::unique_ptr<Attacher> nova_attacher(NovaAttaching options, ::vmferry::openstack::Cloud& cloud,
                                        std::unique_ptr<http::Transport> metadata, Clock& clock, log::Log& log);

struct BrickAttaching {
  BrickOptions brick;
  std::string holder;  // "<name>/<machine>": names this host among all that may have a volume, without a space
  std::chrono::seconds patience{300};
};
std::unique_ptr<Attacher> brick_attacher(BrickAttaching options, ::vmferry::openstack::Cloud& cloud,
                                         process::Runner& runner, log::Log& log);

}  // namespace vmferry::target::openstack
