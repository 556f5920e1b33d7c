// Several transports as one. For each disk the fastest that works is taken; when it fails in the middle of a copy
// another takes its place, and the copy goes on from where it was, since all of them show the bytes of the same
// snapshot.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "log/log.hpp"
#include "source/vmware/reading_speed.hpp"
#include "source/vmware/transport.hpp"

namespace vmferry::source::vmware {

// A transport, or why there is none of that name here.
struct Candidate {
  std::string name;
  std::unique_ptr<Transport> transport;
  std::string absent;
};

struct AutoOptions {
  std::vector<Candidate> candidates;  // as they rank where their speeds are alike: the best first
  // By which each disk was read the last time: tried first, not measured. Only if any are to be measured.
  std::map<model::DiskKey, std::string> before;
  bool measure = true;  // else the first that works is taken
  ReadingTrial trial;
};

// name() is "auto". serve() throws Error(unsupported) with every candidate's reason when none can read the disk.
std::unique_ptr<Transport> auto_transport(AutoOptions options, Clock& clock, log::Log& log);

// Which of those that have a speed is taken: the first in rank whose speed is nearly the fastest's. Nothing when none
// has.
std::optional<std::size_t> best_of(std::span<const std::optional<ReadingSpeed>> ranked);

}  // namespace vmferry::source::vmware
