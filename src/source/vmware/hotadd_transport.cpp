// Attach, find the device, serve it; and the way back. Order: the source machine's mark, then the disk with its own
// mark, then the device; the server of the bytes ends first, then the disk with its mark goes, then the source's mark.
#include "source/vmware/hotadd_transport.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <set>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/id.hpp"
#include "base/time_limit.hpp"
#include "source/vmware/datastore_path.hpp"
#include "source/vmware/hotadd_marks.hpp"
#include "source/vmware/hotadd_writes.hpp"
#include "source/vmware/machine.hpp"
#include "vsphere/attached_disks.hpp"
#include "vsphere/inventory.hpp"
#include "vsphere/snapshots.hpp"

namespace vmferry::source::vmware {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::seconds appearance{60};   // of a device, after its disk was attached
constexpr std::chrono::seconds last_chance{60};  // for what a run that ends early has attached
constexpr std::chrono::seconds passing{5};       // for programs that hold a new device to look at it

// A disk that is attached, and the server of its bytes.
struct Served {
  vsphere::ScsiSlot slot;
  std::string device;
  std::function<void(std::stop_token)> check;  // throws when the device may be another disk's by now
  std::function<void()> untouched;             // throws when its bytes may be the proxy's
  std::mutex mutex;
  std::unique_ptr<DeviceServer> bytes;
  bool over = false;  // its source has ended, or it was let go of
  void end() {
    const std::scoped_lock lock(mutex);
    bytes.reset();
    over = true;
  }
};

class AttachedSource final : public copy::Source {
 public:
  AttachedSource(FrozenDisk disk, std::shared_ptr<Served> served, std::shared_ptr<Guest> guest, std::string proxy)
      : disk_(std::move(disk)), served_(std::move(served)), guest_(std::move(guest)), proxy_(std::move(proxy)) {}
  // The disk stays attached until the next one is, or until it is let go of: whoever destroys this may not wait.
  ~AttachedSource() override { served_->end(); }

  std::uint64_t bytes() const override { return disk_.capacity; }

  void check(std::stop_token) override {
    {
      const std::scoped_lock lock(served_->mutex);
      refuse_ended();
    }
    served_->untouched();
  }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    const std::scoped_lock lock(served_->mutex);
    refuse_ended();
    if (!served_->bytes || !served_->bytes->alive()) {
      served_->bytes.reset();
      served_->bytes = guest_->serve(served_->device, stop);
    }
    std::unique_ptr<nbd::Handle> handle;
    try {
      handle = std::make_unique<nbd::Handle>(served_->bytes->uri(), stop);
    } catch (const Error& error) {
      throw Error(error.fault(), fmt::format("{}; nbdkit said: {}", error.what(), served_->bytes->last_words()));
    }
    // Each connection opens the device anew, by a name that another disk may have when this one was detached.
    served_->check(stop);
    return handle;
  }

 private:
  void refuse_ended() const {
    if (served_->over)
      throw Error(Fault::conflict, fmt::format("disk {} is not attached to {} any more: its snapshot is being removed",
                                               model::to_string(disk_.key), proxy_));
  }

  FrozenDisk disk_;
  std::shared_ptr<Served> served_;
  std::shared_ptr<Guest> guest_;
  std::string proxy_;
};

bool same_uuid(const std::string& a, const std::string& b) {
  return !plain_uuid(a).empty() && plain_uuid(a) == plain_uuid(b);
}

// What tells a disk's device, by the proxy's configuration. A UUID that another disk there has too (the copy of a file)
// tells nothing. Nor does the place at an LSI Logic SAS controller: the names there ("sas-phy1-lun-0" or, with an older
// udev, "sas-0x5000c29...-lun-0") have the number of the SAS phy or its address, which nobody promises to be the
// unit's.
DiskPlace place_of(const vsphere::Configuration& proxy, const vsphere::ScsiSlot& slot, const std::string& uuid) {
  const auto same = std::count_if(proxy.disks.begin(), proxy.disks.end(), [&](const vsphere::AttachedDisk& disk) {
    return disk.slot != slot && same_uuid(disk.uuid, uuid);
  });
  const auto controller = proxy.scsi_controllers.find(slot.bus);
  const bool sas = controller != proxy.scsi_controllers.end() && controller->second.sas;
  return {same == 0 ? plain_uuid(uuid) : std::string(), sas ? std::nullopt : pci_place(proxy.settings, slot.bus),
          slot.unit};
}

