// The decisions themselves. Each rule's source stands beside it.
#include "plan/plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/error.hpp"

namespace vmferry::plan {

CopyMode copy_mode(const Base& base, std::uint64_t capacity, const std::optional<model::ChangeId>& now, bool tracking) {
  if (!base.complete) return {true, "first copy"};
  if (!tracking) return {true, "change tracking is off"};
  if (!now) return {true, "the disk has no change id"};
  if (!base.change_id) return {true, "the last copy had no change id"};
  if (base.change_id->uuid != now->uuid) return {true, "change tracking was reset"};
  // A changeId from before the disk grew is not to be trusted: VMware KB 2090639.
  if (base.capacity != 0 && base.capacity != capacity)
    return {true, base.capacity < capacity ? "the disk grew" : "the disk shrank"};
  return {false, ""};
}

namespace {

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// What the Latin-1 letters U+00C0..U+00FF are written as without accents, in lower case.
constexpr std::array<std::string_view, 64> latin1 = {
    "a", "a", "a", "a", "a", "a", "ae", "c", "e",  "e",  "e", "e", "i", "i", "i", "i", "d",  "n", "o",  "o", "o", "o",
    "o", "x", "o", "u", "u", "u", "u",  "y", "th", "ss", "a", "a", "a", "a", "a", "a", "ae", "c", "e",  "e", "e", "e",
    "i", "i", "i", "i", "d", "n", "o",  "o", "o",  "o",  "o", "/", "o", "u", "u", "u", "u",  "y", "th", "y"};

}  // namespace

// migratekit names volumes with the "slug" of the VM's name and the disk's key: quotes vanish, '&' and '@' become
// "and" and "at", letters lose their accents, everything else becomes one dash. Names beyond Latin-1 may differ from
// migratekit's, which is why volumes are found by their metadata too.
std::string volume_name(const std::string& vm_name, const std::string& disk) {
  const std::string text = vm_name + "-" + disk;
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c == '\'' || c == '"') continue;
    if (c == '&')
      plain += "and";
    else if (c == '@')
      plain += "at";
    else if (c < 0x80)
      plain += static_cast<char>(std::tolower(c));
    else if (c == 0xc3 && i + 1 < text.size())
      plain += latin1[static_cast<unsigned char>(text[++i]) & 0x3f];
    else if ((c & 0xc0) != 0x80)
      plain += '-';  // the first byte of another letter; the rest of it is passed over
  }
  std::string name;
  for (const char c : plain) {
    const bool fine = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    if (fine)
      name += c;
    else if (!name.empty() && name.back() != '-')
      name += '-';
  }
  const auto edge = [](char c) { return c == '-' || c == '_'; };
  while (!name.empty() && edge(name.back())) name.pop_back();
  name.erase(name.begin(), std::find_if_not(name.begin(), name.end(), edge));
  return name;
}

std::string osm_volume_name(const std::string& vm_name, model::DiskKey disk) {
  std::string name;
  for (std::size_t i = 0; i < vm_name.size(); ++i) {
    const auto c = static_cast<unsigned char>(vm_name[i]);
    if ((c & 0xc0) == 0x80) continue;  // the rest of a letter whose first byte was seen
    const char plain = std::isalnum(c) != 0 || c == '-' ? static_cast<char>(c) : '_';
    if (name.empty() || std::isalnum(c) != 0 || name.back() != plain) name += plain;
  }
  name.resize(std::min<std::size_t>(name.size(), 64));
  while (!name.empty() && (name.back() == '_' || name.back() == '-')) name.pop_back();
  return fmt::format("{}-{}", name, disk.value);
}

std::uint64_t gib_for(std::uint64_t bytes) {
  constexpr std::uint64_t gib = 1ull << 30;
  return std::max<std::uint64_t>(1, bytes / gib + (bytes % gib != 0));
}

std::optional<std::string> impossible(const model::Disk& disk) {
  using model::Backing;
  using model::DiskMode;
  if (disk.backing == Backing::rdm_physical || disk.backing == Backing::raw_device)
    return "it is a physical raw device mapping, which vSphere cannot snapshot; copy it inside the guest or through the array";
  if (disk.mode == DiskMode::independent_persistent || disk.mode == DiskMode::independent_nonpersistent)
    return "it is an independent disk, which snapshots leave out; set its mode to \"dependent\" while the VM is off";
  if (disk.mode == DiskMode::nonpersistent || disk.mode == DiskMode::undoable || disk.mode == DiskMode::append)
    return "its disk mode throws writes away; set its mode to \"persistent\" while the VM is off";
  if (disk.shared)
    return "it is shared with other VMs (bus sharing or multi-writer), and vSphere takes no snapshot of a VM that has such a disk; "
           "detach it from this VM first";
  if (disk.backing == Backing::other) return "its kind of backing is not known to vmferry";
  return std::nullopt;
}

std::string datastore_of(const std::string& file) {
  // The last bracket: a datastore's own name may have some.
  const std::size_t end = file.rfind("] ");
  return file.starts_with('[') && end != std::string::npos ? file.substr(1, end - 1) : "";
}

bool is_windows(const model::Vm& vm) { return lower(vm.guest_id).starts_with("win"); }

