// The adapter's own decisions: which volume is whose, what may be adopted, and what is never touched.
// Waiting, retrying and lost replies are the client's work (src/openstack).
#include "target/openstack/openstack_cloud.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <set>

#include "base/error.hpp"
#include "openstack/networks.hpp"
#include "openstack/ports.hpp"
#include "openstack/servers.hpp"
#include "openstack/volume_attachments.hpp"
#include "openstack/volumes.hpp"
#include "plan/plan.hpp"
#include "target/device.hpp"
#include "target/memory_keys.hpp"
#include "target/openstack/attacher.hpp"
#include "target/openstack/moved_volumes.hpp"
#include "target/openstack/room.hpp"
#include "target/openstack/settings.hpp"
#include "target/openstack/volume_wish.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;

constexpr std::uint64_t gib = 1ull << 30;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

std::string port_tag(const JobId& job) { return "vmferry job=" + job.value; }

// Made by the job it belongs to, never opened, and of a kind that reads as zeroes.
bool fresh(const client::Volume& volume, const JobId& job) {
  const client::Metadata& m = volume.metadata;
  return value(m, memory_key::made_by) == job.value && value(m, memory_key::job) == job.value &&
         !m.contains(memory_key::opened) && !m.contains(memory_key::written) && !volume.encrypted;
}

Volume volume_of(const client::Volume& volume, const JobId& job) {
  return {volume.id, volume.gib * gib, fresh(volume, job), volume.metadata};
}

std::unique_ptr<Attacher> make_attacher(const Options& options, client::Cloud& cloud,
                                        std::unique_ptr<http::Transport> metadata, Clock& clock, log::Log& log) {
  if (options.brick) return brick_attacher(options.brick->attaching, cloud, *options.brick->runner, log);
  NovaAttaching nova;
  nova.instance_id = options.instance_id;
  nova.instance_sources = options.instance_sources;
  nova.device_directory = options.device_directory;
  nova.identity = options.identity ? options.identity : sysfs_identity();
  nova.here = options.host.empty() ? "this host" : "this host (" + options.host + ")";
  nova.attach_patience = options.attach_patience;
  nova.device_patience = options.device_patience;
  return nova_attacher(std::move(nova), cloud, std::move(metadata), clock, log);
}

// In the middle of being attached, and perhaps for good: by a run of ours that died then. (Nova ends what it began.)
bool unsettled(const client::Volume& volume) {
  return volume.status == "reserved" || volume.status == "attaching" || volume.status == "detaching";
}

class OpenstackCloud final : public Cloud {
 public:
  OpenstackCloud(Options options, std::shared_ptr<client::Cloud> cloud, std::unique_ptr<http::Transport> metadata,
                 Clock& clock, log::Log& log)
      : options_(std::move(options)),
        cloud_(std::move(cloud)),
        attacher_(make_attacher(options_, *cloud_, std::move(metadata), clock, log)),
        log_(log) {}

  std::string describe() const override { return "OpenStack " + cloud_->describe(); }
  void check_settings(std::stop_token stop) override;
  std::vector<plan::Finding> judge_settings(std::stop_token stop) override;
  std::vector<plan::Finding> examine(const Arrival& arrival, std::stop_token stop) override;
  std::vector<PortId> ports_of(const JobId& job, std::stop_token stop) override;
  std::optional<ServerId> find_server(const JobId& job, std::stop_token stop) override;
  std::optional<Volume> find(const Tag& tag, std::stop_token stop) override;
  Volume allocate(const VolumeWish& wish, std::stop_token stop) override;
  std::unique_ptr<Device> attach(const Volume& volume, std::stop_token stop) override;
  void detach(const VolumeId& volume, std::stop_token stop) override;
  void remember(const VolumeId& volume, const Memory& memory, std::stop_token stop) override;
  Port ensure_port(const JobId& job, const model::Nic& nic, const NetworkChoice& choice, std::stop_token stop) override;
  void prepare_launch(const model::Vm& vm, std::stop_token stop) override;
  Launched launch(const LaunchWish& wish, std::stop_token stop) override;
  void discard(const VolumeId& volume, const JobId& job, std::stop_token stop) override;
  void discard_port(const PortId& port, const JobId& job, std::stop_token stop) override;

 private:
  std::vector<std::string> security_groups(const NetworkChoice* choice, std::stop_token stop);
  void check_host(std::stop_token stop);
  client::Volume grow(const client::Volume& volume, const VolumeWish& wish, std::stop_token stop);
  client::PortWish port_wish(const JobId& job, const model::Nic& nic, const NetworkChoice& choice,
                             std::stop_token stop);
  std::optional<client::Volume> find_volume(const Tag& tag, std::stop_token stop);
  client::Volume create(const VolumeWish& wish, std::stop_token stop);
  std::vector<client::Volume> osm_volumes(std::stop_token stop);
  std::string adopt(const client::Volume& volume, const Tag& tag, std::stop_token stop);
  client::MadePort make_port(const client::PortWish& wish, const NetworkChoice& choice, std::stop_token stop);
  void judge_port(const client::Port& port, const JobId& job, const NetworkChoice& choice, std::stop_token stop);
  std::optional<client::Server> server_of(const JobId& job, std::stop_token stop);
  client::Server create_server(const LaunchWish& wish, std::stop_token stop);

