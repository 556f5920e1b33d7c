// A VM's configuration with every kind of disk, as a server sends it.
#include "vsphere/machine_config.hpp"

#include <gtest/gtest.h>

#include "fake_server.hpp"

namespace vmferry::vsphere {
namespace {

ObjectProperties machine_file() {
  std::vector<ObjectProperties> objects = parse_objects(decode_reply(golden("machine.xml")).value["returnval"]);
  EXPECT_EQ(objects.size(), 1U);
  return objects.at(0);
}

const model::Disk& disk(const model::Vm& vm, int key) {
  for (const model::Disk& d : vm.disks)
    if (d.key.value == key) return d;
  throw std::runtime_error("no disk");
}

TEST(MachineConfig, ReadsTheMachine) {
  const model::Vm vm = parse_machine(machine_file());
  EXPECT_EQ(vm.id.value, "vm-42");
  EXPECT_EQ(vm.name, "web/01 & co");
  EXPECT_EQ(vm.uuid, "423c6e10-aaaa-bbbb-cccc-0123456789ab");
  EXPECT_EQ(vm.instance_uuid, "503c6e10-aaaa-bbbb-cccc-0123456789ab");
  EXPECT_EQ(vm.guest_id, "debian12_64Guest");
  EXPECT_EQ(vm.hardware_version, "vmx-19");
  EXPECT_EQ(vm.firmware, model::Firmware::efi);
  EXPECT_TRUE(vm.secure_boot);
  EXPECT_EQ(vm.power, model::Power::on);
  EXPECT_TRUE(vm.tools_running);
  EXPECT_EQ(vm.vcpus, 4);
  EXPECT_EQ(vm.memory, 8ULL << 30);
  EXPECT_TRUE(vm.tracking_supported);
  EXPECT_TRUE(vm.tracking_enabled);
  EXPECT_FALSE(vm.consolidation_needed);
}

TEST(MachineConfig, ReadsEveryBacking) {
  const model::Vm vm = parse_machine(machine_file());
  ASSERT_EQ(vm.disks.size(), 7U);
  const model::Disk& flat = disk(vm, 2000);
  EXPECT_EQ(flat.backing, model::Backing::flat);
  EXPECT_EQ(flat.file, "[ds1] web01/web01-000001.vmdk");
  EXPECT_TRUE(flat.has_parent);
  EXPECT_TRUE(flat.thin);
  EXPECT_FALSE(flat.shared);
  EXPECT_EQ(flat.capacity, 42949672960ULL);
  EXPECT_EQ(flat.label, "Hard disk 1");
  EXPECT_EQ(flat.controller, "pvscsi");
  EXPECT_EQ(flat.uuid, "6000C293-a221-8a53-2e59-8130952455b7");
  EXPECT_EQ(flat.content_id, "0cbdf976b209845ae3158402d93cf623");
  EXPECT_EQ(flat.change_id, model::ChangeId::parse("52 de ad/114"));
  const model::Disk& sparse = disk(vm, 2001);
  EXPECT_EQ(sparse.backing, model::Backing::sparse);
  EXPECT_EQ(sparse.capacity, 2560U) << "capacityInBytes is exact";
  EXPECT_EQ(sparse.mode, model::DiskMode::independent_persistent);
  EXPECT_EQ(sparse.change_id->number, "7");
  EXPECT_EQ(disk(vm, 2016).backing, model::Backing::rdm_physical);
  EXPECT_TRUE(disk(vm, 2016).shared) << "its controller shares the bus";
  EXPECT_EQ(disk(vm, 2016).capacity, 1024U * 1024) << "only whole KiB are known";
  EXPECT_EQ(disk(vm, 2002).backing, model::Backing::rdm_virtual);
  EXPECT_TRUE(disk(vm, 2002).shared) << "multi-writer";
  EXPECT_EQ(disk(vm, 2002).change_id->uuid, "52 rd");
  EXPECT_EQ(disk(vm, 16000).backing, model::Backing::se_sparse);
  EXPECT_EQ(disk(vm, 16000).change_id->number, "1");
  EXPECT_EQ(disk(vm, 16000).controller, "sata");
  EXPECT_EQ(disk(vm, 32000).backing, model::Backing::raw_device);
  EXPECT_EQ(disk(vm, 32000).file, "[ds1] web01/raw.vmdk");
  EXPECT_EQ(disk(vm, 32000).change_id->number, "9");
  EXPECT_EQ(disk(vm, 32000).controller, "nvme");
  EXPECT_EQ(disk(vm, 3000).mode, model::DiskMode::undoable);
  EXPECT_EQ(disk(vm, 3000).controller, "ide");
}

TEST(MachineConfig, PutsDisksIntoBootOrder) {
  const model::Vm vm = parse_machine(machine_file());
  std::vector<int> keys;
  for (const model::Disk& d : vm.disks) keys.push_back(d.key.value);
  // The firmware's explicit choice first, then SCSI by bus and unit, IDE, SATA, NVMe.
  EXPECT_EQ(keys, (std::vector<int>{2016, 2000, 2001, 2002, 3000, 16000, 32000}));
}

TEST(MachineConfig, ReadsNetworkCards) {
  const model::Vm vm = parse_machine(machine_file());
  ASSERT_EQ(vm.nics.size(), 2U);
  EXPECT_EQ(vm.nics[0].kind, "vmxnet3");
  EXPECT_EQ(vm.nics[0].mac, "00:50:56:ab:cd:ef");
  EXPECT_EQ(vm.nics[0].network, "VM Network");
  EXPECT_TRUE(vm.nics[0].connected);
  EXPECT_EQ(vm.nics[1].kind, "e1000e");
  EXPECT_EQ(vm.nics[1].network, "dvportgroup-31");
  EXPECT_FALSE(vm.nics[1].connected);
}

TEST(MachineConfig, ReadsTheSnapshotTreeParentsFirst) {
  const model::Vm vm = parse_machine(machine_file());
  ASSERT_EQ(vm.snapshots.size(), 3U);
  EXPECT_EQ(vm.snapshots[0].name, "before/upgrade");
  EXPECT_EQ(vm.snapshots[1].id.value, "snapshot-3");
  EXPECT_EQ(vm.snapshots[1].parent.value, "snapshot-1");
  EXPECT_EQ(vm.snapshots[1].description, "vmferry job=1 cycle=2");
  EXPECT_TRUE(vm.snapshots[2].parent.empty());
}

TEST(MachineConfig, SaysWhyAConfigurationCannotBeRead) {
  ObjectProperties bare = machine_file();
  bare.values.erase("config.hardware");
  try {
    parse_machine(bare);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
    EXPECT_NE(std::string(e.what()).find("web/01"), std::string::npos);
  }
}

TEST(MachineConfig, TrackingNeedsHardwareVersionSeven) {
  ObjectProperties old = machine_file();
  const Reply other = decode_reply(envelope("<R><v>vmx-04</v></R>"));
  old.values["config.version"] = other.value["v"];
  EXPECT_FALSE(parse_machine(old).tracking_supported);
}

TEST(MachineConfig, RefusesImpossibleNumbers) {
  const Reply reply = decode_reply(envelope(
      "<R><device xsi:type=\"VirtualDisk\"><key>2000</key><capacityInBytes>-1</capacityInBytes></device></R>"));
  EXPECT_THROW(parse_disks(reply.value.all("device")), Error);
  const Reply wide = decode_reply(envelope("<R><device xsi:type=\"VirtualDisk\"><key>99999999999</key></device></R>"));
  EXPECT_THROW(parse_disks(wide.value.all("device")), Error);
  const Reply kib = decode_reply(envelope(
      "<R><device xsi:type=\"VirtualDisk\"><key>1</key><capacityInKB>9223372036854775807</capacityInKB></device></R>"));
  EXPECT_THROW(parse_disks(kib.value.all("device")), Error);
}

TEST(Names, AreUnescapedAsVsphereEscapesThem) {
  EXPECT_EQ(unescape_name("a%2fb%5Cc%25d"), "a/b\\c%d");
  EXPECT_EQ(unescape_name("100%"), "100%");
  EXPECT_EQ(unescape_name("%zz%2"), "%zz%2");
}

}  // namespace
}  // namespace vmferry::vsphere