model::VmId by_uuid(const std::vector<std::string>& uuids, vsphere::Session& session, std::stop_token stop) {
  std::vector<model::VmId> found;
  for (const std::string& uuid : uuids)
    for (const model::VmId& vm : vsphere::machines_with_uuid(session, uuid, false, stop))
      if (std::find(found.begin(), found.end(), vm) == found.end()) found.push_back(vm);
  if (found.size() == 1) return found.front();
  if (found.empty())
    throw Error(Fault::not_found,
                fmt::format("no machine of {} has the SMBIOS UUID {} of the proxy: run vmferry on a machine there, or "
                            "give --proxy-ssh USER@HOST",
                            session.server(), uuids.front()));
  throw Error(Fault::conflict, fmt::format("{} machines of {} have the SMBIOS UUID {} of the proxy: say by --proxy-vm "
                                           "which of them it is",
                                           found.size(), session.server(), uuids.front()));
}

class HotaddTransport final : public Transport {
 public:
  HotaddTransport(HotaddOptions options, vsphere::Session& session, process::Runner& runner, log::Log& log)
      : options_(std::move(options)),
        session_(session),
        log_(log),
        owner_{random_uuid(), options_.jobs, options_.everything} {
    guest_ = guest_of(options_, runner, log_);
    writes_ = std::make_shared<ProxyWrites>(options_.ssh, runner);
  }

  // A run that ends with its snapshot kept does not keep the disks attached for it.
  ~HotaddTransport() override {
    if (!touched_) return;
    try {
      const TimeLimit limit(last_chance);
      release(limit.token());
    } catch (const std::exception& error) {
      log_.warning("disks stay attached until the next run or `vmferry abort`",
                   {{"proxy", proxy_.name}, {"reason", error.what()}});
    }
  }

  std::string name() const override { return "hotadd"; }
  bool counted() const override { return false; }

  std::optional<std::string> refuses(const FrozenDisk& disk) const override {
    const DatastorePath path = parse_datastore_path(disk.file);
    if (path.datastore.empty() || !std::string_view(path.file).ends_with(".vmdk"))
      return fmt::format(
          "disk {} has the file name '{}', which is not one on a datastore, so it cannot be attached to "
          "another machine; use another transport",
          model::to_string(disk.key), disk.file);
    return std::nullopt;
  }

