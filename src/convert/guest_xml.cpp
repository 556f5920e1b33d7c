// The guest in libvirt's words, with the least that virt-v2v reads of it; https://libvirt.org/formatdomain.html.
#include <fmt/format.h>

#include <pugixml.hpp>
#include <sstream>

#include "convert/virt_v2v.hpp"

namespace vmferry::convert {

namespace {

// XML 1.0 has no way to write most control characters; a machine's name may have them.
std::string printable(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

// sda ... sdz, sdaa ...
std::string device_name(std::size_t index) {
  std::string letters;
  for (std::size_t rest = index + 1; rest > 0; rest = (rest - 1) / 26)
    letters.insert(letters.begin(), static_cast<char>('a' + (rest - 1) % 26));
  return "sd" + letters;
}

void attribute(pugi::xml_node node, const char* name, const std::string& value) {
  node.append_attribute(name).set_value(value.c_str());
}

void text(pugi::xml_node parent, const char* name, const std::string& value) {
  parent.append_child(name).text().set(value.c_str());
}

}  // namespace

std::string guest_xml(const model::Vm& vm, const std::vector<std::filesystem::path>& overlays) {
  pugi::xml_document document;
  pugi::xml_node domain = document.append_child("domain");
  attribute(domain, "type", "vmware");
  text(domain, "name", printable(vm.name));
  text(domain, "memory", std::to_string(vm.memory / 1024));  // KiB
  text(domain, "vcpu", std::to_string(vm.vcpus));
  pugi::xml_node os = domain.append_child("os");
  if (vm.firmware == model::Firmware::efi) attribute(os, "firmware", "efi");
  text(os, "type", "hvm");
  pugi::xml_node features = domain.append_child("features");
  for (const char* feature : {"acpi", "apic", "pae"}) features.append_child(feature);
  pugi::xml_node devices = domain.append_child("devices");
  for (std::size_t i = 0; i < overlays.size(); ++i) {
    pugi::xml_node disk = devices.append_child("disk");
    attribute(disk, "type", "file");
    attribute(disk, "device", "disk");
    pugi::xml_node driver = disk.append_child("driver");
    attribute(driver, "name", "qemu");
    attribute(driver, "type", "qcow2");
    attribute(disk.append_child("source"), "file", overlays[i].string());
    pugi::xml_node target = disk.append_child("target");
    attribute(target, "dev", device_name(i));
    attribute(target, "bus", "scsi");
  }
  for (const model::Nic& nic : vm.nics) {
    pugi::xml_node interface = devices.append_child("interface");
    attribute(interface, "type", "network");
    attribute(interface.append_child("mac"), "address", nic.mac);
    attribute(interface.append_child("source"), "network", nic.network.empty() ? "default" : printable(nic.network));
    attribute(interface.append_child("model"), "type", nic.kind);
  }
  std::ostringstream out;
  document.save(out, "  ");
  return out.str();
}

}  // namespace vmferry::convert