  Options options_;
  std::shared_ptr<client::Cloud> cloud_;
  std::unique_ptr<Attacher> attacher_;
  log::Log& log_;
};

// By name alone, which is all that program has: so never without being told to. `marked`: all that it made.
std::vector<client::Volume> osm_volumes_of(const Tag& tag, std::vector<client::Volume> marked) {
  const std::string name = plan::osm_volume_name(tag.vm_name, tag.disk);
  std::erase_if(marked, [&](const client::Volume& v) {
    const std::string vm = value(v.metadata, memory_key::vm), disk = value(v.metadata, memory_key::disk);
    return v.name != name || (!vm.empty() && vm != tag.vm.value) ||
           (!disk.empty() && !memory_key::names(disk, tag.disk));
  });
  return marked;
}

// ---- settings

std::vector<std::string> OpenstackCloud::security_groups(const NetworkChoice* choice, std::stop_token stop) {
  std::vector<std::string> ids;
  if (choice && choice->port_security == false) return ids;
  for (const std::string& group :
       choice && !choice->security_groups.empty() ? choice->security_groups : options_.security_groups)
    ids.push_back(client::networks::find_security_group(cloud_->network(stop), group, stop).id);
  return ids;
}

void OpenstackCloud::check_host(std::stop_token stop) {
  if (options_.disk_bus != "virtio" && options_.disk_bus != "scsi")
    throw Error(Fault::config, fmt::format("disk bus \"{}\" is not known; choose virtio or scsi", options_.disk_bus));
  if (options_.conversion_host) attacher_->check(stop);
}

std::vector<plan::Finding> OpenstackCloud::judge_settings(std::stop_token stop) {
  std::vector<plan::Finding> found;
  // Whatever this host lacks, the cloud's own are asked for all the same.
  ask_all({[&] { check_host(stop); }}, found);
  ask_all(questions_of(options_, *cloud_, stop), found);
  return found;
}

void OpenstackCloud::check_settings(std::stop_token stop) {
  check_host(stop);
  for (const Question& question : questions_of(options_, *cloud_, stop)) question();
  // Only a warning: the volumes of this machine may exist already.
  if (const auto lacking = client::volumes::limits(cloud_->volume(stop), stop).lacking(1, 1))
    log_.warning("no room for another volume", {{"quota", *lacking}});
}

std::vector<plan::Finding> OpenstackCloud::examine(const Arrival& arrival, std::stop_token stop) {
  std::vector<plan::Finding> found;
  struct Need {
    std::uint64_t count = 0, gib = 0;
  };
  std::map<std::string, Need> needs;  // by volume type
  std::uint64_t ports = 0;
  std::size_t not_here = 0;
  std::optional<std::vector<client::Volume>> marked;  // for all disks
  for (const VolumeWish& wish : arrival.volumes) {
    const auto volume = find_volume(wish.tag, stop);
    if (options_.conversion_host && (!volume || !attacher_->is_here(*volume, stop))) ++not_here;
    if (volume) {
      if (value(volume->metadata, memory_key::job).empty() &&
          value(volume->metadata, memory_key::migrate_kit) == "true")
        found.push_back({plan::Level::note, fmt::format("volume {} ('{}')", volume->id.value, volume->name),
                         fmt::format("migratekit made it for disk {} of this machine: `vmferry migrate` goes on with "
                                     "it, and copies all of it once (only what changed by --trust-change-id)",
                                     to_string(wish.tag.disk)),
                         ""});
      if (volume->gib * gib < wish.bytes)
        needs[type_for(options_, wish)].gib += plan::gib_for(wish.bytes) - volume->gib;
      continue;
    }
    if (!options_.adopt_osm) {
      if (!marked) marked = osm_volumes(stop);
      for (const client::Volume& osm : osm_volumes_of(wish.tag, *marked))
        found.push_back({plan::Level::warning, fmt::format("volume {} ('{}')", osm.id.value, osm.name),
                         fmt::format("vmware-migration-kit made it, by its name for disk {} of this machine; it is not "
                                     "used",
                                     to_string(wish.tag.disk)),
                         "go on with it by --adopt-osm-volumes, or delete it", Fault::conflict});
    }
    ++needs[type_for(options_, wish)].count;
    needs[type_for(options_, wish)].gib += plan::gib_for(wish.bytes);
  }
  Need all;
  for (const auto& [type, need] : needs) {
    all = {all.count + need.count, all.gib + need.gib};
    if (!type.empty()) judge_volumes(*cloud_, type, need.count, need.gib, found, stop);
  }
  judge_volumes(*cloud_, "", all.count, all.gib, found, stop);
  if (options_.conversion_host) {
    attacher_->judge(not_here, found, stop);
    if (arrival.only_asked) attacher_->tell(found, stop);
  }
  for (const NetworkChoice& choice : arrival.ports) {
    try {
      client::Service& service = cloud_->network(stop);
      const client::Network network = client::networks::find(service, choice.network, stop);
      if (const auto port = client::ports::find_by_mac(service, network.id, choice.mac, stop)) {
        if (port->description != port_tag(arrival.job)) judge_port(*port, arrival.job, choice, stop);
        continue;
      }
      ++ports;
      judge_addresses(*cloud_, network, choice, options_.any_address, found, stop);
    } catch (const Error& e) {
      found.push_back({plan::Level::problem, "MAC " + choice.mac, e.what(), "", e.fault()});
    }
  }
  judge_network(*cloud_, Countable::ports, ports, found, stop);
  // A server that is there already, made by a run that died, has its flavor and its share of the quota.
  if (arrival.server && (arrival.job.empty() || !server_of(arrival.job, stop))) {
    try {
      judge_server(*cloud_, options_.flavor, arrival.vm, found, stop);
      if (options_.server.labels) check_metadata(*cloud_, options_.server.all_metadata(stop).size(), stop);
    } catch (const Error& e) {
      // What was found before is as true.
      found.push_back({plan::Level::problem, cloud_->describe(), e.what(), "", e.fault()});
    }
  }
  return found;
}

