// The ways to read a machine's disks, by the names they have in --transport.
#pragma once

#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "app/connections.hpp"
#include "config/options.hpp"
#include "model/vm.hpp"
#include "source/vmware/auto_transport.hpp"
#include "source/vmware/hotadd_transport.hpp"
#include "source/vmware/vddk_transport.hpp"

namespace vmferry::app {

// Where VDDK and its plugin are, by the flags and our own place.
source::vmware::Vddk vddk_of(const config::Vmware& wish);

// Those there are, as they rank where their speeds are alike.
const std::vector<std::string>& transport_names();

// One of them, set up from the flags and the session. Does not touch the machine; may ask vSphere about it. Throws
// Error with what it lacks when this way is not open here. `permits`: for connections to the machine's host; may be
// null.
std::unique_ptr<source::vmware::Transport> make_transport(const std::string& name, const Surroundings& around,
                                                          VmwareSide& vmware, const model::Vm& vm,
                                                          std::shared_ptr<copy::Permits> permits, std::stop_token stop);

// All that the flags allow, each ready or with the reason why not.
std::vector<source::vmware::Candidate> transport_candidates(const Surroundings& around, VmwareSide& vmware,
                                                            const model::Vm& vm, std::shared_ptr<copy::Permits> permits,
                                                            std::stop_token stop);

// The job whose mark the snapshots of `check transports` carry: of this state folder, as the machine's lock is, so that
// none of them is one of a check that runs elsewhere.
JobId check_job(const Surroundings& around, const model::Vm& vm);

// All jobs of this machine that this state folder knows, over or not, and that of its checks.
std::vector<JobId> jobs_of(const Surroundings& around, const VmwareSide& vmware, const model::Vm& vm);

// What a run reads by. `before`: by which transport each disk was read the last time. What an export left that was
// killed is ended here: the machine's lock must be held.
std::unique_ptr<source::vmware::Transport> run_transport(const Surroundings& around, VmwareSide& vmware,
                                                         const model::Vm& vm,
                                                         std::map<model::DiskKey, std::string> before,
                                                         std::shared_ptr<copy::Permits> permits, std::stop_token stop);

// The same for who reads nothing: it only lets go of what runs that died have left.
std::unique_ptr<source::vmware::Transport> idle_transport(const Surroundings& around, VmwareSide& vmware,
                                                          const model::Vm& vm, std::stop_token stop);

// For abort: detaches what any run has attached of this machine's disks, by its marks in vSphere. False: nothing was
// marked.
bool let_go_of_attached(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, std::stop_token stop);

// Throws when a run on another host has disks of this machine attached to a proxy.
void refuse_attached_by_others(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                               std::stop_token stop);

// The proxy of the flags, found and known to be usable for this machine; changes nothing.
source::vmware::Proxy examine_proxy(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                    std::stop_token stop);

}  // namespace vmferry::app
