// The identity contract over every way to read a serial: a device that was swapped, shrunk, renamed, has
// vanished, shows another serial or is busy is refused in words, at opening and at each check.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "base/error.hpp"
#include "loop_device.hpp"
#include "support/lab.hpp"
#include "target/device.hpp"

namespace vmferry::target {
namespace {

namespace fs = std::filesystem;

const std::string volume_id = "5f3a1b2c-1234-4abc-9def-0123456789ab";
const std::string other_id = "77777777-1234-4abc-9def-0123456789ab";
constexpr std::uint64_t size = 1 << 20;

void write_file(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// One thing that can stand behind a link, with the means to make it lie.
struct Thing {
  fs::path file;  // its bytes
  std::unique_ptr<LoopDevice> loop;
  fs::path path() const { return loop ? loop->path() : file; }
};

class World {
 public:
  virtual ~World() = default;
  virtual std::shared_ptr<const DeviceIdentity> identity() const = 0;
  virtual void say_serial(const Thing& thing, const std::string& serial) = 0;
  virtual void say_nothing(const Thing& thing) = 0;
  virtual bool block() const = 0;

  // Nothing (and why) when this machine cannot.
  std::unique_ptr<Thing> make(const std::string& name, const std::string& serial, std::string& why) {
    auto thing = std::make_unique<Thing>();
    thing->file = root() / "volumes" / name;
    write_file(thing->file, "");
    fs::resize_file(thing->file, size);
    if (block() && !(thing->loop = LoopDevice::over(thing->file, why))) return nullptr;
    say_serial(*thing, serial);
    return thing;
  }
  void link(const std::string& name, const Thing& thing) {
    fs::create_directories(by_id());
    fs::remove(by_id() / name);
    fs::create_symlink(thing.path(), by_id() / name);
  }
  void shrink(const Thing& thing, std::uint64_t bytes) {
    fs::resize_file(thing.file, bytes);
    if (thing.loop) thing.loop->size_changed();
  }
  fs::path by_id() const { return root() / "by-id"; }
  const fs::path& root() const { return directory_.path(); }

 private:
  support::TemporaryDirectory directory_;
};

class IdentityFiles : public World {
 public:
  std::shared_ptr<const DeviceIdentity> identity() const override { return file_identity(root() / "identity"); }
  void say_serial(const Thing& thing, const std::string& serial) override {
    write_file(place(thing), fmt::format("serial={}\nbytes={}\n", serial, size));
  }
  void say_nothing(const Thing& thing) override { fs::remove(place(thing)); }

 private:
  fs::path place(const Thing& thing) const {
    if (thing.loop) return root() / "identity" / thing.loop->numbers();
    struct stat status {};
    ::stat(thing.file.c_str(), &status);
    return root() / "identity" / fmt::format("{}-{}", status.st_dev, status.st_ino);
  }
};

struct FilesWithIdentityFiles final : IdentityFiles {
  bool block() const override { return false; }
};
struct BlocksWithIdentityFiles final : IdentityFiles {
  bool block() const override { return true; }
};

// A made-up sysfs around a real block device.
class Sysfs : public World {
 public:
  bool block() const override { return true; }
  std::shared_ptr<const DeviceIdentity> identity() const override { return sysfs_identity(root() / "sys"); }
  void say_nothing(const Thing& thing) override { fs::remove_all(place(thing)); }

 protected:
  fs::path place(const Thing& thing) const { return root() / "sys" / "dev" / "block" / thing.loop->numbers(); }
};
struct SysfsVirtio final : Sysfs {
  void say_serial(const Thing& thing, const std::string& serial) override {
    write_file(place(thing) / "serial", serial.substr(0, 20) + "\n");
  }
};
struct SysfsNvme final : Sysfs {
  void say_serial(const Thing& thing, const std::string& serial) override {
    write_file(place(thing) / "device" / "serial", serial.substr(0, 20) + "    \n");
  }
};
struct SysfsScsi final : Sysfs {
  void say_serial(const Thing& thing, const std::string& serial) override {
    std::string page("\0\x80\0", 3);
    page += static_cast<char>(serial.size());
    write_file(place(thing) / "device" / "vpd_pg80", page + serial + std::string("\0\0", 2));
  }
};

template <class W>
class DeviceContract : public testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    thing_ = world_.make("volume", volume_id, why);
    if (!thing_) GTEST_SKIP() << "not shown here: " << why;
    world_.link(link_, *thing_);
  }
  std::unique_ptr<OpenedDevice> open(std::uint64_t bytes = size) {
    const auto link = find_link(world_.by_id(), VolumeId{volume_id});
    if (!link) throw Error(Fault::not_found, "no link");
    return std::make_unique<OpenedDevice>(*link, Expected{"volume " + volume_id, volume_id, 18, bytes, false},
                                          world_.identity());
  }
  std::unique_ptr<Thing> another(const std::string& serial) {
    std::string why;
    auto thing = world_.make("another", serial, why);
    if (!thing) throw std::runtime_error(why);
    return thing;
  }
  // The message of the refusal; the test fails when there is none or it has another Fault.
  template <class F>
  std::string refusal(F&& act, Fault fault = Fault::conflict) {
    try {
      act();
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), fault) << e.what();
      EXPECT_NE(std::string(e.what()).find(volume_id), std::string::npos) << e.what();
      return e.what();
    }
    ADD_FAILURE() << "was not refused";
    return "";
  }
  static bool says(const std::string& message, const std::string& words) {
    return message.find(words) != std::string::npos;
  }

  W world_;
  const std::string link_ = "virtio-" + volume_id.substr(0, 20);
  std::unique_ptr<Thing> thing_;
};

