// Finding the device of an attached disk, on made-up guests.
#include "source/vmware/guest_disks.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <fstream>

#include "support/lab.hpp"

namespace vmferry::source::vmware {
namespace {

using Settings = std::map<std::string, std::string>;

const Settings bridges{{"pciBridge0.pciSlotNumber", "17"},
                       {"pciBridge4.pciSlotNumber", "21"},
                       {"pciBridge5.pciSlotNumber", "22"},
                       {"pciBridge6.pciSlotNumber", "23"}};

TEST(PciPlace, FollowsTheBridges) {
  struct Case {
    const char* number;
    std::optional<PciPlace> place;
  };
  const Case cases[] = {
      {"16", PciPlace{"", 0x10}},             // an LSI controller on the first bus
      {"160", PciPlace{"0000:00:15.0", 0}},   // the usual place of scsi0
      {"224", PciPlace{"0000:00:17.0", 0}},   //
      {"1184", PciPlace{"0000:00:15.1", 0}},  // behind the bridge's second function
      {"1216", PciPlace{"0000:00:16.1", 0}},  // the article's own example
      {"33", PciPlace{"0000:00:11.0", 1}},    // a device behind the first bridge
      {"256", std::nullopt},                  // pciBridge7 is not told
      {"", std::nullopt},
      {"-1", std::nullopt},  // not placed yet
      {"160x", std::nullopt},
  };
  for (const Case& c : cases) {
    Settings settings = bridges;
    settings["scsi2.pciSlotNumber"] = c.number;
    EXPECT_EQ(pci_place(settings, 2), c.place) << c.number;
  }
  EXPECT_EQ(pci_place(bridges, 0), std::nullopt);
}

TEST(SmbiosUuids, InVspheresOrder) {
  const std::vector<std::string> one{"4210f0a8-7b1e-4d4c-9c52-0c1ab0de0001"};
  EXPECT_EQ(
      smbios_uuids("VMware-42 10 f0 a8 7b 1e 4d 4c-9c 52 0c 1a b0 de 00 01", "a8f01042-1e7b-4c4d-9c52-0c1ab0de0001"),
      one);
  EXPECT_EQ(smbios_uuids("", "A8F01042-1E7B-4C4D-9C52-0C1AB0DE0001"),
            (std::vector<std::string>{"a8f01042-1e7b-4c4d-9c52-0c1ab0de0001", one.front()}));
  EXPECT_TRUE(smbios_uuids("", "").empty());
  EXPECT_TRUE(smbios_uuids("None", "Not Settable").empty());
}

class GuestTest : public ::testing::Test {
 protected:
  void link(const std::string& where, const std::string& device) const {
    const auto file = folder_.path() / "dev" / device;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << "x";
    const auto name = folder_.path() / "dev/disk" / where;
    std::filesystem::create_directories(name.parent_path());
    std::filesystem::create_symlink(file, name);
  }
  DiskLinks look(const DiskPlace& place) {
    DiskLinks links = this_guest(folder_.path(), runner_, folder_.path() / "run", log_)->look(place, {});
    for (std::string* device : {&links.by_id, &links.by_path})
      if (!device->empty()) *device = std::filesystem::path(*device).filename().string();
    return links;
  }
  support::TemporaryDirectory folder_;
  process::SystemRunner runner_;
  log::Log log_;
};

TEST_F(GuestTest, LooksByIdAndByPath) {
  const std::string uuid = plain_uuid("6000C29a-0f37-1234-5678-9abcdef01234");
  ASSERT_EQ(uuid, "6000c29a0f37123456789abcdef01234");
  std::filesystem::create_directories(folder_.path() / "sys/bus/pci/devices/0000:00:15.0/0000:03:00.0");
  std::filesystem::create_directories(folder_.path() / "sys/bus/pci/devices/0000:00:15.0/power");
  link("by-path/pci-0000:03:00.0-scsi-0:0:3:0", "sdd");
  link("by-path/pci-0000:03:00.0-scsi-0:0:3:0-part1", "sdd1");
  link("by-path/pci-0000:03:00.0-scsi-0:0:2:0", "sdc");
  link("by-id/scsi-3" + uuid, "sde");
  const PciPlace controller{"0000:00:15.0", 0};
  EXPECT_EQ(look({"", controller, 3}).by_path, "sdd");
  EXPECT_EQ(look({"", controller, 2}).by_path, "sdc");
  EXPECT_EQ(look({"", controller, 1}).by_path, "");
  EXPECT_EQ(look({"", PciPlace{"0000:00:16.0", 0}, 3}).by_path, "");
  EXPECT_EQ(look({"", std::nullopt, 3}).by_path, "");
  EXPECT_EQ(look({uuid, std::nullopt, 3}).by_id, "sde");
  EXPECT_EQ(look({plain_uuid("6000C29a-0f37-1234-5678-9abcdef01235"), std::nullopt, 3}).by_id, "");
  link("by-id/wwn-0x" + uuid, "sdf");
  EXPECT_EQ(look({uuid, controller, 3}).by_id, "sdf");  // and the caller sees that the two do not agree
}

TEST_F(GuestTest, AControllerOnTheFirstBus) {
  link("by-path/pci-0000:00:10.0-scsi-0:0:1:0", "sdb");
  EXPECT_EQ(look({"", PciPlace{"", 0x10}, 1}).by_path, "sdb");
}

}  // namespace
}  // namespace vmferry::source::vmware
