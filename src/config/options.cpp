// The flags. migratekit's names and meanings are kept; ours come beside them. Every subcommand that needs a vCenter
// takes the same flags, so that a command line can be edited from "migrate" to "cutover".
#include "config/options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <regex>

#include "base/error.hpp"
#include "config/host_options.hpp"
#include "plan/plan.hpp"

namespace vmferry::config {

namespace {

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// What CLI11 cannot hold in our types, until it is turned into them.
struct Raw {
  std::string password;
  std::string quiesce = "auto";
  std::vector<std::int32_t> skip_disks;
  std::vector<std::string> networks;
  std::vector<std::string> allowed_flavors;
  std::vector<std::string> volume_types;
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
};

const std::string connection_group = "VMware";
const std::string target_group = "Target";
const std::string copy_group = "Copy";
const std::string cutover_group = "Cutover";
const std::string general_group = "General";

void add_general(CLI::App& app, Options& o) {
  app.add_flag("--debug", o.debug, "Log every call, and show the log on the terminal")->group(general_group);
  app.add_option(
         "--state-dir", o.state_directory,
         "Where jobs, logs and sockets are kept (default /var/lib/vmferry for root, else ~/.local/state/vmferry)")
      ->type_name("DIR")
      ->group(general_group);
  app.add_flag("--json", o.json, "Print events (or tables) as JSON, one object a line")->group(general_group);
}

void add_vmware(CLI::App& app, Options& o, Raw& raw) {
  app.add_option("--vmware-endpoint", o.vmware.endpoint, "vCenter or ESXi host, HOST[:PORT]")
      ->type_name("HOST")
      ->group(connection_group);
  app.add_option("--vmware-username", o.vmware.username, "User, e.g. administrator@vsphere.local")
      ->type_name("USER")
      ->group(connection_group);
  app.add_option(
         "--vmware-password", raw.password,
         "Password; better by --vmware-password-file, VMFERRY_VMWARE_PASSWORD or the prompt, since other users see command lines")
      ->type_name("PASSWORD")
      ->group(connection_group);
  app.add_option("--vmware-password-file", o.vmware.password_file, "File whose first line is the password (mode 0600)")
      ->type_name("FILE")
      ->group(connection_group);
  app.add_option(
         "--vmware-path", o.vmware.path,
         "The VM: inventory path (/DC/vm/NAME), moref (vm-42), UUID or unique name; inventory lists what contains it")
      ->type_name("VM")
      ->group(connection_group);
  app.add_option("--vmware-ca", o.vmware.ca_file, "CA certificates (PEM) that vouch for the endpoint")
      ->type_name("FILE")
      ->group(connection_group);
  app.add_option("--vmware-fingerprint", o.vmware.fingerprint, "Accept exactly the certificate with this SHA-256")
      ->type_name("AA:BB:..")
      ->group(connection_group);
  app.add_flag("--vmware-insecure", o.vmware.insecure,
               "Accept any certificate: anybody in between can read the password")
      ->group(connection_group);
  app.add_option("--record", o.record_directory,
                 "Store every exchange with vSphere and OpenStack, redacted, in this folder")
      ->type_name("DIR")
      ->group(general_group);
}

void add_target(CLI::App& app, Options& o, Raw& raw) {
  app.add_option("--target", o.target,
                 "Where to: openstack (the default); image:DIR (OpenStack without a conversion host: disks are kept in "
                 "DIR and uploaded as images in the downtime); or local:DIR (raw images and a libvirt domain)")
      ->type_name("TARGET")
      ->group(target_group);
  app.add_option("--libvirt", o.libvirt,
                 "With local:DIR: define and start the domain in this libvirt, e.g. qemu:///system (else only its XML "
                 "is written)")
      ->type_name("URI")
      ->group(target_group);
  app.add_option("--image-format", o.image_format,
                 "With image:DIR: send disks as qcow2 (the default: what they hold) or raw (all of them, with zeroes)")
      ->check(CLI::IsMember({"qcow2", "raw"}).description(""))
      ->type_name("qcow2|raw")
      ->group(target_group);
  app.add_option("--image-upload", o.image_upload,
                 "With image:DIR: direct (PUT), import (stage and import), or auto: import where the cloud offers it")
      ->check(CLI::IsMember({"auto", "direct", "import"}).description(""))
      ->type_name("auto|direct|import")
      ->group(target_group);
  app.add_option("--os-cloud", o.openstack.cloud, "Cloud of clouds.yaml (else OS_CLOUD, else the OS_* variables)")
      ->type_name("NAME")
      ->group(target_group);
  app.add_option("--project", o.openstack.project, "OpenStack project, name or id, to migrate into")
      ->type_name("PROJECT")
      ->group(target_group);
  app.add_option("--attach", o.openstack.attach,
                 "How volumes come to this host: nova (an instance of the cloud, the default) or brick (any host that "
                 "reaches the storage, by os-brick)")
      ->check(CLI::IsMember({"nova", "brick"}).description(""))
      ->type_name("nova|brick")
      ->group(target_group);
  app.add_option("--storage-address", o.openstack.storage_address,
                 "With --attach brick: this host's address for the storage (default: the one towards Cinder)")
      ->type_name("ADDRESS")
      ->group(target_group);
  app.add_option("--brick-python", o.openstack.brick_python,
                 "With --attach brick: a Python that has os-brick (default /usr/bin/python3)")
      ->type_name("FILE")
      ->group(target_group);
  app.add_option("--instance-id", o.openstack.instance_id,
                 "This conversion host's own instance id (default: by metadata service, config drive or firmware)")
      ->type_name("UUID")
      ->group(target_group);
  app.add_option("--metadata-url", o.openstack.metadata_url, "Nova's metadata service")
      ->type_name("URL")
      ->group(target_group);
  app.add_option("--device-dir", o.openstack.device_directory,
                 "Where attached volumes appear by id (default /dev/disk/by-id)")
      ->type_name("DIR")
      ->group(target_group);
  app.add_option("--device-identity", o.openstack.device_identity,
                 "Who tells a device's serial: sysfs, or a folder of identity files (the lab's)")
      ->type_name("sysfs|DIR")
      ->group(target_group);
  app.add_option("--availability-zone", o.openstack.availability_zone,
                 "Availability zone of the server, and of the volumes unless they have their own")
      ->type_name("AZ")
      ->group(target_group);
  app.add_option("--volume-availability-zone", o.openstack.volume_availability_zone, "Availability zone of the volumes")
      ->type_name("AZ")
      ->group(target_group);
  app.add_option("--volume-type", o.openstack.volume_type, "Volume type")->type_name("TYPE")->group(target_group);
  app.add_option(
         "--volume-type-mapping", raw.volume_types,
         "Volume type of the disks on one datastore, DATASTORE=TYPE (may be repeated); others get --volume-type")
      ->type_name("MAPPING")
      ->group(target_group);
  app.add_option("--existing-volume", raw.existing_volumes,
                 "disk=KEY,host=HOST@BACKEND#POOL,source-name=NAME (or source-id=ID): use what the storage has already "
                 "as the volume of this disk (may be repeated; usually only administrators may)")
      ->type_name("VOLUME")
      ->group(target_group);
  app.add_option("--disk-bus-type", o.disk_bus, "Bus of the new server's disks (default virtio)")
      ->check(CLI::IsMember({"virtio", "scsi"}, CLI::ignore_case).description(""))
      ->type_name("virtio|scsi")
      ->group(target_group);
  app.add_option("--os-type", o.os_type, "os_type image property: a value, or auto (by VMware's guest id)")
      ->type_name("TYPE")
      ->group(target_group);
  app.add_option("--os-distro", o.os_distro, "os_distro image property: a value, or auto (by VMware's guest id)")
      ->type_name("NAME")
      ->group(target_group);
  app.add_option(
         "--vif-model", o.vif_model,
         "Model of the new server's network adapters: virtio, e1000, e1000e, vmxnet3, pcnet, rtl8139, ne2k_pci, "
         "or source: as they are in VMware (default: the cloud's, usually virtio)")
      ->check(CLI::IsMember({"virtio", "e1000", "e1000e", "vmxnet3", "pcnet", "rtl8139", "ne2k_pci", "source"})
                  .description(""))
      ->type_name("MODEL")
      ->group(target_group);
  app.add_flag("--enable-qemu-guest-agent", o.guest_agent, "Set hw_qemu_guest_agent=yes on the boot volume")
      ->group(target_group);
  app.add_flag(
         "--trust-change-id", o.openstack.trust_change_id,
         "Go on from migratekit's change ids without copying all once; wrong when a conversion has touched a volume")
      ->group(target_group);
  app.add_flag("--adopt-osm-volumes", o.openstack.adopt_osm,
               "Take over vmware-migration-kit's volumes; they are known by the VM's name alone")
      ->group(target_group);
  app.add_flag("--vz-unsafe-volume-by-name", o.openstack.volume_by_name,
               "Find volumes by name alone, for clouds that drop metadata; dangerous when names repeat")
      ->group(target_group);
}

void add_copy(CLI::App& app, Options& o, Raw& raw) {
  app.add_option("--transport", o.vmware.transport,
                 "How disks are read: https (datastore browser, the default) or file (a mounted datastore)")
      ->check(CLI::IsMember({"https", "file"}).description(""))
      ->type_name("https|file")
      ->group(copy_group);
  app.add_option("--datastore-dir", o.vmware.datastore_directory, "Mount point of the datastore, for --transport file")
      ->type_name("DIR")
      ->group(copy_group);
  app.add_option("--quiesce", raw.quiesce, "File systems at rest in the snapshot: auto (the default), always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}).description(""))
      ->type_name("WHEN")
      ->group(copy_group);
  app.add_option("--skip-disk", raw.skip_disks, "Leave out the disk with this key (may be repeated)")
      ->type_name("KEY")
      ->group(copy_group);
  app.add_flag("--no-cbt", o.copy.no_tracking, "Do without changed block tracking: every cycle copies everything")
      ->group(copy_group);
  app.add_option("--connections", o.copy.tuning.connections, "Connections per disk, 1 to 16 (default 4)")
      ->check(CLI::Range(1, 16).description(""))
      ->type_name("N")
      ->group(copy_group);
  app.add_option("--request-size", raw.request_size, "Largest single read, at most 2M through vCenter")
      ->type_name("SIZE")
      ->group(copy_group);
  app.add_option("--bandwidth", raw.bandwidth,
                 "Read at most so much a second, all disks of the VM together, e.g. 50M (see also vmferry limits)")
      ->type_name("SIZE")
      ->group(copy_group);
  app.add_option("--compression-method", o.vmware.compression,
                 "none, zlib, fastlz or skipz; only a VDDK transport compresses, others ignore it")
      ->check(CLI::IsMember({"none", "zlib", "fastlz", "skipz"}, CLI::ignore_case).description(""))
      ->type_name("METHOD")
      ->group(copy_group);
}

void add_limits(CLI::App& app, Options& o, Raw& raw) {
  app.add_option("--host-bandwidth", raw.host_bandwidth, "Read at most so much a second, all runs together, or none")
      ->type_name("SIZE");
  app.add_option("--esxi-connections", o.limits.esxi_connections, "To each ESXi host, all runs together (default 16)")
      ->check(CLI::Range(1, 128).description(""))
      ->type_name("N");
  app.add_option("--esxi-in-flight", raw.esxi_in_flight,
                 "Bytes under way from each ESXi host, all runs together (default 48M)")
      ->type_name("SIZE");
  CLI::Option* vm = app.add_option("--vm", o.limits.vm, "A VM that is being migrated, by its name")->type_name("NAME");
  vm->needs(app.add_option("--bandwidth", raw.bandwidth, "Its run reads at most so much a second, or none")
                ->type_name("SIZE")
                ->needs(vm));
}

void add_cutover(CLI::App& app, Options& o, Raw& raw) {
  app.add_option("--flavor", o.cutover.flavor,
                 "Flavor of the new server, id or name; auto, the default: the smallest that holds the machine")
      ->type_name("FLAVOR")
      ->group(cutover_group);
  app.add_option("--allow-flavors", raw.allowed_flavors,
                 "With --flavor auto: choose also among flavors kept for special hardware or tenants: gpu, pinned, "
                 "huge-pages, bare-metal, private (comma separated)")
      ->delimiter(',')
      ->type_name("KINDS")
      ->group(cutover_group);
  app.add_flag("--create-flavor", o.openstack.create_flavor,
               "With --flavor auto: make a flavor when none holds the machine (usually only administrators may)")
      ->group(cutover_group);
  app.add_option("--network-mapping", raw.networks,
                 "mac=MAC,network-id=ID,subnet-id=ID[,ip=ADDRESS][,security-group=GROUP][,allowed-address=CIDR]"
                 "[,port-security=off]; one for each network adapter, what is in brackets several times if need be")
      ->type_name("MAPPING")
      ->group(cutover_group);
  app.add_flag("--fallback-to-dhcp", o.openstack.any_address,
               "Where an address of --network-mapping cannot be had, take any other of that network")
      ->group(cutover_group);
  app.add_option("--security-groups", o.openstack.security_groups, "Security groups of the ports, comma separated")
      ->delimiter(',')
      ->type_name("GROUPS")
      ->group(cutover_group);
  app.add_option("--key-pair", o.openstack.key_pair, "Nova's key pair for the new server's first boot")
      ->type_name("NAME")
      ->group(cutover_group);
  app.add_option("--user-data", o.openstack.user_data, "cloud-init's user data, at most 48 KiB")
      ->type_name("FILE")
      ->group(cutover_group);
  app.add_flag("--config-drive", o.openstack.config_drive, "Give the new server a config drive")->group(cutover_group);
  app.add_option("--server-group", o.openstack.server_group, "Server group of the new server, id or name")
      ->type_name("GROUP")
      ->group(cutover_group);
  app.add_option("--server-host", o.openstack.server_host, "Compute host of the new server; administrators only")
      ->type_name("HOST")
      ->group(cutover_group);
  app.add_option("--server-tag", o.openstack.server_tags, "Tag of the new server (may be repeated)")
      ->type_name("TAG")
      ->group(cutover_group);
  app.add_option("--server-metadata", raw.server_metadata, "Metadata of the new server, KEY=VALUE (may be repeated)")
      ->type_name("PAIR")
      ->group(cutover_group);
  app.add_flag("--vmware-labels", o.openstack.labels,
               "Give the new server the machine's VMware tags and custom attributes as metadata: vmware_tag_CATEGORY, "
               "vmware_attribute_NAME")
      ->group(cutover_group);
  app.add_option("--run-v2v", o.cutover.convert,
                 "Convert the guest for KVM with virt-v2v-in-place (the default); =false leaves it as it is")
      ->type_name("BOOL")
      ->group(cutover_group);
  app.add_option("--shutdown-timeout", raw.shutdown_timeout, "Seconds the guest may take to shut down (default 300)")
      ->check(CLI::Range(1, 86400).description(""))
      ->type_name("SECONDS")
      ->group(cutover_group);
  app.add_flag("--force-poweroff", o.cutover.force_power_off,
               "Power off hard when the guest does not shut down in time")
      ->group(cutover_group);
}

void add_evidence(CLI::App& app, Options& o) {
  app.add_option("--vmware-path", o.vmware.path,
                 "The VM: inventory path, moref, UUID or name, as the job knows it (not needed for the only job)")
      ->type_name("VM");
  app.add_option("--job", o.job, "The job instead: its id, or the beginning of it as `vmferry status --all` shows it")
      ->type_name("ID");
  app.add_option("--out", o.out, "Write both files to this folder")->type_name("DIR");
}

// Flags that a variable can stand in for. Done by hand: the subcommands share their fields, and CLI11 would apply the
// variables of every subcommand, the chosen one's flags notwithstanding.
struct Variable {
  const char* flag;
  const char* name;
  const char* unless = nullptr;  // a flag that makes it meaningless
};
constexpr Variable variables[] = {
    {"--state-dir", "VMFERRY_STATE_DIR"},
    {"--vmware-endpoint", "VMFERRY_VMWARE_ENDPOINT"},
    {"--vmware-username", "VMFERRY_VMWARE_USERNAME"},
    {"--vmware-password-file", "VMFERRY_VMWARE_PASSWORD_FILE"},
    {"--vmware-path", "VMFERRY_VMWARE_PATH"},
    {"--vmware-ca", "VMFERRY_VMWARE_CA", "--vmware-insecure"},
    {"--vmware-fingerprint", "VMFERRY_VMWARE_FINGERPRINT", "--vmware-insecure"},
    {"--attach", "VMFERRY_ATTACH"},
    {"--storage-address", "VMFERRY_STORAGE_ADDRESS"},
    {"--brick-python", "VMFERRY_BRICK_PYTHON"},
    {"--image-format", "VMFERRY_IMAGE_FORMAT"},
    {"--image-upload", "VMFERRY_IMAGE_UPLOAD"},
    {"--instance-id", "VMFERRY_INSTANCE_ID"},
    {"--metadata-url", "VMFERRY_METADATA_URL"},
    {"--device-dir", "VMFERRY_DEVICE_DIR"},
    {"--device-identity", "VMFERRY_DEVICE_IDENTITY"},
};

void apply_environment(CLI::App& sub, const std::map<std::string, std::string>& environment) {
  for (const Variable& variable : variables) {
    CLI::Option* option = sub.get_option_no_throw(variable.flag);
    const auto found = environment.find(variable.name);
    if (!option || option->count() > 0 || found == environment.end() || found->second.empty()) continue;
    if (variable.unless && sub.get_option(variable.unless)->count() > 0) continue;
    option->add_result(found->second);
    option->run_callback();
  }
}

void require(const CLI::App& sub, const char* flag) {
  if (sub.get_option(flag)->count() > 0) return;
  std::string or_variable;
  for (const Variable& variable : variables)
    if (std::string_view(variable.flag) == flag) or_variable = fmt::format(" (or the variable {})", variable.name);
  throw Error(Fault::usage, fmt::format("{} is missing{}; see vmferry {} --help", flag, or_variable, sub.get_name()));
}

// Bytes a second; 0: no limit.
std::uint64_t parse_rate(const char* flag, const std::string& text) {
  if (text == "none") return 0;
  const std::uint64_t bytes = parse_size(text);
  if (bytes < 64 * 1024)
    throw Error(Fault::usage, fmt::format("{} {}: give at least 64K (a second), or none", flag, text));
  return bytes;
}

std::uint64_t parse_in_flight(const std::string& text) {
  const std::uint64_t bytes = parse_size(text);
  if (bytes < (1 << 20) || bytes > (1 << 30))
    throw Error(Fault::usage, fmt::format("--esxi-in-flight {}: give 1M to 1G", text));
  return bytes;
}

void finish_flavors(Options& o, const Raw& raw) {
  for (const std::string& text : raw.allowed_flavors) {
    const auto kind = plan::parse_reserved(lower(text));
    if (!kind)
      throw Error(Fault::usage,
                  fmt::format("--allow-flavors {}: gpu, pinned, huge-pages, bare-metal and private are known", text));
    o.openstack.allowed_flavors.insert(*kind);
  }
  const bool named = !o.cutover.flavor.empty() && o.cutover.flavor != "auto";
  if (named && (o.openstack.create_flavor || !raw.allowed_flavors.empty()))
    throw Error(Fault::usage,
                fmt::format("--flavor {} is the one, so --allow-flavors and --create-flavor make no sense beside it",
                            o.cutover.flavor));
}

void finish_volume_types(Options& o, const Raw& raw) {
  for (const std::string& text : raw.volume_types) {
    const std::size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size())
      throw Error(Fault::usage, fmt::format("--volume-type-mapping {}: give DATASTORE=TYPE", text));
    if (!o.openstack.volume_types.emplace(text.substr(0, equals), text.substr(equals + 1)).second)
      throw Error(Fault::usage,
                  fmt::format("--volume-type-mapping {}: {} is given twice", text, text.substr(0, equals)));
  }
}

// The reference comes last and may hold anything.
void finish_existing_volumes(Options& o, const Raw& raw) {
  for (const std::string& text : raw.existing_volumes) {
    static const std::regex form("disk=([0-9]{1,9}),host=([^,]+@[^,]+#[^,]+),(source-name|source-id)=(.+)");
    std::smatch parts;
    if (!std::regex_match(text, parts, form))
      throw Error(Fault::usage,
                  fmt::format("--existing-volume {}: give disk=KEY,host=HOST@BACKEND#POOL,source-name=NAME", text));
    const model::DiskKey disk{std::stoi(parts[1].str())};
    if (!o.openstack.existing_volumes.emplace(disk, ExistingVolume{parts[2], parts[3], parts[4]}).second)
      throw Error(Fault::usage, fmt::format("--existing-volume {}: disk {} is given twice", text, disk.value));
  }
}

void finish_server_metadata(Options& o, const Raw& raw) {
  for (const std::string& text : raw.server_metadata) {
    const std::size_t equals = text.find('=');
    const std::string key = text.substr(0, equals);
    if (equals == std::string::npos || key.empty() || key.size() > 255 || text.size() - equals - 1 > 255)
      throw Error(Fault::usage, fmt::format("--server-metadata {}: give KEY=VALUE, each at most 255 characters", text));
    if (key.starts_with("vmferry_"))
      throw Error(Fault::usage, fmt::format("--server-metadata {}: vmferry_... are vmferry's own", text));
    o.openstack.server_metadata[key] = text.substr(equals + 1);
  }
}

void finish(Options& o, Raw& raw) {
  finish_server_metadata(o, raw);
  finish_flavors(o, raw);
  finish_volume_types(o, raw);
  finish_existing_volumes(o, raw);
  o.copy.quiesce = raw.quiesce == "always"  ? source::Quiesce::always
                   : raw.quiesce == "never" ? source::Quiesce::never
                                            : source::Quiesce::automatic;
  for (const std::int32_t key : raw.skip_disks) o.copy.skip.insert(model::DiskKey{key});
  for (const std::string& text : raw.networks) o.cutover.networks.push_back(parse_network_mapping(text));
  o.copy.audit = raw.audit / 100;
  o.verify.sample = raw.sample / 100;
  o.cutover.shutdown_patience = std::chrono::seconds(raw.shutdown_timeout);
  o.cutover.availability_zone = o.openstack.availability_zone;
  o.disk_bus = lower(o.disk_bus);
  if (!raw.request_size.empty()) {
    const std::uint64_t bytes = parse_size(raw.request_size);
    // NFC through vCenter refuses larger reads ("Failed to allocate"), and everything must stay sector-aligned.
    if (bytes < 64 * 1024 || bytes > 2 * 1024 * 1024 || bytes % 65536 != 0)
      throw Error(Fault::usage,
                  fmt::format("--request-size {}: give a multiple of 64K between 64K and 2M", raw.request_size));
    o.copy.tuning.request = static_cast<std::uint32_t>(bytes);
  }
  if (!raw.bandwidth.empty()) o.bandwidth = parse_rate("--bandwidth", raw.bandwidth);
  if (!raw.host_bandwidth.empty()) o.limits.host_bandwidth = parse_rate("--host-bandwidth", raw.host_bandwidth);
  if (!raw.esxi_in_flight.empty()) o.limits.esxi_in_flight = parse_in_flight(raw.esxi_in_flight);
  if (o.vmware.transport == "file" && o.vmware.datastore_directory.empty())
    throw Error(Fault::usage, "--transport file needs --datastore-dir DIR, the mount point of the VM's datastore");
  if (!o.vmware.datastore_directory.empty()) o.vmware.transport = "file";
  const bool folder = (o.target.starts_with("local:") || o.target.starts_with("image:")) && o.target.size() > 6;
  if (o.target != "openstack" && !folder)
    throw Error(Fault::usage, fmt::format("--target {}: give openstack, image:DIR or local:DIR", o.target));
  if (!o.libvirt.empty() && o.to_openstack())
    throw Error(Fault::usage, "--libvirt URI goes with --target local:DIR only");
  const bool insecure_and_pinned = o.vmware.insecure && (!o.vmware.fingerprint.empty() || !o.vmware.ca_file.empty());
  if (insecure_and_pinned)
    throw Error(
        Fault::usage,
        "--vmware-insecure accepts any certificate, so --vmware-ca and --vmware-fingerprint make no sense beside it");
  if (o.to_openstack())
    for (const target::NetworkChoice& choice : o.cutover.networks)
      if (choice.subnet.empty())
        throw Error(Fault::usage, fmt::format("--network-mapping mac={}: subnet-id= is missing", choice.mac));
  if (o.verb == Verb::cutover && o.cutover.networks.empty())
    throw Error(
        Fault::usage,
        "cutover needs a --network-mapping mac=MAC,network-id=ID,subnet-id=ID for each network adapter of the VM");
}

// Overwrites the value of --vmware-password where the kernel shows it. Both spellings: "--flag VALUE" and
// "--flag=VALUE".
void wipe_password(int argc, char** argv) {
  constexpr std::string_view flag = "--vmware-password";
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == flag && i + 1 < argc)
      std::memset(argv[i + 1], 'x', std::strlen(argv[i + 1]));
    else if (arg.starts_with(flag) && arg.size() > flag.size() && arg[flag.size()] == '=')
      std::memset(argv[i] + flag.size() + 1, 'x', arg.size() - flag.size() - 1);
  }
}

}  // namespace

