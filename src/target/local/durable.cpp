// Temporary file, fsync, rename, fsync of the folder: in this order, because ext4 and XFS promise no other.
#include "target/local/durable.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vmferry::target::local {

void fail(const std::string& doing, const std::filesystem::path& path, int problem) {
  const std::string text = fmt::format("cannot {} {}: {}", doing, path.string(), std::strerror(problem));
  switch (problem) {
    case ENOSPC:
    case EDQUOT:
      throw Error(Fault::quota, text + "; free some space there and try again");
    case EFBIG:
      throw Error(Fault::unsupported, text + "; its file system cannot hold a file of that size");
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ENOENT:
      throw Error(Fault::config, text + "; choose a folder that this user may write to");
    default:
      throw Error(Fault::unavailable, text);
  }
}

void sync_directory(const std::filesystem::path& directory) {
  const Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) fail("sync", directory, errno);
}

void make_directory(const std::filesystem::path& directory, unsigned mode) {
  if (::mkdir(directory.c_str(), mode) == 0) {
    const std::filesystem::path parent = directory.parent_path();
    sync_directory(parent.empty() ? std::filesystem::path(".") : parent);
    return;
  }
  if (errno != EEXIST) fail("create the folder", directory, errno);
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) fail("create the folder", directory, ENOTDIR);
}

namespace {

// The temporary file, empty, and for this writer alone until it has another name: several processes may write the same
// file (`vmferry evidence` beside a run that ends). A name for each writer would leave one behind with each crash.
Fd open_alone(const std::filesystem::path& temporary) {
  for (;;) {
    Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) fail("write", temporary, errno);
    // Where files cannot be locked at all, one writer is the rule.
    while (::flock(fd.get(), LOCK_EX) != 0 && errno == EINTR) {
    }
    struct stat opened {
    }, named{};
    if (::fstat(fd.get(), &opened) != 0) fail("write", temporary, errno);
    // While this one waited, another one may have given the file its name.
    if (::lstat(temporary.c_str(), &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev)
      continue;
    if (::ftruncate(fd.get(), 0) != 0) fail("write", temporary, errno);
    return fd;
  }
}

}  // namespace

void write_durably(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path temporary = path;
  temporary += ".new";
  const Fd fd = open_alone(temporary);
  while (!text.empty()) {
    const ssize_t done = ::write(fd.get(), text.data(), text.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) {
      const int problem = errno;
      ::unlink(temporary.c_str());
      fail("write", temporary, problem);
    }
    text.remove_prefix(static_cast<std::size_t>(done));
  }
  if (::fsync(fd.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const int problem = errno;
    ::unlink(temporary.c_str());
    fail("write", path, problem);
  }
  sync_directory(path.parent_path());
}

std::optional<std::string> read_whole(const std::filesystem::path& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return std::nullopt;
  if (!fd) fail("read", path, errno);
  std::string text;
  char piece[8192];
  for (;;) {
    const ssize_t got = ::read(fd.get(), piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("read", path, errno);
    if (got == 0) return text;
    text.append(piece, static_cast<std::size_t>(got));
  }
}

void remove_durably(const std::filesystem::path& path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return;
    fail("remove", path, errno);
  }
  sync_directory(path.parent_path());
}

}  // namespace vmferry::target::local
