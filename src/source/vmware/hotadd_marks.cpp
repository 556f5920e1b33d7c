// Marks as text, and what they lead to.
#include "source/vmware/hotadd_marks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/time_limit.hpp"
#include "source/vmware/machine.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr std::string_view disk_prefix = "vmferry.hotadd.";
constexpr std::string_view proxy_prefix = "vmferry.hotadd.proxy.";
constexpr std::string_view gone = "ManagedObjectNotFound";

// "vm=... run=... host=... file=the rest": takes the word behind `key` off the front.
std::optional<std::string> take(std::string_view& text, std::string_view key, bool to_the_end = false) {
  if (!text.starts_with(key)) return std::nullopt;
  text.remove_prefix(key.size());
  const auto end = to_the_end ? text.size() : std::min(text.find(' '), text.size());
  const std::string word(text.substr(0, end));
  text.remove_prefix(std::min(end + 1, text.size()));
  return word;
}

// The machine that a mark names. Its moref may be another's by now, or its own another one.
std::optional<model::VmId> find_proxy(vsphere::Session& session, const MarkedProxy& marked, std::stop_token stop) {
  try {
    if (vsphere::configuration(session, marked.vm, stop).instance_uuid == marked.instance_uuid) return marked.vm;
  } catch (const vsphere::FaultError& e) {
    if (e.name() != gone) throw;
  }
  const auto found = vsphere::machines_with_uuid(session, marked.instance_uuid, true, stop);
  if (found.size() > 1)
    throw Error(Fault::conflict, fmt::format("{} machines have the instance UUID {} of a proxy that may have disks "
                                             "attached: take the doubles out of the inventory",
                                             found.size(), marked.instance_uuid));
  if (found.empty()) return std::nullopt;
  return found.front();
}

// "[datastore] folder/file": the same file whatever its datastore is called by now, for renaming one renames it in all
// machines' files and not in our marks.
bool holds(const vsphere::AttachedDisk& disk, const std::string& file) {
  const auto within = [](std::string_view path) { return path.substr(std::min(path.find("] "), path.size())); };
  return std::any_of(disk.files.begin(), disk.files.end(), [&](const std::string& one) {
    return one == file || (one.starts_with('[') && within(one).size() > 2 && within(one) == within(file));
  });
}

// For the owner of what else is marked.
std::string sentence_of(const std::vector<MarkedDisk>& others, const std::string& proxy, const std::string& vm) {
  std::set<std::string> hosts, jobs;
  for (const MarkedDisk& disk : others) {
    hosts.insert(disk.mark.host);
    jobs.insert(disk.mark.job.value);
  }
  return fmt::format(
      "disks of {} are attached to the proxy {} at {} by another run, on {} (job {}), which may still read them: "
      "wait for its end; if it was interrupted, run its command again or `vmferry abort` there; if that host or its "
      "state folder is lost, remove the disks from that proxy in vSphere without deleting their files, or let `vmferry "
      "abort` here do it, which also undoes a migration of this machine that was begun here",
      vm, proxy, places(others), fmt::join(hosts, ", "), fmt::join(jobs, ", "));
}

// Detaches what may go from one proxy, and says in a sentence what stays: "" when nothing does, nothing when the proxy
// is gone.
std::optional<std::string> release_from(vsphere::Session& session, const model::VmId& vm,
                                        const vsphere::Configuration& source, const MarkedProxy& marked,
                                        const Owner& owner, const Before& before, bool only_look,
                                        std::stop_token stop) {
  try {
    if (const auto proxy = find_proxy(session, marked, stop)) {
      std::vector<MarkedDisk> others;
      const Choose choose = [&](std::vector<MarkedDisk>& disks) {
        others = take_out_others(session, vm, disks, owner, stop);
        if (only_look) disks.clear();
      };
      const auto after = detach_marked(session, *proxy, source.instance_uuid, choose, before, stop);
      return others.empty() ? std::string() : sentence_of(others, after.name, source.name);
    }
  } catch (Error& error) {
    error.during(
        fmt::format("looking for disks of {} on its proxy {} (one that is lost for good is not asked any more "
                    "when it is taken out of the inventory)",
                    source.name, marked.vm.value));
    if (error.name() != gone) throw;
    // Between two questions. If it is there all the same, this says nothing of the machine: no FaultError.
    if (find_proxy(session, marked, stop)) throw Error(error.fault(), error.explain());
  }
  session.log().warning("a machine that had disks attached is not in the inventory any more",
                        {{"vm", source.name}, {"proxy", marked.instance_uuid}});
  return std::nullopt;
}

}  // namespace

