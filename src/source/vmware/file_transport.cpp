// Disks that lie in folders here: datastores that are mounted, or copies of their files.
#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/error.hpp"
#include "source/vmware/datastore_path.hpp"
#include "source/vmware/descriptor.hpp"
#include "source/vmware/transport.hpp"
#include "source/vmware/vmdk.hpp"

namespace vmferry::source::vmware {

namespace {

const std::filesystem::path& folder_of(const FileOptions& options, const std::string& datastore) {
  const auto own = options.datastores.find(datastore);
  return own != options.datastores.end() ? own->second : options.directory;
}

std::string named(const FrozenDisk& disk) { return fmt::format("disk {} ({})", model::to_string(disk.key), disk.file); }

// A copy of a disk's files has its uuid, unless somebody gave it another (`vmkfstools -J setuuid`).
std::optional<Refusal> not_its_own(const DiskFiles& files, const FrozenDisk& disk) {
  const std::string expected = hex_digits(disk.uuid);
  if (expected.size() != 32 || files.uuid.empty() || files.uuid == expected) return std::nullopt;
  return Refusal{fmt::format(
      "what lies at {} is another disk than {}: its descriptor has the uuid {}, the disk {}; give the folder with this "
      "disk's files, --local-disk-path '{}=DIR'",
      files.pieces.front().file.string(), named(disk), files.uuid, expected,
      parse_datastore_path(disk.file).datastore)};
}

std::variant<DiskFiles, Refusal> find(const FileOptions& options, const FrozenDisk& disk) {
  if (disk.has_parent)
    return Refusal{fmt::format(
        "disk {} ({}) sits on the redo file of an earlier snapshot, which cannot be read from files; remove or "
        "consolidate the VM's other snapshots, or use another transport",
        model::to_string(disk.key), disk.file)};
  const DatastorePath path = parse_datastore_path(disk.file);
  const std::filesystem::path relative = std::filesystem::path(path.file).lexically_normal();
  if (relative.empty() || relative.is_absolute() || *relative.begin() == "..")
    return Refusal{fmt::format("disk {} has the file name '{}', which is not one below a datastore",
                               model::to_string(disk.key), disk.file)};
  const std::filesystem::path& directory = folder_of(options, path.datastore);
  if (directory.empty())
    return Refusal{
        fmt::format("disk {} is {}, and where that datastore is mounted was not said: add "
                    "--local-disk-path '{}=DIR'",
                    model::to_string(disk.key), disk.file, path.datastore)};
  // As on the datastore, or all disks side by side in one folder.
  std::string reason;
  for (const std::filesystem::path& place : {directory / relative, directory / relative.filename()}) {
    auto found = find_files(place, disk.capacity);
    if (const auto* refusal = std::get_if<Refusal>(&found)) {
      if (!refusal->missing) return found;
      if (reason.empty()) reason = refusal->reason;
      continue;
    }
    if (auto refusal = not_its_own(std::get<DiskFiles>(found), disk)) return std::move(*refusal);
    return found;
  }
  return Refusal{fmt::format("disk {} ({}) was not found below {}: {}; is the datastore mounted there?",
                             model::to_string(disk.key), disk.file, directory.string(), reason)};
}

// A file as the kernel knows it.
struct Seen {
  dev_t device = 0;
  ino_t inode = 0;
  timespec written{};
  bool same_file(const Seen& other) const { return device == other.device && inode == other.inode; }
};

std::vector<Seen> seen(const Pieces& pieces) {
  std::vector<Seen> files;
  for (const Piece& piece : pieces) {
    struct stat st {};
    if (stat(piece.file.c_str(), &st) != 0)
      throw Error(Fault::unavailable, fmt::format("{} cannot be examined: {}", piece.file.string(), strerror(errno)));
    files.push_back({st.st_dev, st.st_ino, st.st_mtim});
  }
  return files;
}

// Whether other files have taken the names of those that were served. A mount that was made anew has another device, a
// FUSE file system may number its files anew, and NFS may show a time late: so only both, number and time, are proof.
bool replaced(const std::vector<Seen>& served, const std::vector<Seen>& now) {
  if (served.size() != now.size()) return true;
  for (std::size_t i = 0; i < now.size(); ++i)
    if (served[i].inode != now[i].inode &&
        (served[i].written.tv_sec != now[i].written.tv_sec || served[i].written.tv_nsec != now[i].written.tv_nsec))
      return true;
  return false;
}

bool share_a_file(const std::vector<Seen>& some, const std::vector<Seen>& others) {
  return std::any_of(some.begin(), some.end(), [&](const Seen& one) {
    return std::any_of(others.begin(), others.end(), [&](const Seen& other) { return one.same_file(other); });
  });
}

// Sizes alone do not tell the disks of a machine apart: no two may be read from one file, and a folder that was given
// for every datastore may stand for one of them only, unless the files say which disk they are.
void refuse_to_confuse(const FileOptions& options, const Point& point, const FrozenDisk& disk, const DiskFiles& files) {
  const std::string datastore = parse_datastore_path(disk.file).datastore;
  const bool sure = !files.uuid.empty() && files.uuid == hex_digits(disk.uuid);
  for (const FrozenDisk& other : point.disks) {
    if (other.key == disk.key) continue;
    const std::string theirs = parse_datastore_path(other.file).datastore;
    const std::string remedy = fmt::format(
        "say where each datastore is mounted, or put each one's files into a folder of its own, laid out as on it: "
        "--local-disk-path '{}=DIR'{}",
        datastore, theirs == datastore ? "" : fmt::format(" --local-disk-path '{}=DIR'", theirs));
    const auto found = find(options, other);
    if (const auto* of_other = std::get_if<DiskFiles>(&found);
        of_other != nullptr && share_a_file(seen(files.pieces), seen(of_other->pieces)))
      throw Error(Fault::unsupported, fmt::format("{} and {} would both be read from {}: {}", named(disk), named(other),
                                                  files.pieces.front().file.string(), remedy));
    if (!sure && theirs != datastore && !options.datastores.contains(datastore) && !options.datastores.contains(theirs))
      throw Error(Fault::unsupported,
                  fmt::format("{} and {} lie on two datastores, and nothing in {} says which of them it is: {}",
                              named(disk), named(other), files.pieces.front().file.string(), remedy));
  }
}

// Said, and not refused, because it proves nothing: ESXi was seen to leave a flat disk's CID as it was while the live
// contentId went on, and over a shutdown. So an equal one need not be new, nor another one old.
void warn_of_age(const Point& point, const FrozenDisk& disk, const DiskFiles& files, log::Log& log) {
  const std::string file = files.pieces.front().file.string();
  if (!files.described && point.consistency != Consistency::powered_off)
    log.warning(fmt::format(
        "{} of a machine that runs is read from {}, which has no descriptor: its size is all that says that it is this "
        "disk as the snapshot froze it. A copy made earlier must not be used: mount the datastore itself, or copy the "
        "files while the machine is off and leave it off",
        named(disk), file));
  const std::string expected = hex_digits(disk.content_id);
  if (files.content_id.empty() || expected.size() != 32 || expected.ends_with(files.content_id)) return;
  log.warning(fmt::format(
      "{} is read from {}, whose descriptor has the content id {}, while vSphere says {}: if this is not the datastore "
      "itself it may be a copy of another moment, which must not be used",
      named(disk), file, files.content_id, expected));
}

// The files behind a server that is started again when it died. After a failed read they are looked at once more.
class FileSource final : public copy::Source {
 public:
  FileSource(FileOptions options, FrozenDisk disk, const DiskFiles& files, process::Runner& runner, log::Log& log,
             std::stop_token stop)
      : options_(std::move(options)), disk_(std::move(disk)), runner_(runner), log_(log), served_(seen(files.pieces)) {
    start(files.pieces, std::move(stop));
  }

