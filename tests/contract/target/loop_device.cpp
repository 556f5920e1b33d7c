// LOOP_CTL_GET_FREE only proposes a number: another process may take it first, so the taking is tried again.
#include "loop_device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstring>

namespace vmferry::target {

std::unique_ptr<LoopDevice> LoopDevice::over(const std::filesystem::path& file, std::string& why) {
  const Fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  const Fd backing(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!control || !backing) {
    why = fmt::format("no loop devices here: {}", std::strerror(errno));
    return nullptr;
  }
  for (int attempt = 0; attempt < 50; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) {
      why = fmt::format("no free loop device: {}", std::strerror(errno));
      return nullptr;
    }
    const std::filesystem::path path = fmt::format("/dev/loop{}", number);
    Fd device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!device) {
      why = fmt::format("cannot open {}: {}", path.string(), std::strerror(errno));
      return nullptr;
    }
    if (::ioctl(device.get(), LOOP_SET_FD, backing.get()) == 0)
      return std::unique_ptr<LoopDevice>(new LoopDevice(path, std::move(device)));
    const int problem = errno;
    why = fmt::format("cannot set up {}: {}", path.string(), std::strerror(problem));
    if (problem != EBUSY) return nullptr;
  }
  return nullptr;
}

LoopDevice::~LoopDevice() { ::ioctl(held_.get(), LOOP_CLR_FD, 0); }

std::string LoopDevice::numbers() const {
  struct stat status {};
  ::fstat(held_.get(), &status);
  return fmt::format("{}:{}", major(status.st_rdev), minor(status.st_rdev));
}

void LoopDevice::size_changed() { ::ioctl(held_.get(), LOOP_SET_CAPACITY, 0); }

}  // namespace vmferry::target
