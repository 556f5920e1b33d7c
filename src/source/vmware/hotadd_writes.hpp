// What the proxy itself writes to a disk that is attached there to be read: RAID that is assembled, an automount. It
// goes to the disk's redo, not to the source, but whoever reads the device gets it. Knows devices, nothing of vSphere.
#pragma once

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

#include "process/process.hpp"
#include "source/vmware/guest_disks.hpp"

namespace vmferry::source::vmware {

class ProxyWrites {
 public:
  // No `ssh`: the proxy is this host.
  ProxyWrites(std::optional<Ssh> ssh, process::Runner& runner);

  // Of one device from begin() on.
  struct Seen {
    std::string disk;  // tells it from the one that has the device's name after it
    std::uint64_t sectors = 0;
  };
  // From now on nobody there may open the device for writing, where that can be had. Throws Error(conflict) when a
  // device that is new has been written to already.
  Seen begin(const std::string& device, std::stop_token stop);
  // Throws BytesInDoubt when something was written since, Error when that cannot be told. Takes two minutes at most.
  void check(const std::string& device, const Seen& first);

 private:
  struct Count {
    Seen seen;
    bool fresh = false;  // it came with its disk, and so did its counters
  };
  Seen insist(const std::string& device);
  Count ask(const std::string& question, const std::string& device, std::stop_token stop);
  std::string proxy() const { return ssh_ ? ssh_->destination : "this host"; }

  const std::optional<Ssh> ssh_;
  process::Runner& runner_;
};

}  // namespace vmferry::source::vmware
