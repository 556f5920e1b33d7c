// Identifiers that cannot be mixed up: a VolumeId is not a ServerId although both are strings.
#pragma once

#include <compare>
#include <functional>
#include <string>

namespace vmferry {

template <class Tag>
struct Id {
  std::string value;
  auto operator<=>(const Id&) const = default;
  bool empty() const noexcept { return value.empty(); }
};

using JobId = Id<struct JobTag>;
using VolumeId = Id<struct VolumeTag>;
using ServerId = Id<struct ServerTag>;
using PortId = Id<struct PortTag>;
using ImageId = Id<struct ImageTag>;
using SnapshotId = Id<struct SnapshotTag>;  // the source's own name of a snapshot (vSphere: its moref)

// 16 random bytes as an RFC 4122 version 4 UUID in lower case.
std::string random_uuid();

}  // namespace vmferry
