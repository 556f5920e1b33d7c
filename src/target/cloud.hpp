// Where a machine goes, as the job sees it: volumes by tag, devices that are held and whose identity is
// proven, a small memory beside each volume, and a server at the end. Adapters: target/openstack,
// target/local.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "copy/copy.hpp"
#include "model/vm.hpp"
#include "plan/finding.hpp"

namespace vmferry::target {

// What a volume is for. The same Tag gives the same volume, whoever asks and however often.
struct Tag {
  JobId job;
  model::VmId vm;
  std::string vm_name;
  model::DiskKey disk;
  std::string volume_name;  // migratekit's: slug of "<vm name>-<disk key>"
};

struct VolumeWish {
  Tag tag;
  std::uint64_t bytes = 0;                              // of the disk; the volume is at least that
  bool boot = false;                                    // the boot disk: bootable, with the image properties below
  std::map<std::string, std::string> image_properties;  // hw_firmware_type... (boot disk only)
  std::string datastore;                                // where the disk is: decides the volume's type
};

// The second home of the truth: Cinder volume metadata, or a file beside the image.
using Memory = std::map<std::string, std::string>;
// What is kept under that key; empty when nothing is.
inline std::string value(const Memory& memory, const std::string& key) {
  const auto found = memory.find(key);
  return found == memory.end() ? std::string() : found->second;
}

struct Volume {
  VolumeId id;
  std::uint64_t bytes = 0;
  bool fresh = false;  // made by the tag's job and never opened for writing since: it reads as zeroes
  Memory memory;
  std::string remark = {};  // of allocate(): where it comes from, when it was another program's; for the user
};

// An attached volume, open (O_EXCL on block devices) and held until destroyed. check() is the identity
// contract.
class Device : public copy::Target {
 public:
  virtual std::string path() const = 0;
};

// Error(conflict) when the tag of the volume as it was found is not the one that it carries now.
void refuse_taken_away(const Volume& found, const std::string& job_now);

struct NetworkChoice {  // one --network-mapping
  std::string mac;      // lower case
  std::string network;
  std::string subnet;
  std::vector<std::string> ips;                // of IPv4 or IPv6; empty = any one
  std::vector<std::string> security_groups;    // empty = those of all adapters
  std::vector<std::string> allowed_addresses;  // others that may send from this port: "10.0.0.9", "10.0.1.0/24"
  std::optional<bool> port_security = {};      // nothing = as the network has it
  bool operator==(const NetworkChoice&) const = default;
};

struct Port {
  PortId id;
  std::string mac;
  bool created = false;     // by this job: now, or in a run whose word of it was lost
  std::string remark = {};  // for the user: what is not as it was wished
};

struct LaunchWish {
  JobId job;
  model::Vm vm;
  std::vector<VolumeId> volumes;  // boot order
  std::vector<PortId> ports;      // NIC order
  std::string flavor;             // id or name; empty or "auto" = the smallest that holds the machine
  std::string availability_zone;
  // Called directly before the server is asked for, not when it is there already: what fails earlier has made nothing.
  // What it throws ends the launch.
  std::function<void()> before_asking = {};
};

struct Launched {
  ServerId id;
  std::string state;  // "ACTIVE"
};

// What shall come. The lists may be empty.
struct Arrival {
  JobId job;  // as far as there is one already: what it made itself is no obstacle. May be empty
  model::Vm vm;
  std::vector<VolumeWish> volumes;
  std::vector<VolumeWish> copied;  // volumes that are there already, by their tags
  std::vector<NetworkChoice> ports;
  bool server = false;      // the machine itself, too: is there a flavor for it?
  bool only_asked = false;  // nothing is about to begin: what is good to know is wanted, too
};

// A disk as it lies in the cloud, proven, for a volume to be made from.
struct SentImage {
  ImageId id;
  std::string format;       // as it was sent: "qcow2", "raw"
  std::string stored_as;    // what the cloud made of it
  std::uint64_t bytes = 0;  // sent
  std::string algorithm;    // of `hash`; empty: nothing could be compared
  std::string hash;         // of what the cloud stores; computed here, and equal to what the cloud says
  std::string remark = {};  // for the user: what could not be proven
};

// How a disk is sent.
struct Sending {
  copy::Progress& progress;
  std::shared_ptr<copy::Throttle> throttle = {};  // of what is sent; shared with others. Null: as fast as it goes
};

// How disks that are kept here come into a cloud: as images, of which it makes volumes. Everything carries the job's
// tag.
class Delivery {
 public:
  struct Keep {
    std::set<ImageId> images;
    std::set<VolumeId> volumes;
    std::set<VolumeId> used;  // not these, while others that were ordered from a kept image may be on their way
    bool every_volume = false;
  };
  struct Swept {
    std::set<ImageId> images;          // kept, there and whole
    std::set<VolumeId> volumes;        // likewise
    std::vector<std::string> deleted;  // "image 5f3a..."
    std::vector<std::string> stuck;    // "image 5f3a...: why it could not be deleted"
    std::vector<std::string> stuck_volumes;
  };
  virtual ~Delivery() = default;
  // Deletes every image and volume that the job ever delivered, except these.
  virtual Swept sweep(const JobId& job, const Keep& keep, std::stop_token stop) = 0;
  // Sends all that the device holds as a new image; returns when the cloud has it and it is proven equal. `content` is
  // kept with it. Error(data): what the cloud holds is not what was sent; Error(quota): no room, here or there. Several
  // may be sent at once, by several threads.
  virtual SentImage send(const VolumeWish& wish, const Device& device, const std::string& content, const Sending& how,
                         std::stop_token stop) = 0;
  // Has the volume made of the image, once, and does not wait for it.
  virtual VolumeId order(const VolumeWish& wish, const ImageId& image, std::stop_token stop) = 0;
  // Until it can be used. Error(unavailable) with the cloud's reason when it cannot be any more.
  virtual void await(const VolumeWish& wish, const VolumeId& volume, std::stop_token stop) = 0;
  // From now on it is the server's, and no sweep deletes it. Likewise one that is gone.
  virtual void hand_over(const VolumeId& volume, std::stop_token stop) = 0;
  // Deletes a delivered volume, handed over or not (must carry the job's tag). Already gone is success.
  virtual void discard(const VolumeId& volume, const JobId& job, std::stop_token stop) = 0;
};

class Cloud {
 public:
  virtual ~Cloud() = default;
  virtual std::string describe() const = 0;  // "OpenStack project lab at https://...", "folder /srv/vms"
  // Errors of settings (flavor, network, type, subnet unknown; folder not writable) before anything is
  // changed.
  virtual void check_settings(std::stop_token stop) = 0;
  // The same for who begins nothing: all of them, not the first alone.
  virtual std::vector<plan::Finding> judge_settings(std::stop_token stop) {
    try {
      check_settings(stop);
    } catch (const Error& e) {
      return {{plan::Level::problem, "target", e.what(), "", e.fault()}};
    }
    return {};
  }
  // Whether there is room for it: quotas, addresses, slots, space. Only asks; what cannot be asked is left out.
  virtual std::vector<plan::Finding> examine(const Arrival& arrival, std::stop_token stop) = 0;
  // The volume of `tag`, if it exists. More than one is Error(conflict) that names them all.
  virtual std::optional<Volume> find(const Tag& tag, std::stop_token stop) = 0;
  // Finds it by tag or makes it; waits until it can be used. One that is smaller than the disk, which has grown, is
  // extended: Error(conflict) when another machine has it.
  virtual Volume allocate(const VolumeWish& wish, std::stop_token stop) = 0;
  // Attaches (if it is not) and opens it. Error(conflict) when another machine has it.
  virtual std::unique_ptr<Device> attach(const Volume& volume, std::stop_token stop) = 0;
  // Confirmed on return. Not attached is success.
  virtual void detach(const VolumeId& volume, std::stop_token stop) = 0;
  // Adds or replaces the given keys, keeps the others. An empty value removes the key.
  virtual void remember(const VolumeId& volume, const Memory& memory, std::stop_token stop) = 0;
  // The adapter's port in the chosen network: one that is there already is used as it is, but one that this job made
  // for other wishes (address, subnet, security groups) is made anew. Error(conflict) when a stranger's server has it.
  virtual Port ensure_port(const JobId& job, const model::Nic& nic, const NetworkChoice& choice,
                           std::stop_token stop) = 0;
  // Every port that this job made, also those of a run that died before it wrote them down.
  virtual std::vector<PortId> ports_of(const JobId& job, std::stop_token stop) = 0;
  // Makes what launch() will need beside volumes and ports, while the machine still runs: a flavor that was asked for.
  virtual void prepare_launch(const model::Vm&, std::stop_token) {}
  // The server that launch() made for this job, whatever its state, and whatever it or the machine is called by now;
  // nothing when there is none (any more).
  virtual std::optional<ServerId> find_server(const JobId& job, std::stop_token stop) = 0;
  // Creates the server, or finds the one a lost reply left, and waits until it runs.
  virtual Launched launch(const LaunchWish& wish, std::stop_token stop) = 0;
  // Deletes the volume (by id; must carry the job's tag). Already gone is success.
  virtual void discard(const VolumeId& volume, const JobId& job, std::stop_token stop) = 0;
  virtual void discard_port(const PortId& port, const JobId& job, std::stop_token stop) = 0;
  // How what is in allocate()'s volumes comes to launch(), which takes the volumes that this gives. Null: as they are.
  virtual Delivery* delivery() noexcept { return nullptr; }
};

}  // namespace vmferry::target
