// status and inventory: tables for people, JSON for programs.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "app/janitor.hpp"
#include "app/kept_journal.hpp"
#include "base/error.hpp"
#include "job/state.hpp"
#include "store/store.hpp"
#include "target/openstack/moved_volumes.hpp"
#include "term/text.hpp"
#include "vsphere/inventory.hpp"

namespace vmferry::app {

namespace {

using target::openstack::MovedVolume;

std::int64_t last_sync(const job::State& state) {
  std::int64_t at = 0;
  for (const job::CycleState& cycle : state.cycles)
    if (cycle.ended) at = cycle.ended_at;
  return at;
}

nlohmann::json or_null(const std::string& text) {
  return text.empty() ? nlohmann::json(nullptr) : nlohmann::json(text);
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
         {"last_full", disk.last_full},
         {"transport", or_null(disk.last_transport)},
         {"transport_reason",
          disk.last_transport.empty() ? nlohmann::json(nullptr) : nlohmann::json(disk.last_transport_reason)}});
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

// What a job has reached, as people call it.
std::string phase_of(const store::JobRow& row, const job::State& state, const std::filesystem::path& locks) {
  const std::string phase = state.phase();
  const bool under_way = phase == "copying" || phase == "cutting over";
  return under_way && !store::is_locked(locks, lock_of(row)) ? "interrupted" : phase;
}

// `store`: null while there is none.
std::string show(store::Store* store, const std::filesystem::path& locks, bool json, bool all, const Clock& clock) {
  const std::vector<store::JobRow> jobs = store ? store->jobs() : std::vector<store::JobRow>{};
  nlohmann::json list = nlohmann::json::array();
  std::vector<std::vector<std::string>> rows;
  int hidden = 0;
  for (const store::JobRow& row : jobs) {
    const job::State state = job::fold(store->journal(row.job)->facts());
    const std::string phase = phase_of(row, state, locks);
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
    std::set<std::string> transports;
    for (const auto& [key, disk] : state.disks) {
      bytes += disk.capacity;
      if (!disk.last_transport.empty()) transports.insert(disk.last_transport);
    }
    rows.push_back({term::plain(row.vm_name), phase, std::to_string(state.cycles.size()),
                    std::to_string(state.disks.size()), term::human_bytes(bytes),
                    transports.empty() ? "-" : fmt::format("{}", fmt::join(transports, "+")),
                    term::human_age(last_sync(state), now_ms(clock)),
                    state.cutover ? term::human_duration(state.cutover->downtime_seconds) : "-",
                    short_target(row.target), row.job.value.substr(0, 8)});
  }
  if (json) return nlohmann::json{{"jobs", list}}.dump() + "\n";
  if (rows.empty() && hidden > 0)
    return fmt::format("no jobs but {} aborted one{}: `vmferry status --all` shows them too\n", hidden,
                       hidden == 1 ? "" : "s");
  if (rows.empty()) return "no jobs yet: start one with `vmferry migrate`\n";
  const term::Screen screen = term::screen_of(STDOUT_FILENO);
  return term::table({"VM", "PHASE", "CYCLES", "DISKS", "SIZE", "BY", "LAST SYNC", "DOWNTIME", "TARGET", "JOB"}, rows,
                     screen.width(), {"JOB"});
}

// The volumes that lie in the cloud, and what the journal knows of their jobs.
class VolumeReport {
 public:
  VolumeReport(store::Store* store, const std::filesystem::path& locks) {
    if (!store) return;
    for (const store::JobRow& row : store->jobs())
      phases_[row.job] = phase_of(row, job::fold(store->journal(row.job)->facts()), locks);
  }

