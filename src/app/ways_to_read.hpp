// Whether the ways to read that the flags speak of can work, as far as that is known without a snapshot.
#pragma once

#include <stop_token>
#include <vector>

#include "app/connections.hpp"
#include "model/vm.hpp"
#include "plan/finding.hpp"

namespace vmferry::app {

// Of `file` and `ssh`, whose flags name things of this host. Nobody is logged in to: see `check transports`.
std::vector<plan::Finding> judge_ways_to_read(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                              std::stop_token stop);

}  // namespace vmferry::app