// ---- volumes

std::optional<client::Volume> OpenstackCloud::find_volume(const Tag& tag, std::stop_token stop) {
  client::Service& service = cloud_->volume(stop);
  std::vector<client::Volume> found;
  if (options_.vz_unsafe_volume_by_name) {
    found = client::volumes::find_by_name(service, tag.volume_name, stop);
  } else {
    found = client::volumes::find(service, {{memory_key::migrate_kit, "true"}, {memory_key::vm, tag.vm.value}}, stop);
    // migratekit goes by the name too. Our own tag says more than a name, which may have changed with the
    // machine's.
    const auto ours = [&](const client::Volume& v) { return value(v.metadata, memory_key::job) == tag.job.value; };
    std::erase_if(found, [&](const client::Volume& v) {
      const std::string disk = value(v.metadata, memory_key::disk);
      return !memory_key::names(disk, tag.disk) ||
             (v.name != tag.volume_name && v.name != plan::volume_name(tag.vm_name, disk) && !ours(v));
    });
    if (std::any_of(found.begin(), found.end(), ours)) std::erase_if(found, std::not_fn(ours));
    if (found.empty() && options_.adopt_osm) found = osm_volumes_of(tag, osm_volumes(stop));
  }
  std::erase_if(found, [](const client::Volume& v) { return v.status == "deleting"; });
  if (found.empty()) return std::nullopt;
  if (found.size() == 1) return found.front();
  std::vector<std::string> ids;
  for (const client::Volume& v : found) ids.push_back(v.id.value);
  throw Error(Fault::conflict,
              fmt::format("{} volumes are disk {} of {} ('{}'): {}; find out which is the right one and "
                          "delete or rename the others",
                          found.size(), to_string(tag.disk), tag.vm_name, tag.volume_name, fmt::join(ids, ", ")));
}

std::vector<client::Volume> OpenstackCloud::osm_volumes(std::stop_token stop) {
  return client::volumes::find(cloud_->volume(stop), {{osm_key::mark, "true"}}, stop);
}

std::optional<Volume> OpenstackCloud::find(const Tag& tag, std::stop_token stop) {
  const auto volume = find_volume(tag, stop);
  if (!volume) return std::nullopt;
  return volume_of(*volume, tag.job);
}

client::Volume OpenstackCloud::create(const VolumeWish& wish, std::stop_token stop) {
  client::VolumeWish make = volume_wish(options_, wish);
  if (const auto existing = options_.existing_volumes.find(wish.tag.disk);
      existing != options_.existing_volumes.end()) {
    make.metadata.erase(memory_key::made_by);  // what it holds is not known, so nothing is taken to be zero
    make.metadata[memory_key::managed] = memory_key::yes;
    const client::Volume volume = client::volumes::manage(cloud_->volume(stop), make, existing->second, stop);
    log_.info(
        "volume taken from the back end",
        {{"volume", volume.id.value}, {"host", existing->second.host}, {"reference", existing->second.reference}});
    return volume;
  }
  const client::Volume volume = client::volumes::create(cloud_->volume(stop), make, stop);
  log_.info("volume created", {{"volume", volume.id.value}, {"name", make.name}, {"gib", std::to_string(make.gib)}});
  return volume;
}

