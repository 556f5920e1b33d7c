// What comes before a cycle: refusals, ports, change tracking, volumes.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "job/steps/disown.hpp"
#include "job/steps/steps.hpp"
#include "plan/plan.hpp"
#include "target/memory_keys.hpp"
#include "target/partial.hpp"

namespace vmferry::job {

void refuse_unknown_disk(const model::Vm& vm, model::DiskKey key, const std::string& flag) {
  if (std::any_of(vm.disks.begin(), vm.disks.end(), [&](const model::Disk& d) { return d.key == key; })) return;
  std::string keys;
  for (const model::Disk& d : vm.disks) keys += (keys.empty() ? "" : ", ") + std::to_string(d.key.value);
  throw Error(Fault::usage,
              fmt::format("{} {}: {} has no such disk (its disks are {})", flag, key.value, vm.name, keys));
}

void refuse_impossible_disks(const model::Vm& vm, const std::set<model::DiskKey>& skip) {
  std::string refused;
  for (const model::Disk& disk : vm.disks) {
    if (skip.contains(disk.key)) continue;
    if (const auto reason = plan::impossible(disk))
      refused += fmt::format("\n  {} (key {}, {}): {}", disk.label, disk.key.value, disk.file, *reason);
  }
  if (!refused.empty())
    throw Error(Fault::unsupported,
                fmt::format("{} has disks that cannot be migrated while it runs; mend them or leave them out with "
                            "--skip-disk KEY:{}",
                            vm.name, refused));
  for (const model::DiskKey& key : skip) refuse_unknown_disk(vm, key, "--skip-disk");
  if (vm.disks.size() <= skip.size()) throw Error(Fault::usage, fmt::format("{} has no disk to migrate", vm.name));
}

namespace steps {

const CycleState* open_cycle(const State& state, Kind kind) noexcept {
  const CycleState* cycle = state.open_cycle();
  return cycle && cycle->final == (kind == Kind::final) ? cycle : nullptr;
}

target::Tag tag_of(const State& state, const model::Disk& disk) {
  const JobCreated& job = state.job.value();
  return {job.job, job.vm, job.vm_name, disk.key, plan::volume_name(job.vm_name, to_string(disk.key))};
}

target::VolumeWish wish_for(const State& state, const model::Disk& disk) {
  return {tag_of(state, disk), disk.capacity, false, {}, plan::datastore_of(disk.file)};
}

target::Arrival arrival_of(const State& state, const model::Vm& vm, const CopyOptions& copy) {
  target::Arrival arrival;
  arrival.job = state.job->job;
  arrival.vm = vm;
  for (const model::Disk& disk : vm.disks)
    if (!copy.skip.contains(disk.key)) arrival.volumes.push_back(wish_for(state, disk));
  return arrival;
}

target::Volume volume_of(const Parts& parts, const State& state, const model::Disk& disk, std::stop_token stop) {
  const VolumeId& known = state.disks.at(disk.key).volume;
  auto volume = parts.cloud.find(tag_of(state, disk), stop);
  if (!volume || volume->id != known)
    throw Error(Fault::conflict,
                fmt::format("volume {} is gone; run the same command again to start with a new one", known.value));
  return *std::move(volume);
}

namespace {
std::filesystem::path digests_file(const Parts& parts, model::DiskKey disk) {
  return parts.digests / fmt::format("{}.digests", disk.value);
}
}  // namespace

copy::Digests digests_of(const Parts& parts, model::DiskKey disk, const VolumeId& volume, std::uint64_t capacity) {
  return {digests_file(parts, disk), volume.value, capacity};
}

std::vector<model::Disk> final_disks(const model::Vm& vm, const State& state, const CopyOptions& copy) {
  std::vector<model::Disk> disks;
  for (const model::Disk& disk : vm.disks) {
    if (copy.skip.contains(disk.key)) continue;
    const auto known = state.disks.find(disk.key);
    if (known == state.disks.end() || known->second.copied_in != state.cycles.back().number)
      throw Error(Fault::conflict, fmt::format("{} ({}) appeared during cutover; run the same command again",
                                               disk.label, disk.key.value));
    disks.push_back(disk);
  }
  return disks;
}

namespace {

void tell_or_refuse(const std::string& what, const std::vector<plan::Finding>& found, Observer& observer) {
  plan::refuse(what, found);
  for (const plan::Finding& finding : found) {
    const std::string text =
        fmt::format("{}: {}{}{}", finding.object, finding.fact, finding.remedy.empty() ? "" : "; ", finding.remedy);
    if (finding.level == plan::Level::warning)
      observer.warned(text);
    else
      observer.said(text);
  }
}

class CheckDisks final : public Step {
 public:
  CheckDisks(const Parts& parts, const CopyOptions& copy, Kind kind) : parts_(parts), copy_(copy), kind_(kind) {}
  std::string_view name() const noexcept override { return "check the machine"; }
  bool done(const State&) const override { return false; }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    refuse_impossible_disks(vm, copy_.skip);
    parts_.cloud.check_settings(stop);
    target::Arrival arrival = arrival_of(state, vm, copy_);
    // Not for what is there already, unless it has to grow.
    std::erase_if(arrival.volumes, [&](const target::VolumeWish& wish) {
      const auto known = state.disks.find(wish.tag.disk);
      return known != state.disks.end() && known->second.capacity == wish.bytes;
    });
    if (!arrival.volumes.empty())
      tell_or_refuse(fmt::format("{} cannot be migrated", vm.name), parts_.cloud.examine(arrival, stop), observer);
    if (state.shutdown_at && !state.server && vm.power != model::Power::off) {
      if (const auto server = parts_.cloud.find_server(state.job->job, stop))
        throw Error(Fault::conflict,
                    fmt::format("{} runs again, but server {} was made of what it held before: delete the server (its "
                                "volumes are kept) and run the same command again",
                                vm.name, server->value));
      // The guest did not shut down after all, or somebody started it again: it is a running machine like any other.
      if (state.powered_off)
        observer.warned(fmt::format(
            "{} was powered on again after a cutover had shut it down; what it wrote since is copied", vm.name));
      journal.append(PoweredOnAgain{});
    } else if (kind_ == Kind::warm && state.shutdown_at && !state.server) {
      throw Error(
          Fault::conflict,
          fmt::format(
              "the cutover of {} has begun and the machine is off; finish it with `vmferry cutover`, undo it with "
              "`vmferry abort`, or power the machine on to go on with cycles",
              vm.name));
    }
    if (vm.consolidation_needed)
      observer.warned(fmt::format(
          "{} needs its disks consolidated (vSphere says so): an earlier snapshot was not fully removed", vm.name));
  }

