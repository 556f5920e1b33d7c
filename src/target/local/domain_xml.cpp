// Elements and values after https://libvirt.org/formatdomain.html; nothing that libvirt 8 (EL 8,
// Ubuntu 22.04) does not know.
#include "target/local/domain_xml.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <pugixml.hpp>
#include <sstream>

#include "plan/plan.hpp"

namespace vmferry::target::local {

namespace {

constexpr const char* name_space = "urn:vmferry:domain:1";

constexpr std::string_view bridge = "bridge:";

using Attributes = std::initializer_list<std::pair<const char*, std::string>>;

pugi::xml_node add(pugi::xml_node parent, const char* name, Attributes attributes = {}) {
  pugi::xml_node node = parent.append_child(name);
  for (const auto& [key, value] : attributes) node.append_attribute(key).set_value(value.c_str());
  return node;
}

pugi::xml_node add_text(pugi::xml_node parent, const char* name, const std::string& text, Attributes attributes = {}) {
  pugi::xml_node node = add(parent, name, attributes);
  node.text().set(text.c_str());
  return node;
}

// XML 1.0 has no way to write most control characters; a machine's name may have them.
std::string printable(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

// vda ... vdz, vdaa ...
std::string device_name(const std::string& prefix, std::size_t index) {
  std::string letters;
  for (std::size_t rest = index + 1; rest > 0; rest = (rest - 1) / 26)
    letters.insert(letters.begin(), static_cast<char>('a' + (rest - 1) % 26));
  return prefix + letters;
}

bool is_uuid(const std::string& text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : std::isxdigit(static_cast<unsigned char>(text[i])) == 0) return false;
  }
  return true;
}

void add_firmware(pugi::xml_node domain, const model::Vm& vm) {
  const bool efi = vm.firmware == model::Firmware::efi;
  pugi::xml_node os = add(domain, "os");
  if (efi) os.append_attribute("firmware").set_value("efi");
  add_text(os, "type", "hvm", {{"arch", "x86_64"}, {"machine", efi ? "q35" : "pc"}});
  if (efi) {
    // Without this libvirt may pick a firmware that refuses what the machine has always booted.
    pugi::xml_node firmware = add(os, "firmware");
    add(firmware, "feature", {{"enabled", vm.secure_boot ? "yes" : "no"}, {"name", "secure-boot"}});
  }
  pugi::xml_node features = add(domain, "features");
  add(features, "acpi");
  add(features, "apic");
  if (efi && vm.secure_boot) add(features, "smm", {{"state", "on"}});
}

void add_disks(pugi::xml_node devices, const DomainWish& wish) {
  const bool scsi = wish.disk_bus == "scsi";
  if (scsi) add(devices, "controller", {{"type", "scsi"}, {"index", "0"}, {"model", "virtio-scsi"}});
  for (std::size_t i = 0; i < wish.images.size(); ++i) {
    pugi::xml_node disk = add(devices, "disk", {{"type", "file"}, {"device", "disk"}});
    add(disk, "driver", {{"name", "qemu"}, {"type", "raw"}, {"discard", "unmap"}});
    add(disk, "source", {{"file", wish.images[i].string()}});
    add(disk, "target", {{"dev", device_name(scsi ? "sd" : "vd", i)}, {"bus", scsi ? "scsi" : "virtio"}});
    add(disk, "boot", {{"order", std::to_string(i + 1)}});
  }
}

void add_nics(pugi::xml_node devices, const DomainWish& wish) {
  for (const DomainNic& nic : wish.nics) {
    const bool bridged = nic.network.starts_with(bridge), user = nic.network == "user";
    pugi::xml_node interface = add(devices, "interface", {{"type", bridged ? "bridge" : user ? "user" : "network"}});
    add(interface, "mac", {{"address", nic.mac}});
    if (bridged)
      add(interface, "source", {{"bridge", nic.network.substr(bridge.size())}});
    else if (!user)
      add(interface, "source", {{"network", nic.network.empty() ? "default" : nic.network}});
    add(interface, "model", {{"type", "virtio"}});
  }
}

void add_consoles(pugi::xml_node devices) {
  pugi::xml_node serial = add(devices, "serial", {{"type", "pty"}});
  add(serial, "target", {{"port", "0"}});
  pugi::xml_node console = add(devices, "console", {{"type", "pty"}});
  add(console, "target", {{"type", "serial"}, {"port", "0"}});
  pugi::xml_node channel = add(devices, "channel", {{"type", "unix"}});
  add(channel, "target", {{"type", "virtio"}, {"name", "org.qemu.guest_agent.0"}});
  add(devices, "input", {{"type", "tablet"}, {"bus", "usb"}});
  add(devices, "graphics", {{"type", "vnc"}, {"port", "-1"}, {"autoport", "yes"}, {"listen", "127.0.0.1"}});
  pugi::xml_node video = add(devices, "video");
  add(video, "model", {{"type", "vga"}});
  pugi::xml_node rng = add(devices, "rng", {{"model", "virtio"}});
  add_text(rng, "backend", "/dev/urandom", {{"model", "random"}});
}

}  // namespace

bool is_libvirt_network(const std::string& network) { return network != "user" && !network.starts_with(bridge); }

std::string domain_xml(const DomainWish& wish) {
  pugi::xml_document document;
  pugi::xml_node domain = add(document, "domain", {{"type", wish.kind}});
  add_text(domain, "name", wish.name);
  // The guest sees it as its SMBIOS UUID, as it did before: licences and cloud-init hang on it.
  if (is_uuid(wish.vm.uuid)) add_text(domain, "uuid", wish.vm.uuid);
  if (!wish.vm.name.empty()) add_text(domain, "title", printable(wish.vm.name));
  pugi::xml_node metadata = add(domain, "metadata");
  add(metadata, "vmferry:job", {{"xmlns:vmferry", name_space}, {"id", wish.job.value}, {"source", wish.vm.id.value}});
  const std::uint64_t kib = (wish.vm.memory + 1023) / 1024;
  add_text(domain, "memory", std::to_string(std::max<std::uint64_t>(kib, 64 * 1024)), {{"unit", "KiB"}});
  add_text(domain, "vcpu", std::to_string(std::max(wish.vm.vcpus, 1)), {{"placement", "static"}});
  add_firmware(domain, wish.vm);
  add(domain, "cpu", {{"mode", wish.kind == "kvm" ? "host-model" : "maximum"}});
  add(domain, "clock", {{"offset", plan::is_windows(wish.vm) ? "localtime" : "utc"}});
  add_text(domain, "on_poweroff", "destroy");
  add_text(domain, "on_reboot", "restart");
  add_text(domain, "on_crash", "destroy");
  pugi::xml_node devices = add(domain, "devices");
  add_disks(devices, wish);
  add_nics(devices, wish);
  add_consoles(devices);
  std::ostringstream text;
  document.save(text, "  ", pugi::format_indent | pugi::format_no_declaration);
  return text.str();
}

JobId job_of_domain(const std::string& xml) {
  pugi::xml_document document;
  if (!document.load_buffer(xml.data(), xml.size())) return {};
  return JobId{document.child("domain").child("metadata").child("vmferry:job").attribute("id").value()};
}

}  // namespace vmferry::target::local
