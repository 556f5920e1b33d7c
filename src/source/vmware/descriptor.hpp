// The text part of a VMDK: what kind of disk it is and which file has the bytes. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmferry::source::vmware {

struct DescriptorExtent {
  std::string access;         // "RW", "RDONLY", "NOACCESS"
  std::uint64_t sectors = 0;  // of 512 bytes
  std::string kind;           // "VMFS", "FLAT", "VMFSSPARSE", "SESPARSE", "SPARSE"...
  std::string file;
  std::uint64_t offset = 0;  // sectors into the file
  bool operator==(const DescriptorExtent&) const = default;
};

struct Descriptor {
  std::string create_type;  // "vmfs", "monolithicFlat"...
  bool has_parent = false;  // by its parentCID or a parentFileNameHint
  std::string uuid;         // ddb.uuid, as hex_digits() gives it; empty when it has none or it is no UUID
  std::string content_id;   // ddb.longContentID, or else the CID, which is its end; lower case, empty when not said
  std::vector<DescriptorExtent> extents;
};

// A text that is no descriptor gives one without a type and extents.
Descriptor parse_descriptor(std::string_view text);

// The digits of a hexadecimal number in lower case, without what is written between them: a disk's UUID is
// "60 00 C2 93 a2 21 8a 53-2e 59 81 30 95 24 55 b7" in a descriptor, "6000C293-a221-8a53-2e59-8130952455b7" in the API.
std::string hex_digits(std::string_view text);

}  // namespace vmferry::source::vmware
