// check: everything that a migration would stumble over, found without changing anything.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "app/earlier_runs.hpp"
#include "app/findings.hpp"
#include "app/transports.hpp"
#include "app/ways_to_read.hpp"
#include "base/error.hpp"
#include "http/http.hpp"
#include "job/itinerary.hpp"
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
  wish.exports = options.vmware.transports == std::vector<std::string>{"export"};
  wish.hotadd = !options.vmware.proxy_vm.empty() || options.vmware.transports == std::vector<std::string>{"hotadd"};
  wish.https = options.vmware.may_read_by("https") && options.vmware.proxy_vm.empty();
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
  if (needed.on_datacenter.empty()) return;
  ask(found, vm.name, [&] {
    const auto [datacenter, path] = vsphere::datacenter_of(*vmware.session, vm.id, stop);
    check_privileges(*vmware.session, datacenter, "datacenter " + path, needed.on_datacenter, found, stop);
    for (const auto& [datastore, name] : vsphere::datastores_of(*vmware.session, vm.id, stop))
      check_privileges(*vmware.session, datastore, "datastore " + name, needed.on_datacenter, found, stop);
  });
}

// Where disks would be attached, and what is needed there.
void check_proxy(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, const plan::Privileges& needed,
                 std::vector<Finding>& found, std::stop_token stop) {
  ask(found, "proxy", [&] {
    const source::vmware::Proxy proxy = examine_proxy(around, vmware, vm, stop);
    if (!proxy.tells_uuids)
      found.push_back({Level::note, proxy.name,
                       "disk.EnableUUID is not set there, so disks are found by their controller's place alone",
                       "set it to TRUE while the proxy is off"});
    if (vmware.session->content().is_vcenter)
      check_privileges(*vmware.session, vsphere::vm_ref(proxy.vm), proxy.name, needed.on_proxy, found, stop);
  });
}

// VDDK connects to the host itself (port 902); the other transports do not.
void check_ports(const model::Vm& vm, bool vddk, std::vector<Finding>& found) {
  constexpr int nfc = 902;
  // vCenter knows its hosts by full name or address; a bare name was given for show, or resolves nowhere but there.
  if (vm.host.find_first_of(".:") == std::string::npos) return;
  if (const auto why = http::unreachable(vm.host, nfc, std::chrono::seconds(3)))
    found.push_back({vddk ? Level::warning : Level::note, vm.host,
                     fmt::format("its port {} cannot be reached from here ({})", nfc, *why),
                     vddk ? "VDDK reads disks from there: open it in the firewalls between"
                          : "needed only where disks are read with VMware's VDDK"});
}

// A way that was asked for by name must be open; of the others those that are open are told of. True: VDDK is, which
// reads also a disk that lies above somebody's snapshot, whose chain of files must be read as one.
bool check_transports_here(const Surroundings& around, std::vector<Finding>& found, std::stop_token stop) {
  const config::Vmware& wish = around.options.vmware;
  const bool any = wish.transports.empty();
  std::vector<std::string> plugins;  // nbdkit's; an export is served by qemu-nbd
  for (const auto& [transport, needed] : std::vector<std::pair<const char*, std::vector<std::string>>>{
           {"https", {"curl"}}, {"file", {"file", "split"}}, {"ssh", {"ssh"}}})
    if (any ? transport == std::string("https") : wish.may_read_by(transport))
      plugins.insert(plugins.end(), needed.begin(), needed.end());
  // Behind ssh the proxy's own nbdkit serves its devices.
  if (wish.may_read_by("hotadd") && (!any || !wish.proxy_vm.empty()) && wish.proxy_ssh.empty())
    plugins.emplace_back("file");
  check_reading(around, plugins, found, stop);
  if (!wish.may_read_by("vddk")) return false;
  std::vector<Finding> vddk;
  bool usable = false;
  ask(vddk, "this host", [&] {
    const std::string plugin = source::vmware::usable_plugin(vddk_of(wish), around.runner, stop);
    found.push_back(
        {Level::note, "this host", fmt::format("disks can be read with VDDK by nbdkit's plugin {}", plugin), ""});
    usable = true;
  });
  if (!any) found.insert(found.end(), vddk.begin(), vddk.end());
  return usable;
}

// Flags that name something of the machine.
void check_names(const model::Vm& vm, const config::Options& options, std::vector<Finding>& found) {
  const auto known = [&](model::DiskKey key, const char* flag) {
    ask(found, vm.name, [&] { job::refuse_unknown_disk(vm, key, flag); });
  };
  for (const model::DiskKey& key : options.copy.skip) known(key, "--skip-disk");
  for (const auto& [key, existing] : options.openstack.existing_volumes) known(key, "--existing-volume");
  std::set<std::string> datastores;
  for (const auto& [datastore, type] : options.openstack.volume_types) datastores.insert(datastore);
  for (Finding& finding : plan::judge_datastores(vm, "--volume-type-mapping", datastores))
    found.push_back(std::move(finding));
}

struct Subject {
  model::Vm vm;
  JobId job;            // that a migrate would go on with
  std::string vm_name;  // that its volumes are named by
};

// What shall come to the other side, as far as the flags say.
target::Arrival arrival_of(const Subject& subject, const config::Options& options) {
  const model::Vm& vm = subject.vm;
  target::Arrival arrival;
  arrival.job = subject.job;
  arrival.vm = vm;
  arrival.only_asked = true;
  for (const model::Disk& disk : vm.disks)
    if (!options.copy.skip.contains(disk.key))
      arrival.volumes.push_back(
          {{subject.job, vm.id, subject.vm_name, disk.key, plan::volume_name(subject.vm_name, to_string(disk.key))},
           disk.capacity,
           false,
           {},
           plan::datastore_of(disk.file)});
  arrival.ports = options.cutover.networks;
  arrival.server = true;
  return arrival;
}