 private:
  Parts parts_;
  CopyOptions copy_;
  Kind kind_;
};

const target::NetworkChoice* choice_for(const std::vector<target::NetworkChoice>& choices, const std::string& mac) {
  for (const target::NetworkChoice& choice : choices)
    if (choice.mac == mac) return &choice;
  return nullptr;
}

// Everything about a cutover that can be wrong is found here, before the machine is touched.
class CheckCutover final : public Step {
 public:
  CheckCutover(const Parts& parts, const CutoverOptions& options, bool was_asked)
      : parts_(parts), options_(options), was_asked_(was_asked) {}
  std::string_view name() const noexcept override { return "check the cutover's settings"; }
  bool done(const State& state) const override { return state.server.has_value(); }
  void run(const State& state, Journal&, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    if (options_.convert) parts_.converter.check(vm, stop);
    std::set<std::string> mapped;
    target::Arrival arrival;
    arrival.job = state.job->job;
    arrival.vm = vm;
    arrival.server = true;
    for (const model::Disk& disk : vm.disks)
      if (state.disks.contains(disk.key)) arrival.copied.push_back(wish_for(state, disk));
    for (const target::NetworkChoice& choice : options_.networks) {
      mapped.insert(choice.mac);
      if (std::any_of(vm.nics.begin(), vm.nics.end(), [&](const model::Nic& nic) { return nic.mac == choice.mac; }))
        arrival.ports.push_back(choice);
    }
    plan::Wish wish;
    wish.cutover = true;
    wish.force_power_off = options_.force_power_off;
    const std::string what = fmt::format("{} cannot be cut over", vm.name);
    // A guest that an earlier run asked to shut down may be on its way, its Tools already gone.
    if (!was_asked_) plan::refuse(what, plan::judge_guest(vm, wish));
    tell_or_refuse(what, plan::judge_nics(vm, mapped), observer);
    tell_or_refuse(what, parts_.cloud.examine(arrival, stop), observer);
  }

