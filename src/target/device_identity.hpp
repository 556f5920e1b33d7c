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

}  // namespace vmferry::target