  std::uint64_t bytes() const override { return disk_.capacity; }
  void failed(ByteRange) noexcept override { doubtful_ = true; }

  // Connections that stay open read what they opened, so a file that is replaced need not fail any read.
  void check(std::stop_token) override {
    std::scoped_lock lock(mutex_);
    refuse_replaced();
  }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    std::scoped_lock lock(mutex_);
    const bool doubtful = doubtful_.exchange(false);
    if (doubtful || !export_ || !export_->alive()) try {
        look_again(doubtful, stop);
      } catch (...) {
        doubtful_ = doubtful;  // nothing was found out
        throw;
      }
    std::unique_ptr<nbd::Handle> handle;
    try {
      handle = std::make_unique<nbd::Handle>(export_->uri(), stop);
    } catch (const Error& error) {
      throw Error(error.fault(), fmt::format("{}; its server said: {}", error.what(), export_->last_words()));
    }
    if (handle->bytes() != disk_.capacity) {
      const Pieces pieces = look();  // says which file is another one now
      throw Error(
          Fault::data,
          fmt::format("{} is served with {} bytes from {}, but the disk has {}: the file is damaged, or another "
                      "disk; copy it anew, or use another transport",
                      named(disk_), handle->bytes(), pieces.front().file.string(), disk_.capacity));
    }
    refuse_replaced();  // its server may have opened another file than the one before
    return handle;
  }

