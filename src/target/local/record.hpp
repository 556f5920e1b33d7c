// What is remembered beside an image and of a port: JSON, mode 0600, replaced as a whole. Plain data and its
// two directions; knows nothing of how images are made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "target/cloud.hpp"
#include "target/device_identity.hpp"

namespace vmferry::target::local {

struct Record {
  std::string vm;
  std::string vm_name;
  std::int32_t disk_key = 0;
  std::uint64_t bytes = 0;  // of the image
  bool boot = false;
  std::map<std::string, std::string> image_properties;
  std::string serial;  // inode_identity() of the image when it was made
  Memory memory;

  bool tagged(const JobId& job) const;
};
// Nothing when there is none; Error(data) when it cannot be understood.
std::optional<Record> load_record(const std::filesystem::path& path);
void store(const std::filesystem::path& path, const Record& record);

struct PortRecord {
  std::string job;
  std::string mac;
  std::string network;
  bool operator==(const PortRecord&) const = default;
};
std::optional<PortRecord> load_port(const std::filesystem::path& path);
void store(const std::filesystem::path& path, const PortRecord& port);

// A file's serial: its inode number and time of birth. They survive a restart (a device number may not) and
// no copy of the file has them.
std::unique_ptr<DeviceIdentity> inode_identity();

}  // namespace vmferry::target::local
