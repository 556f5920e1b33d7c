// Proves that an open descriptor is the volume we asked for, and still is. One contract, several ways to read
// the serial: sysfs or VPD page 0x80 in production, an identity file per device in the lab. No setting
// switches it off.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace vmferry::target {

struct Identity {
  std::string serial;  // virtio-blk shows the first 20 characters of the volume's id
  std::uint64_t bytes = 0;
  bool operator==(const Identity&) const = default;
};

class DeviceIdentity {
 public:
  virtual ~DeviceIdentity() = default;
  // What the kernel (or the lab) says of the open descriptor, asked afresh at each call; nothing when it says
  // nothing.
  virtual std::optional<Identity> read(int fd) const = 0;
};

// /sys/dev/block/MAJ:MIN/{serial,device/vpd_pg80} and BLKGETSIZE64.
std::unique_ptr<DeviceIdentity> sysfs_identity(std::filesystem::path sysfs = "/sys");
// Files named "MAJ:MIN" or "<st_dev>-<st_ino>" with the lines serial=... and bytes=...; the size is also
// measured.
std::unique_ptr<DeviceIdentity> file_identity(std::filesystem::path directory);

// What was connected as `serial` (a volume's id) by whoever made `path`: shows that serial for as long as the
// descriptor is the same file, or the same device of which the kernel says the same (multipath UUID, WWID, RBD image;
// see docs/adr/0003 and 0011). Error(conflict) when the file's name or the RBD image is another volume's, or the kernel
// knows the device by another WWN than `wwn` (empty = not known); Error(unsupported) when it says nothing of it.
std::unique_ptr<DeviceIdentity> connected_identity(const std::filesystem::path& path, const std::string& serial,
                                                   const std::string& wwn, std::filesystem::path sysfs = "/sys");

}  // namespace vmferry::target