target::NetworkChoice parse_network_mapping(const std::string& text) {
  target::NetworkChoice choice;
  std::string security;
  const std::map<std::string, std::string*> once{{"mac", &choice.mac},
                                                 {"network-id", &choice.network},
                                                 {"subnet-id", &choice.subnet},
                                                 {"port-security", &security}};
  const std::map<std::string, std::vector<std::string>*> often{
      {"ip", &choice.ips}, {"security-group", &choice.security_groups}, {"allowed-address", &choice.allowed_addresses}};
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    at = comma + 1;
    const std::size_t equals = part.find('=');
    const std::string key = part.substr(0, equals), value = equals == std::string::npos ? "" : part.substr(equals + 1);
    const auto single = once.find(key);
    const auto list = often.find(key);
    if ((single == once.end() && list == often.end()) || value.empty())
      throw Error(Fault::usage, fmt::format("--network-mapping {}: \"{}\" is not one of mac=, network-id=, subnet-id=, "
                                            "ip=, security-group=, allowed-address=, port-security=",
                                            text, part));
    if (list != often.end()) {
      list->second->push_back(value);
      continue;
    }
    if (!single->second->empty())
      throw Error(Fault::usage, fmt::format("--network-mapping {}: {} is given twice", text, key));
    *single->second = value;
  }
  choice.mac = lower(choice.mac);
  static const std::regex mac("([0-9a-f]{2}:){5}[0-9a-f]{2}");
  if (!std::regex_match(choice.mac, mac))
    throw Error(Fault::usage,
                fmt::format("--network-mapping {}: mac={} is no MAC address (00:50:56:ab:cd:ef)", text, choice.mac));
  if (choice.network.empty())
    throw Error(Fault::usage, fmt::format("--network-mapping {}: network-id= is missing", text));
  if (!security.empty() && security != "on" && security != "off")
    throw Error(Fault::usage, fmt::format("--network-mapping {}: port-security={}: on or off", text, security));
  if (!security.empty()) choice.port_security = security == "on";
  if (choice.port_security == false && (!choice.security_groups.empty() || !choice.allowed_addresses.empty()))
    throw Error(Fault::usage, fmt::format("--network-mapping {}: with port-security=off everything may pass, so "
                                          "security-group= and allowed-address= make no sense beside it",
                                          text));
  return choice;
}