// The disk grew. A volume that is attached can only be extended where driver and hypervisor go along, so it is
// detached; whoever writes to it next attaches it anyway.
client::Volume OpenstackCloud::grow(const client::Volume& volume, const VolumeWish& wish, std::stop_token stop) {
  if (!volume.attachments.empty() && !attacher_->is_here(volume, stop))
    throw Error(Fault::conflict,
                fmt::format("volume {} ('{}') has {} GiB ({} bytes), but disk {} of {} has {} bytes, and it cannot be "
                            "extended while {} has it: detach it there",
                            volume.id.value, volume.name, volume.gib, volume.gib * gib, to_string(wish.tag.disk),
                            wish.tag.vm_name, wish.bytes, client::volume_attachments::holder(volume)));
  if (!volume.attachments.empty()) detach(volume.id, stop);
  client::Service& service = cloud_->volume(stop);
  client::volumes::wait_for(service, volume.id, {"available"}, options_.volume_patience, stop);
  log_.info("extending volume: its disk grew",
            {{"volume", volume.id.value}, {"gib", std::to_string(plan::gib_for(wish.bytes))}});
  client::volumes::extend(service, volume.id, plan::gib_for(wish.bytes), stop);
  return client::volumes::get(service, volume.id, stop);
}

// Makes an existing volume this job's. What it holds is judged by the caller from its memory. Gives a sentence when
// it was another program's.
std::string OpenstackCloud::adopt(const client::Volume& volume, const Tag& tag, std::stop_token stop) {
  const std::string owner = value(volume.metadata, memory_key::job);
  if (!options_.brick) refuse_bricks(cloud_->volume(stop), volume, true, stop);
  client::Metadata missing;
  // An older name of the disk stays: by it, and by the volume's name, migratekit finds the volume again.
  for (const auto& [key, wanted] : marks(tag)) {
    const std::string there = value(volume.metadata, key);
    if (key == memory_key::disk ? !memory_key::names(there, tag.disk) : there != wanted) missing[key] = wanted;
  }
  if (missing.empty()) return "";
  const bool osm = owner.empty() && value(volume.metadata, osm_key::mark) == "true";
  if (osm && value(volume.metadata, osm_key::converted) == "true")
    throw Error(Fault::conflict,
                fmt::format("volume {} ('{}') was converted by vmware-migration-kit: boot it as it is, or delete it to "
                            "migrate {} anew",
                            volume.id.value, volume.name, tag.vm_name));
  const bool free = volume.attachments.empty() && !unsettled(volume);
  if (!owner.empty() && owner != tag.job.value && !free && !attacher_->is_here(volume, stop))
    throw Error(Fault::conflict,
                fmt::format("volume {} ('{}') is of job {} and {}: another host is migrating {}; end it "
                            "there first",
                            volume.id.value, volume.name, owner,
                            volume.attachments.empty() ? volume.status
                                                       : "attached to " + client::volume_attachments::holder(volume),
                            tag.vm_name));
  // What the server wrote is there and nowhere else, whoever has the server or its volume now.
  const auto word = [&](const char* key) { return value(volume.metadata, key); };
  if (!owner.empty() && owner != tag.job.value && word(memory_key::moved) == owner && !options_.again &&
      word(memory_key::complete) != memory_key::yes && word(memory_key::partial).empty())
    throw Error(
        Fault::conflict,
        fmt::format("volume {} ('{}') was given to a server when job {} cut {} over: what the server wrote is on "
                    "it. Rename the volume to keep it; --again overwrites it",
                    volume.id.value, volume.name, owner, tag.vm_name));
  // In the same call as the tag: a crash must not leave our tag on it without this. migratekit writes a change id only
  // after a whole cycle, but keeps it when virt-v2v fails half-way through the volume; vmware-migration-kit writes its
  // own before it copies anything. So neither is believed by itself.
  const bool has_change_id = owner.empty() && !value(volume.metadata, memory_key::change_id).empty();
  if (has_change_id && options_.trust_change_id) missing[memory_key::complete] = memory_key::yes;
  log_.info("volume taken over", {{"volume", volume.id.value}, {"name", volume.name}, {"from", owner}});
  client::volumes::update_metadata(cloud_->volume(stop), volume.id, missing, stop);
  if (!owner.empty() || (has_change_id && options_.trust_change_id)) return "";
  return fmt::format("taking over volume {} ('{}') of {}; all of it is copied once{}", volume.id.value, volume.name,
                     osm ? "vmware-migration-kit" : "migratekit",
                     has_change_id ? ", since nothing tells whether a conversion has changed it (--trust-change-id "
                                     "goes on from its change id)"
                                   : "");
}

