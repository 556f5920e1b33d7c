// Tasks are followed through the property collector; a VM's recentTask list finds those whose start we never heard of.
#include "vsphere/tasks.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "vsphere/properties.hpp"

namespace vmferry::vsphere {

namespace {

bool ends_with_word(const std::string& text, const std::string& end) {
  if (text.size() < end.size()) return false;
  return std::equal(end.begin(), end.end(), text.end() - static_cast<std::ptrdiff_t>(end.size()), [](char a, char b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    return lower(a) == lower(b);
  });
}

bool ended(const ObjectProperties& task) {
  const std::string state = task["info.state"].text();
  return state == "success" || state == "error";
}

}  // namespace

Task parse_task(const Moref& ref, const Node& info) {
  Task task;
  task.ref = ref;
  task.description_id = info["descriptionId"].text();
  task.state = info["state"].text();
  task.result = info["result"];
  if (const Node error = info["error"]) task.error = localized_fault(error);
  return task;
}

Node await(Session& session, const Moref& task, const std::string& what, std::stop_token stop) {
  wait_until(session, task, {"info.state"}, ended, std::nullopt, stop);
  const Task end = parse_task(task, read(session, task, {"info"}, stop)["info"]);
  if (end.state == "success") return end.result;
  throw fault_error(session.server(), what, end.error.value_or(SoapFault{}));
}

std::vector<Task> unfinished(Session& session, const Moref& vm, const std::vector<std::string>& verbs,
                             std::stop_token stop) {
  std::vector<Moref> refs;
  for (const Node& ref : read(session, vm, {"recentTask"}, stop)["recentTask"].children()) refs.push_back(ref.moref());
  std::vector<Task> found;
  for (const ObjectProperties& object : read_all(session, refs, {"info"}, stop)) {
    Task task = parse_task(object.object, object["info"]);
    if (task.finished()) continue;
    const bool wanted = verbs.empty() || std::any_of(verbs.begin(), verbs.end(), [&](const std::string& verb) {
                          return ends_with_word(task.description_id, verb);
                        });
    if (wanted) found.push_back(std::move(task));
  }
  return found;
}

bool await_unfinished(Session& session, const Moref& vm, const std::vector<std::string>& verbs, std::stop_token stop) {
  const std::vector<Task> tasks = unfinished(session, vm, verbs, stop);
  for (const Task& task : tasks) {
    session.log().info("waiting for a task that is already under way",
                       {{"task", task.description_id}, {"vm", vm.value}});
    try {
      wait_until(session, task.ref, {"info.state"}, ended, std::nullopt, stop);
    } catch (const FaultError& e) {
      if (e.name() != "ManagedObjectNotFound") throw;  // it has ended and was forgotten
    }
  }
  return !tasks.empty();
}

}  // namespace vmferry::vsphere
