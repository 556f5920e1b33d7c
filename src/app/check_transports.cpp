// check transports: every way to read each disk, tried on a snapshot that is gone again afterwards. The snapshot
// carries the mark of a job that only checks have, so that what a check left that was killed is found by the next run.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/commands.hpp"
#include "app/console.hpp"
#include "app/janitor.hpp"
#include "app/run_directory.hpp"
#include "app/transports.hpp"
#include "base/error.hpp"
#include "base/time_limit.hpp"
#include "limits/limits.hpp"
#include "source/vmware/machine.hpp"
#include "store/store.hpp"
#include "term/text.hpp"
#include "vsphere/inventory.hpp"

namespace vmferry::app {

namespace {

using source::vmware::Candidate;
using source::vmware::ReadingSpeed;

struct Row {
  model::DiskKey disk;
  std::string label;
  std::string transport;
  std::optional<ReadingSpeed> speed;
  std::string reason;  // why it does not work, or was not tried
  bool tried = true;   // else it may work all the same
  bool chosen = false;
};

std::string label_of(const model::Vm& vm, model::DiskKey key) {
  for (const model::Disk& disk : vm.disks)
    if (disk.key == key) return fmt::format("{} ({})", disk.label, key.value);
  return fmt::format("disk {}", key.value);
}

class Trials {
 public:
  Trials(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, std::shared_ptr<copy::Permits> permits,
         std::stop_token stop)
      : around_(around),
        vm_(vm),
        permits_(std::move(permits)),
        stop_(stop),
        candidates_(transport_candidates(around, vmware, vm, permits_, stop)) {
    trial_.connections = around.options.copy.tuning.connections;
  }

  std::vector<Row> of(const source::Point& point) {
    std::vector<Row> rows;
    for (const source::FrozenDisk& disk : point.disks) {
      if (around_.options.copy.skip.contains(disk.key)) continue;
      std::vector<std::optional<ReadingSpeed>> speeds;
      for (const Candidate& candidate : candidates_) {
        Row row = one(candidate, point, disk);
        speeds.push_back(row.speed);
        rows.push_back(std::move(row));
      }
      if (const auto best = source::vmware::best_of(speeds)) rows[rows.size() - speeds.size() + *best].chosen = true;
    }
    return rows;
  }

 private:
  Row one(const Candidate& candidate, const source::Point& point, const source::FrozenDisk& disk) {
    Row row{disk.key, label_of(vm_, disk.key), candidate.name, {}, candidate.absent};
    if (!candidate.transport) return row;
    if (const auto reason = candidate.transport->refuses(disk)) {
      row.reason = *reason;
      return row;
    }
    if (!around_.options.json && term::screen_of(STDERR_FILENO).terminal)
      print_err(fmt::format("reading a little of {} by {}\n", row.label, candidate.name));
    try {
      const auto source = candidate.transport->serve(point, disk, stop_);
      if (!candidate.transport->quick()) {
        row.tried = false;
        row.reason = "not tried, since it is no quicker than a copy; taken only when nothing else works";
        return row;
      }
      trial_.permits = candidate.transport->counted() ? permits_ : nullptr;
      row.speed = source::vmware::reading_speed(*source, trial_, around_.clock, stop_);
      trial_.shift += 1 << 20;
    } catch (const Error& error) {
      row.reason = error.what();
    }
    return row;
  }

