// By libarchive, which knows ISO 9660 with its extensions: mounting would need a kernel module and a place.
#include "openstack/config_drive.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <memory>

#include "base/error.hpp"

namespace vmferry::openstack {

namespace {

constexpr const char* metadata_file = "openstack/latest/meta_data.json";
constexpr std::size_t block = 64 * 1024;
constexpr la_int64_t most = 1 << 20;  // of the metadata; a few KiB in truth

}  // namespace

std::string read_config_drive(const std::filesystem::path& device) {
  std::error_code ignored;
  if (!std::filesystem::exists(device, ignored))
    throw Error(Fault::not_found, fmt::format("there is no config drive ({})", device.string()));
  const std::unique_ptr<archive, int (*)(archive*)> drive(archive_read_new(), archive_read_free);
  const auto refuse = [&] {
    const char* why = archive_error_string(drive.get());
    throw Error(Fault::data, fmt::format("config drive {} cannot be read as ISO 9660: {}", device.string(),
                                         why ? why : "no reason given"));
  };
  archive_read_support_format_iso9660(drive.get());
  if (archive_read_open_filename(drive.get(), device.c_str(), block) != ARCHIVE_OK) refuse();
  archive_entry* entry = nullptr;
  for (;;) {
    const int next = archive_read_next_header(drive.get(), &entry);
    if (next == ARCHIVE_EOF)
      throw Error(Fault::not_found, fmt::format("config drive {} has no {}", device.string(), metadata_file));
    if (next < ARCHIVE_WARN) refuse();
    const char* name = archive_entry_pathname(entry);
    if (name && std::string_view(name) == metadata_file) break;
  }
  if (archive_entry_size(entry) > most) throw Error(Fault::data, fmt::format("{} is too large", metadata_file));
  std::string text(static_cast<std::size_t>(archive_entry_size(entry)), '\0');
  if (archive_read_data(drive.get(), text.data(), text.size()) != static_cast<la_ssize_t>(text.size())) refuse();
  return text;
}

}  // namespace vmferry::openstack
