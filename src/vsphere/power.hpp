// Switching a machine off, and seeing that it is off. A lost reply is answered by looking at the power state.
#pragma once

#include <chrono>
#include <optional>
#include <stop_token>

#include "model/vm.hpp"
#include "vsphere/session.hpp"

namespace vmferry::vsphere {

model::Power power_state(Session& session, const model::VmId& vm, std::stop_token stop);

// Asks the guest's tools to shut the guest down; returns once asked. FaultError "ToolsUnavailable" when they do not
// run.
void shut_down_guest(Session& session, const model::VmId& vm, std::stop_token stop);

// Pulls the plug and waits for the task. Already off is success.
void power_off(Session& session, const model::VmId& vm, std::stop_token stop);

// True once the machine is off; false when `patience` runs out first.
bool wait_until_off(Session& session, const model::VmId& vm, std::chrono::seconds patience, std::stop_token stop);

}  // namespace vmferry::vsphere
