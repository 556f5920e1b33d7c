// The copy of one disk from one frozen point: what is read, what is taken from earlier attempts, what is kept of it,
// and whether change tracking told the truth.
#pragma once

#include <optional>
#include <string>

#include "job/steps/steps.hpp"

namespace vmferry::job::steps {

struct CopySurroundings {
  const Parts& parts;
  const CopyOptions& copy;
  Journal& journal;
  Observer& observer;
};

struct DiskToCopy {
  model::Disk disk;
  std::string label;       // for people: "Hard disk 1 (2000)"
  const DiskState& known;  // before this copy
  target::Volume volume;
};

// Returns when the bytes are flushed and DiskCopied is a fact; gives the change id that the next copy, whichever host
// makes it, may go by. Blocks; may be repeated after any failure.
std::optional<model::ChangeId> copy_disk(const CopySurroundings& around, const DiskToCopy& disk,
                                         const CycleState& cycle, const source::Point& point, std::stop_token stop);

}  // namespace vmferry::job::steps
