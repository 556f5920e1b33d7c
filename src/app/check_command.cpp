// check: everything that a migration would stumble over, found without changing anything.
#include <fmt/format.h>

#include <optional>
#include <set>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "app/findings.hpp"
#include "base/error.hpp"
#include "http/http.hpp"
#include "plan/finding.hpp"
#include "plan/plan.hpp"
#include "store/store.hpp"
#include "vsphere/inventory.hpp"
#include "vsphere/privileges.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::app {

namespace {

using plan::Finding;
using plan::Level;

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
  check_reading(around, {options.vmware.transport == "file" ? "file" : "curl"}, found, stop);
  check_space(around, options.cutover.convert && wish_of(options).cutover, found);
  std::optional<model::Vm> vm;
  std::map<std::string, std::string> labels;
  ask(found, options.vmware.endpoint, [&] {
    VmwareSide vmware = connect_vmware(around, stop);
    ask(found, options.vmware.path, [&] { vm = check_machine(around, vmware, found, stop); });
    if (vm && options.openstack.labels)
      ask(found, "tags of " + vm->name, [&] { labels = server_labels(around, vmware, vm->id, stop); });
  });
  ask(found, "target", [&] {
    const std::unique_ptr<target::Cloud> cloud = connect_target(around, labels, stop);
    ask(found, "target", [&] { cloud->check_settings(stop); });
    if (!vm) return;
    for (Finding& finding : cloud->examine(arrival_of(*vm, options), stop)) found.push_back(std::move(finding));
  });
  return show(found, options.json);
}

}  // namespace vmferry::app
