// Tasks are followed through the property collector; a VM's recentTask list finds those whose start we never heard of.
#include "vsphere/tasks.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "vsphere/machine_config.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::vsphere {

namespace {

constexpr std::chrono::minutes between_words{5};

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

void await_end(Session& session, const Moref& task, const std::string& what, Patience patience, std::stop_token stop) {
  const auto begin = session.clock().mono();
  const auto minutes = [](auto duration) { return std::chrono::duration_cast<std::chrono::minutes>(duration).count(); };
  for (int word = 1;; ++word) {
    auto until = begin + word * between_words;
    const bool last = patience && begin + *patience <= until;
    if (last) until = begin + *patience;
    if (wait_until(session, task, {"info.state"}, ended, until, stop)) return;
    if (last)
      throw Error(Fault::timeout,
                  fmt::format("{} has not ended within {} minutes (task {} of {}): see it among the "
                              "recent tasks in vSphere, cancel it there if it hangs, and run the same command again",
                              what, minutes(*patience), task.value, session.server()));
    const ObjectProperties now = read(session, task, {"info.state", "info.progress"}, stop);
    session.log().info("still waiting for a task", {{"task", what},
                                                    {"id", task.value},
                                                    {"state", now["info.state"].text()},
                                                    {"percent", now["info.progress"].text()},
                                                    {"minutes", std::to_string(minutes(word * between_words))}});
  }
}

}  // namespace

Task parse_task(const Moref& ref, const Node& info) {
  Task task;
  task.ref = ref;
  task.description_id = info["descriptionId"].text();
  task.entity_name = info["entityName"].text();
  task.state = info["state"].text();
  task.result = info["result"];
  if (const Node error = info["error"]) task.error = localized_fault(error);
  return task;
}

Node await(Session& session, const Moref& task, const std::string& what, Patience patience, std::stop_token stop) {
  await_end(session, task, what, patience, stop);
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

bool await_unfinished(Session& session, const Moref& vm, const std::vector<std::string>& verbs, Patience patience,
                      std::stop_token stop) {
  const std::vector<Task> tasks = unfinished(session, vm, verbs, stop);
  for (const Task& task : tasks) {
    session.log().info("waiting for a task that is already under way",
                       {{"task", task.description_id}, {"vm", vm.value}});
    try {
      await_end(session, task.ref, fmt::format("{} on {}", task.description_id, unescape_name(task.entity_name)),
                patience, stop);
    } catch (const FaultError& e) {
      if (e.name() != "ManagedObjectNotFound") throw;  // it has ended and was forgotten
    }
  }
  return !tasks.empty();
}

}  // namespace vmferry::vsphere
