// The command line and its environment as typed structs. CLI11 stays in options.cpp; nothing here talks to anybody.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/secret.hpp"
#include "job/itinerary.hpp"
#include "plan/flavor.hpp"

namespace vmferry::config {

enum class Verb {
  none,
  migrate,
  cutover,
  verify,
  check,
  status,
  abort,
  host,
  inventory,
  limits,
  evidence,
  heat_template,
  lab,
  completion,
  version
};

// How --transport ssh logs in to an ESXi host.
struct EsxiSsh {
  std::string host;  // empty: as vSphere names the host
  int port = 22;
  std::string user = "root";
  std::filesystem::path password_file;
  std::filesystem::path identity;
  std::filesystem::path known_hosts;
};

struct Vmware {
  std::string endpoint;  // host[:port]
  std::string username;
  Secret password;  // from the command line (wiped there); see password_file and the environment
  bool password_on_command_line = false;
  std::filesystem::path password_file;
  std::string path;  // --vmware-path: inventory path, moref, UUID or name; for inventory a filter
  std::filesystem::path ca_file;
  std::string fingerprint;  // SHA-256 of the certificate
  bool insecure = false;
  std::vector<std::string> transports;                      // to read disks by, in this order; empty: the best
  std::filesystem::path datastore_directory;                // for "file": of datastores that have none of their own
  std::map<std::string, std::filesystem::path> datastores;  // for "file", by name
  EsxiSsh esxi_ssh;                                         // for "ssh"
  std::filesystem::path vddk_libdir;                        // for "vddk": where VMware's library is
  std::string vddk_transports;                              // for "vddk": VDDK's own modes, "nbdssl:nbd"
  std::string proxy_vm;                                     // for "hotadd"; empty = this host
  std::filesystem::path proxy_root = "/";                   // what stands for / when its devices are looked for
  std::string proxy_ssh;                                    // USER@HOST of a proxy that is not this host
  int proxy_ssh_port = 22;
  std::filesystem::path proxy_ssh_key;
  std::filesystem::path proxy_ssh_known_hosts;
  std::string compression;  // only VDDK compresses
  // Whether --transport allows that one.
  bool may_read_by(const std::string& name) const;
};

// One --existing-volume: see openstack::ExistingVolume.
struct ExistingVolume {
  std::string host;
  std::string key;
  std::string reference;
};

struct OpenStack {
  std::string cloud;                   // --os-cloud
  std::string project;                 // overrides the project
  std::string attach = "nova";         // or "brick"
  std::string storage_address;         // with brick: of this host, for the storage
  std::filesystem::path brick_python;  // with brick
  std::string instance_id;
  std::string metadata_url;
  std::filesystem::path device_directory;
  std::string device_identity;  // "sysfs", or a folder of identity files
  std::string availability_zone;
  std::string volume_availability_zone;
  std::string volume_type;
  std::map<std::string, std::string> volume_types;  // by datastore
  std::map<model::DiskKey, ExistingVolume> existing_volumes;
  std::vector<std::string> security_groups;
  std::set<plan::Reserved> allowed_flavors;
  bool create_flavor = false;
  bool any_address = false;  // --fallback-to-dhcp
  std::string key_pair;
  std::filesystem::path user_data;
  bool config_drive = false;
  std::string server_group;
  std::string server_host;
  std::vector<std::string> server_tags;
  std::map<std::string, std::string> server_metadata;
  bool labels = false;  // --vmware-labels
  bool trust_change_id = false;
  bool adopt_osm = false;
  bool volume_by_name = false;  // --vz-unsafe-volume-by-name
};

// What `vmferry limits` shall change; nothing = leave it.
struct LimitWishes {
  std::optional<std::uint64_t> host_bandwidth;  // bytes a second, 0 = none
  std::optional<std::uint32_t> esxi_connections;
  std::optional<std::uint64_t> esxi_in_flight;  // bytes
  std::string vm;                               // whose run Options::bandwidth is for
};

// `vmferry host`.
struct Host {
  std::string action;  // "deploy", "check", "destroy"
  std::string name = "vmferry-host";
  std::string image, flavor, network;  // ids or names
  std::string key_pair;
  std::filesystem::path public_key;
  std::vector<std::string> ssh_from;  // prefixes; empty = not given
  std::string floating_network;
  std::filesystem::path user_data;
  bool config_drive = false;
  std::string boot_volume;  // as it was given; then as what it means
  std::uint64_t boot_volume_gib = 0;
  std::string boot_volume_type;
  int ssh_port = 22;
  std::string ssh_address;
  bool no_wait_ssh = false;
  int ssh_timeout = 600;
  bool yes = false;
};

struct Options {
  Verb verb = Verb::none;
  bool debug = false;
  bool json = false;
  std::filesystem::path state_directory;
  std::filesystem::path record_directory;
  Vmware vmware;
  std::string target = "openstack";  // or "local:DIR", "image:DIR"
  bool to_openstack() const { return !target.starts_with("local:"); }
  std::string image_format = "qcow2";  // for image:DIR: or "raw"
  std::string image_upload = "auto";   // likewise: or "direct", "import"
  std::string libvirt;                 // for local:DIR, the URI of the libvirt that runs the machine; empty = none
  OpenStack openstack;
  job::CopyOptions copy;
  std::optional<std::uint64_t> bandwidth;  // of this run, bytes a second, 0 = none
  LimitWishes limits;
  Host host;
  std::string disk_bus = "virtio";
  std::string os_type;
  std::string os_distro;
  std::string vif_model;
  bool guest_agent = false;
  job::CutoverOptions cutover;
  job::VerifyOptions verify;
  bool delete_volumes = false;    // abort
  bool print_role = false;        // check
  bool try_transports = false;    // check transports
  bool watch = false;             // status
  bool all = false;               // status: aborted jobs too
  bool volumes = false;           // status: what lies in the cloud, instead
  std::string job;                // evidence, heat-template: its id, or how that begins
  std::filesystem::path out;      // evidence: the folder it goes to; empty = into the state folder
  bool again = false;             // migrate, cutover: after a finished cutover
  std::vector<std::string> rest;  // lab: its own arguments; completion: the shell
};

// What parsing ended in: options to act on, or a text to print (help) and the exit code.
struct Parsed {
  Options options;
  bool finished = false;
  int exit_code = 0;
  std::string text;  // for stdout, or stderr when exit_code != 0
};

// Reads the arguments; a password in them is overwritten in place (so that `ps` shows nothing) after it was taken.
Parsed parse(int argc, char** argv, const std::map<std::string, std::string>& environment);

// One --network-mapping: "mac=..,network-id=..[,subnet-id=..][,ip=..]...". Error(usage) naming what is wrong.
target::NetworkChoice parse_network_mapping(const std::string& text);

// "64M", "1GiB", "500k" as bytes. Error(usage).
std::uint64_t parse_size(const std::string& text);

// The completion script of "bash", "zsh" or "fish". Error(usage) for another shell.
std::string completion(const std::string& shell);

}  // namespace vmferry::config