// Guest ids: VirtualMachineGuestOsIdentifier of the vSphere Web Services API. Names: "os_distro" in
// https://docs.openstack.org/glance/latest/admin/useful-image-properties.html, which takes them from libosinfo.
std::string distribution(const model::Vm& vm) {
  static constexpr std::pair<std::string_view, std::string_view> names[] = {
      {"win", "windows"},      {"rhel", "rhel"},         {"centos", "centos"},           {"almalinux", "almalinux"},
      {"rockylinux", "rocky"}, {"oraclelinux", "ol"},    {"amazonlinux", "amazonlinux"}, {"debian", "debian"},
      {"ubuntu", "ubuntu"},    {"fedora", "fedora"},     {"opensuse", "opensuse"},       {"sles", "sles"},
      {"suse", "sles"},        {"mandriva", "mandriva"}, {"mandrake", "mandrake"},       {"freebsd", "freebsd"},
      {"netware", "netware"},  {"dosguest", "msdos"},    {"solaris11", "solaris"},       {"solaris10", "solaris"}};
  const std::string id = lower(vm.guest_id);
  for (const auto& [prefix, name] : names)
    if (id.starts_with(prefix)) return std::string(name);
  return "";
}

namespace {

// The model of QEMU that is the source's: those of both that drive alike, of the names that Nova takes for
// hw_vif_model (nova/network/model.py).
std::string vif_model_of(const std::vector<model::Nic>& nics) {
  std::string found;
  for (const model::Nic& nic : nics) {
    std::string model;
    if (nic.kind == "vmxnet3" || nic.kind == "vmxnet3vrdma") model = "vmxnet3";
    if (nic.kind == "e1000" || nic.kind == "e1000e") model = nic.kind;
    if (nic.kind == "pcnet32") model = "pcnet";
    if (model.empty())
      throw Error(Fault::config, fmt::format("{} is a \"{}\", which QEMU has not: choose a model with --vif-model",
                                             nic.label, nic.kind));
    if (!found.empty() && found != model)
      throw Error(Fault::config, fmt::format("the network adapters differ ({} and {}), but a server has one model for "
                                             "all of them: choose it with --vif-model",
                                             found, model));
    found = model;
  }
  return found;
}

}  // namespace

// The property names are Glance's: https://docs.openstack.org/glance/latest/admin/useful-image-properties.html
std::map<std::string, std::string> image_properties(const model::Vm& vm, const ImageWish& wish) {
  std::map<std::string, std::string> properties;
  if (vm.firmware == model::Firmware::efi) {
    properties["hw_firmware_type"] = "uefi";
    properties["hw_machine_type"] = "q35";
    if (vm.secure_boot) properties["os_secure_boot"] = "required";
  }
  if (wish.disk_bus == "scsi") {
    properties["hw_disk_bus"] = "scsi";
    properties["hw_scsi_model"] = "virtio-scsi";
  } else if (wish.disk_bus == "virtio") {
    properties["hw_disk_bus"] = "virtio";
  }
  if (wish.os_type == "auto")
    properties["os_type"] = is_windows(vm) ? "windows" : "linux";
  else if (!wish.os_type.empty())
    properties["os_type"] = wish.os_type;
  const std::string distro = wish.os_distro == "auto" ? distribution(vm) : wish.os_distro;
  if (!distro.empty()) properties["os_distro"] = distro;
  const std::string vif_model = wish.vif_model == "source" ? vif_model_of(vm.nics) : wish.vif_model;
  if (!vif_model.empty()) properties["hw_vif_model"] = vif_model;
  if (wish.guest_agent) properties["hw_qemu_guest_agent"] = "yes";
  return properties;
}

// At most 255 characters of UTF-8 text, whole ones.
std::string at_most_255(const std::string& text) {
  std::size_t characters = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80 && ++characters > 255) return text.substr(0, i);
  return text;
}

// Keys are [a-zA-Z0-9-_:. ]{1,255}, values of at most 255 characters: nova/api/validation/parameter_types.py, metadata.
std::map<std::string, std::string> label_metadata(const std::map<std::string, std::string>& attributes,
                                                  const std::map<std::string, std::vector<std::string>>& tags) {
  std::map<std::string, std::string> metadata;
  const auto add = [&](const std::string& name, const std::string& value) {
    std::string key;
    for (std::size_t i = 0; i < name.size(); ++i) {
      const char c = name[i];
      const bool taken = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         std::string_view("-_:. ").find(c) != std::string_view::npos;
      if (taken)
        key += c;
      else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80)  // one for each character
        key += '_';
    }
    key.resize(std::min<std::size_t>(key.size(), 250));
    const std::string first = key;
    for (int n = 2; metadata.contains(key); ++n) key = fmt::format("{}_{}", first, n);
    metadata[key] = at_most_255(value);
  };
  for (const auto& [name, value] : attributes) add("vmware_attribute_" + name, value);
  for (const auto& [category, names] : tags) add("vmware_tag_" + category, fmt::format("{}", fmt::join(names, ",")));
  return metadata;
}

std::vector<std::string> nearest(const std::string& wanted, const std::vector<std::string>& names, std::size_t count) {
  const std::string a = lower(wanted);
  std::vector<std::pair<std::size_t, std::string>> ranked;
  for (const std::string& name : names) {
    const std::string b = lower(name);
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= a.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= b.size(); ++j) {
        const std::size_t above = row[j];
        row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
        diagonal = above;
      }
    }
    std::size_t distance = row[b.size()];
    if (!a.empty() && !b.empty() && (b.find(a) != std::string::npos || a.find(b) != std::string::npos))
      distance = std::min<std::size_t>(distance, 1);  // a part of the other: surely meant
    if (distance <= std::max<std::size_t>(2, a.size() / 2)) ranked.emplace_back(distance, name);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
  std::vector<std::string> best;
  for (const auto& [distance, name] : ranked)
    if (best.size() < count) best.push_back(name);
  return best;
}

}  // namespace vmferry::plan
