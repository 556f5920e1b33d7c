// A volume is an image and its record, made in this order: image under a passing name, record with the
// image's serial, image under its own name. So a crash anywhere leaves either nothing that counts or
// something that allocate() finishes.
#include "target/local/local_cloud.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cctype>
#include <cerrno>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "target/device.hpp"
#include "target/local/domain_xml.hpp"
#include "target/local/durable.hpp"
#include "target/local/record.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::target::local {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t sector = 512;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_mac(const std::string& text) {
  if (text.size() != 17) return false;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (i % 3 == 2 ? text[i] != ':' : std::isxdigit(static_cast<unsigned char>(text[i])) == 0) return false;
  return true;
}

// The three files of a volume.
struct Files {
  fs::path image;
  fs::path making;  // the image until its record is durable
  fs::path record;
};

// One change at a time, whoever makes it: an exclusive lock on a file of the folder, for the length of one
// short call.
class FolderLock {
 public:
  FolderLock(const fs::path& directory, Clock& clock, const std::stop_token& stop) {
    const fs::path file = directory / ".vmferry.lock";
    fd_ = Fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd_) fail("open", file, errno);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    const auto patience = clock.mono() + std::chrono::seconds(30);
    while (::fcntl(fd_.get(), F_OFD_SETLK, &lock) != 0) {
      if (errno != EAGAIN && errno != EACCES) fail("lock", file, errno);
      if (clock.mono() >= patience)
        throw Error(Fault::conflict,
                    fmt::format("another vmferry has held {} for 30 s; end it (fuser {}) and try again",
                                directory.string(), file.string()));
      sleep_or_cancel(clock, std::chrono::milliseconds(20), stop);
    }
  }

 private:
  Fd fd_;
};

class LocalCloud final : public Cloud {
 public:
  LocalCloud(Options options, Clock& clock, log::Log& log) : options_(std::move(options)), clock_(clock), log_(log) {
    options_.directory = fs::absolute(options_.directory).lexically_normal();
    if (!options_.directory.has_filename()) options_.directory = options_.directory.parent_path();
  }

  std::string describe() const override { return "folder " + options_.directory.string(); }
  void check_settings(std::stop_token stop) override;
  std::vector<plan::Finding> examine(const Arrival& arrival, std::stop_token stop) override;
  std::optional<Volume> find(const Tag& tag, std::stop_token stop) override;
  Volume allocate(const VolumeWish& wish, std::stop_token stop) override;
  std::unique_ptr<Device> attach(const Volume& volume, std::stop_token stop) override;
  void detach(const VolumeId& volume, std::stop_token stop) override;
  void remember(const VolumeId& volume, const Memory& memory, std::stop_token stop) override;
  Port ensure_port(const JobId& job, const model::Nic& nic, const NetworkChoice& choice, std::stop_token stop) override;
  std::vector<PortId> ports_of(const JobId& job, std::stop_token stop) override;
  std::optional<ServerId> find_server(const JobId& job, std::stop_token stop) override;
  Launched launch(const LaunchWish& wish, std::stop_token stop) override;
  void discard(const VolumeId& volume, const JobId& job, std::stop_token stop) override;
  void discard_port(const PortId& port, const JobId& job, std::stop_token stop) override;

 private:
  static VolumeId id_of(const Tag& tag) { return VolumeId{file_name(tag.vm_name) + "/" + file_name(tag.volume_name)}; }
  Files files_of(const VolumeId& id) const;
  std::optional<fs::path> domain_of(const JobId& job) const;
  fs::path port_directory() const { return options_.directory / ".vmferry-ports"; }
  fs::path port_file(const std::string& mac) const;
  std::optional<Record> record_of(const Tag& tag, const Files& files) const;
  Record record_of(const VolumeId& id, const Files& files) const;
  static Volume volume_of(const VolumeId& id, const Record& record);
  Record make(const VolumeWish& wish, const Files& files);
  static bool finish(const Record& record, const Files& files);
  std::vector<DomainNic> nics_of(const LaunchWish& wish) const;

