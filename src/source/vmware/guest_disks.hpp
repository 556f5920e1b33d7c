// Which block device a disk of a VMware guest is, from inside the guest: by the disk's UUID where the hypervisor tells
// it (disk.EnableUUID), and by the PCI place of its controller and its unit. Never by size or by what came last.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "log/log.hpp"
#include "nbd/nbd.hpp"
#include "process/process.hpp"

namespace vmferry::source::vmware {

// Where a SCSI controller is on the guest's PCI.
struct PciPlace {
  std::string bridge;  // "0000:00:15.0", whose children are looked at; empty: on the first bus
  int device = 0;
  auto operator<=>(const PciPlace&) const = default;
};
// From the machine's pciSlotNumbers; nothing when they do not say.
std::optional<PciPlace> pci_place(const std::map<std::string, std::string>& settings, int bus);

// What is looked for.
struct DiskPlace {
  std::string uuid;             // 32 hexadecimal digits; empty when it would not tell this disk from others
  std::optional<PciPlace> pci;  // of the controller
  int unit = 0;
};
// 32 digits of "6000C29a-0f37-..."; empty for anything else.
std::string plain_uuid(const std::string& text);

// What the links of udev say about it: "" = there is no such link.
struct DiskLinks {
  std::string by_id;    // the device a link leads to
  std::string by_path;  // likewise
};

// The SMBIOS UUIDs, as vSphere spells them, that a guest with these two files in /sys/class/dmi/id may have.
std::vector<std::string> smbios_uuids(const std::string& product_serial, const std::string& product_uuid);

struct Ssh {
  std::string destination;  // "root@proxy.example"
  int port = 22;
  std::filesystem::path key;          // empty: what ssh itself uses
  std::filesystem::path known_hosts;  // likewise
};
// For ssh(1), without the destination. Nothing may ask: there is nobody to answer.
std::vector<std::string> ssh_arguments(const Ssh& ssh);
// As one word for the shell at the other end.
std::string shell_word(const std::string& text);

// A running NBD server over a device; ends with the object.
class DeviceServer {
 public:
  virtual ~DeviceServer() = default;
  virtual const nbd::Uri& uri() const = 0;
  virtual bool alive() const = 0;
  virtual std::string last_words() const = 0;  // for a failure message
};

// The guest: this host, or one that is reached by ssh.
class Guest {
 public:
  virtual ~Guest() = default;
  virtual std::string name() const = 0;  // for messages: "this host", "root@proxy.example"
  virtual std::vector<std::string> uuids(std::stop_token stop) = 0;
  virtual DiskLinks look(const DiskPlace& place, std::stop_token stop) = 0;
  virtual std::uint64_t bytes_of(const std::string& device, std::stop_token stop) = 0;
  // Why the device must not be taken away now; nothing when nobody holds it or it has gone.
  virtual std::optional<std::string> in_use(const std::string& device, std::stop_token stop) = 0;
  // Its bytes, read only.
  virtual std::unique_ptr<DeviceServer> serve(const std::string& device, std::stop_token stop) = 0;
};

// `root`: what stands for / when devices are looked for.
std::unique_ptr<Guest> this_guest(std::filesystem::path root, process::Runner& runner,
                                  std::filesystem::path run_directory, log::Log& log);
std::unique_ptr<Guest> ssh_guest(Ssh ssh, std::filesystem::path root, process::Runner& runner,
                                 std::filesystem::path run_directory, log::Log& log);

}  // namespace vmferry::source::vmware