Volume OpenstackCloud::allocate(const VolumeWish& wish, std::stop_token stop) {
  client::Service& service = cloud_->volume(stop);
  auto existing = find_volume(wish.tag, stop);
  if (existing && existing->status == "error" && fresh(*existing, wish.tag.job)) {
    log_.warning("deleting a volume of ours that could not be made, to try again", {{"volume", existing->id.value}});
    client::volumes::remove(service, existing->id, stop);
    existing.reset();
  } else if (existing && existing->status == "error" && existing->gib == 0 &&
             value(existing->metadata, memory_key::managed) == memory_key::yes) {
    // What Cinder was to manage is not there, or not like this. Deleting could take the original away: a driver may
    // have renamed it before it failed.
    log_.warning("a volume that Cinder could not manage is forgotten, to try again", {{"volume", existing->id.value}});
    client::volumes::unmanage(service, existing->id, stop);
    existing.reset();
  }
  const std::string remark = existing ? adopt(*existing, wish.tag, stop) : "";
  if (options_.brick && existing && unsettled(*existing)) attacher_->detach(existing->id, stop);
  const VolumeId id = existing ? existing->id : create(wish, stop).id;
  client::Volume ready =
      client::volumes::wait_for(service, id, {"available", "in-use"}, options_.volume_patience, stop);
  if (ready.gib * gib < wish.bytes) ready = grow(ready, wish, stop);
  if (wish.boot) make_bootable(service, ready, wish.image_properties, stop);
  Volume volume = volume_of(ready, wish.tag.job);
  volume.remark = remark;
  return volume;
}

// ---- devices

std::unique_ptr<Device> OpenstackCloud::attach(const Volume& volume, std::stop_token stop) {
  client::Service& service = cloud_->volume(stop);
  const Place place = attacher_->attach(volume.id, stop);
  const client::Volume now = client::volumes::get(service, volume.id, stop);
  Expected expected;
  expected.name = "volume " + volume.id.value;
  expected.serial = volume.id.value;
  expected.bytes = now.gib * gib;
  // The caller may have marked it as written just now; that it was never opened is our own word.
  // A new volume need not read as zeroes: thick backends hand out old blocks (LVM with volume_clear=none). Nothing in
  // Cinder's API tells, so what the source has as zeroes is made zero here too; thin backends do that for nothing.
  expected.known_zero = false;
  auto device = std::make_unique<OpenedDevice>(place.path, std::move(expected), place.identity);
  // Before anyone can write: from here on no later run may take the volume for empty, nor another job for as it left
  // it.
  const std::string job = value(now.metadata, memory_key::job);
  refuse_taken_away(volume, job);
  if (value(now.metadata, memory_key::opened) != job)
    client::volumes::update_metadata(service, volume.id, {{memory_key::opened, job}}, stop);
  return device;
}

void OpenstackCloud::detach(const VolumeId& volume, std::stop_token stop) {
  attacher_->detach(volume, stop);
  if (options_.brick)
    refuse_novas(cloud_->volume(stop), volume, options_.instance_id, options_.instance_sources.firmware, stop);
}

void OpenstackCloud::remember(const VolumeId& volume, const Memory& memory, std::stop_token stop) {
  client::Service& service = cloud_->volume(stop);
  client::Metadata kept;
  // What is taken back goes first: a crash in between must leave too little said, not too much.
  for (const auto& [key, text] : memory) {
    if (text.empty())
      client::volumes::remove_metadata(service, volume, key, stop);
    else
      kept[key] = text;
  }
  client::volumes::update_metadata(service, volume, kept, stop);
}

void OpenstackCloud::discard(const VolumeId& volume, const JobId& job, std::stop_token stop) {
  client::Service& service = cloud_->volume(stop);
  const auto found = client::volumes::look_up(service, volume, stop);
  if (!found) return;
  const std::string owner = value(found->metadata, memory_key::job);
  if (owner != job.value)
    throw Error(Fault::conflict,
                fmt::format("volume {} ('{}') is not deleted: it carries {}, not the tag of job {}", volume.value,
                            found->name, owner.empty() ? "no tag of ours" : "the tag of job " + owner, job.value));
  if (!found->attachments.empty())
    throw Error(Fault::conflict, fmt::format("volume {} ('{}') is not deleted: it is attached to {}; detach it first",
                                             volume.value, found->name, client::volume_attachments::holder(*found)));
  if (value(found->metadata, memory_key::managed) == memory_key::yes) {
    log_.info("volume is left to the storage that had it before", {{"volume", volume.value}, {"job", job.value}});
    client::volumes::unmanage(service, volume, stop);
    return;
  }
  log_.info("deleting volume", {{"volume", volume.value}, {"job", job.value}});
  client::volumes::remove(service, volume, stop);
}

// ---- ports

