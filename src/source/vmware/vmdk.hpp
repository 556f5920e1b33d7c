// A disk's files in a folder here, found and checked: which ones have its bytes, from where to where. What a VMDK
// descriptor or a sparse header says is data from elsewhere: no name in it leads out of its folder, to a device or
// through a link, and qemu-nbd is never given it to read. Knows no vSphere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "log/log.hpp"
#include "nbdkit/nbdkit.hpp"
#include "process/process.hpp"
#include "source/vmware/descriptor.hpp"

namespace vmferry::source::vmware {

// A stretch of the disk in one file.
struct Piece {
  std::filesystem::path file;
  std::uint64_t bytes = 0;   // of the disk
  std::uint64_t offset = 0;  // into the file; 0 when it is sparse
  bool whole = false;        // the file has these bytes and no more
  bool sparse = false;       // a hosted sparse extent (VMDK's own tables of grains), compressed or not
};

using Pieces = std::vector<Piece>;  // in the disk's order, without gaps

// What lies there for a disk, and what it says of itself.
struct DiskFiles {
  Pieces pieces;
  bool described = false;  // a descriptor lies there, or is part of a sparse file
  std::string uuid;        // as Descriptor has them
  std::string content_id;
};

struct Refusal {
  std::string reason;    // a sentence
  bool missing = false;  // there is no such file
};

// The bytes of a disk of `capacity` bytes whose file in vSphere's spelling lies at `file`: a descriptor, a sparse VMDK,
// a flat file or an image.
std::variant<DiskFiles, Refusal> find_files(const std::filesystem::path& file, std::uint64_t capacity);

// The sparse VMDK that is open as `fd`, and that a server will open as `file`. `described`: its own descriptor, if it
// has one and somebody wants to know.
std::variant<Piece, Refusal> sparse_piece(int fd, const std::filesystem::path& file, std::uint64_t bytes,
                                          std::optional<Descriptor>* described = nullptr);

// Flat bytes by nbdkit, for which a file that became too short is an error; else by qemu-nbd. `fds`: what the names of
// the pieces need in the server.
nbdkit::Export serve_pieces(process::Runner& runner, const Pieces& pieces, std::vector<process::PassedFd> fds,
                            const std::filesystem::path& run_directory, log::Log& log, std::stop_token stop);

}  // namespace vmferry::source::vmware
