// Whether the cloud knows what the settings name: types, zones, networks, groups, flavor, key pair. Only asks, and
// throws; what is done with the answer is the caller's.
#pragma once

#include <functional>
#include <stop_token>
#include <vector>

#include "openstack/cloud.hpp"
#include "plan/finding.hpp"
#include "target/openstack/openstack_cloud.hpp"

namespace vmferry::target::openstack {

using Question = std::function<void()>;

// One for each setting, in the order in which they are needed. Both must outlive them.
std::vector<Question> questions_of(const Options& options, ::vmferry::openstack::Cloud& cloud, std::stop_token stop);

// What all of them say, each once; up to one that a service does not answer, for which each further one would wait.
void ask_all(const std::vector<Question>& questions, std::vector<plan::Finding>& found);

// Throws when a server may not have that many entries of metadata beside our own.
void check_metadata(::vmferry::openstack::Cloud& cloud, std::size_t entries, std::stop_token stop);

}  // namespace vmferry::target::openstack
