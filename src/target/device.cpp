// Finding, opening, proving and holding a device. Every refusal names the volume, the path and what to look
// at.
#include "target/device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstring>
#include <vector>

#include "base/error.hpp"

namespace vmferry::target {

namespace {

constexpr std::size_t least_of_id = 18;

// How many characters at the end of `name` are the beginning of `id`; 0 when fewer than 18. The end matters:
// in "virtio-<20>-part1" the serial is followed by a partition, in "virtio-<18><2 others>" by another
// volume's characters.
std::size_t matching(const std::string& name, const std::string& id) {
  for (std::size_t length = std::min(name.size(), id.size()); length >= least_of_id; --length)
    if (name.compare(name.size() - length, length, id, 0, length) == 0) return length;
  return 0;
}

bool same_thing(const struct stat& a, const struct stat& b) {
  if ((a.st_mode & S_IFMT) != (b.st_mode & S_IFMT)) return false;
  if (S_ISBLK(a.st_mode)) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

std::string said(const struct stat& status) {
  if (S_ISBLK(status.st_mode)) return fmt::format("device {}:{}", major(status.st_rdev), minor(status.st_rdev));
  return fmt::format("file {} of device {}", status.st_ino, status.st_dev);
}

}  // namespace

std::optional<std::filesystem::path> find_link(const std::filesystem::path& directory, const VolumeId& volume) {
  std::error_code problem;
  std::filesystem::directory_iterator entries(directory, problem);
  // Without any such disk udev has no folder at all: then there is no link either.
  if (problem == std::errc::no_such_file_or_directory) return std::nullopt;
  if (problem)
    throw Error(Fault::config, fmt::format("cannot look for the device of volume {} in {}: {}", volume.value,
                                           directory.string(), problem.message()));
  std::optional<std::filesystem::path> best;
  std::size_t best_length = 0;
  struct stat best_status {};
  std::vector<std::filesystem::path> rivals;
  for (; entries != std::filesystem::directory_iterator(); entries.increment(problem)) {
    const std::filesystem::path link = entries->path();
    const std::size_t length = matching(link.filename().string(), volume.value);
    struct stat status {};
    if (length == 0 || length < best_length || ::stat(link.c_str(), &status) != 0) continue;
    if (length > best_length) {
      best = link;
      best_length = length;
      best_status = status;
      rivals.clear();
    } else if (!same_thing(status, best_status)) {
      rivals.push_back(link);
    } else if (link < *best) {
      best = link;  // the same one at every call, in whatever order the folder is read
    }
  }
  if (!rivals.empty())
    throw Error(
        Fault::conflict,
        fmt::format("two devices claim to be volume {}: {} and {} lead to different ones; find out which is stale "
                    "(lsblk -o NAME,SERIAL,SIZE) before going on",
                    volume.value, best->string(), rivals.front().string()));
  return best;
}

OpenedDevice::OpenedDevice(std::filesystem::path path, Expected expected,
                           std::shared_ptr<const DeviceIdentity> identity)
    : path_(std::move(path)), expected_(std::move(expected)), identity_(std::move(identity)) {
  open();
  prove_path();
  prove_identity();
}

std::string OpenedDevice::name() const { return fmt::format("{} ({})", expected_.name, path_.string()); }

void OpenedDevice::refuse(const std::string& why) const {
  throw Error(Fault::conflict, fmt::format("{}: {}", name(), why));
}

void OpenedDevice::open() {
  struct stat status {};
  if (::stat(path_.c_str(), &status) != 0) refuse(fmt::format("cannot be opened: {}", std::strerror(errno)));
  const bool block = S_ISBLK(status.st_mode);
  if (!block && !S_ISREG(status.st_mode)) refuse("is neither a block device nor a regular file");
  fd_ = Fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC | (block ? O_EXCL : 0)));
  if (!fd_ && errno == EBUSY)
    refuse(
        "is in use on this host: it is mounted, held by LVM, RAID or multipath, or another program has it "
        "open "
        "exclusively (see lsblk and fuser -v); release it and try again");
  if (!fd_) {
    const int problem = errno;
    const Fault fault = problem == EACCES || problem == EPERM || problem == EROFS ? Fault::auth : Fault::conflict;
    throw Error(fault, fmt::format("{}: cannot be opened for writing: {}", name(), std::strerror(problem)));
  }
  if (::fstat(fd_.get(), &status) != 0 || S_ISBLK(status.st_mode) != block)
    refuse("turned into something else while it was being opened");
  if (block) {
    int sector = 0;
    if (::ioctl(fd_.get(), BLKSSZGET, &sector) == 0 && sector > 0) sector_ = static_cast<std::uint32_t>(sector);
    if (::ioctl(fd_.get(), BLKGETSIZE64, &bytes_) != 0)
      refuse(fmt::format("does not tell its size: {}", std::strerror(errno)));
    int read_only = 0;
    if (::ioctl(fd_.get(), BLKROGET, &read_only) == 0 && read_only != 0) refuse("is a read-only device");
    return;
  }
  // Not flock: QEMU locks its images this way too, so a machine that runs from this file is noticed.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd_.get(), F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES)
      refuse(
          "is in use on this host: another program has locked it (a running machine, another copy); end it "
          "and try again");
    refuse(fmt::format("cannot be locked: {}", std::strerror(errno)));
  }
  bytes_ = static_cast<std::uint64_t>(status.st_size);
}

void OpenedDevice::prove_identity() const {
  const auto found = identity_->read(fd_.get());
  if (!found)
    refuse(
        "does not tell its serial number (any more), so nothing proves that it is this volume; was it "
        "detached? "
        "nothing is written to it");
  if (found->serial.size() < expected_.least || !expected_.serial.starts_with(found->serial))
    refuse(
        fmt::format("is another volume: its serial number is \"{}\" and should begin \"{}\"; nothing is written to it",
                    found->serial, expected_.serial.substr(0, std::max<std::size_t>(expected_.least, 20))));
  if (found->bytes < expected_.bytes)
    refuse(fmt::format("is too small: {} bytes where the disk has {}; nothing is written to it", found->bytes,
                       expected_.bytes));
  if (found->bytes < bytes_)
    refuse(fmt::format("has shrunk from {} to {} bytes since it was opened", bytes_, found->bytes));
}

void OpenedDevice::prove_path() const {
  struct stat opened {};
  struct stat named {};
  if (::fstat(fd_.get(), &opened) != 0) refuse(fmt::format("cannot be examined: {}", std::strerror(errno)));
  if (::stat(path_.c_str(), &named) != 0)
    refuse(fmt::format("has gone from its place: {}; was it detached or renamed?", std::strerror(errno)));
  if (!same_thing(opened, named))
    refuse(fmt::format("was exchanged: the path now leads to {}, open is {}", said(named), said(opened)));
}

void OpenedDevice::check() const {
  prove_path();
  prove_identity();
}

}  // namespace vmferry::target