  Options options_;
  Clock& clock_;
  log::Log& log_;
};

std::uint64_t whole_sectors(std::uint64_t bytes) { return (bytes + sector - 1) / sector * sector; }

// A sparse tail, so it reads as zeroes.
void grow(const std::filesystem::path& image, std::uint64_t bytes) {
  const Fd fd(::open(image.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) fail("open", image, errno);
  // As QEMU locks its images: one that a machine runs from is not touched.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_OFD_SETLK, &lock) != 0)
    throw Error(
        Fault::conflict,
        fmt::format("{} would have to be extended and is in use on this host: end the machine that runs from it",
                    image.string()));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) fail("look at", image, errno);
  // Somebody may have made it larger by himself.
  if (static_cast<std::uint64_t>(status.st_size) >= bytes) return;
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 || ::fsync(fd.get()) != 0)
    fail(fmt::format("extend to {} bytes", bytes), image, errno);
}

// Gives the finished image its name, unless something has taken it.
void name_image(const Files& files) {
  if (::renameat2(AT_FDCWD, files.making.c_str(), AT_FDCWD, files.image.c_str(), RENAME_NOREPLACE) != 0) {
    // NFS and a few others cannot refuse to replace; the caller holds the folder's lock and has looked.
    if (errno != EINVAL && errno != ENOSYS) fail("create", files.image, errno);
    if (::rename(files.making.c_str(), files.image.c_str()) != 0) fail("create", files.image, errno);
  }
  sync_directory(files.image.parent_path());
}

bool on_disk(const fs::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT) fail("examine", path, errno);
  return false;
}

Files LocalCloud::files_of(const VolumeId& id) const {
  const auto slash = id.value.find('/');
  const std::string folder = id.value.substr(0, slash);
  const std::string name = slash == std::string::npos ? "" : id.value.substr(slash + 1);
  // An id comes back from a journal: it must not lead out of the folder.
  if (file_name(folder) != folder || file_name(name) != name)
    throw Error(Fault::not_found, fmt::format("\"{}\" is no volume of {}", id.value, describe()));
  const fs::path base = options_.directory / folder;
  return {base / (name + ".img"), base / (name + ".img.making"), base / (name + ".json")};
}

fs::path LocalCloud::port_file(const std::string& mac) const {
  if (!is_mac(mac)) throw Error(Fault::not_found, fmt::format("\"{}\" is no port of {}", mac, describe()));
  std::string name = lower(mac);
  std::replace(name.begin(), name.end(), ':', '-');
  return port_directory() / (name + ".json");
}

// Nothing when it is no folder, or one that only others may look into.
std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code problem;
  for (fs::directory_iterator at(folder, fs::directory_options::skip_permission_denied, problem), end;
       !problem && at != end; at.increment(problem))
    entries.push_back(at->path());
  if (problem && problem != std::errc::no_such_file_or_directory && problem != std::errc::not_a_directory)
    fail("read", folder, problem.value());
  return entries;
}

// Wherever it is: the machine may have another name than when it was written.
std::optional<fs::path> LocalCloud::domain_of(const JobId& job) const {
  if (job.empty()) return std::nullopt;
  std::error_code ignored;
  for (const fs::path& folder : entries_of(options_.directory))
    for (const fs::path& file : entries_of(folder)) {
      // Others may keep theirs here too.
      if (file.extension() != ".xml" || !fs::is_regular_file(file, ignored) || ::access(file.c_str(), R_OK) != 0)
        continue;
      if (const auto text = read_whole(file); text && job_of_domain(*text) == job) return file;
    }
  return std::nullopt;
}

std::optional<ServerId> LocalCloud::find_server(const JobId& job, std::stop_token) {
  if (const auto domain = domain_of(job)) return ServerId{domain->string()};
  return std::nullopt;
}

