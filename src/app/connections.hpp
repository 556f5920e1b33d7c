// The composition root of a run: which adapters stand behind the job's seams. The only code, with connections.cpp, that
// names concrete adapters together.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/clock.hpp"
#include "config/options.hpp"
#include "convert/converter.hpp"
#include "copy/permits.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "openstack/cloud.hpp"
#include "process/process.hpp"
#include "source/machine.hpp"
#include "target/cloud.hpp"
#include "vsphere/session.hpp"

namespace vmferry::app {

// Where a run keeps its things.
struct Places {
  std::filesystem::path state;
  std::filesystem::path logs() const { return state / "logs"; }
  std::filesystem::path locks() const { return state / "locks"; }
  // What all runs share.
  std::filesystem::path limits() const { return state / "limits"; }
  // Downloads of --transport export.
  std::filesystem::path spool() const { return state / "spool"; }
  // Overlays of conversions, one folder a job.
  std::filesystem::path conversion(const JobId& job) const { return state / "convert" / job.value; }
  // What was written to each disk of a job.
  std::filesystem::path digests(const JobId& job) const { return state / "digests" / job.value; }
  // A page and a JSON file for each job.
  std::filesystem::path evidence() const { return state / "evidence"; }
  // Where --attach brick mounts volumes, and the locks that os-brick takes: of this machine, whatever the state folder.
  // Not below a folder that somebody might remove with all that is in it: a mount has everybody's volumes.
  static std::filesystem::path mounts() { return "/run/vmferry/mounts"; }
  static std::filesystem::path brick_locks() { return "/run/vmferry/brick-locks"; }
  // For sockets: short (107 bytes are all a socket's path may have), 0700, of this process alone.
  std::filesystem::path run;
};

// vmferry.log, of commands that work on no one machine; on the terminal too with --debug.
log::Log common_log(const Places& places, const config::Options& options);

struct Surroundings {
  const config::Options& options;
  const Places& places;
  Clock& clock;
  process::Runner& runner;
  log::Log& log;
};

// How the certificate of the vSphere endpoint is judged.
http::Trust vmware_trust(const config::Vmware& vmware);

// Of this machine; empty when it has none.
std::string host_name();

// HOST:PORT, 443 where the endpoint names no port.
std::string with_port(const std::string& endpoint);

// The password from wherever it was given: command line, environment, file, prompt.
Secret vmware_password(const config::Options& options, log::Log& log);

// A logged-in session and what it needs.
struct VmwareSide {
  std::unique_ptr<http::Transport> transport;
  std::unique_ptr<vsphere::Session> session;
  vsphere::SessionOptions login;
  std::string source() const;  // "vcenter 4f1b..." or "esxi ...": names the endpoint in the journal
};
VmwareSide connect_vmware(const Surroundings& around, std::stop_token stop);

// More metadata of the server, asked for when there is need of it.
using Labels = std::function<std::map<std::string, std::string>(std::stop_token stop)>;

// What people wrote on the machine, as metadata of its server. Tags come through a connection of their own that is not
// recorded: a session's id is in the text of its login.
std::map<std::string, std::string> server_labels(const Surroundings& around, VmwareSide& vmware, const model::VmId& vm,
                                                 std::stop_token stop);

// Logged in to the cloud of the flags and the environment.
std::unique_ptr<openstack::Cloud> connect_cloud(const Surroundings& around, std::stop_token stop);
// The transport to the metadata service: no proxy, and `patience` to connect.
std::unique_ptr<http::Transport> metadata_transport(const Surroundings& around, std::chrono::milliseconds patience);

// `labels`: what the flags say wins; may be empty.
std::unique_ptr<target::Cloud> connect_target(const Surroundings& around, const Labels& labels, std::stop_token stop);

// `read_before` and `permits`: see run_transport().
std::unique_ptr<source::Machine> open_machine(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                              std::map<model::DiskKey, std::string> read_before,
                                              std::shared_ptr<copy::Permits> permits, std::stop_token stop);

std::unique_ptr<convert::Converter> make_converter(const Surroundings& around, const JobId& job);

}  // namespace vmferry::app
