// limits: shows and changes what the runs of this host share. Talks to nobody.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "app/janitor.hpp"
#include "app/kept_journal.hpp"
#include "base/error.hpp"
#include "limits/limits.hpp"
#include "store/store.hpp"
#include "term/text.hpp"

namespace vmferry::app {

namespace {

struct Running {
  store::JobRow row;
  std::shared_ptr<copy::Meter> meter;
};

std::vector<Running> running_jobs(const Places& places, const store::Store& store, limits::Limits& limits) {
  std::vector<Running> running;
  for (const store::JobRow& row : store.jobs()) {
    if (!store::is_locked(places.locks(), lock_of(row))) continue;
    if (auto meter = limits.running(row.job)) running.push_back({row, std::move(meter)});
  }
  return running;
}

std::string rate(std::uint64_t bytes_per_second) {
  return bytes_per_second == 0 ? "no limit" : term::human_rate(static_cast<double>(bytes_per_second));
}

std::vector<Running> meant(const std::string& vm, const std::vector<Running>& running) {
  std::vector<Running> found;
  std::string names;
  for (const Running& run : running) {
    names += (names.empty() ? "" : ", ") + run.row.vm_name;
    if (run.row.vm_name == vm || run.row.job.value == vm) found.push_back(run);
  }
  if (found.empty())
    throw Error(Fault::not_found,
                fmt::format("--vm {}: no run migrates it now{}", vm, names.empty() ? "" : "; running: " + names));
  return found;
}

// All is looked at before anything is changed.
void change(const config::Options& options, limits::Limits& limits, const std::vector<Running>& running) {
  const config::LimitWishes& wish = options.limits;
  limits::EsxiBudget budget = limits.esxi();
  budget.connections = wish.esxi_connections.value_or(budget.connections);
  budget.in_flight = wish.esxi_in_flight.value_or(budget.in_flight);
  // Reads are of 64 KiB at least.
  if (budget.share() < 64 * 1024)
    throw Error(Fault::usage,
                fmt::format("{} for {} connections leave each less than 64 KiB: give more of --esxi-in-flight",
                            term::human_bytes(budget.in_flight), budget.connections));
  if (!wish.vm.empty())
    for (const Running& run : meant(wish.vm, running)) run.meter->set_rate(options.bandwidth.value_or(0));
  if (wish.host_bandwidth) limits.set_bandwidth(*wish.host_bandwidth);
  if (wish.esxi_connections || wish.esxi_in_flight) limits.set_esxi(budget);
}

// What there is to show; the defaults until somebody has set or used anything.
struct View {
  std::uint64_t bandwidth = 0;
  limits::EsxiBudget esxi;
  std::map<std::string, int> in_use;
  std::vector<Running> running;
};

nlohmann::json as_json(const View& view) {
  nlohmann::json jobs = nlohmann::json::array(), hosts = nlohmann::json::array();
  for (const Running& run : view.running)
    jobs.push_back({{"vm", run.row.vm_name}, {"job", run.row.job.value}, {"bandwidth", run.meter->rate()}});
  for (const auto& [host, used] : view.in_use) hosts.push_back({{"host", host}, {"connections", used}});
  return {{"host_bandwidth", view.bandwidth},
          {"esxi_connections", view.esxi.connections},
          {"esxi_in_flight", view.esxi.in_flight},
          {"running", jobs},
          {"esxi_hosts", hosts}};
}

std::string as_text(const View& view) {
  const limits::EsxiBudget& budget = view.esxi;
  std::string text =
      fmt::format("bandwidth of this host: {}\neach ESXi host: {} connection{}, {} under way ({} each)\n",
                  rate(view.bandwidth), budget.connections, budget.connections == 1 ? "" : "s",
                  term::human_bytes(budget.in_flight), term::human_bytes(budget.share()));
  const int columns = term::screen_of(STDOUT_FILENO).terminal ? term::screen_of(STDOUT_FILENO).columns : 0;
  std::vector<std::vector<std::string>> rows;
  for (const auto& [host, used] : view.in_use)
    if (used > 0) rows.push_back({host, fmt::format("{} of {}", used, budget.connections)});
  if (!rows.empty()) text += "\n" + term::table({"ESXI HOST", "CONNECTIONS"}, rows, columns);
  rows.clear();
  for (const Running& run : view.running)
    rows.push_back({run.row.vm_name, rate(run.meter->rate()), run.row.job.value.substr(0, 8)});
  if (!rows.empty()) text += "\n" + term::table({"VM", "BANDWIDTH", "JOB"}, rows, columns, {"JOB"});
  return text;
}

}  // namespace

int run_limits(const config::Options& options, Clock& clock) {
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  const config::LimitWishes& wish = options.limits;
  const bool may_begin = wish.host_bandwidth || wish.esxi_connections || wish.esxi_in_flight;
  const auto store =
      may_begin ? std::make_unique<store::Store>(places.state, clock) : kept_journal(places, options, clock);
  View view;
  if (store) {
    limits::Limits limits(places.limits());
    view.running = running_jobs(places, *store, limits);
    change(options, limits, view.running);
    view.bandwidth = limits.bandwidth();
    view.esxi = limits.esxi();
    view.in_use = limits.in_use();
  } else if (!wish.vm.empty()) {
    meant(wish.vm, {});
  }
  print_out(options.json ? as_json(view).dump() + "\n" : as_text(view));
  return 0;
}

}  // namespace vmferry::app
