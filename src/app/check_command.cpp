// check: everything that a migration would stumble over, found without changing anything.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "base/error.hpp"
#include "http/http.hpp"
#include "nbdkit/nbdkit.hpp"
#include "plan/finding.hpp"
#include "plan/plan.hpp"
#include "store/store.hpp"
#include "term/text.hpp"
#include "vsphere/inventory.hpp"
#include "vsphere/privileges.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::app {

namespace {

using plan::Finding;
using plan::Level;

constexpr int exit_with_problems = 1;

// An error is a finding: the next question is asked all the same.
void ask(std::vector<Finding>& found, const std::string& object, const std::function<void()>& question) {
  try {
    question();
  } catch (const Error& e) {
    found.push_back({Level::problem, object, e.what(), ""});
  }
}

plan::Wish wish_of(const config::Options& options) {
  plan::Wish wish;
  wish.skip = options.copy.skip;
  wish.tracking = !options.copy.no_tracking;
  wish.cutover = !options.cutover.networks.empty() || !options.cutover.flavor.empty();
  wish.force_power_off = options.cutover.force_power_off;
  return wish;
}

void check_privileges(vsphere::Session& session, const vsphere::Moref& object, const std::string& name,
                      const std::vector<std::string>& needed, std::vector<Finding>& found, std::stop_token stop) {
  for (const std::string& privilege : vsphere::missing_privileges(session, object, needed, stop))
    found.push_back({Level::problem, name, fmt::format("this user lacks the privilege {}", privilege),
                     "give it by a role (docs/permissions.md; vmferry check --print-role)"});
}

// Only a vCenter can be asked what a user may do ("implemented only by vCenter Server": HasPrivilegeOnEntities).
void check_all_privileges(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                          const plan::Privileges& needed, std::vector<Finding>& found, std::stop_token stop) {
  if (!vmware.session->content().is_vcenter) {
    found.push_back({Level::note, around.options.vmware.endpoint,
                     "a single host does not tell what its user may do; root may do all that is needed", ""});
    return;
  }
  ask(found, vm.name,
      [&] { check_privileges(*vmware.session, vsphere::vm_ref(vm.id), vm.name, needed.on_machine, found, stop); });
  if (around.options.vmware.transport != "https") return;
  ask(found, vm.name, [&] {
    const auto [datacenter, path] = vsphere::datacenter_of(*vmware.session, vm.id, stop);
    check_privileges(*vmware.session, datacenter, "datacenter " + path, needed.on_datacenter, found, stop);
    for (const auto& [datastore, name] : vsphere::datastores_of(*vmware.session, vm.id, stop))
      check_privileges(*vmware.session, datastore, "datastore " + name, needed.on_datacenter, found, stop);
  });
}

// VDDK connects to the host itself (port 902); the transports there are today do not.
void check_ports(const model::Vm& vm, std::vector<Finding>& found) {
  constexpr int nfc = 902;
  // vCenter knows its hosts by full name or address; a bare name was given for show, or resolves nowhere but there.
  if (vm.host.find_first_of(".:") == std::string::npos) return;
  if (const auto why = http::unreachable(vm.host, nfc, std::chrono::seconds(3)))
    found.push_back({Level::note, vm.host, fmt::format("its port {} cannot be reached from here ({})", nfc, *why),
                     "needed only where disks are read with VMware's VDDK"});
}

// What shall come to the other side, as far as the flags say.
target::Arrival arrival_of(const model::Vm& vm, const config::Options& options) {
  target::Arrival arrival;
  arrival.vm = vm;
  for (const model::Disk& disk : vm.disks)
    if (!options.copy.skip.contains(disk.key))
      arrival.volumes.push_back(
          {{JobId{}, vm.id, vm.name, disk.key, disk.object_id, plan::volume_name(vm.name, disk.object_id)},
           disk.capacity,
           false,
           {},
           plan::datastore_of(disk.file)});
  arrival.ports = options.cutover.networks;
  arrival.server = true;
  return arrival;
}

void check_host(const Surroundings& around, bool converts, std::vector<Finding>& found, std::stop_token stop) {
  ask(found, "this host", [&] {
    const nbdkit::Probe probe = nbdkit::probe(around.runner, stop);
    const std::string plugin = around.options.vmware.transport == "file" ? "file" : "curl";
    if (!probe.plugin(plugin))
      found.push_back({Level::problem, "this host", fmt::format("nbdkit {} has no {} plugin", probe.version, plugin),
                       "install the package that has it (Debian: nbdkit)", Fault::tool});
    else
      found.push_back({Level::note, "this host", fmt::format("disks are read through nbdkit {}", probe.version), ""});
  });
  std::error_code problem;
  const auto space = std::filesystem::space(around.places.state, problem);
  const std::uint64_t wanted = converts ? 4ULL << 30 : 256ULL << 20;
  if (!problem && space.available < wanted)
    found.push_back(
        {Level::warning, around.places.state.string(),
         fmt::format("only {} are free there; journal and logs{} may need more", term::human_bytes(space.available),
                     converts ? ", and the overlays of a conversion," : ""),
         "free some space, or choose another --state-dir"});
}

model::Vm check_machine(const Surroundings& around, VmwareSide& vmware, std::vector<Finding>& found,
                        std::stop_token stop) {
  const config::Options& options = around.options;
  const plan::Wish wish = wish_of(options);
  const model::Vm vm =
      vsphere::describe(*vmware.session, vsphere::find(*vmware.session, options.vmware.path, stop), stop);
  for (Finding& finding : plan::judge_machine(vm, wish)) found.push_back(std::move(finding));
  check_all_privileges(around, vmware, vm, plan::privileges(wish), found, stop);
  check_ports(vm, found);
  if (!wish.cutover) return vm;
  std::set<std::string> mapped;
  for (const target::NetworkChoice& choice : options.cutover.networks) mapped.insert(choice.mac);
  for (Finding& finding : plan::judge_nics(vm, mapped)) found.push_back(std::move(finding));
  if (options.cutover.convert)
    ask(found, "this host", [&] { make_converter(around, JobId{"check"})->check(vm, stop); });
  return vm;
}

void show(const std::vector<Finding>& found, bool json) {
  int problems = 0, warnings = 0;
  nlohmann::json list = nlohmann::json::array();
  std::string text;
  const bool colour = term::screen_of(STDOUT_FILENO).colour;
  for (const Level level : {Level::problem, Level::warning, Level::note})
    for (const Finding& finding : found) {
      if (finding.level != level) continue;
      problems += level == Level::problem;
      warnings += level == Level::warning;
      list.push_back({{"level", plan::word(level)},
                      {"object", finding.object},
                      {"fact", finding.fact},
                      {"remedy", finding.remedy}});
      const char* paint = level == Level::problem ? "\x1b[31m" : level == Level::warning ? "\x1b[33m" : "";
      text += fmt::format("{}{}{}: {}: {}\n", colour ? paint : "", plan::word(level), colour ? "\x1b[0m" : "",
                          finding.object, finding.fact);
      if (!finding.remedy.empty()) text += fmt::format("  {}\n", finding.remedy);
    }
  if (json) {
    print_out(nlohmann::json{{"findings", list}, {"problems", problems}, {"warnings", warnings}}.dump(
                  -1, ' ', false, nlohmann::json::error_handler_t::replace) +
              "\n");
    return;
  }
  print_out(text + fmt::format("{} problem{}, {} warning{}{}\n", problems, problems == 1 ? "" : "s", warnings,
                               warnings == 1 ? "" : "s", problems == 0 ? ": nothing stands in the way" : ""));
}

// The whole role, as a person would make it with govc.
std::string role_commands() {
  plan::Wish everything;
  everything.cutover = true;
  const plan::Privileges needed = plan::privileges(everything);
  std::string all;
  for (const auto* list : {&needed.on_machine, &needed.on_datacenter})
    for (const std::string& privilege : *list) all += " \\\n  " + privilege;
  return fmt::format(
      "# The role of a user who migrates with vmferry; see docs/permissions.md. Replace USER and /DC0.\n"
      "govc role.create vmferry{}\n"
      "govc permissions.set -principal USER -role vmferry -propagate=true /DC0\n",
      all);
}

}  // namespace

int run_check(const config::Options& options, Clock& clock, std::stop_token stop) {
  if (options.print_role) {
    print_out(role_commands());
    return 0;
  }
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  std::vector<Finding> found;
  process::SystemRunner runner;
  log::Log log;
  const Surroundings around{options, places, clock, runner, log};
  check_host(around, options.cutover.convert && wish_of(options).cutover, found, stop);
  std::optional<model::Vm> vm;
  ask(found, options.vmware.endpoint, [&] {
    VmwareSide vmware = connect_vmware(around, stop);
    ask(found, options.vmware.path, [&] { vm = check_machine(around, vmware, found, stop); });
  });
  ask(found, "target", [&] {
    const std::unique_ptr<target::Cloud> cloud = connect_target(around, stop);
    ask(found, "target", [&] { cloud->check_settings(stop); });
    if (!vm) return;
    for (Finding& finding : cloud->examine(arrival_of(*vm, options), stop)) found.push_back(std::move(finding));
  });
  show(found, options.json);
  for (const Finding& finding : found)
    if (finding.level == Level::problem) return exit_with_problems;
  return 0;
}

}  // namespace vmferry::app