using Worlds = testing::Types<FilesWithIdentityFiles, BlocksWithIdentityFiles, SysfsVirtio, SysfsNvme, SysfsScsi>;
TYPED_TEST_SUITE(DeviceContract, Worlds);

TYPED_TEST(DeviceContract, opens_reads_and_writes_what_is_proven) {
  const auto device = this->open();
  EXPECT_EQ(device->bytes(), size);
  EXPECT_GE(device->sector(), 512u);
  EXPECT_EQ(::pwrite(device->fd(), "proof", 5, 4096), 5);
  char back[5] = {};
  EXPECT_EQ(::pread(device->fd(), back, 5, 4096), 5);
  EXPECT_EQ(std::string(back, 5), "proof");
  EXPECT_TRUE(::fcntl(device->fd(), F_GETFD) & FD_CLOEXEC);
  device->check();
  device->check();
}

TYPED_TEST(DeviceContract, larger_than_the_disk_is_fine_and_smaller_is_refused) {
  EXPECT_EQ(this->open(size - 512)->bytes(), size);
  const std::string why = this->refusal([&] { this->open(size + 1); });
  EXPECT_TRUE(this->says(why, "too small")) << why;
  EXPECT_TRUE(this->says(why, std::to_string(size))) << why;
}

TYPED_TEST(DeviceContract, another_serial_is_refused_at_opening) {
  this->world_.say_serial(*this->thing_, other_id);
  const std::string why = this->refusal([&] { this->open(); });
  EXPECT_TRUE(this->says(why, "another volume")) << why;
  EXPECT_TRUE(this->says(why, other_id.substr(0, 18))) << why;
}

TYPED_TEST(DeviceContract, a_serial_too_short_to_prove_anything_is_refused) {
  this->world_.say_serial(*this->thing_, volume_id.substr(0, 17));
  EXPECT_TRUE(this->says(this->refusal([&] { this->open(); }), "another volume"));
}

TYPED_TEST(DeviceContract, no_serial_is_refused) {
  this->world_.say_nothing(*this->thing_);
  EXPECT_TRUE(this->says(this->refusal([&] { this->open(); }), "serial number"));
}

TYPED_TEST(DeviceContract, a_serial_that_changes_or_vanishes_is_refused_at_the_next_check) {
  const auto device = this->open();
  this->world_.say_serial(*this->thing_, other_id);
  EXPECT_TRUE(this->says(this->refusal([&] { device->check(); }), "another volume"));
  this->world_.say_nothing(*this->thing_);
  EXPECT_TRUE(this->says(this->refusal([&] { device->check(); }), "serial number"));
  this->world_.say_serial(*this->thing_, volume_id);
  device->check();
}

// The path leads to another device that even shows the right serial: a copy, or a name used again.
TYPED_TEST(DeviceContract, a_swapped_device_is_refused_at_the_next_check) {
  const auto device = this->open();
  const auto twin = this->another(volume_id);
  this->world_.link(this->link_, *twin);
  EXPECT_TRUE(this->says(this->refusal([&] { device->check(); }), "exchanged"));
}

TYPED_TEST(DeviceContract, a_device_that_shrank_is_refused_at_the_next_check) {
  const auto device = this->open(size / 4);
  this->world_.shrink(*this->thing_, size / 2);  // still larger than the disk
  const std::string why = this->refusal([&] { device->check(); });
  EXPECT_TRUE(this->says(why, "shrunk")) << why;
}

TYPED_TEST(DeviceContract, a_device_that_shrank_below_the_disk_is_refused_at_opening) {
  this->world_.shrink(*this->thing_, size / 2);
  EXPECT_TRUE(this->says(this->refusal([&] { this->open(); }), "too small"));
}

TYPED_TEST(DeviceContract, a_renamed_or_vanished_device_is_refused_at_the_next_check) {
  const auto device = this->open();
  fs::rename(this->world_.by_id() / this->link_, this->world_.by_id() / "elsewhere");
  EXPECT_TRUE(this->says(this->refusal([&] { device->check(); }), "has gone"));
  fs::remove(this->world_.by_id() / "elsewhere");
  EXPECT_TRUE(this->says(this->refusal([&] { device->check(); }), "has gone"));
}

TYPED_TEST(DeviceContract, a_busy_device_is_refused_in_words_and_free_again_afterwards) {
  auto first = this->open();
  const std::string why = this->refusal([&] { this->open(); });
  EXPECT_TRUE(this->says(why, "in use")) << why;
  first.reset();
  this->open()->check();
}

TYPED_TEST(DeviceContract, links_to_two_devices_are_refused) {
  const auto twin = this->another(volume_id);
  this->world_.link("scsi-0QEMU_QEMU_HARDDISK_" + volume_id.substr(0, 20), *twin);
  EXPECT_TRUE(this->says(this->refusal([&] { this->open(); }), "two devices"));
}

TYPED_TEST(DeviceContract, the_longest_match_wins_and_partitions_do_not_count) {
  const auto twin = this->another(other_id);
  this->world_.link(this->link_ + "-part1", *twin);
  this->world_.link("scsi-0QEMU_QEMU_HARDDISK_" + volume_id, *this->thing_);
  this->world_.link(this->link_, *twin);  // shorter: the whole id is the better word
  EXPECT_EQ(find_link(this->world_.by_id(), VolumeId{volume_id})->filename(), "scsi-0QEMU_QEMU_HARDDISK_" + volume_id);
  this->open()->check();
}

}  // namespace
}  // namespace vmferry::target
