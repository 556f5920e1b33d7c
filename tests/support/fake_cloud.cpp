// The rules are those of target::Cloud, in as few lines as they take.
#include "support/fake_cloud.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <stdexcept>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::support {

namespace key = target::memory_key;
using target::value;

namespace {

constexpr const char* us = "this host";

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace

class FakeCloud::OpenVolume final : public target::Device {
 public:
  OpenVolume(FakeCloud& cloud, VolumeId id, std::filesystem::path file, std::uint64_t bytes, bool known_zero)
      : cloud_(cloud),
        id_(std::move(id)),
        file_(std::move(file)),
        bytes_(bytes),
        known_zero_(known_zero),
        fd_(::open(file_.c_str(), O_RDWR | O_CLOEXEC)) {
    if (!fd_) throw std::runtime_error("cannot open " + file_.string());
  }
  ~OpenVolume() override {
    std::scoped_lock lock(cloud_.mutex_);
    if (const auto found = cloud_.volumes_.find(id_); found != cloud_.volumes_.end()) --found->second.open;
  }
  std::string name() const override { return fmt::format("volume {} ({})", id_.value, file_.string()); }
  std::string path() const override { return file_.string(); }
  int fd() const override { return fd_.get(); }
  std::uint64_t bytes() const override { return bytes_; }
  std::uint32_t sector() const override { return 512; }
  bool known_zero() const override { return known_zero_; }
  void check() const override {
    std::scoped_lock lock(cloud_.mutex_);
    const auto found = cloud_.volumes_.find(id_);
    std::string why = found == cloud_.volumes_.end() ? "it was deleted" : found->second.gone;
    if (why.empty() && found->second.attached_to != us) why = "it was detached";
    if (!why.empty()) throw Error(Fault::conflict, fmt::format("{} is no longer what it was: {}", name(), why));
  }

 private:
  FakeCloud& cloud_;
  VolumeId id_;
  std::filesystem::path file_;
  std::uint64_t bytes_;
  bool known_zero_;
  Fd fd_;
};

void FakeCloud::note(const std::string& call, bool acted) {
  if (!acted) {
    std::scoped_lock lock(mutex_);
    calls_.push_back(call);
  }
  if (around) around(call, acted);
}

FakeCloud::FakeVolume& FakeCloud::known(const VolumeId& volume) {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) throw Error(Fault::not_found, fmt::format("there is no volume {}", volume.value));
  return found->second;
}

const FakeCloud::FakeVolume& FakeCloud::known(const VolumeId& volume) const {
  return const_cast<FakeCloud*>(this)->known(volume);
}

std::map<VolumeId, FakeCloud::FakeVolume>::iterator FakeCloud::search(const target::Tag& tag) {
  auto found = volumes_.end();
  for (auto v = volumes_.begin(); v != volumes_.end(); ++v) {
    if (v->second.vm != tag.vm.value || v->second.disk != to_string(tag.disk)) continue;
    if (found != volumes_.end())
      throw Error(Fault::conflict, fmt::format("2 volumes are disk {} of {}: {} and {}", to_string(tag.disk),
                                               tag.vm_name, found->first.value, v->first.value));
    found = v;
  }
  return found;
}

target::Volume FakeCloud::seen(const VolumeId& id, const FakeVolume& volume, const JobId& job) {
  const bool fresh = value(volume.memory, key::made_by) == job.value && value(volume.memory, key::job) == job.value &&
                     !volume.memory.contains(key::opened) && !volume.memory.contains(key::written);
  return {id, volume.bytes, fresh, volume.memory};
}

VolumeId FakeCloud::make(const target::Tag& tag, std::uint64_t bytes) {
  const VolumeId id{fmt::format("volume-{}", next_++)};
  FakeVolume volume;
  volume.file = directory_.path() / id.value;
  volume.bytes = (bytes / 65536 + 2) * 65536;  // larger than the disk, as whole GiB are
  volume.vm = tag.vm.value;
  volume.disk = to_string(tag.disk);
  const Fd fd(::open(volume.file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(volume.bytes)) != 0)
    throw std::runtime_error("cannot make " + volume.file.string());
  volumes_.emplace(id, std::move(volume));
  return id;
}

std::optional<ServerId> FakeCloud::find_server(const JobId& job, std::stop_token) {
  std::scoped_lock lock(mutex_);
  for (const auto& [id, server] : servers_)
    if (server.job == job.value) return id;
  return std::nullopt;
}

