// What virt-v2v is told of a guest.
#include <gtest/gtest.h>

#include "convert/virt_v2v.hpp"
#include "support/thrown.hpp"

namespace vmferry::convert {
namespace {

using support::has;

model::Vm vm() {
  model::Vm vm;
  vm.name = "web<01>\x01";
  vm.memory = 2ULL << 30;
  vm.vcpus = 2;
  model::Nic nic;
  nic.mac = "00:50:56:00:00:01";
  nic.kind = "vmxnet3";
  vm.nics = {nic};
  return vm;
}

TEST(GuestXml, NamesDisksInBootOrderAndNics) {
  const std::string xml = guest_xml(vm(), {"/d/2000.qcow2", "/d/a \"b\".qcow2"});
  EXPECT_TRUE(has(xml, "<name>web&lt;01&gt; </name>")) << xml;
  EXPECT_TRUE(has(xml, "<memory>2097152</memory>")) << xml;
  EXPECT_LT(xml.find("/d/2000.qcow2"), xml.find("/d/a &quot;b&quot;.qcow2")) << xml;
  EXPECT_TRUE(has(xml, R"(<target dev="sdb" bus="scsi")")) << xml;
  EXPECT_TRUE(has(xml, R"(<mac address="00:50:56:00:00:01")")) << xml;
  EXPECT_FALSE(has(xml, "firmware")) << xml;
}

TEST(GuestXml, SaysUefi) {
  model::Vm efi = vm();
  efi.firmware = model::Firmware::efi;
  EXPECT_TRUE(has(guest_xml(efi, {"/d"}), R"(<os firmware="efi">)"));
}

TEST(ConversionEnvironment, HandsOnWhatAConversionReadsAndNothingElse) {
  const std::map<std::string, std::string> kept = conversion_environment({{"LIBGUESTFS_BACKEND", "direct"},
                                                                          {"VIRTIO_WIN", "/iso"},
                                                                          {"VIRT_TOOLS_DATA_DIR", "/t"},
                                                                          {"OS_PASSWORD", "geheim"},
                                                                          {"VMFERRY_VMWARE_PASSWORD", "geheim"}});
  EXPECT_EQ(kept.size(), 3U);
  EXPECT_FALSE(kept.contains("OS_PASSWORD"));
}

}  // namespace
}  // namespace vmferry::convert
