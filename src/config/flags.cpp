// The flags themselves. migratekit's names and meanings are kept; ours come beside them. Every command that needs a
// vCenter takes the same flags, so that a command line can be edited from "migrate" to "cutover".
#include "config/flags.hpp"

#include <CLI/CLI.hpp>

namespace vmferry::config {

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
      ->check(what_is_wrong_with_endpoint)
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

void add_cloud(CLI::App& app, Options& o, const std::string& group, const std::string& project) {
  app.add_option("--os-cloud", o.openstack.cloud, "Cloud of clouds.yaml (else OS_CLOUD, else the OS_* variables)")
      ->type_name("NAME")
      ->group(group);
  app.add_option("--project", o.openstack.project, project)->type_name("PROJECT")->group(group);
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
  add_cloud(app, o, target_group, "OpenStack project, name or id, to migrate into");
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

namespace {

void add_esxi_ssh(CLI::App& app, Options& o, Raw& raw) {
  app.add_option("--esxi-ssh-address", raw.esxi_ssh_address,
                 "For ssh: the ESXi host that reads, HOST[:PORT] (default: the one the VM runs on, as "
                 "vSphere names it)")
      ->type_name("HOST")
      ->group(reading_group);
  app.add_option("--esxi-ssh-user", o.vmware.esxi_ssh.user, "User there (default root)")
      ->type_name("USER")
      ->group(reading_group);
  app.add_option("--esxi-ssh-password-file", o.vmware.esxi_ssh.password_file,
                 "File whose first line is that user's password (mode 0600)")
      ->type_name("FILE")
      ->group(reading_group);
  app.add_option("--esxi-ssh-key", o.vmware.esxi_ssh.identity, "A private key for that user, without a passphrase")
      ->type_name("FILE")
      ->group(reading_group);
  app.add_option("--esxi-ssh-known-hosts", o.vmware.esxi_ssh.known_hosts,
                 "Host keys that are accepted, as ssh-keyscan prints them (default ~/.ssh/known_hosts)")
      ->type_name("FILE")
      ->group(reading_group);
}

}  // namespace

void add_copy(CLI::App& app, Options& o, Raw& raw) {
  app.add_option(
         "--transport", raw.transports,
         "How disks are read: auto (the default: the fastest that works, and another when it fails), or these in "
         "this order, comma separated: hotadd (attached to a proxy), file (a mounted datastore), vddk (VMware's library, see "
         "--vddk-libdir), https (datastore browser), ssh (the ESXi host's files), export (whole disks of a "
         "machine that is off)")
      ->delimiter(',')
      ->check(CLI::IsMember({"auto", "hotadd", "file", "vddk", "https", "ssh", "export"}).description(""))
      ->type_name("auto|NAMES")
      ->group(reading_group);
  app.add_option("--local-disk-path,--datastore-dir", raw.local_disk_paths,
                 "Where the datastore is mounted here, for file; of several, NAME=DIR (may be repeated)")
      ->type_name("[NAME=]DIR")
      ->group(reading_group);
  add_esxi_ssh(app, o, raw);
  app.add_option("--vddk-libdir", o.vmware.vddk_libdir,
                 "For vddk: where VMware's VDDK was unpacked (default /usr/lib64/vmware-vix-disklib)")
      ->type_name("DIR")
      ->group(reading_group);
  app.add_option("--vddk-transports", o.vmware.vddk_transports,
                 "For vddk: VDDK's transport modes in order, e.g. nbdssl:nbd (default: VDDK chooses)")
      ->type_name("MODES")
      ->group(reading_group);
  app.add_option("--proxy-vm", o.vmware.proxy_vm,
                 "For hotadd: the VM that disks are attached to: path, moref, UUID or name (default: this "
                 "host, by its SMBIOS UUID)")
      ->type_name("VM")
      ->group(reading_group);
  app.add_option("--proxy-ssh", raw.proxy_ssh, "How to reach a proxy that is not this host; it needs nbdkit")
      ->type_name("USER@HOST[:PORT]")
      ->group(reading_group);
  app.add_option("--proxy-ssh-key", o.vmware.proxy_ssh_key, "Private key for --proxy-ssh (default: ssh's own choice)")
      ->type_name("FILE")
      ->group(reading_group);
  app.add_option("--proxy-ssh-known-hosts", o.vmware.proxy_ssh_known_hosts,
                 "Host keys for --proxy-ssh (default: ssh's own files)")
      ->type_name("FILE")
      ->group(reading_group);
  app.add_option("--proxy-root", o.vmware.proxy_root, "Where the proxy's dev and sys are found (the lab's; default /)")
      ->type_name("DIR")
      ->group(reading_group);
  app.add_option("--quiesce", raw.quiesce, "File systems at rest in the snapshot: auto (the default), always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}).description(""))
      ->type_name("WHEN")
      ->group(copy_group);
  app.add_option("--skip-disk", raw.skip_disks, "Leave out the disk with this key (may be repeated)")
      ->type_name("KEY")
      ->group(copy_group);
  app.add_flag("--no-cbt", o.copy.no_tracking,
               "Do without changed block tracking: every cycle reads everything, and writes what differs")
      ->group(copy_group);
  app.add_option("--connections", o.copy.tuning.connections, "Connections per disk, 1 to 16 (default 4)")
      ->check(CLI::Range(1, 16).description(""))
      ->type_name("N")
      ->group(copy_group);
  app.add_option("--request-size", raw.request_size, "Largest single read, at most 2M through vCenter")
      ->type_name("SIZE")
      ->group(copy_group);
  app.add_option(
         "--bandwidth", raw.bandwidth,
         "Read and upload at most so much a second, all disks of the VM together, e.g. 50M (see also vmferry limits)")
      ->type_name("SIZE")
      ->group(copy_group);
  app.add_option("--compression-method", o.vmware.compression, "For vddk: none, zlib, fastlz or skipz")
      ->check(CLI::IsMember({"none", "zlib", "fastlz", "skipz"}, CLI::ignore_case).description(""))
      ->type_name("METHOD")
      ->group(reading_group);
}

void add_limits(CLI::App& app, Options& o, Raw& raw) {
  app.add_option("--host-bandwidth", raw.host_bandwidth,
                 "Read and upload at most so much a second, all runs together, or none")
      ->type_name("SIZE");
  app.add_option("--esxi-connections", o.limits.esxi_connections, "To each ESXi host, all runs together (default 16)")
      ->check(CLI::Range(1, 128).description(""))
      ->type_name("N");
  app.add_option("--esxi-in-flight", raw.esxi_in_flight,
                 "Bytes under way from each ESXi host, all runs together (default 48M)")
      ->type_name("SIZE");
  CLI::Option* vm = app.add_option("--vm", o.limits.vm, "A VM that is being migrated, by its name")->type_name("NAME");
  vm->needs(app.add_option("--bandwidth", raw.bandwidth, "Its run reads and uploads at most so much a second, or none")
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
                 "mac=MAC,network-id=ID[,subnet-id=ID][,ip=ADDRESS][,security-group=GROUP][,allowed-address=CIDR]"
                 "[,port-security=off]; one for each network adapter, what is in brackets several times if need be")
      ->type_name("MAPPING")
      ->group(cutover_group);
  app.add_flag("--fallback-to-dhcp", o.openstack.any_address,
               "Instead of an address of --network-mapping that cannot be had, take another of its subnet")
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
      ->type_name("true|false")
      ->group(cutover_group);
  app.add_option("--shutdown-timeout", raw.shutdown_timeout, "Seconds the guest may take to shut down (default 300)")
      ->check(CLI::Range(1, 86400).description(""))
      ->type_name("SECONDS")
      ->group(cutover_group);
  app.add_flag("--force-poweroff", o.cutover.force_power_off,
               "Power off hard when the guest does not shut down in time")
      ->group(cutover_group);
}

void add_chosen_job(CLI::App& app, Options& o) {
  app.add_option("--vmware-path", o.vmware.path,
                 "The VM: inventory path, moref, UUID or name, as the job knows it (not needed for the only job)")
      ->type_name("VM");
  app.add_option("--job", o.job, "The job instead: its id, or the beginning of it as `vmferry status --all` shows it")
      ->type_name("ID");
}

void add_evidence(CLI::App& app, Options& o) {
  add_chosen_job(app, o);
  app.add_option("--out", o.out, "Write both files to this folder")->type_name("DIR");
}

}  // namespace vmferry::config