// Neutron's words for it: IpAddressAlreadyAllocated, IpAddressInUse, InvalidIpForNetwork, InvalidIpForSubnet,
// AllocationOnAutoAddressSubnet.
bool about_addresses(const Error& e) {
  const auto says = [&](const char* word) { return e.name().find(word) != std::string::npos; };
  return says("IpAddress") || says("InvalidIpFor") || says("AutoAddressSubnet");
}

// Neutron names the address that cannot be had somewhere in its sentence.
bool names(const std::string& sentence, const std::string& ip) {
  const char* of_addresses = "0123456789abcdefABCDEF:.";
  for (std::size_t at = 0; (at = sentence.find_first_of(of_addresses, at)) != std::string::npos;) {
    const std::size_t end = std::min(sentence.find_first_not_of(of_addresses, at), sentence.size());
    std::string word = sentence.substr(at, end - at);
    while (word.ends_with('.')) word.pop_back();
    if (same_address(word, ip)) return true;
    at = end;
  }
  return false;
}

// The next best after a refusal: another address of the same subnet for each that the refusal names, or of one of the
// same family when it is of no subnet. Where it names none, first without those others, then whatever the network has.
std::vector<client::FixedIp> next_best(const std::vector<client::FixedIp>& wanted, const std::string& refusal,
                                       const std::vector<client::Subnet>& subnets) {
  const auto v6 = [](const std::string& text) { return text.find(':') != std::string::npos; };
  const auto refused = [&](const client::FixedIp& one) { return !one.ip.empty() && names(refusal, one.ip); };
  std::vector<client::FixedIp> next;
  if (std::none_of(wanted.begin(), wanted.end(), refused)) {
    // A full subnet is refused without its name.
    std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(next),
                 [](const client::FixedIp& one) { return !one.ip.empty(); });
    if (next.size() == wanted.size()) next.clear();
    return next;
  }
  for (const client::FixedIp& one : wanted) {
    if (!refused(one)) {
      next.push_back(one);
      continue;
    }
    auto home = std::find_if(subnets.begin(), subnets.end(), [&](const client::Subnet& subnet) {
      return one.subnet.empty() ? in_cidr(one.ip, subnet.cidr) : subnet.id == one.subnet;
    });
    if (home == subnets.end())
      home = std::find_if(subnets.begin(), subnets.end(),
                          [&](const client::Subnet& subnet) { return v6(subnet.cidr) == v6(one.ip); });
    if (home != subnets.end()) next.push_back({home->id, ""});
  }
  return next;
}

client::MadePort OpenstackCloud::make_port(const client::PortWish& wish, const NetworkChoice& choice,
                                           std::stop_token stop) {
  client::Service& service = cloud_->network(stop);
  client::PortWish nearest = wish;
  // Each round gives up an address or, in the last, all that is left.
  while (true) {
    try {
      return client::ports::ensure(service, nearest, stop);
    } catch (const Error& e) {
      if (choice.ips.empty() || nearest.fixed_ips.empty() || !about_addresses(e)) throw;
      if (!options_.any_address)
        throw Error(
            e.fault() == Fault::conflict ? Fault::conflict : Fault::config,
            fmt::format("address {} cannot be had in network {}: choose another with --network-mapping mac={},...,ip= "
                        "or use --fallback-to-dhcp ({})",
                        fmt::join(choice.ips, " and "), choice.network, wish.mac, e.what()),
            e.name());
      log_.warning("the wanted address cannot be had; taking another",
                   {{"mac", wish.mac}, {"wanted", fmt::format("{}", fmt::join(choice.ips, " "))}, {"why", e.what()}});
      client::Network network;
      network.id = wish.network;
      nearest.fixed_ips = next_best(nearest.fixed_ips, e.what(), client::networks::subnets_of(service, network, stop));
    }
  }
}

bool has_addresses(const client::Port& port, const std::vector<std::string>& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const std::string& ip) {
    return std::any_of(port.fixed_ips.begin(), port.fixed_ips.end(),
                       [&](const client::FixedIp& fixed) { return same_address(fixed.ip, ip); });
  });
}

// A port that was there before may be somebody's, or not what was asked for.
void OpenstackCloud::judge_port(const client::Port& port, const JobId& job, const NetworkChoice& choice,
                                std::stop_token stop) {
  if (!port.device_id.empty()) {
    // Ours after a run that died between making the server and remembering it.
    const auto server = client::servers::look_up(cloud_->compute(stop), ServerId{port.device_id}, stop);
    if (!server || job.empty() || value(server->metadata, memory_key::job) != job.value)
      throw Error(
          Fault::conflict,
          fmt::format(
              "port {} with MAC {} in network {} is in use by {}: {}", port.id.value, port.mac, choice.network,
              server ? fmt::format("server {} ('{}')", server->id.value, server->name) : "device " + port.device_id,
              server && server->metadata.contains(memory_key::job)
                  ? "a cutover made that, perhaps of this very machine; look there first"
                  : "remove it there first"));
  }
  if (options_.any_address || has_addresses(port, choice.ips)) return;
  std::vector<std::string> addresses;
  for (const client::FixedIp& fixed : port.fixed_ips) addresses.push_back(fixed.ip);
  throw Error(
      Fault::conflict,
      fmt::format("port {} with MAC {} exists in network {} with address {}, not {}: delete it or leave ip= out",
                  port.id.value, port.mac, choice.network, fmt::join(addresses, " and "),
                  fmt::join(choice.ips, " and ")));
}

