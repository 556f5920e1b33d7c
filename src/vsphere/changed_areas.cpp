// The loop over QueryChangedDiskAreas. "Returned data describes [startOffset, startOffset + length)": the answer is
// whole only when these intervals cover the disk (vSphere API reference, VirtualMachine.DiskChangeInfo).
#include "vsphere/changed_areas.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace vmferry::vsphere {

namespace {

// Reading change tracking files of a large, busy disk takes minutes.
constexpr std::chrono::seconds slow_query{480};

ByteRange range(const Node& start, const Node& length) {
  const auto offset = start.integer();
  const auto bytes = length.integer();
  if (!offset || !bytes) throw Error(Fault::data, "the server's list of changed areas lacks a start or a length");
  if (*offset < 0 || *bytes < 0)
    throw Error(Fault::data, fmt::format("the server's list of changed areas has an impossible entry ({} bytes at {})",
                                         *bytes, *offset));
  // Two non-negative 63-bit numbers: their sum fits into 64 bits.
  return {static_cast<std::uint64_t>(*offset), static_cast<std::uint64_t>(*bytes)};
}

}  // namespace

ChangedPage parse_changed_page(const Node& result) {
  if (!result) throw Error(Fault::data, "the server's list of changed areas is missing");
  ChangedPage page;
  const ByteRange whole = range(result["startOffset"], result["length"]);
  page.start = whole.offset;
  page.length = whole.length;
  for (const Node& area : result.all("changedArea")) page.areas.push_back(range(area["start"], area["length"]));
  return page;
}

ChangedAreas::ChangedAreas(std::uint64_t capacity, std::string disk, Query query)
    : capacity_(capacity), disk_(std::move(disk)), query_(std::move(query)) {}

std::optional<std::vector<ByteRange>> ChangedAreas::next(std::stop_token stop) {
  if (covered_ >= capacity_) return std::nullopt;
  const ChangedPage page = query_(covered_, stop);
  const std::uint64_t end = page.start + page.length;
  if (end <= covered_)
    throw Error(
        Fault::data,
        fmt::format("the changed areas of {} do not advance: asked from byte {}, the answer describes bytes {} to {}",
                    disk_, covered_, page.start, end));
  std::vector<ByteRange> areas;
  const auto add = [&](std::uint64_t from, std::uint64_t to) {
    to = std::min(to, capacity_);
    if (from < to) areas.push_back({from, to - from});
  };
  // Nothing was said about what lies before the page: never copy less than the truth.
  if (page.start > covered_) add(covered_, page.start);
  for (const ByteRange& area : page.areas) add(area.offset, area.end());
  covered_ = end;
  return areas;
}

ChangedPage query_changed_areas(Session& session, const model::VmId& vm, const SnapshotId& snapshot,
                                model::DiskKey disk, std::uint64_t start, const std::string& since,
                                std::stop_token stop) {
  Call call("QueryChangedDiskAreas", Moref{"VirtualMachine", vm.value});
  // "If not set, changes are computed against the 'current' snapshot of the virtual machine", which "will only work for
  // virtual machines that are powered off" (QueryChangedDiskAreasRequestType in the API reference).
  if (!snapshot.empty()) call.object("snapshot", Moref{"VirtualMachineSnapshot", snapshot.value});
  call.number("deviceKey", disk.value);
  call.number("startOffset", static_cast<std::int64_t>(start)).text("changeId", since);
  return parse_changed_page(session.call(call, Repeat::freely, stop, slow_query)["returnval"]);
}

}  // namespace vmferry::vsphere