  std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token stop) override {
    if (const auto reason = refuses(disk)) throw Error(Fault::unsupported, *reason);
    const std::scoped_lock lock(mutex_);  // one change of the proxy at a time
    try {
      prepare(stop);
      touched_ = true;
      mark_source(stop);
      detach_ended(stop);
      const vsphere::Configuration proxy = attach(disk, job_of(point.snapshot, stop), stop);
      // Another run on this machine may have let go in between, and taken the mark away before our disk came.
      mark_source(stop);
      auto served = find_device(proxy, disk, stop);
      served_.push_back(served);
      return std::make_unique<AttachedSource>(disk, std::move(served), guest_, proxy_.name);
    } catch (Error& error) {
      error.during(fmt::format("attaching disk {} to {}", model::to_string(disk.key),
                               proxy_.name.empty() ? "a proxy" : proxy_.name));
      throw;
    }
  }

  void let_go(std::stop_token stop) override {
    // Such a disk's files cannot be merged, and which files a snapshot's removal merges is not ours to foresee.
    if (const auto stays = release(stop); !stays.empty())
      throw Error(Fault::conflict, fmt::format("{}", fmt::join(stays, "; ")));
  }

 private:
  // A machine that is gone has taken its disks and its marks with it.
  static void if_there(const std::function<void()>& act) {
    try {
      act();
    } catch (const vsphere::FaultError& e) {
      if (e.name() != "ManagedObjectNotFound") throw;
    }
  }

  // Gives sentences about what other hosts' runs keep attached.
  std::vector<std::string> release(const std::stop_token& stop) {
    const std::scoped_lock lock(mutex_);
    for (const auto& served : served_) served->end();
    std::map<std::string, std::vector<DiskPlace>> leaving;  // by proxy: of an earlier run it was another one perhaps
    const Before before = [&](const vsphere::Configuration& proxy, const std::vector<MarkedDisk>& disks) {
      for (DiskPlace& place : refuse_busy(proxy, disks, stop)) leaving[proxy.instance_uuid].push_back(std::move(place));
    };
    // Whatever its marks say (another host may have taken them away too early): which proxy this run has used is known.
    if (!proxy_.vm.empty()) {
      const Choose own = [&](std::vector<MarkedDisk>& disks) {
        std::erase_if(disks, [&](const MarkedDisk& disk) { return disk.mark.run != owner_.run; });
      };
      if_there([&] { detach_marked(session_, proxy_.vm, source_.instance_uuid, own, before, stop); });
    }
    std::vector<std::string> stays;
    if_there([&] { stays = release_marked(session_, options_.vm, owner_, before, stop); });
    for (const auto& [proxy, places] : leaving) await_absence(places, stop);
    served_.clear();
    touched_ = false;
    return stays;
  }

  void prepare(const std::stop_token& stop) {
    if (!proxy_.vm.empty()) return;
    Proxy found = find_proxy(options_, *guest_, session_, stop);
    source_ = vsphere::configuration(session_, options_.vm, stop);
    vsphere::require_instance_uuid(source_);
    warn_of_orphans(found, stop);
    proxy_ = std::move(found);
  }

  // Disks of machines that are not there any more: nobody reads the marks of those. Not detached: a machine that this
  // user may not see looks like that, too, and its run may live.
  void warn_of_orphans(const Proxy& proxy, const std::stop_token& stop) {
    for (auto& [vm, disks] : marked_disks(vsphere::configuration(session_, proxy.vm, stop))) {
      std::erase_if(disks, [](const MarkedDisk& disk) { return !disk.disk; });
      if (disks.empty() || vm == source_.instance_uuid) continue;
      if (!vsphere::machines_with_uuid(session_, vm, true, stop).empty()) continue;
      log_.warning(
          "a proxy has disks attached of a machine that is not in the inventory any more (or that this user may not "
          "see): if it was deleted, remove them there in vSphere without deleting their files",
          {{"proxy", proxy.name}, {"places", places(disks)}, {"machine", vm}, {"file", disks.front().mark.file}});
    }
  }

  void mark_source(const std::stop_token& stop) {
    set_mark(session_, options_.vm, proxy_mark_key(proxy_.instance_uuid),
             proxy_mark(proxy_.vm, proxy_.name, options_.host), stop);
  }

  // What this object attached and does not need any more, and what runs that died left on this proxy.
  void detach_ended(const std::stop_token& stop) {
    std::erase_if(served_, [](const auto& served) {
      const std::scoped_lock lock(served->mutex);
      return served->over;
    });
    const Choose choose = [&](std::vector<MarkedDisk>& disks) {
      std::erase_if(disks, [&](const MarkedDisk& disk) {
        return disk.mark.run == owner_.run && std::any_of(served_.begin(), served_.end(), [&](const auto& served) {
                 return served->slot == disk.slot;
               });
      });
      take_out_others(session_, options_.vm, disks, owner_, stop);  // let_go() says so
    };
    std::vector<DiskPlace> leaving;
    const Before before = [&](const vsphere::Configuration& proxy, const std::vector<MarkedDisk>& disks) {
      leaving = refuse_busy(proxy, disks, stop);
    };
    detach_marked(session_, proxy_.vm, source_.instance_uuid, choose, before, stop);
    await_absence(leaving, stop);
  }

  const MarkedDisk* ours(const std::vector<MarkedDisk>& marked, const std::string& file) const {
    for (const MarkedDisk& disk : marked)
      if (disk.mark.run == owner_.run && disk.mark.file == file && disk.disk) return &disk;
    return nullptr;
  }

  // A place where the guest has no device. One that is there already is of a disk that left, and must not be taken for
  // the next one: it is waited for, then another place is taken.
  vsphere::ScsiSlot clean_slot(const vsphere::Configuration& proxy, const std::string& uuid,
                               std::chrono::steady_clock::time_point give_up, const std::stop_token& stop) {
    std::erase_if(stale_, [&](const auto& stale) {
      return guest_->look(place_of(proxy, stale.first, ""), stop).by_path.empty();
    });
    for (;;) {
      std::set<vsphere::ScsiSlot> avoid;
      for (const auto& stale : stale_) avoid.insert(stale.first);
      const auto slot = vsphere::free_slot(proxy, avoid);
      if (!slot && !stale_.empty()) throw not_vanished(stale_.begin()->second);
      if (!slot)
        throw Error(Fault::quota,
                    fmt::format("the proxy {} has no free place for another disk: its four SCSI "
                                "controllers have 15 disks each (one that is shared with other machines "
                                "is not used); wait for other migrations that use it, copy fewer machines "
                                "at once, or use another proxy",
                                proxy.name));
      const DiskLinks links = lingering(place_of(proxy, *slot, uuid), give_up, stop);
      if (!links.by_id.empty()) throw not_vanished(links.by_id);  // at any place it would be taken for the new one
      if (links.by_path.empty()) return *slot;
      log_.warning("a device is there although no disk is attached at its place; another place is used",
                   {{"place", to_string(*slot)}, {"reason", not_vanished(links.by_path).what()}});
      stale_[*slot] = links.by_path;
    }
  }

  vsphere::Configuration attach(const FrozenDisk& disk, const JobId& job, const std::stop_token& stop) {
    const auto give_up = clock_.mono() + options_.disappearance;
    const auto wish = [&](const vsphere::Configuration& now) -> std::optional<vsphere::Change> {
      if (ours(marked_disks(now, source_.instance_uuid), disk.file)) return std::nullopt;
      if (!now.on)
        throw Error(Fault::conflict,
                    fmt::format("the proxy {} is switched off: start it, disks are read in its guest", now.name));
      const vsphere::ScsiSlot slot = clean_slot(now, uuid_of(disk), give_up, stop);
      vsphere::Change change;
      change.attach = vsphere::Attachment{slot, disk.file, disk.capacity};
      change.settings[disk_mark_key(slot)] =
          to_string(DiskMark{source_.instance_uuid, owner_.run, options_.host, disk.file, job});
      return change;
    };
    return vsphere::bring_about(session_, proxy_.vm, wish, fmt::format("attaching {}", disk.file), stop);
  }

  JobId job_of(const SnapshotId& snapshot, const std::stop_token& stop) {
    const vsphere::SnapshotTree tree = vsphere::snapshots(session_, options_.vm, stop);
    const model::Snapshot* known = tree.find(snapshot);
    if (!known)
      throw Error(Fault::conflict, fmt::format("snapshot {} of {} was removed by somebody else; run the same command "
                                               "again to continue with a new one",
                                               snapshot.value, source_.name));
    if (const auto tag = parse_tag(known->name, known->description)) return tag->job;
    throw Error(Fault::conflict, fmt::format("somebody has changed the name or description of snapshot {} of {}, by "
                                             "which it is known whose it is: remove it in vSphere, and run the same "
                                             "command again to continue with a new one",
                                             snapshot.value, source_.name));
  }

  // Snapshots' layers have the UUID of their disk.
  std::string uuid_of(const FrozenDisk& disk) const {
    for (const vsphere::AttachedDisk& live : source_.disks)
      if (live.key == disk.key.value) return live.uuid;
    return {};
  }

  std::shared_ptr<Served> find_device(const vsphere::Configuration& proxy, const FrozenDisk& disk,
                                      const std::stop_token& stop) {
    const std::vector<MarkedDisk> marked = marked_disks(proxy, source_.instance_uuid);
    const MarkedDisk* mine = ours(marked, disk.file);
    if (!mine) throw Error(Fault::bug, fmt::format("{} is attached, but where is not known", disk.file));
    const DiskPlace place = place_of(proxy, mine->slot, mine->disk->uuid);
    const std::string device = await_device(place, mine->slot, stop);
    if (const std::uint64_t bytes = guest_->bytes_of(device, stop); bytes != disk.capacity)
      throw Error(
          Fault::conflict,
          fmt::format("{} on {} has {} bytes, but disk {} has {}: it is not that disk, although its identity says "
                      "so; nothing was read from it",
                      device, guest_->name(), bytes, model::to_string(disk.key), disk.capacity));
    const ProxyWrites::Seen first = writes_->begin(device, stop);
    // Asked after that, for whoever has come before keeps what it may do.
    refuse_held(device, mine->slot, stop);
    auto served = std::make_shared<Served>();
    served->slot = mine->slot;
    served->device = device;
    served->check = still_there(*mine, device);
    served->untouched = [writes = writes_, device, first] { writes->check(device, first); };
    served->bytes = guest_->serve(device, stop);
    log_.info("disk attached", {{"disk", model::to_string(disk.key)},
                                {"proxy", proxy_.name},
                                {"place", to_string(mine->slot)},
                                {"device", device}});
    return served;
  }

  // Of nothing but copies: sources ask while this object changes or lets go.
  std::function<void(std::stop_token)> still_there(const MarkedDisk& mine, const std::string& device) {
    return [&session = session_, guest = guest_, proxy = proxy_, vm = source_.instance_uuid, mark = mine.mark,
            slot = mine.slot, device](const std::stop_token& stop) {
      const vsphere::Configuration now = vsphere::configuration(session, proxy.vm, stop);
      for (const MarkedDisk& disk : marked_disks(now, vm)) {
        if (disk.slot != slot || disk.mark != mark || !disk.disk) continue;
        const DiskLinks links = guest->look(place_of(now, slot, disk.disk->uuid), stop);
        const bool same = (links.by_id.empty() || links.by_id == device) &&
                          (links.by_path.empty() || links.by_path == device) &&
                          !(links.by_id.empty() && links.by_path.empty());
        if (same) return;
        throw Error(Fault::conflict, fmt::format("{} on {} is no longer the disk at {} of {}: see its kernel log",
                                                 device, guest->name(), to_string(slot), proxy.name));
      }
      throw Error(Fault::conflict,
                  fmt::format("{} is no longer attached to {} at {}: somebody else has detached it; run the same "
                              "command again",
                              mark.file, proxy.name, to_string(slot)));
    };
  }

  void refuse_held(const std::string& device, const vsphere::ScsiSlot& slot, const std::stop_token& stop) {
    const auto give_up = clock_.mono() + passing;
    while (const auto reason = guest_->in_use(device, stop)) {
      if (clock_.mono() > give_up)
        throw Error(Fault::conflict, fmt::format("the disk at {} of {} is not read, for what the proxy writes to it "
                                                 "would be copied: {}",
                                                 to_string(slot), proxy_.name, *reason));
      sleep_or_cancel(clock_, 500ms, stop);
    }
  }

  std::string await_device(const DiskPlace& place, const vsphere::ScsiSlot& slot, const std::stop_token& stop) {
    if (place.uuid.empty() && !place.pci)
      throw Error(
          Fault::unsupported,
          fmt::format("which device of {} is the disk at {} cannot be told: vSphere shows neither a UUID of its "
                      "own nor the PCI slot of a controller whose names are known (pvscsi, LSI Logic Parallel); set "
                      "disk.EnableUUID to TRUE in the configuration of {}, and give it a pvscsi controller",
                      guest_->name(), to_string(slot), proxy_.name));
    const auto give_up = clock_.mono() + appearance;
    for (std::chrono::milliseconds wait{50};; wait = std::min(2 * wait, std::chrono::milliseconds(1000))) {
      const DiskLinks links = guest_->look(place, stop);
      if (!links.by_id.empty() && !links.by_path.empty() && links.by_id != links.by_path)
        throw Error(
            Fault::conflict,
            fmt::format("which device of {} is the disk at {} cannot be told: by its UUID it is {}, by its place "
                        "{}; detach copies of this disk from {}",
                        guest_->name(), to_string(slot), links.by_id, links.by_path, proxy_.name));
      if (!links.by_id.empty()) return links.by_id;
      if (!links.by_path.empty()) return links.by_path;
      if (clock_.mono() > give_up)
        throw Error(
            Fault::timeout,
            fmt::format("the disk was attached to {} at {}, but {} shows no such device after {} s; set "
                        "disk.EnableUUID to TRUE in its configuration and give it a pvscsi controller (while it is "
                        "off), and see its kernel log",
                        proxy_.name, to_string(slot), guest_->name(), appearance.count()));
      sleep_or_cancel(clock_, wait, stop);
    }
  }

  // Whether the guest of that configuration is the one that we can look at: another proxy of an earlier run is not, and
  // one that has to be reached first may be off. One that is off has no guest.
  bool within_reach(const vsphere::Configuration& proxy, const std::stop_token& stop) {
    if (!proxy.on) return false;
    if (options_.ssh) return !proxy_.vm.empty() && proxy.instance_uuid == proxy_.instance_uuid;
    const std::vector<std::string> uuids = guest_->uuids(stop);
    return std::any_of(uuids.begin(), uuids.end(), [&](const auto& uuid) { return same_uuid(uuid, proxy.uuid); });
  }

  // Throws when one of the disks must not go yet. The places whose devices will vanish.
  std::vector<DiskPlace> refuse_busy(const vsphere::Configuration& proxy, const std::vector<MarkedDisk>& disks,
                                     const std::stop_token& stop) {
    if (!within_reach(proxy, stop)) return {};
    try {
      return refuse_busy_devices(proxy, disks, stop);
    } catch (const Error& error) {
      // A guest behind ssh that does not answer. Whatever it does with the devices, it only reads: what waiting would
      // cost is a snapshot that grows at the source.
      if (!options_.ssh || (error.fault() != Fault::unavailable && error.fault() != Fault::timeout)) throw;
      log_.warning("the proxy cannot be asked whether its disks are in use; they are detached all the same",
                   {{"proxy", proxy.name}, {"places", places(disks)}, {"reason", error.what()}});
      return {};
    }
  }

  std::vector<DiskPlace> refuse_busy_devices(const vsphere::Configuration& proxy, const std::vector<MarkedDisk>& disks,
                                             const std::stop_token& stop) {
    std::vector<DiskPlace> leaving;
    for (const MarkedDisk& disk : disks) {
      if (!disk.disk) continue;
      const DiskPlace place = place_of(proxy, disk.slot, disk.disk->uuid);
      const DiskLinks links = guest_->look(place, stop);
      const std::string& device = links.by_path.empty() ? links.by_id : links.by_path;
      if (device.empty()) continue;
      if (const auto reason = guest_->in_use(device, stop))
        throw Error(Fault::conflict, fmt::format("the disk at {} of {} cannot be detached: {}", to_string(disk.slot),
                                                 proxy.name, *reason));
      leaving.push_back(place);
    }
    return leaving;
  }

  // Of disks that vSphere has detached. A device that lingers is nothing to fail by: nobody held it, and whoever
  // attaches the next disk looks (clean_slot).
  void await_absence(const std::vector<DiskPlace>& places, const std::stop_token& stop) {
    const auto give_up = clock_.mono() + options_.disappearance;
    for (const DiskPlace& place : places) try {
        const DiskLinks links = lingering(place, give_up, stop);
        const std::string& device = links.by_id.empty() ? links.by_path : links.by_id;
        if (!device.empty()) log_.warning(not_vanished(device).what(), {{"proxy", proxy_.name}});
      } catch (const Error& error) {
        log_.warning("whether the devices of detached disks have gone cannot be seen",
                     {{"proxy", proxy_.name}, {"reason", error.what()}});
        return;
      }
  }

  // What is still there at that time.
  DiskLinks lingering(const DiskPlace& place, std::chrono::steady_clock::time_point give_up,
                      const std::stop_token& stop) {
    for (;;) {
      DiskLinks links = guest_->look(place, stop);
      if ((links.by_id.empty() && links.by_path.empty()) || clock_.mono() > give_up) return links;
      sleep_or_cancel(clock_, 100ms, stop);
    }
  }

  Error not_vanished(const std::string& device) const {
    return Error(Fault::conflict,
                 fmt::format("{} on {} has not vanished although its disk is not attached to {}: see its kernel "
                             "log; `echo 1 > /sys/class/block/{}/device/delete` there takes it away",
                             device, guest_->name(), proxy_.name, std::filesystem::path(device).filename().string()));
  }

  const HotaddOptions options_;
  vsphere::Session& session_;
  log::Log& log_;
  const Owner owner_;
  SystemClock clock_;
  std::shared_ptr<Guest> guest_;
  std::shared_ptr<ProxyWrites> writes_;
  std::mutex mutex_;  // everything below
  Proxy proxy_;       // without a name until it was needed
  vsphere::Configuration source_;
  std::vector<std::shared_ptr<Served>> served_;
  std::map<vsphere::ScsiSlot, std::string> stale_;  // places that have a device without a disk
  bool touched_ = false;                            // something may be attached or marked
};

