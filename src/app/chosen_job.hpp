// Which job of this host a command is about that only tells what was done: --job, or the newest of --vmware-path.
#pragma once

#include <vector>

#include "app/connections.hpp"
#include "job/fact.hpp"

namespace vmferry::app {

// Throws Error when none is meant, or jobs of several machines; says which others there are when there are some.
std::vector<job::Fact> facts_of_chosen_job(const Places& places, const config::Options& options, Clock& clock);

}  // namespace vmferry::app