  const Surroundings& around_;
  const model::Vm& vm_;
  const std::shared_ptr<copy::Permits> permits_;
  const std::stop_token stop_;
  std::vector<Candidate> candidates_;
  source::vmware::ReadingTrial trial_;
};

std::string as_json(const std::vector<Row>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const Row& row : rows) {
    nlohmann::json j = {{"disk", row.disk.value},         {"label", row.label},
                        {"transport", row.transport},     {"tried", row.tried},
                        {"works", row.speed.has_value()}, {"chosen", row.chosen}};
    if (!row.reason.empty()) j["reason"] = row.reason;
    if (row.speed) {
      j["bytes_per_second"] = static_cast<std::uint64_t>(row.speed->bytes_per_second);
      j["latency_ms"] = row.speed->seconds_to_first * 1e3;
    }
    list.push_back(std::move(j));
  }
  return nlohmann::json{{"transports", list}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string as_text(const std::vector<Row>& rows) {
  std::vector<std::vector<std::string>> cells;
  std::vector<std::pair<std::string, std::string>> reasons;  // each once, however many disks it holds for
  for (const Row& row : rows) {
    cells.push_back({row.label, row.transport,
                     row.speed   ? "works"
                     : row.tried ? "no"
                                 : "not tried",
                     row.speed ? fmt::format("{:.0f}", row.speed->bytes_per_second / 1e6) : "-",
                     row.speed ? fmt::format("{:.1f}", row.speed->seconds_to_first * 1e3) : "-",
                     row.chosen ? "taken" : ""});
    const std::pair<std::string, std::string> reason{row.transport, row.reason};
    if (!row.reason.empty() && std::find(reasons.begin(), reasons.end(), reason) == reasons.end())
      reasons.push_back(reason);
  }
  const term::Screen screen = term::screen_of(STDOUT_FILENO);
  std::string text = term::table({"DISK", "TRANSPORT", "RESULT", "MB/S", "MS", "AUTO"}, cells, screen.width());
  for (const auto& [transport, reason] : reasons)
    text += term::wrapped(fmt::format("{}: {}\n", transport, reason), screen.width());
  return text;
}

// 0 when each disk can be read.
int verdict(const std::vector<Row>& rows) {
  std::map<model::DiskKey, bool> readable;
  for (const Row& row : rows) readable[row.disk] |= row.speed || !row.tried;
  for (const auto& [disk, works] : readable)
    if (!works) return 1;
  return readable.empty() ? 1 : 0;
}

std::string left_behind(const std::string& reason) {
  return fmt::format("the snapshot of this check could not be removed; its next run on this machine tries again: {}",
                     reason);
}

int run_in(const Surroundings& around, std::stop_token stop) {
  VmwareSide vmware = connect_vmware(around, stop);
  const model::Vm vm =
      vsphere::describe(*vmware.session, vsphere::find(*vmware.session, around.options.vmware.path, stop), stop);
  const store::JobLock lock(around.places.locks(), lock_of(vmware.source(), vm.id));
  refuse_attached_by_others(around, vmware, vm, stop);
  const JobId check = check_job(around, vm);
  const auto machine = source::vmware::machine(*vmware.session, {vm.id, vm.instance_uuid},
                                               idle_transport(around, vmware, vm, stop), around.log, stop);
  const auto remove_all = [&](std::stop_token token) {
    for (const SnapshotId& snapshot : machine->snapshots_of(check, token))
      if (const std::string left = machine->thaw(snapshot, check, false, token); !left.empty())
        print_err("warning: " + left + "\n");
  };
  remove_all(stop);  // of a check that was killed
  std::vector<Row> rows;
  std::exception_ptr failure;
  std::optional<Error> left;  // behind
  {
    try {
      const source::Point point = machine->freeze({check, 1}, source::Quiesce::never, stop);
      limits::Limits limits(around.places.limits());
      rows = Trials(around, vmware, vm, limits.connections_to(vm.host, false), stop).of(point);
    } catch (...) {
      failure = std::current_exception();
    }
    const TimeLimit limit(std::chrono::minutes(10));
    try {
      remove_all(limit.token());
    } catch (const Error& error) {
      left.emplace(error.fault(), left_behind(error.explain()));
    } catch (const Cancelled&) {
      left.emplace(Fault::timeout, left_behind("vSphere was not done with it within 10 minutes"));
    }
  }
  if (!failure) print_out(around.options.json ? as_json(rows) : as_text(rows));
  if (failure && left) print_err(fmt::format("warning: {}\n", left->what()));
  if (failure) std::rethrow_exception(failure);
  if (left) throw Error(*left);
  return verdict(rows);
}

}  // namespace

int check_transports(const config::Options& options, Clock& clock, std::stop_token stop) {
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  store::make_private_directory(places.state);
  const RunDirectory run(places.state);
  places.run = run.path();
  process::SystemRunner runner;
  log::Log log = common_log(places, options);
  return run_in({options, places, clock, runner, log}, stop);
}

}  // namespace vmferry::app