class LettingGo final : public Transport {
 public:
  LettingGo(std::unique_ptr<Transport> inner, std::unique_ptr<Transport> hotadd)
      : inner_(std::move(inner)), hotadd_(std::move(hotadd)) {}
  std::string name() const override { return inner_->name(); }
  bool counted() const override { return inner_->counted(); }
  bool quick() const override { return inner_->quick(); }
  std::optional<std::string> refuses(const FrozenDisk& disk) const override { return inner_->refuses(disk); }
  std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token stop) override {
    return inner_->serve(point, disk, stop);
  }
  void let_go(std::stop_token stop) override {
    std::exception_ptr attached;
    try {
      hotadd_->let_go(stop);
    } catch (const Error&) {
      attached = std::current_exception();  // the other gets its turn
    }
    inner_->let_go(stop);
    if (attached) std::rethrow_exception(attached);
  }

 private:
  std::unique_ptr<Transport> inner_;
  std::unique_ptr<Transport> hotadd_;
};

}  // namespace

std::unique_ptr<Guest> guest_of(const HotaddOptions& options, process::Runner& runner, log::Log& log) {
  if (options.ssh) return ssh_guest(*options.ssh, options.root, runner, options.run_directory, log);
  return this_guest(options.root, runner, options.run_directory, log);
}