  std::string json(const std::vector<MovedVolume>& volumes) const {
    nlohmann::json list = nlohmann::json::array();
    for (const MovedVolume& moved : volumes) {
      nlohmann::json servers = nlohmann::json::array();
      for (const auto& attachment : moved.volume.attachments)
        if (!attachment.server.empty()) servers.push_back(attachment.server.value);
      const auto phase = phases_.find(moved.job);
      list.push_back({{"id", moved.volume.id.value},
                      {"name", moved.volume.name},
                      {"status", moved.volume.status},
                      {"gib", moved.volume.gib},
                      {"program", to_string(moved.maker)},
                      {"vm_id", or_null(moved.vm)},
                      {"disk", or_null(moved.disk)},
                      {"whole", moved.holds == MovedVolume::Holds::all},
                      {"content", describe_content(moved)},
                      {"change_id", or_null(moved.change_id)},
                      {"job", or_null(moved.job.value)},
                      {"phase", phase == phases_.end() ? nlohmann::json(nullptr) : nlohmann::json(phase->second)},
                      {"servers", servers}});
    }
    return nlohmann::json{{"volumes", list}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }

  std::string table(const std::vector<MovedVolume>& volumes) const {
    if (volumes.empty()) return "no volume of this project holds a moved disk\n";
    std::vector<std::vector<std::string>> rows;
    std::set<MovedVolume::Maker> takeable;
    for (const MovedVolume& moved : volumes) {
      if (moved.holds != MovedVolume::Holds::converted && moved.volume.attachments.empty())
        takeable.insert(moved.maker);
      rows.push_back({term::plain(moved.volume.name), term::human_bytes(moved.volume.gib << 30), to_string(moved.maker),
                      describe_content(moved), moved.volume.status, job_of(moved), moved.volume.id.value});
    }
    const int width = term::screen_of(STDOUT_FILENO).width();
    std::string text =
        term::table({"VOLUME", "SIZE", "PROGRAM", "HOLDS", "STATUS", "JOB", "ID"}, rows, width, {"JOB", "ID"});
    if (takeable.contains(MovedVolume::Maker::migratekit))
      text += term::wrapped(
          "migratekit's: `vmferry migrate` of that machine goes on with them, and copies everything once (--trust-change-id: only what changed).\n",
          width);
    if (takeable.contains(MovedVolume::Maker::vmware_migration_kit))
      text += term::wrapped(
          "vmware-migration-kit's: it knows them by the machine's name alone; `vmferry migrate "
          "--adopt-osm-volumes` goes on with those of that name, and copies everything once.\n",
          width);
    return text;
  }

 private:
  std::string job_of(const MovedVolume& moved) const {
    if (moved.job.empty()) return "-";
    const auto phase = phases_.find(moved.job);
    return moved.job.value.substr(0, 8) + (phase == phases_.end() ? " elsewhere" : " " + phase->second);
  }

  std::map<JobId, std::string> phases_;
};

// Once, or with --watch again after each pause until Ctrl-C.
int print_status(const config::Options& options, std::chrono::seconds pause, const std::function<std::string()>& text,
                 Clock& clock, std::stop_token stop) {
  const bool in_place = options.watch && !options.json && term::screen_of(STDOUT_FILENO).terminal;
  try {
    do print_out((in_place ? "\x1b[H\x1b[2J" : "") + text());
    while (options.watch && clock.sleep(pause, stop));
  } catch (const Cancelled&) {
    if (!options.watch) throw;  // Ctrl-C is how a watch ends
  }
  return 0;
}

int run_status_of_volumes(const config::Options& options, const Places& places, Clock& clock, std::stop_token stop) {
  // The cloud may hold what others have begun, whatever this host has kept.
  const auto opened = [&] { return store::has_journal(places.state) ? kept_journal(places, options, clock) : nullptr; };
  auto store = opened();
  process::SystemRunner runner;
  log::Log log = store ? common_log(places, options) : log::Log();
  const auto cloud = connect_cloud({options, places, clock, runner, log}, stop);
  return print_status(
      options, std::chrono::seconds(10),
      [&] {
        if (!store) store = opened();
        const auto volumes = target::openstack::moved_volumes(*cloud, stop);
        const VolumeReport report(store.get(), places.locks());
        return options.json ? report.json(volumes) : report.table(volumes);
      },
      clock, stop);
}

}  // namespace

int run_status(const config::Options& options, Clock& clock, std::stop_token stop) {
  const std::filesystem::path state =
      options.state_directory.empty() ? store::default_directory() : options.state_directory;
  const Places places{state, {}};
  if (options.volumes) return run_status_of_volumes(options, places, clock, stop);
  std::unique_ptr<store::Store> store;
  return print_status(
      options, std::chrono::seconds(2),
      [&] {
        if (!store) store = kept_journal(places, options, clock);
        return show(store.get(), places.locks(), options.json, options.all, clock);
      },
      clock, stop);
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
      rows.push_back({term::plain(vm.path), vm.is_template ? "template" : word(vm.power), std::to_string(vm.disks),
                      term::human_bytes(vm.bytes), vm.tracking_enabled ? "yes" : "no", term::plain(vm.guest),
                      vm.id.value});
  }
  const term::Screen screen = term::screen_of(STDOUT_FILENO);
  if (options.json)
    print_out(nlohmann::json{{"machines", list}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  else if (rows.empty())
    print_out(options.vmware.path.empty() ? std::string("no virtual machine that this user may see\n")
                                          : fmt::format("no virtual machine matches {}\n", options.vmware.path));
  else
    print_out(term::table({"PATH", "POWER", "DISKS", "SIZE", "CBT", "GUEST", "ID"}, rows, screen.width(), {"ID"}));
  return 0;
}

}  // namespace vmferry::app
