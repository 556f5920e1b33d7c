// What the journal of this state folder says of a machine that somebody asks about. Only reads, and makes no journal.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "app/connections.hpp"
#include "model/vm.hpp"
#include "plan/finding.hpp"

namespace vmferry::app {

struct EarlierRuns {
  JobId job;                            // that the next run to the target goes on with; empty: that one begins anew
  std::string vm_name;                  // as the machine was called when that job began; its volumes are named so
  std::set<SnapshotId> leaving;         // what the next run removes before it reads
  std::vector<plan::Finding> findings;  // that it was cut over already, and whose those snapshots are
};

// `source`: as VmwareSide names it; `target`: as the cloud describes itself.
EarlierRuns earlier_runs(const Surroundings& around, const std::string& source, const model::Vm& vm,
                         const std::string& target);

}  // namespace vmferry::app
