// After VMware's "Virtual Disk Format 5.0": the descriptor, and the header of hosted sparse extents.
#include "source/vmware/vmdk.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "source/vmware/datastore_path.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr std::size_t largest_descriptor = 1 << 20;
constexpr std::uint64_t sector = 512;
constexpr std::size_t header_bytes = 512;
constexpr std::string_view sparse_magic = "KDMV", redo_magic = "COWD";
constexpr std::string_view se_sparse_magic{"\xbe\xba\xfe\xca\0\0\0\0", 8};
constexpr const char* convert_it = "convert it, for example with `qemu-img convert -O raw`";
constexpr const char* merge_it = "remove or consolidate the snapshots below it";

// A regular file, open for reading. The way to it is looked at first: opening a device can have effects.
struct Open {
  Fd fd;
  std::uint64_t bytes = 0;
};

std::variant<Open, Refusal> open_regular(const std::filesystem::path& file, bool follow_link) {
  const Fd found(open(file.c_str(), O_PATH | O_CLOEXEC | (follow_link ? 0 : O_NOFOLLOW)));
  struct stat st {};
  if (!found || fstat(found.get(), &st) != 0) {
    const bool missing = errno == ENOENT || errno == ENOTDIR;
    return Refusal{missing ? fmt::format("{} is not there ({})", file.string(), strerror(errno))
                           : fmt::format("{} cannot be read: {}", file.string(), strerror(errno)),
                   missing};
  }
  if (S_ISLNK(st.st_mode))
    return Refusal{
        fmt::format("{} is a link, which an extent must not be: it may lead out of its folder; copy or "
                    "mount the files themselves",
                    file.string())};
  if (!S_ISREG(st.st_mode)) return Refusal{fmt::format("{} is not a regular file", file.string())};
  Fd fd(open(fmt::format("/proc/self/fd/{}", found.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Refusal{fmt::format("{} may not be read by this user: {}", file.string(), strerror(errno))};
  return Open{std::move(fd), static_cast<std::uint64_t>(st.st_size)};
}

// The bytes from `offset` on, up to the file's end; nothing with errno.
std::optional<std::string> read_some(int fd, std::uint64_t offset, std::size_t bytes) {
  std::string text(bytes, '\0');
  std::size_t have = 0;
  while (have < bytes) {
    const ssize_t got = pread(fd, text.data() + have, bytes - have, static_cast<off_t>(offset + have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  text.resize(have);
  return text;
}

std::uint64_t little_endian(const std::string& header, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 8; i-- > 0;) value = value << 8 | static_cast<unsigned char>(header[at + i]);
  return value;
}

Refusal is_a_layer(const std::filesystem::path& file) {
  return {
      fmt::format("{} is a layer above another file (its parentCID or parentFileNameHint is set), which cannot be read "
                  "alone; {}",
                  file.string(), merge_it)};
}

Refusal is_redo(const std::filesystem::path& file, std::string_view kind) {
  return {fmt::format("{} is a redo layer of a snapshot ({}), which cannot be read alone; {}", file.string(), kind,
                      merge_it)};
}

// A flat stretch of an open file.
std::variant<Piece, Refusal> flat_piece(const std::filesystem::path& file, const Open& open, std::uint64_t bytes,
                                        std::uint64_t offset) {
  if (offset > open.bytes || bytes > open.bytes - offset)
    return Refusal{
        fmt::format("{} has {} bytes, but {} from byte {} on belong to the disk: it is another disk or an "
                    "incomplete copy",
                    file.string(), open.bytes, bytes, offset)};
  return Piece{file, bytes, offset, offset == 0 && bytes == open.bytes, false};
}

// A file that is the disk from its first to its last byte.
std::variant<DiskFiles, Refusal> image_files(const std::filesystem::path& file, std::uint64_t capacity) {
  auto opened = open_regular(file, true);
  if (auto* refusal = std::get_if<Refusal>(&opened)) return std::move(*refusal);
  const std::uint64_t bytes = std::get<Open>(opened).bytes;
  if (bytes != capacity)
    return Refusal{
        fmt::format("{} has {} bytes, but the disk has {}: it is another disk, an incomplete copy or not flat",
                    file.string(), bytes, capacity)};
  return DiskFiles{{{file, capacity, 0, true, false}}, false, {}, {}};
}

std::variant<Piece, Refusal> extent_piece(const std::filesystem::path& descriptor, const DescriptorExtent& extent) {
  if (extent.kind == "VMFSSPARSE" || extent.kind == "SESPARSE") return is_redo(descriptor, extent.kind);
  const bool flat = extent.kind == "VMFS" || extent.kind == "FLAT";
  if ((!flat && extent.kind != "SPARSE") || extent.access == "NOACCESS")
    return Refusal{fmt::format(
        "{} has an extent {} {}, which is no file's bytes; only flat (VMFS, FLAT) and hosted sparse (SPARSE) extents "
        "can be read: {}",
        descriptor.string(), extent.access, extent.kind, convert_it)};
  const std::filesystem::path name = extent.file;
  // A quote would end the name in the descriptor that qemu-nbd gets.
  if (name.empty() || name.has_parent_path() || name == "." || name == ".." ||
      extent.file.find_first_of("\"\r\n") != std::string::npos)
    return Refusal{fmt::format("{} names the extent '{}', which is not a file of the same folder", descriptor.string(),
                               extent.file)};
  const std::filesystem::path file = descriptor.parent_path() / name;
  auto opened = open_regular(file, false);
  if (auto* refusal = std::get_if<Refusal>(&opened)) return Refusal{refusal->reason};  // its descriptor is there
  const Open& open = std::get<Open>(opened);
  if (extent.sectors > UINT64_MAX / sector || extent.offset > UINT64_MAX / sector)
    return Refusal{fmt::format("{} has an extent of {} sectors from sector {} on: its descriptor is damaged",
                               descriptor.string(), extent.sectors, extent.offset)};
  if (flat) return flat_piece(file, open, extent.sectors * sector, extent.offset * sector);
  return sparse_piece(open.fd.get(), file, extent.sectors * sector);
}

DiskFiles as_described(Pieces pieces, const std::optional<Descriptor>& by) {
  if (!by) return {std::move(pieces), false, {}, {}};
  return {std::move(pieces), true, by->uuid, by->content_id};
}

std::variant<DiskFiles, Refusal> described_files(const std::filesystem::path& file, const Descriptor& descriptor,
                                                 std::uint64_t capacity) {
  if (descriptor.has_parent) return is_a_layer(file);
  Pieces pieces;
  std::uint64_t bytes = 0;
  for (const DescriptorExtent& extent : descriptor.extents) {
    auto piece = extent_piece(file, extent);
    if (auto* refusal = std::get_if<Refusal>(&piece)) return std::move(*refusal);
    pieces.push_back(std::move(std::get<Piece>(piece)));
    bytes += pieces.back().bytes;
  }
  if (bytes != capacity)
    return Refusal{
        fmt::format("{} (type {}) describes {} bytes in {} extents, but the disk has {}: it is another disk, or its "
                    "descriptor is damaged",
                    file.string(), descriptor.create_type.empty() ? "unknown" : descriptor.create_type, bytes,
                    pieces.size(), capacity)};
  return as_described(std::move(pieces), descriptor);
}

// What qemu's vmdk driver is to read, as a descriptor in memory. The line above the first extent must not be empty:
// qemu 7.2 was seen to count that extent twice then.
std::string descriptor_for_qemu(const Pieces& pieces) {
  std::string text =
      "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
      "createType=\"twoGbMaxExtentSparse\"\n# Extent description\n";
  for (const Piece& piece : pieces) {
    text += fmt::format("RW {} {} \"{}\"", piece.bytes / sector, piece.sparse ? "SPARSE" : "FLAT",
                        std::filesystem::absolute(piece.file).string());
    text += piece.sparse ? "\n" : fmt::format(" {}\n", piece.offset / sector);
  }
  return text;
}

// As long as `bytes`, if that is more than the text.
Fd memory_file(const std::string& text, std::uint64_t bytes) {
  Fd fd(memfd_create("vmferry-vmdk", MFD_CLOEXEC));
  if (!fd || write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      (bytes > text.size() && ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0))
    throw Error(Fault::quota, fmt::format("cannot hold a disk's description in memory: {}", strerror(errno)));
  return fd;
}

// qemu (block/vmdk.c, vmdk_open_vmdk4) looks for the footer of an extent where the descriptor's own file ends, so that
// must be as long as the extent; it reads no more of it than a descriptor may have. Of several extents only files
// without a footer can be read: VMware writes one to a streamOptimized file, which is alone.
std::uint64_t length_for_footer(const Pieces& pieces, const std::vector<process::PassedFd>& fds) {
  if (pieces.size() != 1) return 0;
  const std::string file = pieces.front().file.string();
  struct stat st {};
  for (const process::PassedFd& fd : fds)
    if (file == fmt::format("/dev/fd/{}", fd.theirs))
      return fstat(fd.ours, &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
  return stat(file.c_str(), &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
}

}  // namespace

std::variant<Piece, Refusal> sparse_piece(int fd, const std::filesystem::path& file, std::uint64_t bytes,
                                          std::optional<Descriptor>* described) {
  const auto header = read_some(fd, 0, header_bytes);
  if (!header) return Refusal{fmt::format("{} cannot be read: {}", file.string(), strerror(errno))};
  if (header->starts_with(redo_magic)) return is_redo(file, "vmfsSparse");
  if (header->size() < header_bytes || !header->starts_with(sparse_magic))
    return Refusal{
        fmt::format("{} is no sparse VMDK, as its descriptor says: it is damaged or incomplete", file.string())};
  // SparseExtentHeader: capacity, descriptorOffset and descriptorSize are at 12, 28 and 36, in sectors.
  const std::uint64_t capacity = little_endian(*header, 12), at = little_endian(*header, 28),
                      size = little_endian(*header, 36);
  if (capacity != bytes / sector || bytes % sector != 0)
    return Refusal{fmt::format("{} is a sparse VMDK of {} sectors, but should have {}: it is another disk or damaged",
                               file.string(), capacity, bytes / sector)};
  if (at == 0) return Piece{file, bytes, 0, false, true};
  if (at > UINT64_MAX / sector || size > largest_descriptor / sector)
    return Refusal{fmt::format("{} has its descriptor where none can be: it is damaged", file.string())};
  const auto text = read_some(fd, at * sector, static_cast<std::size_t>(size * sector));
  if (!text) return Refusal{fmt::format("{} cannot be read: {}", file.string(), strerror(errno))};
  const Descriptor descriptor = parse_descriptor(text->substr(0, text->find('\0')));
  if (descriptor.has_parent) return is_a_layer(file);
  if (described != nullptr) *described = descriptor;
  return Piece{file, bytes, 0, false, true};
}

std::variant<DiskFiles, Refusal> find_files(const std::filesystem::path& file, std::uint64_t capacity) {
  if (file.extension() != ".vmdk" || file.string().ends_with("-flat.vmdk")) return image_files(file, capacity);
  auto opened = open_regular(file, true);
  if (auto* refusal = std::get_if<Refusal>(&opened)) {
    // A flat file may have been copied without its descriptor.
    return refusal->missing ? image_files(flat_file(file.string()), capacity)
                            : std::variant<DiskFiles, Refusal>(std::move(*refusal));
  }
  const int fd = std::get<Open>(opened).fd.get();
  const auto head = read_some(fd, 0, largest_descriptor);
  if (!head) return Refusal{fmt::format("{} cannot be read: {}", file.string(), strerror(errno))};
  if (head->starts_with(redo_magic)) return is_redo(file, "vmfsSparse");
  if (head->starts_with(se_sparse_magic)) return is_redo(file, "seSparse");
  if (head->starts_with(sparse_magic)) {
    std::optional<Descriptor> descriptor;
    auto piece = sparse_piece(fd, file, capacity, &descriptor);
    if (auto* refusal = std::get_if<Refusal>(&piece)) return std::move(*refusal);
    return as_described({std::get<Piece>(piece)}, descriptor);
  }
  if (head->find("# Disk DescriptorFile") == std::string::npos)
    return Refusal{fmt::format("{} is neither a VMDK descriptor nor a flat extent", file.string())};
  return described_files(file, parse_descriptor(*head), capacity);
}

nbdkit::Export serve_pieces(process::Runner& runner, const Pieces& pieces, std::vector<process::PassedFd> fds,
                            const std::filesystem::path& run_directory, log::Log& log, std::stop_token stop) {
  bool flat = true, whole = true;
  for (const Piece& piece : pieces) {
    flat = flat && !piece.sparse;
    whole = whole && piece.whole;
  }
  if (!flat || (!whole && pieces.size() > 1)) {
    int descriptor = 9;
    for (const process::PassedFd& fd : fds) descriptor = std::max(descriptor, fd.theirs + 1);
    const Fd memory = memory_file(descriptor_for_qemu(pieces), length_for_footer(pieces, fds));
    fds.push_back({memory.get(), descriptor});
    return nbdkit::serve_image(runner, {fmt::format("/dev/fd/{}", descriptor), "vmdk", std::move(fds)}, run_directory,
                               log, std::move(stop));
  }
  nbdkit::Recipe recipe;
  recipe.fds = std::move(fds);
  recipe.plugin = pieces.size() == 1 ? "file" : "split";
  for (const Piece& piece : pieces)
    recipe.parameters.emplace_back("file", std::filesystem::absolute(piece.file).string());
  if (!whole) {
    recipe.filters = {"offset"};
    recipe.parameters.emplace_back("offset", std::to_string(pieces.front().offset));
    recipe.parameters.emplace_back("range", std::to_string(pieces.front().bytes));
  }
  return nbdkit::serve(runner, recipe, run_directory, log, std::move(stop));
}

}  // namespace vmferry::source::vmware
