// The libvirt domain of a moved machine, read back with an XML parser.
#include <gtest/gtest.h>

#include <pugixml.hpp>

#include "target/local/domain_xml.hpp"
#include "target/local/local_cloud.hpp"

namespace vmferry::target::local {
namespace {

DomainWish wish() {
  DomainWish wish;
  wish.job = JobId{"job-1"};
  wish.vm.id = model::VmId{"vm-42"};
  wish.vm.name = "web & db <01>";
  wish.vm.uuid = "564d1f2e-1111-2222-3333-444455556666";
  wish.vm.vcpus = 3;
  wish.vm.memory = 1536ull << 20;
  wish.name = file_name(wish.vm.name);
  wish.images = {"/srv/vms/web/boot.img", "/srv/vms/web/data & more.img"};
  wish.nics = {{"00:50:56:aa:bb:cc", "default"}, {"00:50:56:aa:bb:cd", "bridge:br0"}, {"00:50:56:aa:bb:ce", ""}};
  return wish;
}

pugi::xml_document parsed(const DomainWish& wish) {
  pugi::xml_document document;
  const std::string text = domain_xml(wish);
  const auto result = document.load_string(text.c_str());
  EXPECT_TRUE(result) << result.description() << "\n" << text;
  return document;
}

std::string attribute(const pugi::xml_node& node, const char* path, const char* name) {
  return node.select_node(path).node().attribute(name).value();
}
std::string text(const pugi::xml_node& node, const char* path) { return node.select_node(path).node().text().get(); }

TEST(DomainXml, bios_machine_with_virtio_disks_in_boot_order) {
  const pugi::xml_document xml = parsed(wish());
  EXPECT_EQ(attribute(xml, "/domain", "type"), "kvm");
  EXPECT_EQ(text(xml, "/domain/name"), "web & db <01>");
  EXPECT_EQ(text(xml, "/domain/uuid"), "564d1f2e-1111-2222-3333-444455556666");
  EXPECT_EQ(text(xml, "/domain/memory"), "1572864");
  EXPECT_EQ(attribute(xml, "/domain/memory", "unit"), "KiB");
  EXPECT_EQ(text(xml, "/domain/vcpu"), "3");
  EXPECT_EQ(attribute(xml, "/domain/os", "firmware"), "");
  EXPECT_EQ(attribute(xml, "/domain/os/type", "machine"), "pc");
  const pugi::xpath_node_set disks = xml.select_nodes("/domain/devices/disk");
  ASSERT_EQ(disks.size(), 2u);
  EXPECT_EQ(attribute(disks[0].node(), "source", "file"), "/srv/vms/web/boot.img");
  EXPECT_EQ(attribute(disks[0].node(), "driver", "type"), "raw");
  EXPECT_EQ(attribute(disks[0].node(), "target", "dev"), "vda");
  EXPECT_EQ(attribute(disks[0].node(), "target", "bus"), "virtio");
  EXPECT_EQ(attribute(disks[0].node(), "boot", "order"), "1");
  EXPECT_EQ(attribute(disks[1].node(), "source", "file"), "/srv/vms/web/data & more.img");
  EXPECT_EQ(attribute(disks[1].node(), "target", "dev"), "vdb");
  EXPECT_EQ(attribute(disks[1].node(), "boot", "order"), "2");
  EXPECT_FALSE(xml.select_node("/domain/os/boot")) << "libvirt refuses both kinds of boot order at once";
  EXPECT_TRUE(xml.select_node("/domain/devices/serial[@type='pty']"));
  EXPECT_TRUE(xml.select_node("/domain/devices/console/target[@type='serial']"));
}

TEST(DomainXml, nics_keep_their_macs_and_lead_to_networks_or_bridges) {
  const pugi::xml_document xml = parsed(wish());
  const pugi::xpath_node_set nics = xml.select_nodes("/domain/devices/interface");
  ASSERT_EQ(nics.size(), 3u);
  EXPECT_EQ(attribute(nics[0].node(), "mac", "address"), "00:50:56:aa:bb:cc");
  EXPECT_EQ(std::string(nics[0].node().attribute("type").value()), "network");
  EXPECT_EQ(attribute(nics[0].node(), "source", "network"), "default");
  EXPECT_EQ(attribute(nics[0].node(), "model", "type"), "virtio");
  EXPECT_EQ(std::string(nics[1].node().attribute("type").value()), "bridge");
  EXPECT_EQ(attribute(nics[1].node(), "source", "bridge"), "br0");
  EXPECT_EQ(attribute(nics[2].node(), "source", "network"), "default");
}

TEST(DomainXml, efi_and_secure_boot) {
  DomainWish efi = wish();
  efi.vm.firmware = model::Firmware::efi;
  pugi::xml_document xml = parsed(efi);
  EXPECT_EQ(attribute(xml, "/domain/os", "firmware"), "efi");
  EXPECT_EQ(attribute(xml, "/domain/os/type", "machine"), "q35");
  EXPECT_EQ(attribute(xml, "/domain/os/firmware/feature[@name='secure-boot']", "enabled"), "no");
  EXPECT_FALSE(xml.select_node("/domain/features/smm"));
  efi.vm.secure_boot = true;
  xml = parsed(efi);
  EXPECT_EQ(attribute(xml, "/domain/os/firmware/feature[@name='secure-boot']", "enabled"), "yes");
  EXPECT_EQ(attribute(xml, "/domain/features/smm", "state"), "on");
}

TEST(DomainXml, scsi_disks_have_a_virtio_scsi_controller_and_names_go_past_z) {
  DomainWish scsi = wish();
  scsi.disk_bus = "scsi";
  scsi.images.assign(28, "/srv/x.img");
  const pugi::xml_document xml = parsed(scsi);
  EXPECT_EQ(attribute(xml, "/domain/devices/controller[@type='scsi']", "model"), "virtio-scsi");
  const pugi::xpath_node_set targets = xml.select_nodes("/domain/devices/disk/target");
  EXPECT_STREQ(targets[0].node().attribute("dev").value(), "sda");
  EXPECT_STREQ(targets[25].node().attribute("dev").value(), "sdz");
  EXPECT_STREQ(targets[26].node().attribute("dev").value(), "sdaa");
  EXPECT_STREQ(targets[27].node().attribute("dev").value(), "sdab");
  EXPECT_STREQ(targets[0].node().attribute("bus").value(), "scsi");
}

TEST(DomainXml, windows_clocks_run_in_local_time) {
  DomainWish windows = wish();
  windows.vm.guest_id = "windows2019srv_64Guest";
  EXPECT_EQ(attribute(parsed(windows), "/domain/clock", "offset"), "localtime");
  EXPECT_EQ(attribute(parsed(wish()), "/domain/clock", "offset"), "utc");
}

TEST(DomainXml, says_whose_it_is_and_odd_values_do_not_break_it) {
  EXPECT_EQ(job_of_domain(domain_xml(wish())), JobId{"job-1"});
  EXPECT_TRUE(job_of_domain("<domain><name>other</name></domain>").empty());
  EXPECT_TRUE(job_of_domain("no xml").empty());
  DomainWish odd = wish();
  odd.vm.uuid = "not a uuid";
  odd.vm.name = "line\nbreak\x01";
  odd.vm.vcpus = 0;
  odd.vm.memory = 0;
  const pugi::xml_document xml = parsed(odd);
  EXPECT_FALSE(xml.select_node("/domain/uuid"));
  EXPECT_EQ(text(xml, "/domain/vcpu"), "1");
  EXPECT_EQ(text(xml, "/domain/title"), "line break ");
}

TEST(FileName, a_machines_name_never_leads_elsewhere) {
  EXPECT_EQ(file_name("web01"), "web01");
  EXPECT_EQ(file_name("web 01 (test)"), "web 01 (test)");
  EXPECT_EQ(file_name("a/b\\c\nd"), "a-b-c-d");
  EXPECT_EQ(file_name(".."), "-.");
  EXPECT_EQ(file_name(".hidden"), "-hidden");
  EXPECT_EQ(file_name(""), "-");
  EXPECT_EQ(file_name(std::string(199, 'x') + "\xc3\xa4"), std::string(199, 'x'));
  for (const std::string text : {"a/b", "..", "", ".x"}) EXPECT_EQ(file_name(file_name(text)), file_name(text));
}

}  // namespace
}  // namespace vmferry::target::local
