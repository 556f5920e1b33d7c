// QueryChangedDiskAreas, page by page. The loop rule is here and is pure; which fault means what is the caller's.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/ranges.hpp"
#include "model/vm.hpp"
#include "vsphere/session.hpp"

namespace vmferry::vsphere {

// A DiskChangeInfo: what the server says about [start, start + length).
struct ChangedPage {
  std::uint64_t start = 0;
  std::uint64_t length = 0;
  std::vector<ByteRange> areas;
};
ChangedPage parse_changed_page(const Node& result);  // Error(data) for negative or overflowing numbers

// Pages in, areas out, until the pages cover `capacity`. An empty page is not the end; a page that does not advance is
// Error(data). Areas are clamped to the capacity; a stretch that no page speaks about counts as changed.
class ChangedAreas {
 public:
  using Query = std::function<ChangedPage(std::uint64_t start, std::stop_token stop)>;
  ChangedAreas(std::uint64_t capacity, std::string disk, Query query);
  // Nothing = the whole capacity was covered. May be an empty list.
  std::optional<std::vector<ByteRange>> next(std::stop_token stop);
  // Up to here the answer is complete: where a query that failed would have begun.
  std::uint64_t covered() const noexcept { return covered_; }

 private:
  std::uint64_t capacity_;
  std::string disk_;  // for messages
  Query query_;
  std::uint64_t covered_ = 0;
};

// `since`: a changeId's text, or "*" for the allocated areas. An empty `snapshot` is the machine as it is now, which
// must be off.
ChangedPage query_changed_areas(Session& session, const model::VmId& vm, const SnapshotId& snapshot,
                                model::DiskKey disk, std::uint64_t start, const std::string& since,
                                std::stop_token stop);

}  // namespace vmferry::vsphere
