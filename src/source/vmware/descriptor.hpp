// The text part of a VMDK: what kind of disk it is and which file has the bytes. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmferry::source::vmware {

struct DescriptorExtent {
  std::uint64_t sectors = 0;  // of 512 bytes
  std::string kind;           // "VMFS", "FLAT", "VMFSSPARSE", "SESPARSE", "SPARSE"...
  std::string file;
  std::uint64_t offset = 0;  // sectors into the file
  bool operator==(const DescriptorExtent&) const = default;
};

struct Descriptor {
  std::string create_type;  // "vmfs", "monolithicFlat"...
  bool has_parent = false;
  std::vector<DescriptorExtent> extents;
};

// A text that is no descriptor gives one without a type and extents.
Descriptor parse_descriptor(std::string_view text);

}  // namespace vmferry::source::vmware