 private:
  Parts parts_;
  CutoverOptions options_;
  bool was_asked_;  // to shut down, by an earlier run
};

class EnsurePorts final : public Step {
 public:
  EnsurePorts(const Parts& parts, const CutoverOptions& options) : parts_(parts), options_(options) {}
  std::string_view name() const noexcept override { return "ensure network ports"; }
  bool done(const State& state) const override { return state.server.has_value(); }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    std::set<PortId> wanted;
    const model::Vm vm = parts_.machine.describe(stop);
    parts_.cloud.prepare_launch(vm, stop);
    for (const model::Nic& nic : vm.nics) {
      const target::NetworkChoice* choice = choice_for(options_.networks, nic.mac);
      if (!choice) throw Error(Fault::usage, fmt::format("{} (MAC {}) has no --network-mapping", nic.label, nic.mac));
      const target::Port port = parts_.cloud.ensure_port(state.job->job, nic, *choice, stop);
      if (!port.remark.empty()) observer.warned(fmt::format("{}: {}", nic.label, port.remark));
      const auto known = state.ports.find(nic.mac);
      if (known == state.ports.end() || known->second.port != port.id)
        journal.append(PortEnsured{nic.mac, port.id, port.created});
      wanted.insert(port.id);
    }
    // Made for another mapping, or for an adapter that is gone.
    for (const PortId& port : parts_.cloud.ports_of(state.job->job, stop)) {
      if (wanted.contains(port)) continue;
      parts_.cloud.discard_port(port, state.job->job, stop);
      journal.append(PortDiscarded{port});
    }
  }

 private:
  Parts parts_;
  CutoverOptions options_;
};

class EnsureTracking final : public Step {
 public:
  EnsureTracking(const Parts& parts, const CopyOptions& copy) : parts_(parts), copy_(copy) {}
  std::string_view name() const noexcept override { return "ensure change tracking"; }
  // An open cycle was begun with tracking looked after; a machine that is off takes its changeId from the next
  // snapshot.
  bool done(const State& state) const override { return copy_.no_tracking || state.open_cycle() || state.shutdown_at; }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const bool available = parts_.machine.ensure_tracking({state.job->job, 0}, stop);
    if (!available)
      observer.warned(
          "this machine cannot track changed blocks (hardware version below 7): every cycle copies everything");
    if (!state.tracking_ensured || state.tracking_available != available) journal.append(TrackingEnsured{available});
  }

 private:
  Parts parts_;
  CopyOptions copy_;
};