// Whether a port that this job made earlier is still what is wanted. `any_address`: whatever its addresses are.
bool suits(const client::Port& port, const client::PortWish& wish, bool any_address) {
  const auto given = [&](const client::FixedIp& wanted) {
    return std::any_of(port.fixed_ips.begin(), port.fixed_ips.end(), [&](const client::FixedIp& fixed) {
      return (wanted.ip.empty() || same_address(fixed.ip, wanted.ip)) &&
             (wanted.subnet.empty() || fixed.subnet == wanted.subnet);
    });
  };
  const auto set = [](const std::vector<std::string>& list) { return std::set(list.begin(), list.end()); };
  return (any_address || std::all_of(wish.fixed_ips.begin(), wish.fixed_ips.end(), given)) &&
         (wish.security_groups.empty() || set(port.security_groups) == set(wish.security_groups)) &&
         set(port.allowed_addresses) == set(wish.allowed_addresses) &&
         (!wish.port_security || port.port_security == *wish.port_security);
}

client::PortWish OpenstackCloud::port_wish(const JobId& job, const model::Nic& nic, const NetworkChoice& choice,
                                           std::stop_token stop) {
  const client::Network network = client::networks::find(cloud_->network(stop), choice.network, stop);
  client::PortWish wish;
  wish.name = nic.label;
  wish.description = port_tag(job);
  wish.network = network.id;
  wish.mac = lower(nic.mac.empty() ? choice.mac : nic.mac);
  std::optional<client::Subnet> subnet;
  if (!choice.subnet.empty())
    subnet = client::networks::find_subnet(cloud_->network(stop), network, choice.subnet, stop);
  // An address of another subnet (IPv6 beside IPv4) says itself where it belongs.
  for (const std::string& ip : choice.ips)
    wish.fixed_ips.push_back({subnet && (choice.ips.size() == 1 || in_cidr(ip, subnet->cidr)) ? subnet->id : "", ip});
  if (choice.ips.empty() && subnet) wish.fixed_ips.push_back({subnet->id, ""});
  wish.security_groups = security_groups(&choice, stop);
  wish.allowed_addresses = choice.allowed_addresses;
  wish.port_security = choice.port_security;
  return wish;
}

Port OpenstackCloud::ensure_port(const JobId& job, const model::Nic& nic, const NetworkChoice& choice,
                                 std::stop_token stop) {
  const client::PortWish wish = port_wish(job, nic, choice, stop);
  client::MadePort made = make_port(wish, choice, stop);
  if (!made.created && made.port.description == wish.description && made.port.device_id.empty() &&
      !suits(made.port, wish, options_.any_address) &&
      // A server that a run made just before it died may be about to take it.
      client::servers::find(cloud_->compute(stop), {{memory_key::job, job.value}}, stop).empty()) {
    log_.info("making a port of ours anew: other settings are wanted",
              {{"port", made.port.id.value}, {"mac", made.port.mac}});
    client::ports::remove(cloud_->network(stop), made.port.id, stop);
    made = make_port(wish, choice, stop);
  }
  if (!made.created) judge_port(made.port, job, choice, stop);
  Port port{made.port.id, made.port.mac, made.created || made.port.description == wish.description};
  if (!has_addresses(made.port, choice.ips)) {
    std::vector<std::string> addresses;
    for (const client::FixedIp& fixed : made.port.fixed_ips) addresses.push_back(fixed.ip);
    port.remark = fmt::format("its address is {}, not {} (--fallback-to-dhcp)", fmt::join(addresses, " and "),
                              fmt::join(choice.ips, " and "));
  }
  return port;
}

void OpenstackCloud::prepare_launch(const model::Vm& vm, std::stop_token stop) {
  choose_flavor(*cloud_, options_.flavor, vm, stop);
}

std::vector<PortId> OpenstackCloud::ports_of(const JobId& job, std::stop_token stop) {
  std::vector<PortId> ids;
  for (const client::Port& port : client::ports::find_by_description(cloud_->network(stop), port_tag(job), "", stop))
    ids.push_back(port.id);
  return ids;
}

