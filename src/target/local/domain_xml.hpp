// A libvirt domain of a moved machine, as text. Pure: no files, no clock.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/vm.hpp"

namespace vmferry::target::local {

struct DomainNic {
  std::string mac;
  std::string
      network;  // a libvirt network; "bridge:br0" = that bridge of the host; "user" = QEMU's own; empty = "default"
};

struct DomainWish {
  JobId job;
  model::Vm vm;
  std::string name;  // the domain's; may differ from the machine's, which can have any character
  std::vector<std::filesystem::path> images;  // absolute, boot order
  std::vector<DomainNic> nics;
  std::string disk_bus = "virtio";  // or "scsi" (virtio-scsi)
  std::string kind = "kvm";         // or "qemu", without hardware help
};

// Whether a DomainNic's network is one that libvirt itself must have.
bool is_libvirt_network(const std::string& network);

std::string domain_xml(const DomainWish& wish);

// The job that a domain's XML says it is of; empty when it says none or is not XML.
JobId job_of_domain(const std::string& xml);

}  // namespace vmferry::target::local
