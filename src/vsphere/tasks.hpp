// Tasks: waiting for one, and finding one that was started by a call whose reply was lost.
#pragma once

#include <chrono>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "vsphere/session.hpp"

namespace vmferry::vsphere {

struct Task {
  Moref ref;
  std::string description_id;  // "VirtualMachine.createSnapshot"
  std::string entity_name;     // "web01"
  std::string state;           // "queued", "running", "success", "error"
  Node result;
  std::optional<SoapFault> error;
  bool finished() const { return state == "success" || state == "error"; }
};

Task parse_task(const Moref& ref, const Node& info);

// How long the end of a task is waited for. Nothing: as long as it takes, which for a consolidation may be hours. A
// line in the log says every few minutes what is waited for.
using Patience = std::optional<std::chrono::seconds>;
// A change of a configuration takes seconds, or minutes on a busy host: one that takes longer hangs.
constexpr std::chrono::minutes reconfiguration_patience{15};

// Returns its result when it succeeded; throws FaultError when it failed, Fault::timeout when patience was at an end.
// `what`: "CreateSnapshot_Task on web01". A task object that went away before its end was seen is FaultError
// "ManagedObjectNotFound": look at the state.
Node await(Session& session, const Moref& task, const std::string& what, Patience patience, std::stop_token stop);

// The VM's recent tasks that have not finished and whose description ends with one of `verbs` (case-insensitive);
// all of them when `verbs` is empty.
std::vector<Task> unfinished(Session& session, const Moref& vm, const std::vector<std::string>& verbs,
                             std::stop_token stop);

// Waits for all of unfinished(), for each as long as `patience` says. Their failures are not ours and are ignored. Says
// whether there were any.
bool await_unfinished(Session& session, const Moref& vm, const std::vector<std::string>& verbs, Patience patience,
                      std::stop_token stop);

}  // namespace vmferry::vsphere