void OpenstackCloud::discard_port(const PortId& port, const JobId& job, std::stop_token stop) {
  client::Service& service = cloud_->network(stop);
  const auto found = client::ports::look_up(service, port, stop);
  if (!found) return;
  if (found->description != port_tag(job))
    throw Error(Fault::conflict, fmt::format("port {} is not deleted: its description is \"{}\", not \"{}\"",
                                             port.value, found->description, port_tag(job)));
  if (!found->device_id.empty())
    throw Error(Fault::conflict, fmt::format("port {} is not deleted: server {} has it", port.value, found->device_id));
  log_.info("deleting port", {{"port", port.value}, {"job", job.value}});
  client::ports::remove(service, port, stop);
}

// ---- the server

std::optional<ServerId> OpenstackCloud::find_server(const JobId& job, std::stop_token stop) {
  if (const auto server = server_of(job, stop)) return server->id;
  return std::nullopt;
}

// By the tag alone: machine and server may both have other names by now.
std::optional<client::Server> OpenstackCloud::server_of(const JobId& job, std::stop_token stop) {
  auto found = client::servers::find(cloud_->compute(stop), {{memory_key::job, job.value}}, stop);
  if (found.empty()) return std::nullopt;
  if (found.size() == 1) return found.front();
  std::vector<std::string> ids;
  for (const client::Server& s : found) ids.push_back(s.id.value);
  throw Error(Fault::conflict,
              fmt::format("{} servers are of job {}: {}; delete all but the right one (their volumes are kept)",
                          found.size(), job.value, fmt::join(ids, ", ")));
}

client::Server OpenstackCloud::create_server(const LaunchWish& wish, std::stop_token stop) {
  client::Service& compute = cloud_->compute(stop);
  client::ServerWish make;
  make.name = wish.vm.name;
  FlavorRules rules = options_.flavor;
  if (!wish.flavor.empty()) rules.wanted = wish.flavor;
  const ChosenFlavor chosen = choose_flavor(*cloud_, rules, wish.vm, stop);
  make.flavor_id = chosen.flavor.id;
  log_.info("flavor of the server", {{"flavor", chosen.flavor.name}, {"why", chosen.reason}});
  make.volumes = wish.volumes;
  make.ports = wish.ports;
  make.availability_zone = wish.availability_zone.empty() ? options_.availability_zone : wish.availability_zone;
  make.metadata = options_.server.all_metadata(stop);
  make.metadata[memory_key::job] = wish.job.value;
  make.metadata["vmferry_vm"] = wish.vm.id.value;
  make.key_name = options_.server.key_pair;
  make.user_data = options_.server.user_data;
  make.config_drive = options_.server.config_drive;
  if (!options_.server.group.empty()) make.group = client::servers::find_group(compute, options_.server.group, stop);
  make.host = options_.server.host;
  make.tags = options_.server.tags;
  make.tag = {{memory_key::job, wish.job.value}};
  for (const VolumeId& id : wish.volumes) {
    const client::Volume volume = client::volumes::get(cloud_->volume(stop), id, stop);
    if (!volume.attachments.empty())
      throw Error(
          Fault::conflict,
          fmt::format("server '{}' cannot be made: volume {} is still attached to {}; detach it and run the same "
                      "command again",
                      wish.vm.name, id.value, client::volume_attachments::holder(volume)));
    client::volumes::wait_for(cloud_->volume(stop), id, {"available"}, options_.volume_patience, stop);
  }
  if (wish.before_asking) wish.before_asking();
  const client::Server server = client::servers::create(compute, make, stop);
  log_.info("server created", {{"server", server.id.value}, {"name", make.name}});
  return server;
}

Launched OpenstackCloud::launch(const LaunchWish& wish, std::stop_token stop) {
  const auto existing = server_of(wish.job, stop);
  const client::Server server = existing ? *existing : create_server(wish, stop);
  try {
    const client::Server active =
        client::servers::wait_for_active(cloud_->compute(stop), server.id, options_.server_patience, stop);
    return {active.id, active.status};
  } catch (const Error& e) {
    // Whoever reads "not found" may take it that nothing ever ran.
    if (e.fault() == Fault::not_found)
      throw Error(
          Fault::conflict,
          fmt::format("server {} was deleted while it was waited for ({}): what it wrote is on the volumes, and "
                      "the next run copies them anew",
                      server.id.value, e.what()));
    if (e.name() != "ERROR") throw;
    throw Error(e.fault(),
                fmt::format("{}. When its cause is gone, `openstack server delete {}` (volumes and ports are kept) "
                            "and run the same command again",
                            e.what(), server.id.value),
                e.name());
  }
}

}  // namespace

std::unique_ptr<Cloud> openstack_cloud(Options options, std::shared_ptr<client::Cloud> cloud,
                                       std::unique_ptr<http::Transport> metadata, Clock& clock, log::Log& log) {
  return std::make_unique<OpenstackCloud>(std::move(options), std::move(cloud), std::move(metadata), clock, log);
}

}  // namespace vmferry::target::openstack