std::string disk_mark_key(const vsphere::ScsiSlot& slot) { return std::string(disk_prefix) + to_string(slot); }

std::string to_string(const DiskMark& mark) {
  // A blank ends a word, and a host may be called anything.
  std::string host = mark.host;
  std::replace_if(
      host.begin(), host.end(), [](unsigned char c) { return c <= ' ' || c == 0x7f; }, '_');
  return fmt::format("vm={} run={} host={} job={} file={}", mark.vm, mark.run, host, mark.job.value, mark.file);
}

std::optional<DiskMark> parse_disk_mark(const std::string& value) {
  std::string_view text = value;
  const auto vm = take(text, "vm="), run = take(text, "run="), host = take(text, "host="), job = take(text, "job="),
             file = take(text, "file=", true);
  if (!vm || vm->empty() || !run || !host || !file || file->empty()) return std::nullopt;
  return DiskMark{*vm, *run, *host, *file, {job.value_or("")}};
}

std::string proxy_mark_key(const std::string& proxy_instance_uuid) {
  return std::string(proxy_prefix) + proxy_instance_uuid;
}

std::string proxy_mark(const model::VmId& proxy, const std::string& name, const std::string& host) {
  return fmt::format("{} name={} host={}", proxy.value, name, host);
}

std::vector<MarkedProxy> marked_proxies(const vsphere::Configuration& source) {
  std::vector<MarkedProxy> found;
  for (const auto& [key, value] : source.settings)
    if (key.starts_with(proxy_prefix) && !value.empty())
      found.push_back({key.substr(proxy_prefix.size()), {value.substr(0, value.find(' '))}});
  return found;
}

std::map<std::string, std::vector<MarkedDisk>> marked_disks(const vsphere::Configuration& proxy) {
  std::map<std::string, std::vector<MarkedDisk>> found;
  for (const auto& [key, value] : proxy.settings) {
    if (!key.starts_with(disk_prefix)) continue;
    const auto slot = vsphere::parse_scsi_slot(key.substr(disk_prefix.size()));
    const auto mark = parse_disk_mark(value);
    if (!slot || !mark) continue;
    MarkedDisk marked{*slot, *mark, std::nullopt};
    for (const vsphere::AttachedDisk& disk : proxy.disks)
      // A mark outlives its disk when somebody else takes that away; the next disk there is not ours.
      if (disk.slot == *slot && holds(disk, mark->file)) marked.disk = disk;
    found[mark->vm].push_back(std::move(marked));
  }
  return found;
}

std::vector<MarkedDisk> marked_disks(const vsphere::Configuration& proxy, const std::string& vm) {
  return std::move(marked_disks(proxy)[vm]);
}

std::string places(const std::vector<MarkedDisk>& disks) {
  std::string text;
  for (const MarkedDisk& disk : disks) text += (text.empty() ? "" : ", ") + to_string(disk.slot);
  return text;
}

std::vector<MarkedDisk> take_out_others(std::vector<MarkedDisk>& disks, const Owner& owner,
                                        const vsphere::SnapshotTree& snapshots) {
  const auto has_snapshot = [&](const JobId& job) {
    return std::any_of(snapshots.snapshots.begin(), snapshots.snapshots.end(), [&](const model::Snapshot& snapshot) {
      const auto tag = parse_tag(snapshot.name, snapshot.description);
      return tag && tag->job == job;
    });
  };
  const auto mine = [&](const MarkedDisk& disk) {
    const DiskMark& mark = disk.mark;
    return owner.everything || !disk.disk || mark.run == owner.run ||
           std::find(owner.jobs.begin(), owner.jobs.end(), mark.job) != owner.jobs.end() || !has_snapshot(mark.job);
  };
  const auto others = std::stable_partition(disks.begin(), disks.end(), mine);
  std::vector<MarkedDisk> out(std::make_move_iterator(others), std::make_move_iterator(disks.end()));
  disks.erase(others, disks.end());
  return out;
}

std::vector<MarkedDisk> take_out_others(vsphere::Session& session, const model::VmId& vm,
                                        std::vector<MarkedDisk>& disks, const Owner& owner, std::stop_token stop) {
  if (owner.everything ||
      std::all_of(disks.begin(), disks.end(), [&](const MarkedDisk& disk) { return disk.mark.run == owner.run; }))
    return {};
  vsphere::SnapshotTree snapshots;
  try {
    snapshots = vsphere::snapshots(session, vm, stop);
  } catch (const vsphere::FaultError& e) {
    if (e.name() != gone) throw;
  }
  return take_out_others(disks, owner, snapshots);
}

