// The decisions, as tables.
// g++ 12 takes the empty optionals of a table for uninitialized ones when it optimizes: https://gcc.gnu.org/PR105562
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "plan/plan.hpp"
#include "base/error.hpp"

#include <gtest/gtest.h>

namespace vmferry::plan {
namespace {

using model::ChangeId;

TEST(OsmVolumeName, AsVmwareMigrationKitMakesIt) {
  for (const auto& [name, expected] :
       std::vector<std::pair<std::string, std::string>>{{"rhel-1", "rhel-1-2000"},
                                                        {"a b", "a_b-2000"},
                                                        {"a.b", "a_b-2000"},
                                                        {"a  .b__c--d", "a_b_c-d-2000"},
                                                        {"Web_01_-", "Web_01-2000"},
                                                        {std::string(80, 'x'), std::string(64, 'x') + "-2000"},
                                                        {"服务器", "-2000"}})
    EXPECT_EQ(osm_volume_name(name, model::DiskKey{2000}), expected) << name;
}

TEST(CopyMode, DeltaOnlyWhenNothingSpeaksAgainstIt) {
  const ChangeId one{"aa", "1"}, two{"aa", "2"}, other{"bb", "1"};
  struct Case {
    const char* what;
    Base base;
    std::uint64_t capacity;
    std::optional<ChangeId> now;
    bool tracking;
    const char* reason;  // empty = delta
  };
  const std::vector<Case> cases = {
      {"all fine", {true, 100, one}, 100, two, true, ""},
      {"capacity unknown (another tool's volume)", {true, 0, one}, 100, two, true, ""},
      {"nothing changed at all", {true, 100, one}, 100, one, true, ""},
      {"never copied", {false, 0, std::nullopt}, 100, two, true, "first copy"},
      {"half copied, although a change id is there", {false, 100, one}, 100, two, true, "first copy"},
      {"tracking switched off by the user", {true, 100, one}, 100, two, false, "change tracking is off"},
      {"no change id now", {true, 100, one}, 100, std::nullopt, true, "the disk has no change id"},
      {"no change id then", {true, 100, std::nullopt}, 100, two, true, "the last copy had no change id"},
      {"reset", {true, 100, other}, 100, two, true, "change tracking was reset"},
      {"grown", {true, 100, one}, 200, two, true, "the disk grew"},
      {"shrunk", {true, 200, one}, 100, two, true, "the disk shrank"},
  };
  for (const Case& c : cases) {
    const CopyMode mode = copy_mode(c.base, c.capacity, c.now, c.tracking);
    EXPECT_EQ(mode.reason, c.reason) << c.what;
    EXPECT_EQ(mode.full, *c.reason != '\0') << c.what;
  }
}

TEST(VolumeName, IsTheOneMigratekitGives) {
  EXPECT_EQ(volume_name("web01", "1-2000"), "web01-1-2000");
  EXPECT_EQ(volume_name("Web Server (prod)", "1-2000"), "web-server-prod-1-2000");
  EXPECT_EQ(volume_name("db_01.example", "7-2001"), "db_01-example-7-2001");
  EXPECT_EQ(volume_name("_x_", "1-2000"), "x_-1-2000");
  EXPECT_EQ(volume_name("R&D @ Bob's", "1-2000"), "randd-at-bobs-1-2000");
  EXPECT_EQ(volume_name("Müller-Straße", "1-2000"), "muller-strasse-1-2000");
  EXPECT_EQ(volume_name("a  --  b", "1-2000"), "a-b-1-2000");
}

TEST(GibFor, RoundsUp) {
  EXPECT_EQ(gib_for(0), 1u);
  EXPECT_EQ(gib_for(1), 1u);
  EXPECT_EQ(gib_for(1ull << 30), 1u);
  EXPECT_EQ(gib_for((1ull << 30) + 1), 2u);
}

TEST(Impossible, NamesTheReason) {
  model::Disk disk;
  EXPECT_FALSE(impossible(disk));
  disk.backing = model::Backing::rdm_virtual;
  EXPECT_FALSE(impossible(disk)) << "virtual RDM can be snapshotted";
  disk.backing = model::Backing::rdm_physical;
  EXPECT_NE(impossible(disk)->find("raw device"), std::string::npos);
  disk = {};
  disk.mode = model::DiskMode::independent_persistent;
  EXPECT_NE(impossible(disk)->find("independent"), std::string::npos);
  disk = {};
  disk.shared = true;
  EXPECT_NE(impossible(disk)->find("shared"), std::string::npos);
}

TEST(ImageProperties, FollowFirmwareAndWishes) {
  model::Vm vm;
  vm.guest_id = "windows2019srv_64Guest";
  EXPECT_TRUE(image_properties(vm, {}).empty());
  vm.firmware = model::Firmware::efi;
  vm.secure_boot = true;
  const auto all = image_properties(vm, {"auto", true, "scsi"});
  const std::map<std::string, std::string> want = {
      {"hw_disk_bus", "scsi"},        {"hw_firmware_type", "uefi"},     {"hw_machine_type", "q35"},
      {"hw_qemu_guest_agent", "yes"}, {"hw_scsi_model", "virtio-scsi"}, {"os_secure_boot", "required"},
      {"os_type", "windows"}};
  EXPECT_EQ(all, want);
}

TEST(ImageProperties, DistributionIsGlancesNameForTheGuestId) {
  const auto distro = [](const char* guest_id) {
    model::Vm vm;
    vm.guest_id = guest_id;
    const auto properties = image_properties(vm, {.os_distro = "auto"});
    return properties.contains("os_distro") ? properties.at("os_distro") : "none";
  };
  EXPECT_EQ(distro("rhel9_64Guest"), "rhel");
  EXPECT_EQ(distro("centos8_64Guest"), "centos");
  EXPECT_EQ(distro("debian12_64Guest"), "debian");
  EXPECT_EQ(distro("ubuntu64Guest"), "ubuntu");
  EXPECT_EQ(distro("rockylinux_64Guest"), "rocky");
  EXPECT_EQ(distro("oracleLinux8_64Guest"), "ol");
  EXPECT_EQ(distro("windows2019srvNext_64Guest"), "windows");
  EXPECT_EQ(distro("sles15_64Guest"), "sles");
  EXPECT_EQ(distro("otherLinux64Guest"), "none");
  model::Vm vm;
  EXPECT_EQ(image_properties(vm, {.os_distro = "gentoo"}).at("os_distro"), "gentoo");
}

TEST(ImageProperties, TheAdaptersModelIsTheSourcesWhereQemuHasIt) {
  model::Vm vm;
  const auto model_of = [&](const std::string& wish) { return image_properties(vm, {.vif_model = wish}); };
  EXPECT_TRUE(model_of("source").empty());
  EXPECT_EQ(model_of("rtl8139").at("hw_vif_model"), "rtl8139");
  vm.nics.resize(2);
  vm.nics[0].kind = vm.nics[1].kind = "vmxnet3";
  EXPECT_EQ(model_of("source").at("hw_vif_model"), "vmxnet3");
  vm.nics[1].kind = "e1000e";
  EXPECT_THROW(model_of("source"), Error);
  vm.nics.resize(1);
  vm.nics[0].kind = "pcnet32";
  EXPECT_EQ(model_of("source").at("hw_vif_model"), "pcnet");
  vm.nics[0].kind = "sriov";
  EXPECT_THROW(model_of("source"), Error);
}

TEST(LabelMetadata, IsWhatNovaTakes) {
  const auto metadata =
      label_metadata({{"owner", "Jürgen"}, {"cost/centre", "4711"}, {"cost?centre", "4712"}, {"größe", "x"}},
                     {{"backup", {"daily", "offsite"}}});
  const std::map<std::string, std::string> want = {{"vmware_attribute_owner", "Jürgen"},
                                                   {"vmware_attribute_cost_centre", "4711"},
                                                   {"vmware_attribute_cost_centre_2", "4712"},
                                                   {"vmware_attribute_gr__e", "x"},
                                                   {"vmware_tag_backup", "daily,offsite"}};
  EXPECT_EQ(metadata, want);
  std::string umlauts;
  for (int i = 0; i < 300; ++i) umlauts += "ü";
  EXPECT_EQ(label_metadata({{"a", umlauts}}, {}).at("vmware_attribute_a").size(), 510u);
}

TEST(Nearest, FindsSlipsOfTheFinger) {
  const std::vector<std::string> names = {"web01", "web02", "db01", "mail", "WEB-old"};
  EXPECT_EQ(nearest("wbe01", names, 1), std::vector<std::string>{"web01"});
  EXPECT_EQ(nearest("WEB01", names, 1), std::vector<std::string>{"web01"});
  EXPECT_TRUE(nearest("zzzzzz", names, 3).empty());
}

}  // namespace
}  // namespace vmferry::plan
