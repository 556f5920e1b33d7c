// How a descriptor says which volume it is: sysfs in production, an identity file in the lab. Reads only;
// whatever cannot be read is "says nothing", and the caller refuses a device that says nothing.
#include "target/device_identity.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vmferry::target {

namespace {

constexpr std::size_t most = 4096;  // bytes of an attribute or identity file that can matter

std::optional<std::string> contents(const std::filesystem::path& file) {
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::nullopt;
  std::string text(most, '\0');
  std::size_t have = 0;
  while (have < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + have, text.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  text.resize(have);
  return text;
}

// Serials are padded with spaces (SCSI) or zero bytes and end in a newline (sysfs).
std::string trimmed(std::string_view text) {
  constexpr std::string_view padding(" \t\r\n\0", 5);
  const auto first = text.find_first_not_of(padding);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(padding) - first + 1));
}

std::optional<std::uint64_t> measured_bytes(int fd, const struct stat& status) {
  if (S_ISREG(status.st_mode)) return static_cast<std::uint64_t>(status.st_size);
  std::uint64_t bytes = 0;
  if (!S_ISBLK(status.st_mode) || ::ioctl(fd, BLKGETSIZE64, &bytes) != 0) return std::nullopt;
  return bytes;
}

// "Unit Serial Number": byte 1 is the page's code, bytes 2-3 the length of what follows byte 4
// (SPC-4, 7.8.15).
std::string serial_of_page_80(std::string_view page) {
  if (page.size() < 4 || static_cast<unsigned char>(page[1]) != 0x80) return {};
  const std::size_t length =
      static_cast<std::size_t>(static_cast<unsigned char>(page[2])) << 8 | static_cast<unsigned char>(page[3]);
  return trimmed(page.substr(4, std::min(length, page.size() - 4)));
}

class SysfsIdentity final : public DeviceIdentity {
 public:
  explicit SysfsIdentity(std::filesystem::path sysfs) : sysfs_(std::move(sysfs)) {}

  std::optional<Identity> read(int fd) const override {
    struct stat status {};
    if (::fstat(fd, &status) != 0 || !S_ISBLK(status.st_mode)) return std::nullopt;
    const std::filesystem::path device =
        sysfs_ / "dev" / "block" / fmt::format("{}:{}", major(status.st_rdev), minor(status.st_rdev));
    // A partition is never the volume, whatever its disk's serial is.
    std::error_code ignored;
    if (std::filesystem::exists(device / "partition", ignored)) return std::nullopt;
    const auto bytes = measured_bytes(fd, status);
    if (!bytes) return std::nullopt;
    // virtio-blk keeps it on the disk, NVMe on its controller, SCSI as the page it answered.
    for (const char* place : {"serial", "device/serial"})
      if (const auto text = contents(device / place))
        if (std::string serial = trimmed(*text); !serial.empty()) return Identity{std::move(serial), *bytes};
    if (const auto page = contents(device / "device/vpd_pg80"))
      if (std::string serial = serial_of_page_80(*page); !serial.empty()) return Identity{std::move(serial), *bytes};
    return std::nullopt;
  }

 private:
  std::filesystem::path sysfs_;
};

class FileIdentity final : public DeviceIdentity {
 public:
  explicit FileIdentity(std::filesystem::path directory) : directory_(std::move(directory)) {}

  std::optional<Identity> read(int fd) const override {
    struct stat status {};
    if (::fstat(fd, &status) != 0) return std::nullopt;
    const auto measured = measured_bytes(fd, status);
    if (!measured) return std::nullopt;
    const std::string name = S_ISBLK(status.st_mode)
                                 ? fmt::format("{}:{}", major(status.st_rdev), minor(status.st_rdev))
                                 : fmt::format("{}-{}", status.st_dev, status.st_ino);
    const auto text = contents(directory_ / name);
    if (!text) return std::nullopt;
    return parse(*text, *measured);
  }

 private:
  static std::optional<Identity> parse(std::string_view text, std::uint64_t measured) {
    Identity identity;
    bool sized = false;
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.starts_with("serial=")) identity.serial = trimmed(line.substr(7));
      if (line.starts_with("bytes=")) {
        const std::string_view digits = line.substr(6);
        const auto [stop, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), identity.bytes);
        sized = problem == std::errc{} && stop == digits.data() + digits.size();
      }
    }
    if (!sized || identity.serial.empty()) return std::nullopt;
    // The smaller one counts: a device that shrank, or that says it did, must not pass for a larger one.
    identity.bytes = std::min(identity.bytes, measured);
    return identity;
  }

  std::filesystem::path directory_;
};

