// status and inventory: tables for people, JSON for programs.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "app/janitor.hpp"
#include "base/error.hpp"
#include "job/state.hpp"
#include "store/store.hpp"
#include "term/text.hpp"
#include "vsphere/inventory.hpp"

namespace vmferry::app {

namespace {

std::int64_t now_ms(const Clock& clock) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(clock.wall().time_since_epoch()).count();
}

std::int64_t last_sync(const job::State& state) {
  std::int64_t at = 0;
  for (const job::CycleState& cycle : state.cycles)
    if (cycle.ended) at = cycle.ended_at;
  return at;
}

nlohmann::json as_json(const store::JobRow& row, const job::State& state) {
  nlohmann::json disks = nlohmann::json::array();
  for (const auto& [key, disk] : state.disks)
    disks.push_back(
        {{"key", key.value},
         {"volume", disk.volume.value},
         {"image", disk.image ? nlohmann::json(disk.image->image.value) : nlohmann::json(nullptr)},
         {"delivered_volume", disk.delivered ? nlohmann::json(disk.delivered->volume.value) : nlohmann::json(nullptr)},
         {"complete", disk.complete},
         {"capacity", disk.capacity},
         {"change_id", disk.base ? nlohmann::json(disk.base->text()) : nlohmann::json(nullptr)},
         {"attached", disk.attached},
         {"last_read", disk.last_read},
         {"last_written", disk.last_written},
         {"last_full", disk.last_full}});
  nlohmann::json j = {{"job", row.job.value},          {"vm", row.vm_name},
                      {"vm_id", row.vm.value},         {"source", row.source},
                      {"target", row.target},          {"phase", state.phase()},
                      {"cycles", state.cycles.size()}, {"last_sync_ms", last_sync(state)},
                      {"created_ms", row.created_at},  {"disks", disks}};
  if (const job::CycleState* open = state.open_cycle(); open && open->snapshot && !open->snapshot_removed)
    j["snapshot"] = open->snapshot->snapshot.value;
  if (state.server) j["server"] = state.server->server.value;
  if (state.cutover) j["downtime_seconds"] = state.cutover->downtime_seconds;
  return j;
}

// "OpenStack project lab at https://... (region RegionOne)" as "lab (RegionOne)": the whole of it is in --json.
std::string short_target(const std::string& target) {
  constexpr std::string_view head = "OpenStack project ", region = "(region ";
  const auto at = target.find(" at ");
  if (!target.starts_with(head) || at == std::string::npos) return target;
  std::string text = target.substr(head.size(), at - head.size());
  std::string rest = target.substr(at), by;
  if (const auto images = rest.find(", by images"); images != std::string::npos) {
    by = ", by images";
    rest.resize(images);
  }
  if (const auto r = rest.rfind(region); r != std::string::npos) text += " (" + rest.substr(r + region.size());
  return text + by;
}

std::string show(store::Store& store, const std::filesystem::path& locks, bool json, bool all, const Clock& clock) {
  const std::vector<store::JobRow> jobs = store.jobs();
  nlohmann::json list = nlohmann::json::array();
  std::vector<std::vector<std::string>> rows;
  int hidden = 0;
  for (const store::JobRow& row : jobs) {
    const job::State state = job::fold(store.journal(row.job)->facts());
    std::string phase = state.phase();
    if ((phase == "copying" || phase == "cutting over") && !store::is_locked(locks, lock_of(row)))
      phase = "interrupted";
    if (state.aborted && !all) {
      ++hidden;
      continue;
    }
    if (json) {
      list.push_back(as_json(row, state));
      list.back()["phase"] = phase;
      continue;
    }
    std::uint64_t bytes = 0;
    for (const auto& [key, disk] : state.disks) bytes += disk.capacity;
    rows.push_back({row.vm_name, phase, std::to_string(state.cycles.size()), std::to_string(state.disks.size()),
                    term::human_bytes(bytes), term::human_age(last_sync(state), now_ms(clock)),
                    state.cutover ? term::human_duration(state.cutover->downtime_seconds) : "-",
                    short_target(row.target), row.job.value.substr(0, 8)});
  }
  if (json) return nlohmann::json{{"jobs", list}}.dump() + "\n";
  if (rows.empty() && hidden > 0)
    return fmt::format("no jobs but {} aborted one{}: `vmferry status --all` shows them too\n", hidden,
                       hidden == 1 ? "" : "s");
  if (rows.empty()) return "no jobs yet: start one with `vmferry migrate`\n";
  const term::Screen screen = term::screen_of(STDOUT_FILENO);
  return term::table({"VM", "PHASE", "CYCLES", "DISKS", "SIZE", "LAST SYNC", "DOWNTIME", "TARGET", "JOB"}, rows,
                     screen.terminal ? screen.columns : 0);
}

}  // namespace

int run_status(const config::Options& options, Clock& clock, std::stop_token stop) {
  const std::filesystem::path state =
      options.state_directory.empty() ? store::default_directory() : options.state_directory;
  store::Store store(state, clock);
  const std::filesystem::path locks = Places{state, {}}.locks();
  if (!options.watch) {
    print_out(show(store, locks, options.json, options.all, clock));
    return 0;
  }
  const bool terminal = term::screen_of(STDOUT_FILENO).terminal;
  do {
    print_out((terminal && !options.json ? "\x1b[H\x1b[2J" : "") +
              show(store, locks, options.json, options.all, clock));
  } while (clock.sleep(std::chrono::seconds(2), stop));
  return 0;  // Ctrl-C is how a watch ends
}

int run_inventory(const config::Options& options, Clock& clock, std::stop_token stop) {
  process::SystemRunner runner;
  log::Log log;
  const Places places;
  VmwareSide vmware = connect_vmware({options, places, clock, runner, log}, stop);
  std::vector<std::vector<std::string>> rows;
  nlohmann::json list = nlohmann::json::array();
  const auto word = [](model::Power power) {
    return power == model::Power::on ? "on" : power == model::Power::off ? "off" : "suspended";
  };
  for (const vsphere::ListedVm& vm : vsphere::list(*vmware.session, stop)) {
    if (const std::string& wanted = options.vmware.path; !wanted.empty() && vm.path.find(wanted) == std::string::npos &&
                                                         vm.id.value != wanted && vm.uuid != wanted &&
                                                         vm.instance_uuid != wanted)
      continue;
    if (options.json)
      list.push_back({{"id", vm.id.value},
                      {"path", vm.path},
                      {"name", vm.name},
                      {"power", word(vm.power)},
                      {"disks", vm.disks},
                      {"bytes", vm.bytes},
                      {"change_tracking", vm.tracking_enabled},
                      {"template", vm.is_template},
                      {"guest", vm.guest},
                      {"uuid", vm.uuid},
                      {"instance_uuid", vm.instance_uuid}});
    else
      rows.push_back({vm.path, vm.is_template ? "template" : word(vm.power), std::to_string(vm.disks),
                      term::human_bytes(vm.bytes), vm.tracking_enabled ? "yes" : "no", vm.guest, vm.id.value});
  }
  const term::Screen screen = term::screen_of(STDOUT_FILENO);
  if (options.json)
    print_out(nlohmann::json{{"machines", list}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  else if (rows.empty())
    print_out(options.vmware.path.empty() ? std::string("no virtual machine that this user may see\n")
                                          : fmt::format("no virtual machine matches {}\n", options.vmware.path));
  else
    print_out(term::table({"PATH", "POWER", "DISKS", "SIZE", "CBT", "GUEST", "ID"}, rows,
                          screen.terminal ? screen.columns : 0));
  return 0;
}

}  // namespace vmferry::app