std::uint64_t parse_size(const std::string& text) {
  static const std::regex form("([0-9]{1,15})([kKmMgGtT]?)(i?[bB])?");
  std::smatch m;
  if (!std::regex_match(text, m, form))
    throw Error(Fault::usage, fmt::format("\"{}\" is no size (64K, 2M, 1GiB)", text));
  std::uint64_t bytes = std::stoull(m[1]);
  const char unit = m[2].length() ? static_cast<char>(std::tolower(m[2].str()[0])) : '\0';
  const int shift = unit == 'k' ? 10 : unit == 'm' ? 20 : unit == 'g' ? 30 : unit == 't' ? 40 : 0;
  if (shift > 0 && bytes > (UINT64_MAX >> shift)) throw Error(Fault::usage, fmt::format("\"{}\" is too large", text));
  return bytes << shift;
}

namespace {

constexpr const char* migrate_footer =
    "One cycle of a running VM: everything the first time, later only what changed. Repeat it as often as you like.\n\n"
    "Example:\n"
    "  vmferry migrate --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud";
constexpr const char* cutover_footer =
    "Syncs, shuts the guest down, copies the last changes and creates the server. Safe to repeat after any failure.\n\n"
    "Example:\n"
    "  vmferry cutover --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud --flavor m1.small \\\n"
    "    --network-mapping mac=00:50:56:01:02:03,network-id=NET,subnet-id=SUBNET";
constexpr const char* verify_footer =
    "Reads the volumes again and compares every 64 KiB with the digest that was kept when it was written: no byte is read from VMware.\n"
    "With --repair, what differs is copied again by a cycle.\n\n"
    "Example:\n"
    "  vmferry verify --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud";
constexpr const char* check_footer =
    "Asks vSphere, OpenStack and this host what stands in the way of a migration: privileges, disks, tools, quota, networks. With the flags of\n"
    "a cutover it looks at those too. Exit code 1 when there is a problem.\n\n"
    "Example:\n"
    "  vmferry check --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud --flavor m1.small";
constexpr const char* abort_footer =
    "Removes our snapshot, detaches the volumes and deletes the ports that vmferry made. The volumes stay unless --delete-volumes.\n\n"
    "Example:\n  vmferry abort --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local --vmware-path web01 --delete-volumes";
constexpr const char* inventory_footer =
    "Example:\n  vmferry inventory --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local";
constexpr const char* status_footer = "Example:\n  vmferry status --watch";
constexpr const char* limits_footer =
    "What all runs on this host share. A change acts at once, also on copies that run; without a flag it is shown.\n\n"
    "Example:\n"
    "  vmferry limits --host-bandwidth 400M              all copies of this host together\n"
    "  vmferry limits --vm web01 --bandwidth 50M         the run that copies web01 now\n"
    "  vmferry limits --esxi-connections 8               to each ESXi host";
constexpr const char* evidence_footer =
    "Writes what the journal tells of a migration as a page (HTML) and as JSON: disks, bytes, change ids, digests, how long everything took.\n"
    "Nothing is asked of vSphere or OpenStack. Every migrate, cutover and verify writes it too, into the folder evidence of the state folder.\n\n"
    "Example:\n  vmferry evidence --vmware-path /DC0/vm/web01 --out ~/handover";
constexpr const char* lab_footer =
    "A vCenter, an OpenStack and a busy guest on this machine, to play with.\n\n"
    "  up [--dir DIR] [--esxi] [--disks 192M,96M] [--writer-rate MB/S]   start it, print the commands to try\n"
    "  status [--dir DIR] [--json]                                       what runs\n"
    "  ctl [--dir DIR] vcenter|openstack METHOD PATH [JSON]              faults, resets, disks: docs/lab.md\n"
    "  replay --from DIR                                                 answer from a recording (--record)\n"
    "  down [--dir DIR]                                                  end it\n\n"
    "Example:\n  vmferry lab up && vmferry lab status && vmferry lab down";

// One parser for everything, so that parse() and completion() cannot disagree.
struct Parser {
  CLI::App app{"Moves running virtual machines from VMware vSphere to OpenStack with almost no downtime.", "vmferry"};
  Options options;
  Raw raw;
  std::vector<std::pair<Verb, CLI::App*>> verbs;

