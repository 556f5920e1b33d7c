// A cloud in memory for the job's tests: volumes are sparse temporary files, everything else is a map. It
// keeps the same contract as the real ones (tests/contract/target holds it to that) and can be made to die
// around any call.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "support/lab.hpp"
#include "target/cloud.hpp"

namespace vmferry::support {

class FakeCloud final : public target::Cloud {
 public:
  struct FakeVolume {
    std::filesystem::path file;
    std::uint64_t bytes = 0;
    std::string vm, disk;
    bool boot = false;
    std::map<std::string, std::string> image_properties;
    target::Memory memory;
    std::string attached_to;  // "" = nobody, "this host", or another server
    int open = 0;             // devices that live
    std::string gone;         // why a held device's check() fails; empty = it does not
  };
  struct FakePort {
    std::string mac, network, subnet;
    std::vector<std::string> ips;
    std::string job;
  };
  struct FakeServer {
    std::string job, name, flavor, availability_zone;
    std::vector<VolumeId> volumes;
    std::vector<PortId> ports;
  };

  // Called before (acted false) and after (acted true) each call that changes something: "allocate",
  // "attach", "detach", "remember", "ensure_port", "launch", "discard", "discard_port". May throw: before =
  // died or refused, after = lost reply.
  std::function<void(const std::string& call, bool acted)> around;
  // What check_settings() says; empty = nothing to say.
  std::string launch_refusal;         // Error(quota) when the server is asked for; nothing is made
  bool silent_before_asking = false;  // Error(unavailable) from launch() before that
  std::function<void(const ServerId&)> while_it_starts;
  std::string settings_problem;

  std::string describe() const override { return "fake cloud"; }
  void check_settings(std::stop_token stop) override;
  std::vector<plan::Finding> examine(const target::Arrival& arrival, std::stop_token) override {
    examined = arrival;
    return obstacles;
  }
  std::vector<plan::Finding> obstacles;  // what examine() finds
  target::Arrival examined;              // what it was last asked about
  std::optional<target::Volume> find(const target::Tag& tag, std::stop_token stop) override;
  target::Volume allocate(const target::VolumeWish& wish, std::stop_token stop) override;
  std::unique_ptr<target::Device> attach(const target::Volume& volume, std::stop_token stop) override;
  void detach(const VolumeId& volume, std::stop_token stop) override;
  void remember(const VolumeId& volume, const target::Memory& memory, std::stop_token stop) override;
  target::Port ensure_port(const JobId& job, const model::Nic& nic, const target::NetworkChoice& choice,
                           std::stop_token stop) override;
  std::optional<ServerId> find_server(const JobId& job, std::stop_token stop) override;
  // What a server does to its disks: a few bytes change.
  void scribble(const VolumeId& volume);
  void delete_server(const ServerId& server);  // as an operator does; its volumes stay
  target::Launched launch(const target::LaunchWish& wish, std::stop_token stop) override;
  void discard(const VolumeId& volume, const JobId& job, std::stop_token stop) override;
  std::vector<PortId> ports_of(const JobId& job, std::stop_token stop) override;
  void discard_port(const PortId& port, const JobId& job, std::stop_token stop) override;

  // What there is, as copies.
  std::map<VolumeId, FakeVolume> volumes() const;
  std::map<PortId, FakePort> ports() const;
  std::map<ServerId, FakeServer> servers() const;
  std::vector<std::string> calls() const;  // every call by name, in order
  // Changes a volume behind the job's back: attached elsewhere, gone, its memory...
  void change(const VolumeId& volume, const std::function<void(FakeVolume&)>& act);
  void lose(const VolumeId& volume);
  // A volume that another tool made, with this memory and content (zeroes).
  VolumeId add(const target::Tag& tag, std::uint64_t bytes, target::Memory memory);
  // The content of a volume.
  std::string bytes(const VolumeId& volume, std::uint64_t offset, std::uint64_t length) const;

 private:
  class OpenVolume;
  FakeVolume& known(const VolumeId& volume);
  const FakeVolume& known(const VolumeId& volume) const;
  std::map<VolumeId, FakeVolume>::iterator search(const target::Tag& tag);
  VolumeId make(const target::Tag& tag, std::uint64_t bytes);
  static target::Volume seen(const VolumeId& id, const FakeVolume& volume, const JobId& job);
  void note(const std::string& call, bool acted);

  mutable std::mutex mutex_;
  TemporaryDirectory directory_;
  std::map<VolumeId, FakeVolume> volumes_;
  std::map<PortId, FakePort> ports_;
  std::map<ServerId, FakeServer> servers_;
  std::vector<std::string> calls_;
  int next_ = 1;
};

}  // namespace vmferry::support
