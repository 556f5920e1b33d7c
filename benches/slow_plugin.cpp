// An nbdkit plugin that serves a file as slowly as a storage library on the far side of a network does: each request
// waits, each connection has a rate of its own, and may answer strictly one request at a time. Knows nothing of who
// reads; read-only.
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <fcntl.h>
#include <nbdkit-plugin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string file;
  std::uint32_t latency_us = 0;
  std::uint64_t rate = 0;  // bytes per second of one connection; 0: no limit
  bool serial = false;
  bool multi_conn = false;
  bool extents = true;
};
Settings settings;
int file = -1;
std::int64_t file_bytes = 0;

class Connection {
 public:
  // Returns when a request for so many bytes may be answered.
  void wait_turn(std::uint64_t bytes) {
    const std::chrono::microseconds latency(settings.latency_us);
    const std::chrono::nanoseconds transfer(settings.rate > 0 ? bytes * 1'000'000'000 / settings.rate : 0);
    Clock::time_point due;
    {
      std::scoped_lock lock(mutex_);
      // Pipelined: only the line is shared, so latencies overlap. Serial: a request begins when the last one ended.
      free_ = std::max(Clock::now(), free_) + transfer;
      if (settings.serial) free_ += latency;
      due = settings.serial ? free_ : free_ + latency;
    }
    if (due > Clock::now()) std::this_thread::sleep_until(due);
  }

 private:
  std::mutex mutex_;
  Clock::time_point free_{};
};

int set_flag(const char* value, bool& flag) {
  const int parsed = nbdkit_parse_bool(value);
  flag = parsed == 1;
  return parsed == -1 ? -1 : 0;
}

int config(const char* key, const char* value) {
  const std::string name = key;
  if (name == "file") {
    char* path = nbdkit_realpath(value);
    if (path == nullptr) return -1;
    settings.file = path;
    free(path);
    return 0;
  }
  if (name == "latency-us") return nbdkit_parse_uint32_t(key, value, &settings.latency_us);
  if (name == "rate") return nbdkit_parse_uint64_t(key, value, &settings.rate);
  if (name == "serial") return set_flag(value, settings.serial);
  if (name == "multi-conn") return set_flag(value, settings.multi_conn);
  if (name == "extents") return set_flag(value, settings.extents);
  nbdkit_error("there is no parameter %s", key);
  return -1;
}

int get_ready() {
  struct stat status {};
  file = ::open(settings.file.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &status) != 0) {
    nbdkit_error("%s cannot be opened: %m", settings.file.c_str());
    return -1;
  }
  file_bytes = status.st_size;
  return 0;
}

void unload() {
  if (file >= 0) ::close(file);
}

void* open_connection(int) { return new Connection; }
void close_connection(void* handle) { delete static_cast<Connection*>(handle); }
std::int64_t get_size(void*) { return file_bytes; }
int can_multi_conn(void*) { return settings.multi_conn ? 1 : 0; }
int can_extents(void*) { return settings.extents ? 1 : 0; }

int read_file(void* handle, void* buffer, std::uint32_t count, std::uint64_t offset, std::uint32_t) {
  static_cast<Connection*>(handle)->wait_turn(count);
  auto* to = static_cast<char*>(buffer);
  // Not a mapping: touching the holes of a file in tmpfs would fill them.
  while (count > 0) {
    const ssize_t n = ::pread(file, to, count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      nbdkit_error("%u bytes at offset %llu cannot be read: %s", count, static_cast<unsigned long long>(offset),
                   n == 0 ? "the file has shrunk" : strerror(errno));
      return -1;
    }
    to += n;
    offset += static_cast<std::uint64_t>(n);
    count -= static_cast<std::uint32_t>(n);
  }
  return 0;
}

int list_extents(void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
                 struct nbdkit_extents* extents) {
  static_cast<Connection*>(handle)->wait_turn(0);
  const auto end = static_cast<off_t>(offset + count);
  for (auto at = static_cast<off_t>(offset); at < end;) {
    off_t data = lseek(file, at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
      nbdkit_error("what is empty in %s cannot be found: %m", settings.file.c_str());
      return -1;
    }
    data = data < 0 ? end : std::min(data, end);
    const bool hole = data > at;
    const off_t until = hole ? data : std::min(lseek(file, at, SEEK_HOLE), end);
    if (until <= at) break;
    const std::uint32_t type = hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
    if (nbdkit_add_extent(extents, static_cast<std::uint64_t>(at), static_cast<std::uint64_t>(until - at), type) != 0)
      return -1;
    if ((flags & NBDKIT_FLAG_REQ_ONE) != 0) break;
    at = until;
  }
  return 0;
}

nbdkit_plugin described() {
  nbdkit_plugin plugin{};
  plugin.name = "slow";
  plugin.version = "1";
  plugin.description = "a file behind a latency and a rate for each connection";
  plugin.config = config;
  plugin.config_help =
      "file=FILE          what is served (needed)\n"
      "latency-us=N       each request waits so long\n"
      "rate=N             bytes per second of one connection\n"
      "serial=0|1         1: a connection answers strictly one request at a time\n"
      "multi-conn=0|1     whether several connections are offered to clients that ask (default 0)\n"
      "extents=0|1        whether the file's holes are told (default 1)";
  plugin.magic_config_key = "file";
  plugin.get_ready = get_ready;
  plugin.unload = unload;
  plugin.open = open_connection;
  plugin.close = close_connection;
  plugin.get_size = get_size;
  plugin.can_multi_conn = can_multi_conn;
  plugin.can_extents = can_extents;
  plugin.extents = list_extents;
  plugin.pread = read_file;
  return plugin;
}

nbdkit_plugin plugin = described();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