  Parser() {
    app.require_subcommand(0, 1);
    app.set_version_flag("--version", [] { return std::string("vmferry ") + VMFERRY_VERSION; });
    app.footer(
        "Start with:  vmferry lab up   (a whole vCenter and OpenStack on this machine)\nExit codes: docs/exit-codes.md");
    CLI::App* migrate = add(Verb::migrate, "migrate", "Run one migration cycle of a running VM", migrate_footer);
    CLI::App* cutover =
        add(Verb::cutover, "cutover", "Shut the VM down and start it on the other side", cutover_footer);
    CLI::App* verify =
        add(Verb::verify, "verify", "Read the volumes again and compare them with what was written", verify_footer);
    CLI::App* check =
        add(Verb::check, "check", "Find what a migration would stumble over; changes nothing", check_footer);
    for (CLI::App* sub : {migrate, cutover, verify, check}) {
      add_vmware(*sub, options, raw);
      add_target(*sub, options, raw);
      add_copy(*sub, options, raw);
      if (sub == migrate || sub == cutover)
        sub->add_option(
               "--audit", raw.audit,
               "Percent of what change tracking calls unchanged to read and compare in each cycle (default 0.5)")
            ->check(CLI::Range(0.0, 100.0).description(""))
            ->type_name("PERCENT")
            ->group(copy_group);
      if (sub == migrate || sub == cutover)
        sub->add_flag("--verify", options.copy.verify, "Read the volumes again after the copy and compare")
            ->group(copy_group);
      if (sub == migrate || sub == cutover)
        sub->add_flag("--verify-changed", options.copy.verify_changed,
                      "Of the volumes, read again only what was not read back since it was written")
            ->group(copy_group);
      if (sub == migrate || sub == cutover)
        sub->add_flag("--again", options.again, "Begin anew although this VM was cut over already")
            ->group(general_group);
    }
    verify->add_option("--sample", raw.sample, "Percent of the disks to read, spread at random (default 100)")
        ->check(CLI::Range(0.0, 100.0).description(""))
        ->type_name("PERCENT");
    verify->add_flag("--changed", options.verify.changed, "Read only what was not read back since it was written");
    verify->add_flag("--repair", options.verify.repair, "Copy what differs once more");
    add_cutover(*cutover, options, raw);
    add_cutover(*check, options, raw);
    check->add_flag("--print-role", options.print_role,
                    "Print the vSphere role that is needed, as govc commands, and end");
    CLI::App* abort =
        add(Verb::abort, "abort", "Undo: snapshot, attachments and ports, if wanted the volumes", abort_footer);
    add_vmware(*abort, options, raw);
    add_target(*abort, options, raw);
    abort->add_flag("--delete-volumes", options.delete_volumes, "Delete the volumes too");
    CLI::App* host = add(Verb::host, "host", "Make, check and remove the conversion host in OpenStack", host_footer);
    add_host(*host, options);
    CLI::App* inventory = add(Verb::inventory, "inventory", "List the VMs of the endpoint", inventory_footer);
    add_vmware(*inventory, options, raw);
    CLI::App* status = add(Verb::status, "status", "Show the jobs of this host", status_footer);
    status->add_flag("--all", options.all, "Aborted jobs too");
    status->add_flag("--watch", options.watch, "Refresh every two seconds until Ctrl-C");
    CLI::App* limits =
        add(Verb::limits, "limits", "Show or change what the copies of this host may use", limits_footer);
    add_limits(*limits, options, raw);
    CLI::App* evidence =
        add(Verb::evidence, "evidence", "Show what was done to a VM, when, and how that is known", evidence_footer);
    add_evidence(*evidence, options);
    for (CLI::App* sub : {migrate, cutover, verify, check, abort, host, inventory, status, limits, evidence})
      add_general(*sub, options);
    CLI::App* lab = add(Verb::lab, "lab", "A lab on this machine: up, down, status", lab_footer);
    lab->prefix_command();
    CLI::App* complete = add(Verb::completion, "completion", "Print a completion script",
                             "Example:\n  vmferry completion bash > /etc/bash_completion.d/vmferry");
    complete->add_option("shell", options.rest, "bash, zsh or fish")->required()->expected(1);
    add(Verb::version, "version", "Print the version", "Example:\n  vmferry version");
    name_variables();
  }