Subject check_machine(const Surroundings& around, VmwareSide& vmware, const std::string& target, bool vddk,
                      std::vector<Finding>& found, std::stop_token stop) {
  const config::Options& options = around.options;
  plan::Wish wish = wish_of(options);
  wish.reads_flat_files = !wish.exports && !wish.hotadd && !vddk;
  const model::Vm vm =
      vsphere::describe(*vmware.session, vsphere::find(*vmware.session, options.vmware.path, stop), stop);
  EarlierRuns earlier;
  ask(found, around.places.state.string(), [&] { earlier = earlier_runs(around, vmware.source(), vm, target); });
  wish.leaving = earlier.leaving;
  for (Finding& finding : earlier.findings) found.push_back(std::move(finding));
  for (Finding& finding : plan::judge_machine(vm, wish)) found.push_back(std::move(finding));
  check_names(vm, options, found);
  for (Finding& finding : judge_ways_to_read(around, vmware, vm, stop)) found.push_back(std::move(finding));
  check_all_privileges(around, vmware, vm, plan::privileges(wish), found, stop);
  if (wish.hotadd) check_proxy(around, vmware, vm, plan::privileges(wish), found, stop);
  check_ports(vm, options.vmware.transports == std::vector<std::string>{"vddk"}, found);
  const Subject subject{vm, earlier.job, earlier.vm_name.empty() ? vm.name : earlier.vm_name};
  if (!wish.cutover) return subject;
  std::set<std::string> mapped;
  for (const target::NetworkChoice& choice : options.cutover.networks) mapped.insert(choice.mac);
  for (Finding& finding : plan::judge_nics(vm, mapped)) found.push_back(std::move(finding));
  if (options.cutover.convert)
    ask(found, "this host", [&] { make_converter(around, JobId{"check"})->check(vm, stop); });
  return subject;
}

// What is wrong with a setting comes up again in all that builds on it, and is said once.
void check_target(target::Cloud& cloud, const std::optional<Subject>& subject, const config::Options& options,
                  std::vector<Finding>& found, std::stop_token stop) {
  std::vector<Finding> settings;
  ask(settings, "target", [&] { settings = cloud.judge_settings(stop); });
  found.insert(found.end(), settings.begin(), settings.end());
  if (!subject) return;
  for (Finding& finding : cloud.examine(arrival_of(*subject, options), stop))
    if (std::none_of(settings.begin(), settings.end(), [&](const Finding& said) { return said.fact == finding.fact; }))
      found.push_back(std::move(finding));
}

// The whole role, as a person would make it with govc.
std::string role_commands(const config::Options& options) {
  plan::Wish everything;
  everything.cutover = true;
  everything.exports = !options.vmware.transports.empty() && options.vmware.may_read_by("export");
  everything.hotadd = !options.vmware.transports.empty() && options.vmware.may_read_by("hotadd");
  everything.https = options.vmware.may_read_by("https");
  const plan::Privileges needed = plan::privileges(everything);
  std::vector<std::string> role;
  for (const auto* list : {&needed.on_machine, &needed.on_datacenter, &needed.on_proxy})
    for (const std::string& privilege : *list)
      if (std::find(role.begin(), role.end(), privilege) == role.end()) role.push_back(privilege);
  std::string all;
  for (const std::string& privilege : role) all += " \\\n  " + privilege;
  return fmt::format(
      "# The role of a user who migrates with vmferry; see docs/permissions.md. Replace USER and /DC0.\n"
      "govc role.create vmferry{}\n"
      "govc permissions.set -principal USER -role vmferry -propagate=true /DC0\n",
      all);
}

}  // namespace

int run_check(const config::Options& options, Clock& clock, std::stop_token stop) {
  if (options.print_role) {
    print_out(role_commands(options));
    return 0;
  }
  if (options.try_transports) return check_transports(options, clock, stop);
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  std::vector<Finding> found;
  process::SystemRunner runner;
  log::Log log;
  const Surroundings around{options, places, clock, runner, log};
  const bool vddk = check_transports_here(around, found, stop);
  check_space(around, options.cutover.convert && wish_of(options).cutover, found);
  // First who the target is: a job is of a machine and a target. It asks for the labels when they are here.
  std::map<std::string, std::string> known_labels;
  Labels labels;
  if (options.openstack.labels) labels = [&](std::stop_token) { return known_labels; };
  std::unique_ptr<target::Cloud> cloud;
  ask(found, "target", [&] { cloud = connect_target(around, labels, stop); });
  std::optional<Subject> subject;
  ask(found, options.vmware.endpoint, [&] {
    VmwareSide vmware = connect_vmware(around, stop);
    const std::string target = cloud ? cloud->describe() : "";
    ask(found, options.vmware.path, [&] { subject = check_machine(around, vmware, target, vddk, found, stop); });
    if (subject && options.openstack.labels)
      ask(found, "tags of " + subject->vm.name,
          [&] { known_labels = server_labels(around, vmware, subject->vm.id, stop); });
  });
  if (cloud) ask(found, "target", [&] { check_target(*cloud, subject, options, found, stop); });
  return show(found, options.json);
}

}  // namespace vmferry::app
