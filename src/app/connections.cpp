// Puts adapters together.
#include "app/connections.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>

#include "app/console.hpp"
#include "app/transports.hpp"
#include "base/error.hpp"
#include "base/machine.hpp"
#include "convert/virt_v2v.hpp"
#include "openstack/cloud.hpp"
#include "openstack/cloud_config.hpp"
#include "plan/plan.hpp"
#include "source/vmware/machine.hpp"
#include "store/store.hpp"
#include "target/device_identity.hpp"
#include "target/image/image_cloud.hpp"
#include "target/local/local_cloud.hpp"
#include "target/openstack/openstack_cloud.hpp"
#include "vsphere/labels.hpp"

namespace vmferry::app {

namespace {

std::unique_ptr<http::Transport> recorded(std::unique_ptr<http::Transport> inner, const Surroundings& around,
                                          const std::string& service) {
  if (around.options.record_directory.empty()) return inner;
  return http::recording(std::move(inner), around.options.record_directory, service, around.log);
}

}  // namespace

http::Trust vmware_trust(const config::Vmware& vmware) {
  http::Trust trust;
  trust.who = "vSphere";
  trust.pin_flag = "--vmware-fingerprint";
  trust.ca_flag = "--vmware-ca";
  trust.insecure = vmware.insecure;
  trust.sha256 = vmware.fingerprint;
  trust.ca_file = vmware.ca_file;
  return trust;
}

std::string host_name() {
  char host[256] = {};
  return ::gethostname(host, sizeof host - 1) == 0 ? host : "";
}

std::string with_port(const std::string& endpoint) {
  const auto bracket = endpoint.rfind(']');  // [::1] or [::1]:443
  const auto colon = endpoint.rfind(':');
  const bool has_port =
      colon != std::string::npos && (bracket == std::string::npos ? endpoint.find(':') == colon : colon > bracket);
  return has_port ? endpoint : endpoint + ":443";
}

Secret vmware_password(const config::Options& options, log::Log& log) {
  const config::Vmware& vmware = options.vmware;
  if (vmware.password_on_command_line)
    print_err(
        "warning: a password on the command line can be seen by others until vmferry has wiped it, and stays in the shell's history; "
        "use --vmware-password-file, VMFERRY_VMWARE_PASSWORD or the prompt\n");
  if (!vmware.password.empty()) return vmware.password.share();
  if (!vmware.password_file.empty()) {
    if (readable_by_others(vmware.password_file))
      print_err(fmt::format("warning: {} can be read by other users; chmod 600 it\n", vmware.password_file.string()));
    return read_secret_file(vmware.password_file);
  }
  if (auto typed = ask_secret(fmt::format("Password of {} on {}: ", vmware.username, vmware.endpoint));
      typed && !typed->empty())
    return std::move(*typed);
  log.debug("no password given");
  throw Error(
      Fault::usage,
      "no password for vSphere: give --vmware-password-file FILE, set VMFERRY_VMWARE_PASSWORD, or run in a terminal to be asked");
}

std::string VmwareSide::source() const {
  const vsphere::ServiceContent& content = session->content();
  return fmt::format("{} {}", content.is_vcenter ? "vcenter" : "esxi",
                     content.instance_uuid.empty() ? session->server() : content.instance_uuid);
}

VmwareSide connect_vmware(const Surroundings& around, std::stop_token stop) {
  const config::Vmware& vmware = around.options.vmware;
  if (vmware.insecure)
    print_err(
        "warning: --vmware-insecure: the endpoint's certificate is not checked; anybody in between can read the password and the disks\n");
  Secret password = vmware_password(around.options, around.log);
  around.log.redactor().add(password);
  VmwareSide side;
  http::CurlOptions curl;
  curl.trust = vmware_trust(vmware);
  side.transport = recorded(http::curl(std::move(curl), around.log), around, "vsphere");
  vsphere::SessionOptions session;
  session.endpoint = with_port(vmware.endpoint);
  session.username = vmware.username;
  session.password = std::move(password);
  side.login = {session.endpoint, session.username, session.password.share()};
  side.session =
      std::make_unique<vsphere::Session>(*side.transport, std::move(session), around.clock, around.log, stop);
  return side;
}

std::map<std::string, std::string> server_labels(const Surroundings& around, VmwareSide& vmware, const model::VmId& vm,
                                                 std::stop_token stop) {
  const auto attributes = vsphere::custom_attributes(*vmware.session, vm, stop);
  std::map<std::string, std::vector<std::string>> tags;
  if (vmware.session->content().is_vcenter) {
    http::CurlOptions curl;
    curl.trust = vmware_trust(around.options.vmware);
    const auto transport =
        http::retrying(http::curl(std::move(curl), around.log), http::RetryPolicy(), around.clock, around.log);
    tags = vsphere::tags(*transport, vmware.login, vm, stop);
  }
  return plan::label_metadata(attributes, tags);
}

std::unique_ptr<convert::Converter> make_converter(const Surroundings& around, const JobId& job) {
  convert::VirtV2vOptions options;
  options.directory = around.places.conversion(job);
  options.run_directory = around.places.run;
  options.environment = convert::conversion_environment(environment());
  return convert::virt_v2v(std::move(options), around.runner, around.log);
}

std::unique_ptr<source::Machine> open_machine(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                              std::map<model::DiskKey, std::string> read_before,
                                              std::shared_ptr<copy::Permits> permits, std::stop_token stop) {
  auto transport = run_transport(around, vmware, vm, std::move(read_before), std::move(permits), stop);
  return source::vmware::machine(*vmware.session, {vm.id, vm.instance_uuid}, std::move(transport), around.log, stop);
}

namespace {

openstack::CloudConfig cloud_config(const config::OpenStack& wish) {
  openstack::CloudConfig cloud = openstack::load(openstack::process_environment(), wish.cloud);
  if (!wish.project.empty()) {
    // A UUID without dashes is an id, anything else a name; names need the user's domain unless one is known.
    const bool id =
        wish.project.size() == 32 && wish.project.find_first_not_of("0123456789abcdef") == std::string::npos;
    (id ? cloud.project.id : cloud.project.name) = wish.project;
    (id ? cloud.project.name : cloud.project.id).clear();
    if (!id && cloud.project.domain_id.empty() && cloud.project.domain_name.empty()) {
      cloud.project.domain_id = cloud.user.domain_id;
      cloud.project.domain_name = cloud.user.domain_name;
    }
  }
  return cloud;
}

target::openstack::BrickMode brick_mode(const Surroundings& around) {
  const config::OpenStack& wish = around.options.openstack;
  target::openstack::BrickAttaching attaching;
  if (!wish.brick_python.empty()) attaching.brick.python = wish.brick_python;
  attaching.brick.host = host_name();
  attaching.brick.address = wish.storage_address;
  attaching.brick.mounts = around.places.mounts();
  attaching.brick.locks = around.places.brick_locks();
  attaching.holder = attaching.brick.host + "/" + machine_mark();
  return {std::move(attaching), &around.runner};
}

target::openstack::Options openstack_options(const Surroundings& around, const Labels& labels) {
  const config::Options& options = around.options;
  const config::OpenStack& wish = options.openstack;
  target::openstack::Options target;
  target.volume_type = wish.volume_type;
  target.volume_types = wish.volume_types;
  for (const auto& [disk, existing] : wish.existing_volumes)
    target.existing_volumes[disk] = {existing.host, existing.key, existing.reference};
  target.volume_availability_zone =
      wish.volume_availability_zone.empty() ? wish.availability_zone : wish.volume_availability_zone;
  target.availability_zone = wish.availability_zone;
  target.disk_bus = options.disk_bus;
  target.security_groups = wish.security_groups;
  target.vz_unsafe_volume_by_name = wish.volume_by_name;
  target.instance_id = wish.instance_id;
  if (!wish.metadata_url.empty()) target.instance_sources.metadata_url = wish.metadata_url;
  if (!wish.device_directory.empty()) target.device_directory = wish.device_directory;
  if (!wish.device_identity.empty() && wish.device_identity != "sysfs")
    target.identity = target::file_identity(wish.device_identity);
  target.host = host_name();
  if (wish.attach == "brick") target.brick.emplace(brick_mode(around));
  target.flavor.wanted = options.cutover.flavor;
  target.flavor.allowed = wish.allowed_flavors;
  target.flavor.create = wish.create_flavor;
  target.server = {wish.key_pair,        wish.user_data.empty() ? "" : read_user_data(wish.user_data),
                   wish.config_drive,    wish.server_group,
                   wish.server_host,     wish.server_tags,
                   wish.server_metadata, labels};
  target.any_address = wish.any_address;
  target.again = options.again;
  target.trust_change_id = wish.trust_change_id;
  target.adopt_osm = wish.adopt_osm;
  target.networks = options.cutover.networks;
  return target;
}

}  // namespace

log::Log common_log(const Places& places, const config::Options& options) {
  store::make_private_directory(places.state);
  return {places.logs() / "vmferry.log", std::make_shared<log::Redactor>(), log::Level::debug, options.debug,
          log::Level::debug};
}

std::unique_ptr<openstack::Cloud> connect_cloud(const Surroundings& around, std::stop_token stop) {
  openstack::CloudConfig cloud = cloud_config(around.options.openstack);
  if (cloud.insecure)
    print_err(
        "warning: the cloud's certificate is not checked (verify: false); anybody in between can read the password\n");
  http::CurlOptions curl;
  curl.trust = openstack::trust(cloud);
  auto transport = http::retrying(recorded(http::curl(std::move(curl), around.log), around, "openstack"), {},
                                  around.clock, around.log);
  return openstack::Cloud::open(std::move(cloud), std::move(transport), around.clock, around.log, stop);
}

std::unique_ptr<http::Transport> metadata_transport(const Surroundings& around, std::chrono::milliseconds patience) {
  http::CurlOptions metadata;
  metadata.direct = true;
  metadata.connect_timeout = patience;
  return recorded(http::curl(metadata, around.log), around, "metadata");
}

std::unique_ptr<target::Cloud> connect_target(const Surroundings& around, const Labels& labels, std::stop_token stop) {
  const config::Options& options = around.options;
  if (!options.to_openstack()) {
    target::local::Options local;
    local.directory = options.target.substr(std::string_view("local:").size());
    local.disk_bus = options.disk_bus;
    if (::access("/dev/kvm", R_OK | W_OK) != 0) local.domain_kind = "qemu";
    if (!options.libvirt.empty())
      local.libvirt.emplace(options.libvirt, target::local::libvirt_environment(environment()), around.runner);
    return target::local::local_cloud(std::move(local), around.clock, around.log);
  }
  auto session = connect_cloud(around, stop);
  target::openstack::Options target = openstack_options(around, labels);
  if (constexpr std::string_view by_images = "image:"; options.target.starts_with(by_images)) {
    target::image::Options image;
    image.directory = options.target.substr(by_images.size());
    image.format = options.image_format;
    image.method = options.image_upload == "direct"   ? target::image::Method::direct
                   : options.image_upload == "import" ? target::image::Method::import
                                                      : target::image::Method::automatic;
    image.openstack = std::move(target);
    return target::image::image_cloud(std::move(image), std::move(session), around.runner, around.clock, around.log);
  }
  return target::openstack::openstack_cloud(std::move(target), std::move(session),
                                            metadata_transport(around, http::CurlOptions().connect_timeout),
                                            around.clock, around.log);
}

}  // namespace vmferry::app