 private:
  Pieces look() const {
    auto found = find(options_, disk_);
    if (const auto* refusal = std::get_if<Refusal>(&found)) throw Error(Fault::unsupported, refusal->reason);
    return std::get<DiskFiles>(std::move(found)).pieces;
  }

  void refuse_replaced() const {
    try {
      const Pieces pieces = look();
      refuse_replaced(pieces, seen(pieces));
    } catch (const copy::BytesInDoubt&) {
      throw;
    } catch (const Error&) {
      // Not to be seen at the moment: nothing says that what was read was not right.
    }
  }
  void refuse_replaced(const Pieces& pieces, const std::vector<Seen>& now) const {
    if (!replaced(served_, now)) return;
    throw copy::BytesInDoubt(fmt::format(
        "{} was replaced by another file while it was read for {}: leave the files alone while vmferry reads "
        "them, and run the same command again, which copies all of this disk anew",
        pieces.front().file.string(), named(disk_)));
  }

  // nbdkit opens its files for each connection. qemu-nbd holds them, and a handle that a network file system let go
  // stale, or that belongs to a mount of before, stays so: then another server takes over.
  void look_again(bool doubtful, const std::stop_token& stop) {
    const Pieces pieces = look();
    const std::vector<Seen> now = seen(pieces);
    refuse_replaced(pieces, now);
    const bool held = std::any_of(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.sparse; });
    bool moved = false;
    for (std::size_t i = 0; i < now.size(); ++i) moved = moved || !served_[i].same_file(now[i]);
    if (!export_ || !export_->alive() || (doubtful && held) || moved) start(pieces, stop);
    served_ = now;
  }

  // The server before may still answer others: were it ended, their reads would fail and end this one in turn. There
  // are as many as reads that failed, which are few.
  void start(const Pieces& pieces, std::stop_token stop) {
    std::erase_if(replaced_, [](const nbdkit::Export& server) { return !server.alive(); });
    nbdkit::Export made = serve_pieces(runner_, pieces, {}, options_.run_directory, log_, std::move(stop));
    if (export_ && export_->alive()) replaced_.push_back(std::move(*export_));
    export_.emplace(std::move(made));
  }

  const FileOptions options_;
  const FrozenDisk disk_;
  process::Runner& runner_;
  log::Log& log_;
  std::atomic<bool> doubtful_{false};
  std::mutex mutex_;
  std::vector<Seen> served_;
  std::optional<nbdkit::Export> export_;
  std::vector<nbdkit::Export> replaced_;
};

class FileTransport final : public Transport {
 public:
  FileTransport(FileOptions options, process::Runner& runner, log::Log& log)
      : options_(std::move(options)), runner_(runner), log_(log) {}

  std::string name() const override { return "file"; }
  bool counted() const override { return false; }

  std::optional<std::string> refuses(const FrozenDisk& disk) const override {
    const auto found = find(options_, disk);
    if (const auto* refusal = std::get_if<Refusal>(&found)) return refusal->reason;
    return std::nullopt;
  }

  std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token stop) override {
    const auto found = find(options_, disk);
    if (const auto* refusal = std::get_if<Refusal>(&found)) throw Error(Fault::unsupported, refusal->reason);
    const DiskFiles& files = std::get<DiskFiles>(found);
    refuse_to_confuse(options_, point, disk, files);
    warn_of_age(point, disk, files, log_);
    return std::make_unique<FileSource>(options_, disk, files, runner_, log_, std::move(stop));
  }

 private:
  const FileOptions options_;
  process::Runner& runner_;
  log::Log& log_;
};

}  // namespace

std::unique_ptr<Transport> file_transport(FileOptions options, process::Runner& runner, log::Log& log) {
  return std::make_unique<FileTransport>(std::move(options), runner, log);
}

}  // namespace vmferry::source::vmware
