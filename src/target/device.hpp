// An open block device or image file that is proven to be one certain volume, held exclusively for as long as
// the object lives. Knows links, serials and sizes; nothing of clouds. There is no way to open one without
// the proof.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/fd.hpp"
#include "target/cloud.hpp"
#include "target/device_identity.hpp"

namespace vmferry::target {

// The link below `directory` whose name ends in at least the first 18 characters of the volume's id, as udev
// makes it of the serial that Nova and QEMU give: virtio-<first 20>, scsi-0QEMU_QEMU_HARDDISK_<whole id>,
// nvme-..._<first 20>. The longest match wins; several links to one device are one; links to two devices are
// Error(conflict). Nothing when there is none, or when it leads nowhere (yet).
std::optional<std::filesystem::path> find_link(const std::filesystem::path& directory, const VolumeId& volume);

struct Expected {
  std::string name;         // for messages: "volume 5f3a..."
  std::string serial;       // all of it (a volume's id)
  std::size_t least = 18;   // how many characters of it the device must show; virtio cuts at 20
  std::uint64_t bytes = 0;  // the device is at least that large
  bool known_zero = false;
};

class OpenedDevice final : public Device {
 public:
  // Opens `path` (a link or the thing itself) for reading and writing, O_EXCL when it is a block device,
  // under an exclusive open-file-description lock when it is a regular file. Error(conflict): in use, another
  // volume, too small, vanished.
  OpenedDevice(std::filesystem::path path, Expected expected, std::shared_ptr<const DeviceIdentity> identity);

  std::string name() const override;
  std::string path() const override { return path_.string(); }
  int fd() const override { return fd_.get(); }
  std::uint64_t bytes() const override { return bytes_; }
  std::uint32_t sector() const override { return sector_; }
  bool known_zero() const override { return expected_.known_zero; }
  void check() const override;

 private:
  void open();
  void prove_identity() const;
  void prove_path() const;
  [[noreturn]] void refuse(const std::string& why) const;

  std::filesystem::path path_;
  Expected expected_;
  std::shared_ptr<const DeviceIdentity> identity_;
  Fd fd_;
  std::uint64_t bytes_ = 0;  // when it was opened
  std::uint32_t sector_ = 512;
};

}  // namespace vmferry::target