std::filesystem::path sysfs_folder(const std::filesystem::path& sysfs, dev_t device) {
  return sysfs / "dev" / "block" / fmt::format("{}:{}", major(device), minor(device));
}

// What the kernel itself knows a block device by, that it keeps while the device is there; empty when nothing. A
// multipath device says what it is made of, SCSI and NVMe devices what they answered, RBD's which image they are.
std::string kernel_name(const std::filesystem::path& device) {
  std::error_code ignored;
  if (std::filesystem::exists(device / "partition", ignored)) return {};
  if (const auto pool = contents(device / "device/pool"))
    if (const auto image = contents(device / "device/name")) return trimmed(*pool) + "/" + trimmed(*image);
  for (const char* place : {"dm/uuid", "wwid", "device/wwid", "loop/backing_file"})
    if (const auto text = contents(device / place))
      if (std::string name = trimmed(*text); !name.empty()) return name;
  return {};
}

// Whether two names of one kind differ. os-brick has scsi_id's ("3600a..."), the kernel "naa.600a..." or
// "mpath-3600a..."; names of other kinds (T10 vendor ids) are not comparable.
bool contradicts(const std::string& kernel, const std::string& wwn) {
  const bool comparable = kernel.starts_with("naa.") || kernel.starts_with("mpath-3");
  return wwn.size() > 8 && wwn.front() == '3' && comparable && kernel.find(wwn.substr(1)) == std::string::npos;
}

class ConnectedIdentity final : public DeviceIdentity {
 public:
  ConnectedIdentity(const std::filesystem::path& path, std::string serial, const std::string& wwn,
                    std::filesystem::path sysfs)
      : serial_(std::move(serial)), sysfs_(std::move(sysfs)) {
    const auto refuse = [&](Fault fault, const std::string& why) {
      throw Error(fault, fmt::format("volume {}: {} {}; nothing is written to it", serial_, path.string(), why));
    };
    if (::stat(path.c_str(), &first_) != 0)
      refuse(Fault::unavailable, fmt::format("was connected and is not there: {}", std::strerror(errno)));
    if (S_ISREG(first_.st_mode)) {
      if (path.filename().string().find(serial_) == std::string::npos) refuse(Fault::conflict, "is not named after it");
      return;
    }
    if (!S_ISBLK(first_.st_mode)) refuse(Fault::conflict, "is neither a block device nor a regular file");
    name_ = kernel_name(sysfs_folder(sysfs_, first_.st_rdev));
    if (name_.empty())
      refuse(Fault::unsupported,
             "is a device of which the kernel tells nothing (no WWID), so nothing would prove later "
             "that it is still this volume");
    std::error_code ignored;
    const bool rbd = std::filesystem::exists(sysfs_folder(sysfs_, first_.st_rdev) / "device/pool", ignored);
    if (rbd && name_.find(serial_) == std::string::npos) refuse(Fault::conflict, fmt::format("is RBD image {}", name_));
    if (contradicts(name_, wwn))
      refuse(Fault::conflict, fmt::format("is known to the kernel as {} and to os-brick as {}", name_, wwn));
  }

  std::optional<Identity> read(int fd) const override {
    struct stat now {};
    if (::fstat(fd, &now) != 0 || (now.st_mode & S_IFMT) != (first_.st_mode & S_IFMT)) return std::nullopt;
    if (S_ISREG(now.st_mode)) {
      if (now.st_dev != first_.st_dev || now.st_ino != first_.st_ino || now.st_nlink == 0) return std::nullopt;
    } else if (now.st_rdev != first_.st_rdev || kernel_name(sysfs_folder(sysfs_, now.st_rdev)) != name_) {
      return std::nullopt;
    }
    const auto bytes = measured_bytes(fd, now);
    if (!bytes) return std::nullopt;
    return Identity{serial_, *bytes};
  }

 private:
  std::string serial_;
  std::filesystem::path sysfs_;
  struct stat first_ {};
  std::string name_;  // the kernel's, of a block device
};

}  // namespace

std::unique_ptr<DeviceIdentity> connected_identity(const std::filesystem::path& path, const std::string& serial,
                                                   const std::string& wwn, std::filesystem::path sysfs) {
  return std::make_unique<ConnectedIdentity>(path, serial, wwn, std::move(sysfs));
}

std::unique_ptr<DeviceIdentity> sysfs_identity(std::filesystem::path sysfs) {
  return std::make_unique<SysfsIdentity>(std::move(sysfs));
}

std::unique_ptr<DeviceIdentity> file_identity(std::filesystem::path directory) {
  return std::make_unique<FileIdentity>(std::move(directory));
}

}  // namespace vmferry::target