void LocalCloud::check_settings(std::stop_token stop) {
  if (options_.disk_bus != "virtio" && options_.disk_bus != "scsi")
    throw Error(Fault::config, fmt::format("disk bus \"{}\" is not known; choose virtio or scsi", options_.disk_bus));
  const fs::path& directory = options_.directory;
  std::error_code ignored;
  const bool there = fs::exists(directory, ignored);
  if (there && !fs::is_directory(directory, ignored))
    throw Error(Fault::config, fmt::format("{} is not a folder; name one for the images", directory.string()));
  const fs::path place = there ? directory : directory.parent_path();
  if (!fs::is_directory(place, ignored))
    throw Error(Fault::config, fmt::format("neither {} nor the folder it would be made in exists; create it first",
                                           directory.string()));
  if (::access(place.c_str(), W_OK | X_OK) != 0) fail("write to", place, errno);
  struct statvfs space {};
  if (::statvfs(place.c_str(), &space) == 0 && space.f_bavail == 0) fail("write to", place, ENOSPC);
  if (options_.libvirt) options_.libvirt->check(stop);
}

std::vector<plan::Finding> LocalCloud::examine(const Arrival& arrival, std::stop_token stop) {
  std::vector<plan::Finding> found;
  if (options_.libvirt && !arrival.ports.empty()) {
    std::vector<std::string> networks;
    for (const NetworkChoice& choice : arrival.ports)
      if (is_libvirt_network(choice.network)) networks.push_back(choice.network.empty() ? "default" : choice.network);
    const auto domain = domain_of(arrival.job);
    const std::string name = domain ? domain->stem().string() : file_name(arrival.vm.name);
    found = options_.libvirt->judge(name, arrival.job, arrival.vm.firmware, networks, stop);
  }
  std::error_code problem;
  const bool there = fs::exists(options_.directory, problem);
  const fs::space_info space = fs::space(there ? options_.directory : options_.directory.parent_path(), problem);
  std::uint64_t wanted = 0;
  for (const VolumeWish& wish : arrival.volumes) {
    // A disk that grew since its image was made needs room for the rest of it.
    struct stat image {};
    const bool made = ::lstat(files_of(id_of(wish.tag)).image.c_str(), &image) == 0;
    const std::uint64_t held = made ? static_cast<std::uint64_t>(image.st_size) : 0;
    wanted += wish.bytes > held ? wish.bytes - held : 0;
  }
  if (problem || space.available >= wanted) return found;
  constexpr double gib = 1ULL << 30;
  // The images are sparse, and may well hold less than the disks could.
  found.push_back({plan::Level::warning, options_.directory.string(),
                   fmt::format("{:.1f} GiB are free there, and the disks can need {:.1f} GiB more",
                               static_cast<double>(space.available) / gib, static_cast<double>(wanted) / gib),
                   "make room, or choose another folder", Fault::quota});
  return found;
}

// The record of the tag's volume, if it is that of this machine and disk.
std::optional<Record> LocalCloud::record_of(const Tag& tag, const Files& files) const {
  auto record = load_record(files.record);
  if (record && (record->vm != tag.vm.value || record->disk_key != tag.disk.value))
    throw Error(
        Fault::conflict,
        fmt::format("{} belongs to disk {} of machine {} ({}), not to disk {} of {} ({}): two machines have the same "
                    "name; give one of them another folder",
                    files.image.string(), record->disk_key, record->vm_name, record->vm, tag.disk.value, tag.vm_name,
                    tag.vm.value));
  return record;
}

Record LocalCloud::record_of(const VolumeId& id, const Files& files) const {
  auto record = load_record(files.record);
  if (!record)
    throw Error(Fault::not_found, fmt::format("there is no volume {} in {} ({} is missing)", id.value, describe(),
                                              files.record.string()));
  return *std::move(record);
}

Volume LocalCloud::volume_of(const VolumeId& id, const Record& record) {
  const auto made_by = record.memory.find(memory_key::made_by);
  const bool ours = made_by != record.memory.end() && record.tagged(JobId{made_by->second});
  const bool touched = record.memory.contains(memory_key::opened) || record.memory.contains(memory_key::written);
  return {id, record.bytes, ours && !touched, record.memory};
}

