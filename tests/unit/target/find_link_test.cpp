// Which link below /dev/disk/by-id is a volume's.
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.hpp"
#include "support/lab.hpp"
#include "target/device.hpp"

namespace vmferry::target {
namespace {

namespace fs = std::filesystem;

const VolumeId volume{"5f3a1b2c-1234-4abc-9def-0123456789ab"};

class FindLink : public testing::Test {
 protected:
  void link(const std::string& name, const std::string& to) {
    std::ofstream(directory_.path() / to, std::ios::app);
    fs::create_directories(by_id_);
    fs::create_symlink(directory_.path() / to, by_id_ / name);
  }
  std::string found() {
    const auto link = find_link(by_id_, volume);
    return link ? link->filename().string() : "";
  }
  support::TemporaryDirectory directory_;
  const fs::path by_id_ = directory_.path() / "by-id";
};

TEST_F(FindLink, no_folder_and_no_link_are_nothing) {
  EXPECT_EQ(found(), "");
  link("virtio-77777777-1234-4abc-9", "vdb");
  EXPECT_EQ(found(), "");
}

TEST_F(FindLink, every_bus_has_its_name) {
  for (const char* name :
       {"virtio-5f3a1b2c-1234-4abc-9", "scsi-0QEMU_QEMU_HARDDISK_5f3a1b2c-1234-4abc-9def-0123456789ab",
        "nvme-QEMU_NVMe_Ctrl_5f3a1b2c-1234-4abc-9", "virtio-5f3a1b2c-1234-4abc"}) {
    link(name, "vdb");
    EXPECT_EQ(found(), name);
    fs::remove_all(by_id_);
  }
}

TEST_F(FindLink, too_little_another_ending_and_partitions_do_not_count) {
  link("virtio-5f3a1b2c-1234-4ab", "a");     // 17 characters
  link("virtio-5f3a1b2c-1234-4abc-8", "b");  // 19, then another volume's
  link("virtio-5f3a1b2c-1234-4abc-9-part1", "c");
  EXPECT_EQ(found(), "");
}

TEST_F(FindLink, a_dangling_link_is_not_there_yet) {
  link("virtio-5f3a1b2c-1234-4abc-9", "vdb");
  fs::remove(directory_.path() / "vdb");
  EXPECT_EQ(found(), "");
}

TEST_F(FindLink, several_names_of_one_device_are_one) {
  link("scsi-SQEMU_QEMU_HARDDISK_5f3a1b2c-1234-4abc-9def-0123456789ab", "sdb");
  link("scsi-0QEMU_QEMU_HARDDISK_5f3a1b2c-1234-4abc-9def-0123456789ab", "sdb");
  EXPECT_EQ(found(), "scsi-0QEMU_QEMU_HARDDISK_5f3a1b2c-1234-4abc-9def-0123456789ab");
}

TEST_F(FindLink, two_devices_are_a_conflict_that_names_both) {
  link("virtio-5f3a1b2c-1234-4abc-9", "vdb");
  link("scsi-0QEMU_QEMU_HARDDISK_5f3a1b2c-1234-4abc-9", "sdb");
  try {
    found();
    FAIL() << "was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
    EXPECT_NE(std::string(e.what()).find("virtio-5f3a1b2c-1234-4abc-9"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("scsi-0QEMU_QEMU_HARDDISK_5f3a1b2c-1234-4abc-9"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace vmferry::target
