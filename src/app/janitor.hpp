// What runs that died left on this host, and what they left elsewhere. A job's own leftovers are its next run's work;
// this is about the other jobs.
#pragma once

#include <string>
#include <vector>

#include "app/connections.hpp"
#include "store/store.hpp"

namespace vmferry::app {

// The key of a machine's lock in Places::locks(): one run a machine, whatever its target.
std::string lock_of(const store::JobRow& row);
std::string lock_of(const std::string& source, const model::VmId& vm);

// Deletes the overlays of conversions whose run is dead. `own` is left alone.
void sweep_overlays(const Places& places, const store::Store& store, const JobId& own, log::Log& log);

// A sentence for each other job whose run died with a snapshot: it stays, and grows, until that job is run again.
std::vector<std::string> interrupted_jobs(const Places& places, store::Store& store, const store::JobRow& own,
                                          const Clock& clock);

}  // namespace vmferry::app