vsphere::Configuration detach_marked(vsphere::Session& session, const model::VmId& proxy, const std::string& vm,
                                     const Choose& choose, const Before& before, std::stop_token stop) {
  std::vector<MarkedDisk> detached;
  std::string where;
  const auto wish = [&](const vsphere::Configuration& now) -> std::optional<vsphere::Change> {
    std::vector<MarkedDisk> marked = marked_disks(now, vm);
    choose(marked);
    if (marked.empty()) return std::nullopt;
    where = fmt::format("{} of {}", places(marked), now.name);
    if (before) before(now, marked);
    vsphere::Change change;
    for (const MarkedDisk& disk : marked) {
      if (disk.disk) change.detach.push_back(*disk.disk);
      change.settings[disk_mark_key(disk.slot)] = "";
    }
    session.log().info("detaching disks", {{"proxy", now.name}, {"places", places(marked)}});
    detached = std::move(marked);
    return change;
  };
  vsphere::Configuration after;
  try {
    after = vsphere::bring_about(session, proxy, wish, "detaching disks", stop);
  } catch (Error& error) {
    if (!where.empty())
      error.during(
          fmt::format("detaching the disks at {}: the next run or `vmferry abort` tries again; by hand, remove "
                      "them there in vSphere without deleting their files",
                      where));
    throw;
  }
  for (const MarkedDisk& was : detached)
    for (const vsphere::AttachedDisk& disk : after.disks)
      if (disk.slot == was.slot && holds(disk, was.mark.file))
        throw Error(Fault::conflict, fmt::format("{} is still attached to {} at {} although its removal succeeded: "
                                                 "remove the disk there by hand, without deleting its files",
                                                 was.mark.file, after.name, to_string(was.slot)));
  return after;
}

void set_mark(vsphere::Session& session, const model::VmId& vm, const std::string& key, const std::string& value,
              std::stop_token stop) {
  vsphere::bring_about(
      session, vm,
      [&](const vsphere::Configuration& now) -> std::optional<vsphere::Change> {
        if (now.settings.contains(key) != value.empty()) return std::nullopt;
        vsphere::Change change;
        change.settings[key] = value;
        return change;
      },
      value.empty() ? "removing a mark" : "marking the machine", stop);
}

std::vector<std::string> release_marked(vsphere::Session& session, const model::VmId& vm, const Owner& owner,
                                        const Before& before, std::stop_token stop) {
  // Asking for nothing waits for a mark that a run which died has asked for.
  const vsphere::Configuration source = vsphere::bring_about(
      session, vm, [](const auto&) { return std::nullopt; }, "reading the marks", stop);
  const std::vector<MarkedProxy> proxies = marked_proxies(source);
  if (!proxies.empty()) vsphere::require_instance_uuid(source);
  std::vector<std::string> stays;
  for (const MarkedProxy& marked : proxies) {
    const auto release = [&] { return release_from(session, vm, source, marked, owner, before, false, stop); };
    auto left = release();
    if (!left || left->empty()) {
      const std::string key = proxy_mark_key(marked.instance_uuid);
      // A run on another host that saw this mark before it went may have attached a disk meanwhile.
      try {
        set_mark(session, vm, key, "", stop);
        if (left) left = release();
      } catch (...) {
        // What could not be looked at may have been attached. Also when that was stopped.
        try {
          set_mark(session, vm, key, source.settings.at(key), TimeLimit(std::chrono::minutes(1)).token());
        } catch (const std::exception& e) {
          session.log().warning("a mark could not be put back",
                                {{"vm", source.name}, {"mark", key}, {"reason", e.what()}});
        }
        throw;
      }
      if (left && !left->empty()) set_mark(session, vm, key, source.settings.at(key), stop);
    }
    if (left && !left->empty()) stays.push_back(*std::move(left));
  }
  return stays;
}

std::vector<std::string> attached_by_others(vsphere::Session& session, const model::VmId& vm, const Owner& owner,
                                            std::stop_token stop) {
  const vsphere::Configuration source = vsphere::configuration(session, vm, stop);
  std::vector<std::string> sentences;
  for (const MarkedProxy& marked : marked_proxies(source)) {
    auto left = release_from(session, vm, source, marked, owner, nullptr, true, stop);
    if (left && !left->empty()) sentences.push_back(*std::move(left));
  }
  return sentences;
}

}  // namespace vmferry::source::vmware
