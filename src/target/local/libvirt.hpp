// A libvirt, reached through virsh: the domain is defined and started there. Knows nothing of images or jobs' states.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "model/vm.hpp"
#include "plan/finding.hpp"
#include "process/process.hpp"

namespace vmferry::target::local {

class Libvirt {
 public:
  // `uri`: as virsh -c takes it ("qemu:///system"). `environment`: see libvirt_environment().
  Libvirt(std::string uri, std::map<std::string, std::string> environment, process::Runner& runner);

  // Error(tool) when virsh is missing, Error(unavailable) when that libvirt does not answer.
  void check(std::stop_token stop) const;
  // Its machines run with the hardware's help.
  bool has_kvm(std::stop_token stop) const;
  // What would keep the domain from being defined and started: a foreign one of that name, networks and firmware that
  // are not there. `networks`: names of libvirt's own.
  std::vector<plan::Finding> judge(const std::string& name, const JobId& job, model::Firmware firmware,
                                   const std::vector<std::string>& networks, std::stop_token stop) const;
  // Defines the domain of `file` and starts it, unless it runs already. May be repeated. Error(conflict) when a domain
  // of that name is not of `job`; Error(unavailable) with libvirt's words when it refuses. Blocks until it runs.
  void ensure_running(const std::string& name, const std::filesystem::path& file, const JobId& job,
                      std::stop_token stop) const;

 private:
  process::Output ask(const std::vector<std::string>& args, std::stop_token stop) const;
  // As `ask`, but a refusal is an Error that says `doing`.
  std::string demand(const std::string& doing, const std::vector<std::string>& args, std::stop_token stop) const;
  // Domains are called by UUID: virsh takes a name that is a number for an id.
  std::optional<std::string> uuid_of(const std::string& name, std::stop_token stop) const;
  std::optional<std::string> stranger(const std::string& name, const JobId& job, std::stop_token stop) const;

  std::string uri_;
  std::map<std::string, std::string> environment_;
  process::Runner& runner_;
};

// What virsh needs of ours to find a user's own libvirt, or a remote one by ssh.
std::map<std::string, std::string> libvirt_environment(const std::map<std::string, std::string>& ours);

}  // namespace vmferry::target::local