  // The variables belong into the help text.
  void name_variables() {
    for (const auto& [verb, sub] : verbs)
      for (const Variable& variable : variables)
        if (CLI::Option* option = sub->get_option_no_throw(variable.flag))
          option->description(fmt::format("{} [{}]", option->get_description(), variable.name));
  }

  CLI::App* add(Verb verb, const char* name, const char* what, const char* footer) {
    CLI::App* sub = app.add_subcommand(name, what);
    sub->footer(footer);
    verbs.emplace_back(verb, sub);
    return sub;
  }
};

}  // namespace

namespace {

// CLI11's sentence, with what was probably meant and where to read on.
std::string explain_usage(Parser& parser, const CLI::ParseError& e) {
  std::string command, text = fmt::format("error: {}\n", e.what());
  std::vector<std::string> known;
  for (const auto& [verb, sub] : parser.verbs) {
    if (!sub->parsed()) {
      if (command.empty()) known.push_back(sub->get_name());
      continue;
    }
    command = " " + sub->get_name();
    known.clear();
    for (const CLI::Option* option : sub->get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    break;
  }
  if (const std::string what = e.what(); what.find("not expected") != std::string::npos) {
    const std::string word = what.substr(what.rfind(' ') + 1);
    if (const auto near = plan::nearest(word, known, 1); !near.empty())
      text += fmt::format("did you mean {}?\n", near.front());
  }
  return text + fmt::format("see vmferry{} --help\n", command);
}

}  // namespace

Parsed parse(int argc, char** argv, const std::map<std::string, std::string>& environment) {
  Parser parser;
  Parsed parsed;
  try {
    parser.app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    wipe_password(argc, argv);
    std::ostringstream out, err;
    const int code = parser.app.exit(e, out, err);
    parsed.finished = true;
    parsed.exit_code = code == 0 ? 0 : exit_code(Fault::usage);
    parsed.text = code == 0 ? out.str() : explain_usage(parser, e);
    return parsed;
  }
  wipe_password(argc, argv);
  Options& o = parser.options;
  bool password_file_flag = false;  // a flag beats the variable with the password itself
  for (const auto& [verb, sub] : parser.verbs)
    if (sub->parsed()) {
      o.verb = verb;
      password_file_flag = !o.vmware.password_file.empty();
      if (verb == Verb::host) finish_host(*sub, o);
      apply_environment(*sub, environment);
      if (verb == Verb::check && o.print_role) continue;  // asks nobody
      if (verb == Verb::migrate || verb == Verb::cutover || verb == Verb::verify || verb == Verb::check ||
          verb == Verb::abort || verb == Verb::inventory)
        for (const char* flag : {"--vmware-endpoint", "--vmware-username"}) require(*sub, flag);
      if (verb == Verb::migrate || verb == Verb::cutover || verb == Verb::verify || verb == Verb::check ||
          verb == Verb::abort)
        require(*sub, "--vmware-path");
      if (verb == Verb::lab) o.rest = sub->remaining();
    }
  if (o.verb == Verb::none) {
    parsed.finished = true;
    parsed.text = parser.app.help();
    return parsed;
  }
  if (!parser.raw.password.empty()) {
    o.vmware.password_on_command_line = true;
    o.vmware.password = Secret(std::move(parser.raw.password));
  } else if (const auto found = environment.find("VMFERRY_VMWARE_PASSWORD");
             found != environment.end() && !found->second.empty() && !password_file_flag) {
    o.vmware.password = Secret(std::string(found->second));
  }
  finish(o, parser.raw);
  parsed.options = std::move(o);
  return parsed;
}

namespace {

struct Words {
  std::vector<std::pair<std::string, std::string>> commands;                      // name, description
  std::map<std::string, std::vector<std::pair<std::string, std::string>>> flags;  // by command
};

Words words() {
  Parser parser;
  Words w;
  for (const auto& [verb, sub] : parser.verbs) {
    w.commands.emplace_back(sub->get_name(), sub->get_description());
    for (const CLI::Option* option : sub->get_options())
      for (const std::string& name : option->get_lnames())
        w.flags[sub->get_name()].emplace_back("--" + name, option->get_description());
  }
  for (const char* action : {"destroy", "check", "deploy"})
    w.flags["host"].insert(w.flags["host"].begin(), {action, ""});
  w.flags["lab"] = {{"up", "Start the lab"}, {"down", "End it"}, {"status", "Show it"}};
  w.flags["completion"] = {{"bash", ""}, {"zsh", ""}, {"fish", ""}};
  return w;
}

std::string join(const std::vector<std::pair<std::string, std::string>>& list) {
  std::string text;
  for (const auto& [word, description] : list) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::string quoted(std::string text) {
  std::string out;
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return "'" + out + "'";
}

}  // namespace

std::string completion(const std::string& shell) {
  const Words w = words();
  std::string text;
  if (shell == "bash") {
    text = "_vmferry() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words\n  if [ \"$COMP_CWORD\" -eq 1 ]; then words=" +
           quoted(join(w.commands)) + "\n  else case ${COMP_WORDS[1]} in\n";
    for (const auto& [command, flags] : w.flags)
      text += fmt::format("    {}) words={} ;;\n", command, quoted(join(flags)));
    text +=
        "    esac\n  fi\n  case ${COMP_WORDS[COMP_CWORD-1]} in\n"
        "    --*-dir|--*-file|--vmware-ca|--record|--out|--public-key|--user-data) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n  esac\n"
        "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -F _vmferry vmferry\n";
  } else if (shell == "zsh") {
    text = "#compdef vmferry\n_vmferry() {\n  local -a list\n  if (( CURRENT == 2 )); then\n    list=(";
    for (const auto& [command, what] : w.commands) text += " " + quoted(command + ":" + what);
    text += " )\n  else\n    case $words[2] in\n";
    for (const auto& [command, flags] : w.flags) {
      text += fmt::format("      {}) list=(", command);
      for (const auto& [flag, what] : flags) text += " " + quoted(what.empty() ? flag : flag + ":" + what);
      text += " ) ;;\n";
    }
    text += "    esac\n  fi\n  _describe vmferry list\n}\ncompdef _vmferry vmferry\n";
  } else if (shell == "fish") {
    for (const auto& [command, what] : w.commands)
      text += fmt::format("complete -c vmferry -f -n __fish_use_subcommand -a {} -d {}\n", command, quoted(what));
    for (const auto& [command, flags] : w.flags)
      for (const auto& [flag, what] : flags)
        text += flag.starts_with("--")
                    ? fmt::format("complete -c vmferry -n '__fish_seen_subcommand_from {}' -l {} -d {}\n", command,
                                  flag.substr(2), quoted(what))
                    : fmt::format("complete -c vmferry -f -n '__fish_seen_subcommand_from {}' -a {}\n", command, flag);
  } else {
    throw Error(Fault::usage, fmt::format("completion {}: bash, zsh and fish are known", shell));
  }
  return text;
}

}  // namespace vmferry::config