Proxy find_proxy(const HotaddOptions& options, Guest& guest, vsphere::Session& session, std::stop_token stop) {
  std::optional<model::VmId> named;
  if (!options.proxy.empty()) named = vsphere::find(session, options.proxy, stop);
  const std::vector<std::string> uuids = guest.uuids(stop);
  if (uuids.empty()) {
    const std::string remedy =
        options.ssh ? "log in there as root"
        : named     ? fmt::format("add --proxy-ssh USER@HOST to reach {}, or run vmferry on it, as root", options.proxy)
                : "run vmferry as root on a machine of this vCenter, or give --proxy-vm VM and --proxy-ssh USER@HOST";
    throw Error(Fault::unsupported,
                fmt::format("{} does not show the SMBIOS UUID of a VMware machine: {}", guest.name(), remedy));
  }
  const model::VmId found = named ? *named : by_uuid(uuids, session, stop);
  const vsphere::Configuration proxy = vsphere::configuration(session, found, stop);
  vsphere::require_instance_uuid(proxy);
  if (std::none_of(uuids.begin(), uuids.end(), [&](const std::string& uuid) { return same_uuid(uuid, proxy.uuid); }))
    throw Error(
        Fault::conflict,
        fmt::format("{} is not {}: its SMBIOS UUID is {}, that of {} is {}; name the proxy by --proxy-vm, and how "
                    "it is reached by --proxy-ssh",
                    proxy.name, guest.name(), proxy.uuid, guest.name(), uuids.front()));
  if (found == options.vm)
    throw Error(
        Fault::unsupported,
        fmt::format("{} cannot read its own disks by hotadd: use another proxy, or --transport https", proxy.name));
  if (vsphere::datacenter_of(session, found, stop).ref != vsphere::datacenter_of(session, options.vm, stop).ref)
    throw Error(Fault::unsupported, fmt::format("the proxy {} is in another datacenter than the machine, so its disks "
                                                "cannot be attached there: use a proxy in the same one",
                                                proxy.name));
  const auto tells = proxy.settings.find("disk.EnableUUID");
  const std::string value = tells == proxy.settings.end() ? std::string() : tells->second;
  return {found, proxy.name, proxy.instance_uuid, value == "TRUE" || value == "true" || value == "1"};
}

void refuse_attached_by_others(const HotaddOptions& options, vsphere::Session& session, std::stop_token stop) {
  const auto sentences = attached_by_others(session, options.vm, {"", options.jobs, options.everything}, stop);
  if (!sentences.empty()) throw Error(Fault::conflict, fmt::format("{}", fmt::join(sentences, "; ")));
}

std::unique_ptr<Transport> hotadd_transport(HotaddOptions options, vsphere::Session& session, process::Runner& runner,
                                            log::Log& log) {
  return std::make_unique<HotaddTransport>(std::move(options), session, runner, log);
}

std::unique_ptr<Transport> letting_go_of_attached(std::unique_ptr<Transport> inner, HotaddOptions options,
                                                  vsphere::Session& session, process::Runner& runner, log::Log& log) {
  return std::make_unique<LettingGo>(std::move(inner), hotadd_transport(std::move(options), session, runner, log));
}

}  // namespace vmferry::source::vmware
