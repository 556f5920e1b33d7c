// The arithmetic of places, and this host as a guest.
#include "source/vmware/guest_disks.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <fstream>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "nbdkit/nbdkit.hpp"

namespace vmferry::source::vmware {

namespace {

std::optional<int> slot_number(const std::map<std::string, std::string>& settings, const std::string& device) {
  const auto found = settings.find(device + ".pciSlotNumber");
  if (found == settings.end()) return std::nullopt;
  int value = 0;
  const std::string& text = found->second;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// pciSlotNumber is FFF.BBBBB.DDDDD in bits; bridges are numbered from 0, buses behind them from 1:
// https://knowledge.broadcom.com/external/article?legacyId=2047927
constexpr int device_of(int number) { return number & 0x1f; }
constexpr int bus_of(int number) { return (number >> 5) & 0x1f; }
constexpr int function_of(int number) { return (number >> 10) & 0x7; }

std::string lower_hex(const std::string& text) {
  std::string digits;
  for (const char c : text) {
    if (c >= '0' && c <= '9') digits += c;
    if (c >= 'a' && c <= 'f') digits += c;
    if (c >= 'A' && c <= 'F') digits += static_cast<char>(c - 'A' + 'a');
  }
  return digits;
}

std::string dashed(const std::string& digits) {
  return fmt::format("{}-{}-{}-{}-{}", digits.substr(0, 8), digits.substr(8, 4), digits.substr(12, 4),
                     digits.substr(16, 4), digits.substr(20));
}

// The first three fields with their bytes in the other order.
std::string swapped(const std::string& d) {
  const auto pair = [&](int at) { return d.substr(static_cast<std::size_t>(at) * 2, 2); };
  std::string text;
  for (const int at : {3, 2, 1, 0, 5, 4, 7, 6}) text += pair(at);
  return text + d.substr(16);
}

std::string first_line(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

class LocalServer final : public DeviceServer {
 public:
  explicit LocalServer(nbdkit::Export bytes) : bytes_(std::move(bytes)) {}
  const nbd::Uri& uri() const override { return bytes_.uri(); }
  bool alive() const override { return bytes_.alive(); }
  std::string last_words() const override { return bytes_.last_words(); }

 private:
  nbdkit::Export bytes_;
};

class ThisGuest final : public Guest {
 public:
  ThisGuest(std::filesystem::path root, process::Runner& runner, std::filesystem::path run_directory, log::Log& log)
      : root_(std::move(root)), runner_(runner), run_directory_(std::move(run_directory)), log_(log) {}

  std::string name() const override { return "this host"; }

  std::vector<std::string> uuids(std::stop_token) override {
    const std::filesystem::path dmi = root_ / "sys/class/dmi/id";
    return smbios_uuids(first_line(dmi / "product_serial"), first_line(dmi / "product_uuid"));
  }

  DiskLinks look(const DiskPlace& place, std::stop_token) override {
    DiskLinks found;
    if (!place.uuid.empty())
      for (const char* prefix : {"wwn-0x", "scsi-3"}) {
        if (!found.by_id.empty()) break;
        found.by_id = behind(root_ / "dev/disk/by-id" / (prefix + place.uuid));
      }
    if (const std::string address = address_of(place); !address.empty())
      found.by_path = behind(root_ / "dev/disk/by-path" / fmt::format("pci-{}-scsi-0:0:{}:0", address, place.unit));
    return found;
  }

  std::uint64_t bytes_of(const std::string& device, std::stop_token) override {
    const Fd fd(open(device.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) throw Error(Fault::config, fmt::format("{} cannot be opened: {}; run as root", device, strerror(errno)));
    struct stat st {};
    std::uint64_t bytes = 0;
    if (fstat(fd.get(), &st) != 0 || (S_ISBLK(st.st_mode) && ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0))
      throw Error(Fault::tool, fmt::format("the size of {} cannot be read: {}", device, strerror(errno)));
    return S_ISBLK(st.st_mode) ? bytes : static_cast<std::uint64_t>(st.st_size);
  }

  std::optional<std::string> in_use(const std::string& device, std::stop_token) override {
    struct stat st {};
    if (stat(device.c_str(), &st) != 0 || !S_ISBLK(st.st_mode)) return std::nullopt;
    // open(2): O_EXCL without O_CREAT on a block device "fails with the error EBUSY" while it is in use by the system.
    const Fd fd(open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    if (fd || errno != EBUSY) return std::nullopt;
    return fmt::format(
        "{} is held on this host, by a mount, LVM, RAID or multipath: release it there (for LVM "
        "`vgchange -an`), and keep such programs from disks that are not this host's",
        device);
  }

  std::unique_ptr<DeviceServer> serve(const std::string& device, std::stop_token stop) override {
    nbdkit::Recipe recipe;
    recipe.plugin = "file";
    recipe.parameters = {{"file", device}};
    return std::make_unique<LocalServer>(nbdkit::serve(runner_, recipe, run_directory_, log_, stop));
  }

 private:
  static std::string behind(const std::filesystem::path& link) {
    std::error_code error;
    const std::filesystem::path device = std::filesystem::canonical(link, error);
    return error ? std::string() : device.string();
  }

  std::string address_of(const DiskPlace& place) const {
    if (!place.pci) return {};
    if (place.pci->bridge.empty()) return fmt::format("0000:00:{:02x}.0", place.pci->device);
    const std::string ending = fmt::format(":{:02x}.0", place.pci->device);
    std::error_code error;
    for (const auto& entry :
         std::filesystem::directory_iterator(root_ / "sys/bus/pci/devices" / place.pci->bridge, error)) {
      // "0000:03:00.0": the bus number is the guest's own choice. Other children ("power", "pci_bus") look otherwise.
      const std::string child = entry.path().filename().string();
      if (child.size() == 12 && child.starts_with("0000:") && child.ends_with(ending)) return child;
    }
    return {};
  }

  std::filesystem::path root_;
  process::Runner& runner_;
  std::filesystem::path run_directory_;
  log::Log& log_;
};

}  // namespace

std::optional<PciPlace> pci_place(const std::map<std::string, std::string>& settings, int bus) {
  const auto number = slot_number(settings, fmt::format("scsi{}", bus));
  if (!number) return std::nullopt;
  if (bus_of(*number) == 0) return PciPlace{"", device_of(*number)};
  const auto bridge = slot_number(settings, fmt::format("pciBridge{}", bus_of(*number) - 1));
  if (!bridge || bus_of(*bridge) != 0) return std::nullopt;
  return PciPlace{fmt::format("0000:00:{:02x}.{}", device_of(*bridge), function_of(*number)), device_of(*number)};
}

std::string plain_uuid(const std::string& text) {
  std::string digits = lower_hex(text);
  if (digits.size() != 32) digits.clear();
  return digits;
}

// The serial number has the bytes in vSphere's order. The UUID has the first three fields either way, depending on the
// SMBIOS version that the hypervisor shows (cloud-init's dmi code and others swap them for the same reason).
std::vector<std::string> smbios_uuids(const std::string& product_serial, const std::string& product_uuid) {
  constexpr std::string_view prefix = "VMware-";
  if (product_serial.starts_with(prefix))
    if (const std::string digits = plain_uuid(product_serial.substr(prefix.size())); !digits.empty())
      return {dashed(digits)};
  const std::string digits = plain_uuid(product_uuid);
  if (digits.empty()) return {};
  return {dashed(digits), dashed(swapped(digits))};
}

std::unique_ptr<Guest> this_guest(std::filesystem::path root, process::Runner& runner,
                                  std::filesystem::path run_directory, log::Log& log) {
  return std::make_unique<ThisGuest>(std::move(root), runner, std::move(run_directory), log);
}

}  // namespace vmferry::source::vmware