class AllocateVolumes final : public Step {
 public:
  AllocateVolumes(const Parts& parts, const CopyOptions& copy) : parts_(parts), copy_(copy) {}
  std::string_view name() const noexcept override { return "allocate volumes"; }
  bool done(const State& state) const override { return state.server.has_value(); }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    bool boot = true;
    for (const model::Disk& disk : vm.disks) {
      if (copy_.skip.contains(disk.key)) continue;
      allocate(state, journal, observer, disk, boot, stop);
      boot = false;
    }
    for (const auto& [key, known] : state.disks)
      if (std::none_of(vm.disks.begin(), vm.disks.end(), [&](const model::Disk& d) { return d.key == key; }))
        observer.warned(fmt::format("disk {} is no longer part of {}; its volume {} is kept and left out", key.value,
                                    vm.name, known.volume.value));
  }

 private:
  void allocate(const State& state, Journal& journal, Observer& observer, const model::Disk& disk, bool boot,
                std::stop_token stop) {
    target::VolumeWish wish = wish_for(state, disk);
    wish.boot = boot;
    if (boot) wish.image_properties = copy_.image_properties;
    const target::Volume volume = parts_.cloud.allocate(wish, stop);
    if (!volume.remark.empty()) observer.said(fmt::format("{}: {}", disk.label, volume.remark));
    const auto known = state.disks.find(disk.key);
    const bool same = known != state.disks.end() && known->second.volume == volume.id;
    const bool in_doubt = same && known->second.disowned;
    if (same && as_we_left_it(known->second, volume, state.job->job)) {
      // It was away when it was to be told.
      const bool misleads = in_doubt || (known->second.tracking_doubted && goes_by_tracking(volume));
      if (misleads && says_whole(volume)) parts_.cloud.remember(volume.id, nothing_to_build_on(), stop);
      return;
    }
    if (same)
      observer.warned(
          fmt::format("{}: volume {} is not as this job left it: it was made anew, or another host has "
                      "worked on it; going by what it says itself",
                      disk.label, volume.id.value));
    else if (known != state.disks.end())
      observer.warned(fmt::format("{}: volume {} is gone; starting again with volume {}", disk.label,
                                  known->second.volume.value, volume.id.value));
    VolumeAllocated fact{disk.key, volume.id, disk.capacity, !volume.fresh, std::nullopt};
    if (volume.fresh) fact.volume_name = wish.tag.volume_name;  // another tool's may have another
    fact.label = disk.label;
    fact.file = disk.file;
    // Another host may have gone on from what is in doubt here.
    if (!volume.fresh && !in_doubt) fact.base = base_of(volume.memory);
    // Whether the disk has grown since is for the copy to judge.
    if (fact.base) fact.bytes = capacity_of(volume.memory).value_or(disk.capacity);
    // What is kept is of the volume as it was when this job last wrote to it.
    forget_digests(disk.key);
    journal.append(fact);
    const auto partial = fact.base || volume.fresh || in_doubt ? std::nullopt : target::partial_of(volume.memory);
    if (partial && partial->capacity == disk.capacity) {
      journal.append(DiskProgressed{disk.key, {}, partial->change_id, partial->capacity, {{0, partial->bytes}}});
      observer.said(
          fmt::format("{}: taking over volume {}, whose first copy another host began", disk.label, volume.id.value));
    }
    if (fact.base)
      observer.said(fmt::format("{}: taking over volume {}, last synced at change id {}", disk.label, volume.id.value,
                                fact.base->text()));
  }

  void forget_digests(model::DiskKey disk) const {
    std::error_code problem;
    std::filesystem::remove(digests_file(parts_, disk), problem);
    if (problem)
      throw Error(Fault::config,
                  fmt::format("cannot remove {}: {}", digests_file(parts_, disk).string(), problem.message()));
  }

  static bool says_whole(const target::Volume& volume) {
    return target::value(volume.memory, target::memory_key::complete) == target::memory_key::yes;
  }

  static bool goes_by_tracking(const target::Volume& volume) {
    return !target::value(volume.memory, target::memory_key::change_id).empty();
  }

  // An id may come back for another volume (a deleted image), and another host may have had this one meanwhile.
  static bool as_we_left_it(const DiskState& known, const target::Volume& volume, const JobId& job) {
    const auto word = [&](const char* key) { return target::value(volume.memory, key); };
    if (volume.fresh) return !known.complete && known.layers.empty();
    if (word(target::memory_key::job).empty()) return true;  // a cloud that forgets metadata
    // Its tag is ours again by now, but the last one that opened it was not this job.
    // (Who opened it is not known where it says "yes", as it did in older versions.)
    const std::string last = word(target::memory_key::opened);
    if (!last.empty() && last != target::memory_key::yes && last != job.value) return false;
    const bool whole = says_whole(volume);
    if (!known.complete || known.handed_over) return !whole;
    const bool at_our_base = whole && word(target::memory_key::change_id) == (known.base ? known.base->text() : "");
    if (known.disowned) return !whole || at_our_base;
    if (known.tracking_doubted) return !whole || !goes_by_tracking(volume) || at_our_base;
    if (known.copied_in != known.remembered_in) return true;  // a run died between the two
    return at_our_base;
  }

  // What an existing volume says of itself. migratekit writes change_id only after a whole cycle and has no word for
  // completeness; vmferry has one, and also the capacity, because a disk that grew must be copied in full.
  static std::optional<model::ChangeId> base_of(const target::Memory& memory) {
    namespace key = target::memory_key;
    const bool ours = !target::value(memory, key::job).empty();
    if (ours && target::value(memory, key::complete) != key::yes) return std::nullopt;
    return model::ChangeId::parse(target::value(memory, key::change_id));
  }

  static std::optional<std::uint64_t> capacity_of(const target::Memory& memory) {
    const std::string word = target::value(memory, target::memory_key::capacity);
    std::uint64_t bytes = 0;
    const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), bytes);
    if (problem != std::errc() || end != word.data() + word.size()) return std::nullopt;
    return bytes;
  }

  Parts parts_;
  CopyOptions copy_;
};

}  // namespace

std::unique_ptr<Step> check_disks(const Parts& parts, const CopyOptions& copy, Kind kind) {
  return std::make_unique<CheckDisks>(parts, copy, kind);
}
std::unique_ptr<Step> check_cutover(const Parts& parts, const State& state, const CutoverOptions& options) {
  return std::make_unique<CheckCutover>(parts, options, state.shutdown_at.has_value());
}
std::unique_ptr<Step> ensure_ports(const Parts& parts, const CutoverOptions& options) {
  return std::make_unique<EnsurePorts>(parts, options);
}
std::unique_ptr<Step> ensure_tracking(const Parts& parts, const CopyOptions& copy) {
  return std::make_unique<EnsureTracking>(parts, copy);
}
std::unique_ptr<Step> allocate_volumes(const Parts& parts, const CopyOptions& copy) {
  return std::make_unique<AllocateVolumes>(parts, copy);
}

}  // namespace steps
}  // namespace vmferry::job