void FakeCloud::scribble(const VolumeId& volume) {
  std::scoped_lock lock(mutex_);
  std::fstream file(known(volume).file, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(12345);
  file << "written by a server";
}

void FakeCloud::delete_server(const ServerId& server) {
  std::scoped_lock lock(mutex_);
  servers_.erase(server);
  for (auto& [id, volume] : volumes_)
    if (volume.attached_to == server.value) volume.attached_to.clear();
}

void FakeCloud::check_settings(std::stop_token) {
  note("check_settings", false);
  if (!settings_problem.empty()) throw Error(Fault::config, settings_problem);
}

std::optional<target::Volume> FakeCloud::find(const target::Tag& tag, std::stop_token) {
  note("find", false);
  std::scoped_lock lock(mutex_);
  const auto found = search(tag);
  if (found == volumes_.end()) return std::nullopt;
  return seen(found->first, found->second, tag.job);
}

target::Volume FakeCloud::allocate(const target::VolumeWish& wish, std::stop_token) {
  note("allocate", false);
  target::Volume result;
  {
    std::scoped_lock lock(mutex_);
    auto found = search(wish.tag);
    if (found == volumes_.end()) {
      found = volumes_.find(make(wish.tag, wish.bytes));
      found->second.memory = {{key::migrate_kit, "true"}, {key::made_by, wish.tag.job.value}};
      found->second.boot = wish.boot;
      found->second.image_properties = wish.image_properties;
    }
    FakeVolume& volume = found->second;
    if (volume.bytes < wish.bytes) {
      std::filesystem::resize_file(volume.file, wish.bytes);
      volume.bytes = wish.bytes;
    }
    if (value(volume.memory, key::job).empty() && !value(volume.memory, key::change_id).empty())
      volume.memory[key::complete] = key::yes;
    volume.memory[key::job] = wish.tag.job.value;
    result = seen(found->first, volume, wish.tag.job);
  }
  note("allocate", true);
  return result;
}

std::unique_ptr<target::Device> FakeCloud::attach(const target::Volume& volume, std::stop_token) {
  note("attach", false);
  std::unique_ptr<target::Device> device;
  {
    std::scoped_lock lock(mutex_);
    FakeVolume& mine = known(volume.id);
    if (!mine.attached_to.empty() && mine.attached_to != us)
      throw Error(Fault::conflict, fmt::format("volume {} is attached to {}", volume.id.value, mine.attached_to));
    if (mine.open > 0) throw Error(Fault::conflict, fmt::format("volume {} is in use on this host", volume.id.value));
    const bool zero = volume.fresh && !mine.memory.contains(key::opened);
    device = std::make_unique<OpenVolume>(*this, volume.id, mine.file, mine.bytes, zero);
    mine.attached_to = us;
    target::refuse_taken_away(volume, value(mine.memory, key::job));
    mine.memory[key::opened] = value(mine.memory, key::job);
    ++mine.open;
  }
  note("attach", true);
  return device;
}

void FakeCloud::detach(const VolumeId& volume, std::stop_token) {
  note("detach", false);
  {
    std::scoped_lock lock(mutex_);
    const auto found = volumes_.find(volume);
    if (found != volumes_.end() && found->second.attached_to == us) {
      // A real cloud would tear the device away from under its user.
      if (found->second.open > 0)
        throw Error(Fault::bug, fmt::format("volume {} is detached while it is open", volume.value));
      found->second.attached_to.clear();
    }
  }
  note("detach", true);
}

void FakeCloud::remember(const VolumeId& volume, const target::Memory& memory, std::stop_token) {
  note("remember", false);
  {
    std::scoped_lock lock(mutex_);
    target::Memory& kept = known(volume).memory;
    for (const auto& [name, text] : memory) {
      if (text.empty())
        kept.erase(name);
      else
        kept[name] = text;
    }
  }
  note("remember", true);
}

target::Port FakeCloud::ensure_port(const JobId& job, const model::Nic& nic, const target::NetworkChoice& choice,
                                    std::stop_token) {
  note("ensure_port", false);
  target::Port result;
  {
    std::scoped_lock lock(mutex_);
    const std::string mac = lower(nic.mac.empty() ? choice.mac : nic.mac);
    auto found = std::find_if(ports_.begin(), ports_.end(), [&](const auto& port) {
      return port.second.mac == mac && port.second.network == choice.network;
    });
    if (found == ports_.end())
      found = ports_
                  .emplace(PortId{fmt::format("port-{}", next_++)},
                           FakePort{mac, choice.network, choice.subnet, choice.ips, job.value})
                  .first;
    result = {found->first, mac, found->second.job == job.value};
  }
  note("ensure_port", true);
  return result;
}

target::Launched FakeCloud::launch(const target::LaunchWish& wish, std::stop_token stop) {
  note("launch", false);
  std::optional<ServerId> id = find_server(wish.job, stop);
  if (!id) {
    if (silent_before_asking) throw Error(Fault::unavailable, "the cloud does not answer");
    for (const VolumeId& volume : wish.volumes)
      if (const std::string who = volumes().at(volume).attached_to; !who.empty())
        throw Error(Fault::conflict, fmt::format("volume {} is still attached to {}", volume.value, who));
    for (const PortId& port : wish.ports)
      if (!ports().contains(port)) throw Error(Fault::not_found, fmt::format("there is no port {}", port.value));
    if (wish.before_asking) wish.before_asking();
    if (!launch_refusal.empty()) throw Error(Fault::quota, launch_refusal);
    std::scoped_lock lock(mutex_);
    id = ServerId{fmt::format("server-{}", next_++)};
    for (const VolumeId& volume : wish.volumes) known(volume).attached_to = id->value;
    servers_.emplace(
        *id, FakeServer{wish.job.value, wish.vm.name, wish.flavor, wish.availability_zone, wish.volumes, wish.ports});
  }
  if (while_it_starts) while_it_starts(*id);
  if (!servers().contains(*id)) throw Error(Fault::conflict, fmt::format("server {} was deleted", id->value));
  note("launch", true);
  return {*id, "ACTIVE"};
}

void FakeCloud::discard(const VolumeId& volume, const JobId& job, std::stop_token) {
  note("discard", false);
  {
    std::scoped_lock lock(mutex_);
    const auto found = volumes_.find(volume);
    if (found != volumes_.end()) {
      if (value(found->second.memory, key::job) != job.value)
        throw Error(Fault::conflict,
                    fmt::format("volume {} does not carry the tag of job {}", volume.value, job.value));
      if (!found->second.attached_to.empty())
        throw Error(Fault::conflict,
                    fmt::format("volume {} is attached to {}", volume.value, found->second.attached_to));
      std::filesystem::remove(found->second.file);
      volumes_.erase(found);
    }
  }
  note("discard", true);
}

std::vector<PortId> FakeCloud::ports_of(const JobId& job, std::stop_token) {
  note("ports_of", false);
  std::vector<PortId> ids;
  {
    std::scoped_lock lock(mutex_);
    for (const auto& [id, port] : ports_)
      if (port.job == job.value) ids.push_back(id);
  }
  note("ports_of", true);
  return ids;
}

void FakeCloud::discard_port(const PortId& port, const JobId& job, std::stop_token) {
  note("discard_port", false);
  {
    std::scoped_lock lock(mutex_);
    const auto found = ports_.find(port);
    if (found != ports_.end()) {
      if (found->second.job != job.value)
        throw Error(Fault::conflict, fmt::format("port {} does not carry the tag of job {}", port.value, job.value));
      ports_.erase(found);
    }
  }
  note("discard_port", true);
}

std::map<VolumeId, FakeCloud::FakeVolume> FakeCloud::volumes() const {
  std::scoped_lock lock(mutex_);
  return volumes_;
}

std::map<PortId, FakeCloud::FakePort> FakeCloud::ports() const {
  std::scoped_lock lock(mutex_);
  return ports_;
}

std::map<ServerId, FakeCloud::FakeServer> FakeCloud::servers() const {
  std::scoped_lock lock(mutex_);
  return servers_;
}

std::vector<std::string> FakeCloud::calls() const {
  std::scoped_lock lock(mutex_);
  return calls_;
}

void FakeCloud::change(const VolumeId& volume, const std::function<void(FakeVolume&)>& act) {
  std::scoped_lock lock(mutex_);
  act(known(volume));
}

void FakeCloud::lose(const VolumeId& volume) {
  std::scoped_lock lock(mutex_);
  std::filesystem::remove(known(volume).file);
  volumes_.erase(volume);
}

VolumeId FakeCloud::add(const target::Tag& tag, std::uint64_t bytes, target::Memory memory) {
  std::scoped_lock lock(mutex_);
  const VolumeId id = make(tag, bytes);
  volumes_.at(id).memory = std::move(memory);
  return id;
}

std::string FakeCloud::bytes(const VolumeId& volume, std::uint64_t offset, std::uint64_t length) const {
  std::filesystem::path file;
  {
    std::scoped_lock lock(mutex_);
    file = known(volume).file;
  }
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(length, '\0');
  const ssize_t got = ::pread(fd.get(), text.data(), length, static_cast<off_t>(offset));
  if (got != static_cast<ssize_t>(length)) throw std::runtime_error("cannot read " + file.string());
  return text;
}

}  // namespace vmferry::support
