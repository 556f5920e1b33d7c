// Disks that lie in a folder here: the mount point of a datastore, or copies of flat VMDK and raw files.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>
#include <variant>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "source/vmware/datastore_path.hpp"
#include "source/vmware/descriptor.hpp"
#include "source/vmware/transport.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr std::size_t largest_descriptor = 1 << 20;

// Either the file with the bytes or a sentence that says why there is none.
using Found = std::variant<std::filesystem::path, std::string>;

// The beginning of a file, or nothing with errno.
std::optional<std::string> head_of(const std::filesystem::path& file, std::size_t bytes) {
  const Fd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::nullopt;
  std::string text(bytes, '\0');
  std::size_t have = 0;
  while (have < bytes) {
    const ssize_t got = read(fd.get(), text.data() + have, bytes - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  text.resize(have);
  return text;
}

bool is_redo_kind(const std::string& kind) { return kind == "VMFSSPARSE" || kind == "SESPARSE"; }

// One flat extent that starts at the file's beginning is all that can be served as raw bytes.
Found extent_of(const std::filesystem::path& file, const Descriptor& descriptor) {
  if (descriptor.has_parent)
    return fmt::format(
        "{} is a layer above another file (its parentCID is set), which cannot be read alone; remove or consolidate "
        "the snapshots below it",
        file.string());
  if (descriptor.extents.size() != 1)
    return fmt::format("{} describes {} extents (type {}); only disks with one flat extent can be read from files",
                       file.string(), descriptor.extents.size(),
                       descriptor.create_type.empty() ? "unknown" : descriptor.create_type);
  const DescriptorExtent& extent = descriptor.extents.front();
  if (is_redo_kind(extent.kind))
    return fmt::format(
        "{} is a redo layer ({}), which cannot be read alone; remove or consolidate the snapshots below it",
        file.string(), extent.kind);
  if ((extent.kind != "VMFS" && extent.kind != "FLAT") || extent.offset != 0)
    return fmt::format(
        "{} is of type {} (extent {} at sector {}); only flat disks (vmfs, monolithicFlat) can be read from files: "
        "convert it, for example with `qemu-img convert -O raw`",
        file.string(), descriptor.create_type, extent.kind, extent.offset);
  const std::filesystem::path name = extent.file;
  // A descriptor is data from elsewhere: it shall not lead out of its folder.
  if (name.has_parent_path() || name.empty())
    return fmt::format("{} names the extent '{}', which is not a file of the same folder", file.string(), extent.file);
  return file.parent_path() / name;
}

// What lies at `file`: a descriptor that points to the bytes, or the bytes.
Found bytes_behind(const std::filesystem::path& file) {
  if (file.extension() != ".vmdk" || file.string().ends_with("-flat.vmdk")) return file;
  const auto head = head_of(file, largest_descriptor);
  if (!head) {
    if (errno != ENOENT) return fmt::format("{} cannot be read: {}", file.string(), strerror(errno));
    return std::filesystem::path(flat_file(file.string()));  // copied without its descriptor
  }
  if (head->starts_with("KDMV"))
    return fmt::format(
        "{} is a sparse VMDK (monolithicSparse or streamOptimized), whose bytes are not flat; convert it, for example "
        "with `qemu-img convert -O raw`",
        file.string());
  if (head->starts_with("COWD"))
    return fmt::format(
        "{} is a redo layer of a snapshot (vmfsSparse), which cannot be read alone; remove or consolidate the "
        "snapshots below it",
        file.string());
  if (head->find("# Disk DescriptorFile") == std::string::npos)
    return fmt::format("{} is neither a VMDK descriptor nor a flat extent", file.string());
  return extent_of(file, parse_descriptor(*head));
}

class FileTransport final : public Transport {
 public:
  FileTransport(std::filesystem::path directory, process::Runner& runner, std::filesystem::path run_directory,
                log::Log& log)
      : directory_(std::move(directory)), runner_(runner), run_directory_(std::move(run_directory)), log_(log) {}

  std::string name() const override { return "file"; }

  std::optional<std::string> refuses(const FrozenDisk& disk) const override {
    const Found found = find(disk);
    if (const auto* reason = std::get_if<std::string>(&found)) return *reason;
    return std::nullopt;
  }

  std::unique_ptr<copy::Source> serve(const FrozenDisk& disk, std::stop_token stop) override;

 private:
  Found find(const FrozenDisk& disk) const {
    if (disk.has_parent)
      return fmt::format(
          "disk {} ({}) sits on the redo file of an earlier snapshot, which cannot be read from files; remove or "
          "consolidate the VM's other snapshots, or use another transport",
          model::to_string(disk.key), disk.file);
    const std::filesystem::path relative =
        std::filesystem::path(parse_datastore_path(disk.file).file).lexically_normal();
    if (relative.empty() || relative.is_absolute() || *relative.begin() == "..")
      return fmt::format("disk {} has the file name '{}', which is not one below a datastore",
                         model::to_string(disk.key), disk.file);
    // As on the datastore, or all disks side by side in one folder.
    const std::filesystem::path places[] = {directory_ / relative, directory_ / relative.filename()};
    std::string reason;
    for (const std::filesystem::path& place : places) {
      Found found = bytes_behind(place);
      if (const auto* bytes = std::get_if<std::filesystem::path>(&found)) {
        struct stat st {};
        if (stat(bytes->c_str(), &st) == 0) return checked(disk, *bytes, st);
        if (reason.empty()) reason = fmt::format("{} is not there ({})", bytes->string(), strerror(errno));
      } else {
        return found;
      }
    }
    return fmt::format("disk {} ({}) was not found below {}: {}; is the datastore mounted there?",
                       model::to_string(disk.key), disk.file, directory_.string(), reason);
  }

  static Found checked(const FrozenDisk& disk, const std::filesystem::path& file, const struct stat& st) {
    if (!S_ISREG(st.st_mode)) return fmt::format("{} is not a regular file", file.string());
    const auto size = static_cast<std::uint64_t>(st.st_size);
    if (size != disk.capacity)
      return fmt::format("{} has {} bytes, but disk {} has {}: it is another disk, an incomplete copy or not flat",
                         file.string(), size, model::to_string(disk.key), disk.capacity);
    if (access(file.c_str(), R_OK) != 0)
      return fmt::format("{} may not be read by this user: {}", file.string(), strerror(errno));
    return file;
  }

  std::filesystem::path directory_;
  process::Runner& runner_;
  std::filesystem::path run_directory_;
  log::Log& log_;
};

// The file behind an nbdkit that is started again when it died.
class FileSource final : public copy::Source {
 public:
  FileSource(const std::filesystem::path& file, std::uint64_t bytes, process::Runner& runner,
             std::filesystem::path run_directory, log::Log& log, std::stop_token stop)
      : bytes_(bytes), runner_(runner), run_directory_(std::move(run_directory)), log_(log) {
    recipe_.plugin = "file";
    recipe_.parameters = {{"file", std::filesystem::absolute(file).string()}};
    start(std::move(stop));
  }

  std::uint64_t bytes() const override { return bytes_; }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    std::scoped_lock lock(mutex_);
    if (!export_ || !export_->alive()) start(stop);
    try {
      return std::make_unique<nbd::Handle>(export_->uri(), stop);
    } catch (const Error& error) {
      throw Error(error.fault(), fmt::format("{}; nbdkit said: {}", error.what(), export_->last_words()));
    }
  }

 private:
  void start(std::stop_token stop) {
    export_.reset();
    export_.emplace(nbdkit::serve(runner_, recipe_, run_directory_, log_, std::move(stop)));
  }

  std::uint64_t bytes_;
  process::Runner& runner_;
  std::filesystem::path run_directory_;
  log::Log& log_;
  nbdkit::Recipe recipe_;
  std::mutex mutex_;
  std::optional<nbdkit::Export> export_;
};

std::unique_ptr<copy::Source> FileTransport::serve(const FrozenDisk& disk, std::stop_token stop) {
  const Found found = find(disk);
  if (const auto* reason = std::get_if<std::string>(&found)) throw Error(Fault::unsupported, *reason);
  return std::make_unique<FileSource>(std::get<std::filesystem::path>(found), disk.capacity, runner_, run_directory_,
                                      log_, std::move(stop));
}

}  // namespace

std::unique_ptr<Transport> file_transport(std::filesystem::path directory, process::Runner& runner,
                                          std::filesystem::path run_directory, log::Log& log) {
  return std::make_unique<FileTransport>(std::move(directory), runner, std::move(run_directory), log);
}

}  // namespace vmferry::source::vmware
