// A lock on the folder itself tells whether its process lives; flock(2) ends with the process, however that ends.
#include "app/run_directory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.hpp"

namespace vmferry::app {

namespace {

// sun_path has 108 bytes with its end (unix(7)); what is made inside needs the rest.
constexpr std::size_t longest_base = 60;

std::filesystem::path base_for(const std::filesystem::path& state) {
  std::filesystem::path base = state / "run";
  if (base.string().size() > longest_base) base = fmt::format("/tmp/vmferry-{}", ::geteuid());
  if (::mkdir(base.c_str(), 0700) != 0 && errno != EEXIST)
    throw Error(Fault::config,
                fmt::format("cannot make {} ({}): choose a writable --state-dir", base.string(), std::strerror(errno)));
  struct stat found {};
  if (::lstat(base.c_str(), &found) != 0 || !S_ISDIR(found.st_mode) || found.st_uid != ::geteuid())
    throw Error(Fault::config,
                fmt::format("{} is not a folder of this user; remove it or choose another --state-dir", base.string()));
  if ((found.st_mode & 0077) != 0 && ::chmod(base.c_str(), 0700) != 0)
    throw Error(Fault::config, fmt::format("others may write to {}, and that cannot be changed ({})", base.string(),
                                           std::strerror(errno)));
  return base;
}

// The folder's lock, or -1 when a living process has it (or it is no folder).
int try_lock(const std::filesystem::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

void sweep(const std::filesystem::path& base) {
  std::error_code problem;
  for (const auto& entry : std::filesystem::directory_iterator(base, problem)) {
    const int fd = try_lock(entry.path());
    if (fd < 0) continue;
    std::filesystem::remove_all(entry.path(), problem);
    ::close(fd);
  }
}

// Still the folder that was locked: another process's sweep may have come between its making and its locking.
bool stands(const std::filesystem::path& folder, int fd) {
  struct stat by_name {
  }, by_lock{};
  return ::lstat(folder.c_str(), &by_name) == 0 && ::fstat(fd, &by_lock) == 0 && by_name.st_ino == by_lock.st_ino &&
         by_name.st_dev == by_lock.st_dev;
}

}  // namespace

RunDirectory::RunDirectory(const std::filesystem::path& state) {
  const std::filesystem::path base = base_for(state);
  sweep(base);
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::string name = (base / "XXXXXX").string();
    if (!::mkdtemp(name.data()))
      throw Error(Fault::config, fmt::format("cannot make a folder in {} ({}): choose a writable --state-dir",
                                             base.string(), std::strerror(errno)));
    const int fd = try_lock(name);
    if (fd >= 0 && stands(name, fd)) {
      path_ = name;
      lock_ = fd;
      return;
    }
    if (fd >= 0) ::close(fd);
  }
  throw Error(Fault::unavailable,
              fmt::format("no folder in {} could be kept: does its file system know locks (flock)?", base.string()));
}

RunDirectory::~RunDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
  ::close(lock_);
}

}  // namespace vmferry::app
