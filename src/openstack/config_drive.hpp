// Nova's config drive, an ISO 9660 file system, read without being mounted. Knows nothing of what its files mean.
#pragma once

#include <filesystem>
#include <string>

namespace vmferry::openstack {

// The metadata on that drive (openstack/latest/meta_data.json), `device` being a block device or an image of one.
// Error(not_found) when there is no drive or no such file, Error(data) when it cannot be read, e.g. as it is VFAT.
std::string read_config_drive(const std::filesystem::path& device);

}  // namespace vmferry::openstack
