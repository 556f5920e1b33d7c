// Puts transports together from flags and session.
#include "app/transports.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "app/console.hpp"
#include "base/error.hpp"
#include "source/vmware/hotadd_marks.hpp"
#include "source/vmware/vddk_transport.hpp"
#include "store/store.hpp"
#include "vsphere/inventory.hpp"

namespace vmferry::app {

namespace {

using source::vmware::Transport;

std::unique_ptr<Transport> https(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                 std::stop_token stop) {
  source::vmware::HttpsOptions options;
  options.endpoint = with_port(around.options.vmware.endpoint);
  options.datacenter = vsphere::datacenter_of(*vmware.session, vm.id, stop).path;
  options.trust = vmware_trust(around.options.vmware);
  options.cookie = [session = vmware.session.get()](bool renew, std::stop_token token) {
    return session->cookie(renew, token);
  };
  options.run_directory = around.places.run;
  return source::vmware::https_transport(std::move(options), around.runner, around.log);
}

std::unique_ptr<Transport> vddk(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                std::shared_ptr<copy::Permits> permits, std::stop_token stop) {
  const config::Vmware& wish = around.options.vmware;
  source::vmware::VddkOptions options;
  options.vddk = vddk_of(wish);
  options.endpoint = vmware.login.endpoint;
  options.user = vmware.login.username;
  options.password = vmware.login.password.share();
  options.trust = vmware_trust(wish);
  options.vm = vm.id.value;
  options.transports = wish.vddk_transports;
  options.compression = wish.compression;
  options.permits = std::move(permits);
  options.run_directory = around.places.run;
  return source::vmware::vddk_transport(std::move(options), around.runner, around.log, stop);
}

std::unique_ptr<Transport> ssh(const Surroundings& around, const model::Vm& vm) {
  const config::EsxiSsh& wish = around.options.vmware.esxi_ssh;
  // A login is tried when somebody wants it: failed ones lock root out of an ESXi host.
  if (around.options.vmware.transports.empty() && wish.password_file.empty() && wish.identity.empty())
    throw Error(Fault::config, "no login on the ESXi host was given (--esxi-ssh-key or --esxi-ssh-password-file)");
  source::vmware::SshOptions options;
  options.host = wish.host.empty() ? vm.host : wish.host;
  if (options.host.empty())
    throw Error(Fault::usage,
                fmt::format("vSphere does not say which host {} runs on: give --esxi-ssh-address HOST", vm.name));
  options.port = wish.port;
  options.user = wish.user;
  if (!wish.password_file.empty()) {
    if (readable_by_others(wish.password_file))
      print_err(fmt::format("warning: {} can be read by other users; chmod 600 it\n", wish.password_file.string()));
    options.password = read_secret_file(wish.password_file);
    around.log.redactor().add(options.password);
  }
  options.identity = wish.identity;
  options.known_hosts = wish.known_hosts;
  options.run_directory = around.places.run;
  return source::vmware::ssh_transport(std::move(options), around.runner, around.log);
}

source::vmware::ExportOptions exported(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm) {
  return {vmware.session.get(),
          vm.id,
          with_port(around.options.vmware.endpoint),
          vmware_trust(around.options.vmware),
          around.places.spool(),
          around.places.run};
}

void end_export(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, std::stop_token stop) {
  try {
    source::vmware::end_interrupted_export(exported(around, vmware, vm), around.log, std::move(stop));
  } catch (const Error& error) {
    around.log.warning("the export of a run that was interrupted could not be ended", {{"reason", error.what()}});
  }
}

source::vmware::HotaddOptions proxy_of(const Surroundings& around, const model::Vm& vm) {
  const config::Vmware& wish = around.options.vmware;
  source::vmware::HotaddOptions options;
  options.vm = vm.id;
  options.proxy = wish.proxy_vm;
  options.root = wish.proxy_root;
  if (!wish.proxy_ssh.empty())
    options.ssh = {wish.proxy_ssh, wish.proxy_ssh_port, wish.proxy_ssh_key, wish.proxy_ssh_known_hosts};
  options.host = host_name();
  options.run_directory = around.places.run;
  return options;
}

// For a run, which has the machine's lock: no other one works on the jobs that are known here.
source::vmware::HotaddOptions hotadd(const Surroundings& around, const VmwareSide& vmware, const model::Vm& vm) {
  source::vmware::HotaddOptions options = proxy_of(around, vm);
  options.jobs = jobs_of(around, vmware, vm);
  options.everything = around.options.verb == config::Verb::abort;
  return options;
}

}  // namespace

const std::vector<std::string>& transport_names() {
  static const std::vector<std::string> names{"hotadd", "file", "vddk", "https", "ssh", "export"};
  return names;
}

source::vmware::Vddk vddk_of(const config::Vmware& wish) {
  // Beside the program, as it was built or installed: bin/vmferry, lib/vmferry/nbdkit.
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path plugin = program.parent_path() / "../lib/vmferry/nbdkit/nbdkit-vddk-plugin.so";
  return {plugin.lexically_normal(), wish.vddk_libdir};
}

std::unique_ptr<Transport> make_transport(const std::string& name, const Surroundings& around, VmwareSide& vmware,
                                          const model::Vm& vm, std::shared_ptr<copy::Permits> permits,
                                          std::stop_token stop) {
  if (name == "file") {
    const config::Vmware& wish = around.options.vmware;
    if (wish.datastore_directory.empty() && wish.datastores.empty())
      throw Error(Fault::config, "no mounted datastore was named (--local-disk-path)");
    return source::vmware::file_transport({wish.datastore_directory, wish.datastores, around.places.run}, around.runner,
                                          around.log);
  }
  if (name == "hotadd") {
    // Of several: only if disks can be attached at all, which takes a question or two.
    if (around.options.vmware.transports.size() != 1) examine_proxy(around, vmware, vm, stop);
    return source::vmware::hotadd_transport(hotadd(around, vmware, vm), *vmware.session, around.runner, around.log);
  }
  if (name == "https") return https(around, vmware, vm, stop);
  if (name == "vddk") return vddk(around, vmware, vm, std::move(permits), stop);
  if (name == "ssh") return ssh(around, vm);
  if (name == "export")
    return source::vmware::export_transport(exported(around, vmware, vm), around.runner, around.log);
  throw Error(Fault::bug, fmt::format("there is no transport '{}'", name));
}

source::vmware::Proxy examine_proxy(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                    std::stop_token stop) {
  const source::vmware::HotaddOptions options = proxy_of(around, vm);
  const auto guest = source::vmware::guest_of(options, around.runner, around.log);
  return source::vmware::find_proxy(options, *guest, *vmware.session, stop);
}

JobId check_job(const Surroundings& around, const model::Vm& vm) {
  // By the moref, too, as the lock is: by its host's address the machine has another one, and another lock.
  return JobId{fmt::format("check-{}-{}-{}", vm.instance_uuid, vm.id.value,
                           store::Store(around.places.state, around.clock).id())};
}

std::vector<JobId> jobs_of(const Surroundings& around, const VmwareSide& vmware, const model::Vm& vm) {
  std::vector<JobId> jobs{check_job(around, vm)};
  for (const store::JobRow& row : store::Store(around.places.state, around.clock).jobs())
    if (row.source == vmware.source() && row.vm == vm.id) jobs.push_back(row.job);
  return jobs;
}

bool let_go_of_attached(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, std::stop_token stop) {
  if (source::vmware::marked_proxies(vsphere::configuration(*vmware.session, vm.id, stop)).empty()) return false;
  source::vmware::hotadd_transport(hotadd(around, vmware, vm), *vmware.session, around.runner, around.log)
      ->let_go(stop);
  return true;
}

void refuse_attached_by_others(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                               std::stop_token stop) {
  source::vmware::refuse_attached_by_others(hotadd(around, vmware, vm), *vmware.session, stop);
}

std::vector<source::vmware::Candidate> transport_candidates(const Surroundings& around, VmwareSide& vmware,
                                                            const model::Vm& vm, std::shared_ptr<copy::Permits> permits,
                                                            std::stop_token stop) {
  const std::vector<std::string>& wanted = around.options.vmware.transports;
  std::vector<source::vmware::Candidate> candidates;
  for (const std::string& name : wanted.empty() ? transport_names() : wanted) {
    source::vmware::Candidate candidate{name, nullptr, ""};
    try {
      candidate.transport = make_transport(name, around, vmware, vm, permits, stop);
    } catch (const Error& error) {
      if (wanted.size() == 1) throw;
      candidate.absent = error.what();
    }
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

std::unique_ptr<Transport> run_transport(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                         std::map<model::DiskKey, std::string> before,
                                         std::shared_ptr<copy::Permits> permits, std::stop_token stop) {
  end_export(around, vmware, vm, stop);
  source::vmware::AutoOptions options;
  options.candidates = transport_candidates(around, vmware, vm, permits, stop);
  options.before = std::move(before);
  options.measure = around.options.vmware.transports.empty();
  options.trial.permits = std::move(permits);
  options.trial.connections = around.options.copy.tuning.connections;
  const bool attaches = std::any_of(options.candidates.begin(), options.candidates.end(),
                                    [](const auto& one) { return one.name == "hotadd" && one.transport; });
  auto chosen = source::vmware::auto_transport(std::move(options), around.clock, around.log);
  if (attaches) return chosen;
  return source::vmware::letting_go_of_attached(std::move(chosen), hotadd(around, vmware, vm), *vmware.session,
                                                around.runner, around.log);
}

std::unique_ptr<Transport> idle_transport(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                          std::stop_token stop) {
  end_export(around, vmware, vm, std::move(stop));
  return source::vmware::hotadd_transport(hotadd(around, vmware, vm), *vmware.session, around.runner, around.log);
}

}  // namespace vmferry::app
