// Block devices: a loop device with 4096-byte sectors, zeroed and written, with a disk that ends inside a sector.
// Needs root and a free loop device; says so when it has neither.
#include "disks.hpp"

#include <linux/loop.h>
#include <sys/ioctl.h>

namespace vmferry::copy::test {

namespace {

// Held open until detached, by its own number; autoclear detaches it should the test die.
class LoopDevice {
 public:
  LoopDevice(const std::filesystem::path& file, std::uint32_t sector) {
    const Fd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const Fd backing(open(file.c_str(), O_RDWR | O_CLOEXEC));
    if (!control || !backing) return;
    for (int attempt = 0; attempt < 20 && !fd_; ++attempt) {
      const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) return;
      path_ = "/dev/loop" + std::to_string(number);
      Fd device(open(path_.c_str(), O_RDWR | O_CLOEXEC));
      loop_config config{};
      config.fd = static_cast<__u32>(backing.get());
      config.block_size = sector;
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (device && ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) fd_ = std::move(device);
    }
  }
  ~LoopDevice() {
    if (fd_) ioctl(fd_.get(), LOOP_CLR_FD, 0);
  }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  const std::filesystem::path& path() const { return path_; }
  void detach() { ioctl(fd_.get(), LOOP_CLR_FD, 0); }
  explicit operator bool() const { return static_cast<bool>(fd_); }

 private:
  std::filesystem::path path_;
  Fd fd_;
};

}  // namespace

TEST(CopyToLoopDevice, FourKibSectorsAndAnUnalignedTail) {
  const support::TemporaryDirectory folder;
  const std::uint64_t size = 32 * mib + 1536, device_size = 40 * mib;
  Bytes disk = random_bytes(size, 1);
  std::fill(disk.begin() + 8 * mib, disk.begin() + 20 * mib + 512, std::byte{0});
  put(folder.path() / "source", disk);
  put(folder.path() / "backing", random_bytes(device_size, 2));
  LoopDevice loop(folder.path() / "backing", 4096);
  if (!loop) GTEST_SKIP() << "no loop device can be set up here (needs root and /dev/loop-control)";
  ServedSource source(file_recipe(folder.path() / "source"), size);
  SystemClock clock;
  log::Log log;
  Heard heard;
  {
    FileTarget target(loop.path(), device_size, false);
    target.set_sector(4096);
    target.reopen(O_RDWR | O_EXCL);
    Tuning tuning;
    tuning.whole_disk = true;
    const auto list = work(whole(size));
    run(source, target, *list, tuning, heard, clock, log, {});
    Bytes expected = disk;
    expected.resize(device_size);
    EXPECT_EQ(difference(target.content(), expected), std::nullopt);
    // And a delta whose areas start and end inside the device's sectors.
    const Bytes newer = random_bytes(size, 3);
    put(folder.path() / "source", newer);
    const std::vector<ByteRange> areas{{512, 512}, {mib + 1024, 3 * mib}, {size - 512, 512}};
    const auto delta = work(RangeSet(areas));
    run(source, target, *delta, Tuning(), heard, clock, log, {});
    for (const ByteRange& a : areas)
      std::copy_n(newer.begin() + static_cast<std::ptrdiff_t>(a.offset), a.length,
                  expected.begin() + static_cast<std::ptrdiff_t>(a.offset));
    EXPECT_EQ(difference(target.content(), expected), std::nullopt);
  }
}

TEST(CopyToLoopDevice, DetachedDeviceIsNotADiskThatIsFull) {
  const support::TemporaryDirectory folder;
  const std::uint64_t size = 8 * mib;
  put(folder.path() / "source", random_bytes(size, 1));
  put(folder.path() / "backing", Bytes(size));
  LoopDevice loop(folder.path() / "backing", 512);
  if (!loop) GTEST_SKIP() << "no loop device can be set up here (needs root and /dev/loop-control)";
  ServedSource source(file_recipe(folder.path() / "source"), size);
  SystemClock clock;
  log::Log log;
  Heard heard;
  FileTarget target(loop.path(), size, true);
  Pieces pieces({{{0, mib}}, {{mib, size - mib}}});
  pieces.before = [&](std::size_t at, std::stop_token) {
    // The device shrinks below what is to be written, as one that was detached does.
    if (at == 1) {
      ASSERT_EQ(truncate((folder.path() / "backing").c_str(), 64 * kib), 0);
      const Fd other(open(loop.path().c_str(), O_RDWR | O_CLOEXEC));
      ASSERT_EQ(ioctl(other.get(), LOOP_SET_CAPACITY, 0), 0);
    }
  };
  try {
    run(source, target, pieces, Tuning(), heard, clock, log, {});
    FAIL() << "written to a device that is gone";
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::conflict) << error.what();
    EXPECT_NE(std::string(error.what()).find("detached"), std::string::npos) << error.what();
  }
}

}  // namespace vmferry::copy::test
