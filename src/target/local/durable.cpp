// Temporary file, fsync, rename, fsync of the folder: in this order, because ext4 and XFS promise no other.
#include "target/local/durable.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
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

void write_durably(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path temporary = path;
  temporary += ".new";
  // What a crash left of an earlier attempt is ours and worthless.
  if (::unlink(temporary.c_str()) != 0 && errno != ENOENT) fail("write", temporary, errno);
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) fail("write", temporary, errno);
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
