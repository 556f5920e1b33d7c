// The flags of every command but `host`, by subject: what CLI11 is told, and what becomes of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/options.hpp"

namespace CLI {
class App;
}

namespace vmferry::config {

// What CLI11 cannot hold in our types, until it is turned into them.
struct Raw {
  std::string password;
  std::vector<std::string> transports;
  std::string quiesce = "auto";
  std::vector<std::int32_t> skip_disks;
  std::vector<std::string> networks;
  std::vector<std::string> allowed_flavors;
  std::vector<std::string> volume_types;
  std::vector<std::string> local_disk_paths;
  std::string esxi_ssh_address;
  std::vector<std::string> existing_volumes;
  std::vector<std::string> server_metadata;
  std::string request_size;
  std::string bandwidth;
  std::string host_bandwidth;
  std::string esxi_in_flight;
  int shutdown_timeout = 300;
  double sample = 100;
  double audit = 0.5;
  std::string volume_bus;
  std::string proxy_ssh;
};

// What stands in the help above the flags.
inline const std::string connection_group = "VMware", target_group = "Target", copy_group = "Copy",
                         reading_group = "Reading disks", cutover_group = "Cutover", general_group = "General";

void add_general(CLI::App& app, Options& options);
void add_vmware(CLI::App& app, Options& options, Raw& raw);
// Which cloud and project; `project` says what for.
void add_cloud(CLI::App& app, Options& options, const std::string& group, const std::string& project);
void add_target(CLI::App& app, Options& options, Raw& raw);
void add_copy(CLI::App& app, Options& options, Raw& raw);
void add_limits(CLI::App& app, Options& options, Raw& raw);
void add_cutover(CLI::App& app, Options& options, Raw& raw);
void add_evidence(CLI::App& app, Options& options);
void add_chosen_job(CLI::App& app, Options& options);  // evidence, heat-template

// Turns the texts into our types. Error(usage) naming the flag and what is wrong.
void finish(Options& options, Raw& raw);

// Empty when it is HOST or HOST:PORT. For CLI11: with a host that is none, libcurl would name neither flag nor value.
std::string what_is_wrong_with_endpoint(const std::string& endpoint);
// Bytes a second, or "none". Error(usage).
std::uint64_t parse_rate(const char* flag, const std::string& text);

}  // namespace vmferry::config