// Names the image if a crash came between its record and its name. False when there is nothing to name.
bool LocalCloud::finish(const Record& record, const Files& files) {
  const Fd fd(::open(files.making.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  const auto found = fd ? inode_identity()->read(fd.get()) : std::nullopt;
  if (!found || found->serial != record.serial) return false;
  name_image(files);
  return true;
}

std::optional<Volume> LocalCloud::find(const Tag& tag, std::stop_token) {
  const VolumeId id = id_of(tag);
  const Files files = files_of(id);
  const auto record = record_of(tag, files);
  if (!record) return std::nullopt;
  if (on_disk(files.image)) return volume_of(id, *record);
  if (on_disk(files.making)) return std::nullopt;  // allocate() finishes it
  throw Error(Fault::conflict,
              fmt::format("{} is missing although {} says that it was made; bring it back, or delete the "
                          "record to begin anew",
                          files.image.string(), files.record.string()));
}

Record LocalCloud::make(const VolumeWish& wish, const Files& files) {
  const std::uint64_t bytes = whole_sectors(wish.bytes);
  if (::unlink(files.making.c_str()) != 0 && errno != ENOENT) fail("write", files.making, errno);
  const Fd fd(::open(files.making.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) fail("create", files.making, errno);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 || ::fsync(fd.get()) != 0) {
    const int problem = errno;
    ::unlink(files.making.c_str());
    fail(fmt::format("make {} bytes of", bytes), files.making, problem);
  }
  const auto identity = inode_identity()->read(fd.get());
  if (!identity) throw Error(Fault::unsupported, fmt::format("{} has no inode to know it by", files.making.string()));
  Record record;
  record.vm = wish.tag.vm.value;
  record.vm_name = wish.tag.vm_name;
  record.disk_key = wish.tag.disk.value;
  record.bytes = bytes;
  record.boot = wish.boot;
  record.image_properties = wish.image_properties;
  record.serial = identity->serial;
  record.memory = {{memory_key::job, wish.tag.job.value}, {memory_key::made_by, wish.tag.job.value}};
  store(files.record, record);
  name_image(files);
  return record;
}

Volume LocalCloud::allocate(const VolumeWish& wish, std::stop_token stop) {
  const VolumeId id = id_of(wish.tag);
  const Files files = files_of(id);
  make_directory(options_.directory, options_.libvirt ? 0711 : 0700);
  const FolderLock lock(options_.directory, clock_, stop);
  make_directory(files.image.parent_path());
  auto record = record_of(wish.tag, files);
  if (!record) {
    if (on_disk(files.image))
      throw Error(Fault::conflict,
                  fmt::format("{} exists and vmferry did not make it (there is no {}); move it away or "
                              "choose another folder",
                              files.image.string(), files.record.filename().string()));
    log_.info("creating image", {{"file", files.image.string()}, {"bytes", std::to_string(wish.bytes)}});
    return volume_of(id, make(wish, files));
  }
  if (!on_disk(files.image) && !finish(*record, files))
    throw Error(Fault::conflict,
                fmt::format("{} is missing although {} says that it was made; bring it back, or delete the "
                            "record to begin anew",
                            files.image.string(), files.record.string()));
  if (record->bytes < wish.bytes) {
    // The disk grew. The image first: one that is larger than its record says does no harm.
    record->bytes = whole_sectors(wish.bytes);
    log_.info("extending image", {{"file", files.image.string()}, {"bytes", std::to_string(record->bytes)}});
    grow(files.image, record->bytes);
    store(files.record, *record);
  }
  if (!record->tagged(wish.tag.job)) {
    record->memory[memory_key::job] = wish.tag.job.value;
    store(files.record, *record);
  }
  return volume_of(id, *record);
}

std::unique_ptr<Device> LocalCloud::attach(const Volume& volume, std::stop_token stop) {
  const Files files = files_of(volume.id);
  if (!on_disk(files.record)) static_cast<void>(record_of(volume.id, files));
  const FolderLock lock(options_.directory, clock_, stop);
  Record record = record_of(volume.id, files);
  Expected expected;
  expected.name = "volume " + volume.id.value;
  expected.serial = record.serial;
  expected.least = record.serial.size();
  expected.bytes = record.bytes;
  // The caller may have marked it as written just now; that it was never opened is our own word.
  expected.known_zero = volume.fresh && !record.memory.contains(memory_key::opened);
  auto device = std::make_unique<OpenedDevice>(files.image, std::move(expected), inode_identity());
  // Before anyone can write: from here on no later run may take the image for empty, nor another job for as it left it.
  const std::string job = value(record.memory, memory_key::job);
  refuse_taken_away(volume, job);
  if (std::string& opened = record.memory[memory_key::opened]; opened != job) {
    opened = job;
    store(files.record, record);
  }
  return device;
}

// A file is attached for as long as its Device lives; nothing else holds it.
void LocalCloud::detach(const VolumeId& volume, std::stop_token) { static_cast<void>(files_of(volume)); }

void LocalCloud::remember(const VolumeId& volume, const Memory& memory, std::stop_token stop) {
  const Files files = files_of(volume);
  if (!on_disk(files.record)) static_cast<void>(record_of(volume, files));
  const FolderLock lock(options_.directory, clock_, stop);
  Record record = record_of(volume, files);
  const Memory before = record.memory;
  for (const auto& [key, value] : memory) {
    if (value.empty())
      record.memory.erase(key);
    else
      record.memory[key] = value;
  }
  if (record.memory != before) store(files.record, record);
}

Port LocalCloud::ensure_port(const JobId& job, const model::Nic& nic, const NetworkChoice& choice,
                             std::stop_token stop) {
  const std::string mac = lower(nic.mac.empty() ? choice.mac : nic.mac);
  const fs::path file = port_file(mac);
  make_directory(options_.directory, options_.libvirt ? 0711 : 0700);
  const FolderLock lock(options_.directory, clock_, stop);
  make_directory(file.parent_path());
  const std::string network = choice.network.empty() ? "default" : choice.network;
  if (const auto known = load_port(file)) {
    if (known->network == network) return {PortId{mac}, mac, known->job == job.value};
    if (known->job != job.value)
      throw Error(Fault::conflict, fmt::format("{} is already on network {} for job {}; abort that job or delete {}",
                                               mac, known->network, known->job, file.string()));
  }
  store(file, PortRecord{job.value, mac, network});
  return {PortId{mac}, mac, true};
}

std::vector<PortId> LocalCloud::ports_of(const JobId& job, std::stop_token stop) {
  std::vector<PortId> ids;
  if (!on_disk(port_directory())) return ids;
  const FolderLock lock(options_.directory, clock_, stop);
  for (const auto& entry : fs::directory_iterator(port_directory())) {
    std::string mac = entry.path().stem().string();
    std::replace(mac.begin(), mac.end(), '-', ':');
    if (entry.path().extension() != ".json" || !is_mac(mac)) continue;
    if (const auto known = load_port(entry.path()); known && known->job == job.value) ids.push_back(PortId{mac});
  }
  return ids;
}

std::vector<DomainNic> LocalCloud::nics_of(const LaunchWish& wish) const {
  std::vector<DomainNic> nics;
  for (const PortId& port : wish.ports) {
    const auto known = load_port(port_file(port.value));
    if (!known)
      throw Error(Fault::not_found,
                  fmt::format("there is no port {} in {}; run the cutover again to make it", port.value, describe()));
    nics.push_back({known->mac, known->network});
  }
  return nics;
}

Launched LocalCloud::launch(const LaunchWish& wish, std::stop_token stop) {
  DomainWish domain;
  domain.job = wish.job;
  domain.vm = wish.vm;
  domain.disk_bus = options_.disk_bus;
  domain.kind = options_.domain_kind;
  if (options_.libvirt) domain.kind = options_.libvirt->has_kvm(stop) ? "kvm" : "qemu";
  for (const VolumeId& volume : wish.volumes) {
    const Files files = files_of(volume);
    static_cast<void>(record_of(volume, files));
    if (!on_disk(files.image))
      throw Error(Fault::not_found, fmt::format("cannot start {}: {} is missing", wish.vm.name, files.image.string()));
    domain.images.push_back(files.image);
  }
  domain.nics = nics_of(wish);
  make_directory(options_.directory);
  // Beside its images, whose folder has the name that the machine had when its job began.
  const std::string name = file_name(wish.vm.name);
  const fs::path folder = domain.images.empty() ? options_.directory / name : domain.images.front().parent_path();
  make_directory(folder);
  const fs::path file = domain_of(wish.job).value_or(folder / (name + ".xml"));
  // One that is there keeps its name, or libvirt would have two that run from the same images.
  domain.name = file.stem().string();
  const std::string text = domain_xml(domain);
  const auto there = [&] {
    auto xml = read_whole(file);
    if (xml && job_of_domain(*xml) != wish.job)
      throw Error(Fault::conflict, fmt::format("{} exists and is not of job {}; move it away and try again",
                                               file.string(), wish.job.value));
    return xml;
  };
  if (wish.before_asking && !there()) wish.before_asking();  // it may come to the records, which need the lock
  const FolderLock lock(options_.directory, clock_, stop);
  const auto before = there();
  if (!before || *before != text) write_durably(file, text);
  log_.info("domain written", {{"file", file.string()}});
  if (options_.libvirt) {
    // QEMU runs as another user there, and must come to the images (which libvirt gives to that user).
    if (::chmod(folder.c_str(), 0711) != 0) fail("open", folder, errno);
    options_.libvirt->ensure_running(domain.name, file, wish.job, stop);
    return {ServerId{file.string()}, "running"};
  }
  return {ServerId{file.string()}, "defined"};
}

void LocalCloud::discard(const VolumeId& volume, const JobId& job, std::stop_token stop) {
  const Files files = files_of(volume);
  if (!on_disk(files.record) && !on_disk(files.image)) return;
  const FolderLock lock(options_.directory, clock_, stop);
  const auto record = load_record(files.record);
  if (!record || !record->tagged(job))
    throw Error(Fault::conflict,
                fmt::format("{} is not deleted: it does not carry the tag of job {}", files.image.string(), job.value));
  if (on_disk(files.image)) {
    // Opening proves that it is the image we made and that nobody uses it.
    const OpenedDevice held(files.image, {"volume " + volume.value, record->serial, record->serial.size(), 0, false},
                            inode_identity());
    log_.info("deleting image", {{"file", files.image.string()}, {"job", job.value}});
    remove_durably(files.image);
  }
  remove_durably(files.making);
  remove_durably(files.record);                // last: without it the image would be nobody's
  ::rmdir(files.image.parent_path().c_str());  // only when it is empty
}

void LocalCloud::discard_port(const PortId& port, const JobId& job, std::stop_token stop) {
  const fs::path file = port_file(port.value);
  if (!on_disk(file)) return;
  const FolderLock lock(options_.directory, clock_, stop);
  const auto known = load_port(file);
  if (!known) return;
  if (known->job != job.value)
    throw Error(Fault::conflict,
                fmt::format("port {} is not deleted: it is of job {}, not {}", port.value, known->job, job.value));
  remove_durably(file);
}

}  // namespace

std::string file_name(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    name += byte < 0x20 || byte == 0x7f || c == '/' || c == '\\' ? '-' : c;
  }
  // Neither hidden nor "..", and short enough for the longest ending beside it.
  if (!name.empty() && name.front() == '.') name.front() = '-';
  if (name.size() > 200) {
    std::size_t cut = 200;
    while (cut > 0 && (static_cast<unsigned char>(name[cut]) & 0xc0) == 0x80) --cut;
    name.resize(cut);
  }
  return name.empty() ? "-" : name;
}

std::unique_ptr<Cloud> local_cloud(Options options, Clock& clock, log::Log& log) {
  return std::make_unique<LocalCloud>(std::move(options), clock, log);
}

}  // namespace vmferry::target::local
