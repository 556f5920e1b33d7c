// An nbdkit plugin that reads disks of VMware with VDDK (libvixDiskLib), for systems whose nbdkit comes without one. It
// takes the parameters of nbdkit's own vddk plugin and says the same about itself (nbdkit-vddk-plugin(1)), so that
// either can stand behind the same command line. It only reads.
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string_view>

#include "disk.hpp"
#include "library.hpp"
#include "nbdkit.hpp"
#include "worker.hpp"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace {

using vddk::Access;
using vddk::Disk;
using vddk::Library;
using vddk::Worker;

// Parameters as they were given; a secret is in it as it was read.
std::map<std::string, std::string> given;
std::uint32_t open_flags = 0;
std::uint16_t port = 0, nfc_host_port = 0;
Library library;
bool initialized = false;
// The one thread that opens and closes: "one designated thread to do all opens and closes" (VDDK Programming Guide,
// Multiple Threads and VixDiskLib). Made after InitEx, which must come first in all threads.
std::unique_ptr<Worker> control;

const char* value_of(const char* key) {
  const auto found = given.find(key);
  return found == given.end() ? nullptr : found->second.c_str();
}

std::string libdir() {
  const char* wanted = value_of("libdir");
  return wanted != nullptr ? wanted : vddk::default_libdir;
}

// One line of VDDK's log, without its end.
std::string line_of(const char* format, va_list arguments) {
  char* text = nullptr;
  if (vasprintf(&text, format, arguments) < 0) return format;
  std::string line(text);
  free(text);
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  return line;
}

extern "C" void log_debug(const char* format, va_list arguments) {
  nbdkit_debug("VDDK: %s", line_of(format, arguments).c_str());
}

extern "C" void log_error(const char* format, va_list arguments) {
  const std::string line = line_of(format, arguments);
  // VDDK 7 and later complain that they cannot phone home; that is nobody's problem (bugzilla.redhat.com/1834267).
  if (vddk::may_be_refused || line.find("CEIP") != std::string::npos)
    nbdkit_debug("VDDK: %s", line.c_str());
  else
    nbdkit_error("VDDK: %s", line.c_str());
}

void on_load() { vddk::restore_environment(); }

int take_flag(const char* text, std::uint32_t flag) {
  const int parsed = nbdkit_parse_bool(text);
  if (parsed == -1) return -1;
  open_flags = parsed == 1 ? open_flags | flag : open_flags & ~flag;
  return 0;
}

int take_compression(std::string_view name) {
  open_flags &= ~(vix::open_zlib | vix::open_fastlz | vix::open_skipz);
  if (name == "none") return 0;
  if (name == "zlib") open_flags |= vix::open_zlib;
  if (name == "fastlz") open_flags |= vix::open_fastlz;
  if (name == "skipz") open_flags |= vix::open_skipz;
  if ((open_flags & (vix::open_zlib | vix::open_fastlz | vix::open_skipz)) != 0) return 0;
  nbdkit_error("compression=%.*s: none, zlib, fastlz or skipz", static_cast<int>(name.size()), name.data());
  return -1;
}

// A file that must be there; nbdkit changes its folder before it is read.
int take_path(const char* key, const char* text) {
  char* path = nbdkit_realpath(text);
  if (path == nullptr) return -1;
  given[key] = path;
  free(path);
  return 0;
}

int take_secret(const char* key, const char* text) {
  char* secret = nullptr;
  if (nbdkit_read_password(text, &secret) == -1) return -1;
  given[key] = secret;
  explicit_bzero(secret, strlen(secret));
  free(secret);
  return 0;
}

int on_config(const char* key, const char* text) {
  const std::string_view name = key;
  if (name == "compression") return take_compression(text);
  if (name == "config" || name == "libdir") return take_path(key, text);
  if (name == "password") return take_secret(key, text);
  // Beside nbdkit's own way (the cookie itself), it can come as a password does: +FILE, -FD.
  if (name == "cookie" && (text[0] == '+' || text[0] == '-')) return take_secret(key, text);
  if (name == "port") return nbdkit_parse_uint16_t(key, text, &port);
  if (name == "nfchostport") return nbdkit_parse_uint16_t(key, text, &nfc_host_port);
  if (name == "single-link") return take_flag(text, vix::open_single_link);
  if (name == "unbuffered") return take_flag(text, vix::open_unbuffered);
  if (name == "vimapiver") return 0;  // of old command lines, without meaning
  for (const char* plain : {"cookie", "file", "server", "snapshot", "thumbprint", "transports", "user", "vm"})
    if (name == plain) {
      given[plain] = text;
      return 0;
    }
  if (name == "create" || name.starts_with("create-"))
    nbdkit_error("%s=%s: this plugin only reads disks and cannot create one", key, text);
  else
    nbdkit_error("there is no parameter %s", key);
  return -1;
}

int on_config_complete() {
  if (value_of("file") == nullptr) {
    nbdkit_error("no disk is named: give file=\"[datastore] folder/disk.vmdk\"");
    return -1;
  }
  bool remote = port != 0 || nfc_host_port != 0;
  for (const char* key : {"server", "user", "password", "cookie", "thumbprint", "vm", "snapshot"})
    remote = remote || value_of(key) != nullptr;
  if (!remote) return 0;
  // VDDK itself crashes when one of these is not there (nbdkit-vddk-plugin(1), Parameters).
  for (const char* key : {"server", "user", "password", "vm"})
    if (value_of(key) == nullptr) {
      nbdkit_error("a disk on a server needs %s= too", key);
      return -1;
    }
  return 0;
}

bool load(const vddk::Found& found, std::string& problem) {
  // Before it is loaded: the loader may miss its libraries until then.
  std::vector<std::pair<std::string, std::string>> secrets;
  for (const char* key : {"password", "cookie"})
    if (const char* secret = value_of(key); secret != nullptr) secrets.emplace_back(key, secret);
  vddk::start_again_with(found.folder, secrets);
  return library.load(found, problem);
}

// Before nbdkit serves or forks.
int on_get_ready() {
  const std::string folder = libdir();
  const auto found = vddk::find_library(folder);
  if (!found) {
    nbdkit_error("%s", vddk::nothing_found(folder).c_str());
    return -1;
  }
  std::string problem;
  if (load(*found, problem)) return 0;
  nbdkit_error("%s", problem.c_str());
  return -1;
}

// InitEx makes threads, which a fork would lose (bugzilla.redhat.com/1846309). It is called "once per process, from the
// main thread", which this is.
int on_after_fork() {
  constexpr std::uint32_t major = 6, minor = 5;  // the oldest interface that has all we call
  const bool old = library.version < static_cast<int>(major);
  const vix::Error error = library.InitEx(old ? 5 : major, old ? 1 : minor, &log_debug, &log_error, &log_error,
                                          libdir().c_str(), value_of("config"));
  if (error != vix::ok) {
    nbdkit_error("VDDK in %s cannot be initialized: %s", libdir().c_str(), library.error_text(error).c_str());
    return -1;
  }
  initialized = true;
  control = std::make_unique<Worker>();
  return 0;
}

void on_unload() {
  control.reset();
  if (initialized) library.Exit();
  // Not unloaded: threads of VDDK may still be on their way out of it.
  for (auto& [key, text] : given) explicit_bzero(text.data(), text.size());
}

void* on_open(int) {
  Access access;
  access.file = value_of("file");
  access.server = value_of("server");
  access.user = value_of("user");
  access.password = value_of("password");
  access.cookie = value_of("cookie");
  access.thumbprint = value_of("thumbprint");
  access.vm = value_of("vm");
  access.snapshot = value_of("snapshot");
  access.transports = value_of("transports");
  access.port = port;
  access.nfc_host_port = nfc_host_port;
  access.open_flags = open_flags;
  return Disk::open(library, *control, access).release();
}

Disk& disk_of(void* handle) { return *static_cast<Disk*>(handle); }

void on_close(void* handle) { delete &disk_of(handle); }
std::int64_t on_get_size(void* handle) { return static_cast<std::int64_t>(disk_of(handle).bytes()); }
int on_can_multi_conn(void*) { return 1; }  // nothing is written
int on_can_extents(void* handle) { return disk_of(handle).maps() ? 1 : 0; }

#ifdef VDDK_NBDKIT_HAS_BLOCK_SIZE
int on_block_size(void*, std::uint32_t* minimum, std::uint32_t* preferred, std::uint32_t* maximum) {
  *minimum = vix::sector;
  *preferred = vix::sector * vix::min_chunk;
  *maximum = 0xffffffff;  // larger requests than VDDK's are taken apart
  return 0;
}
#endif

int on_pread(void* handle, void* buffer, std::uint32_t count, std::uint64_t offset, std::uint32_t) {
  return disk_of(handle).read(static_cast<unsigned char*>(buffer), count, offset) ? 0 : -1;
}

int on_extents(void* handle, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
               struct nbdkit_extents* extents) {
  // A hole of a single link shows what lies below it: not zeroes.
  const std::uint32_t hole =
      (open_flags & vix::open_single_link) != 0 ? NBDKIT_EXTENT_HOLE : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
  for (const vddk::Extent& extent : disk_of(handle).extents(count, offset, (flags & NBDKIT_FLAG_REQ_ONE) != 0))
    if (nbdkit_add_extent(extents, extent.offset, extent.length, extent.allocated ? 0 : hole) == -1) return -1;
  return 0;
}

void on_dump_plugin() {
  // A plugin without its library is a plugin still: virt-v2v asks before it says where the library is.
  const auto found = vddk::find_library(libdir());
  std::string problem;
  const bool loaded = found && load(*found, problem);
  printf("vddk_default_libdir=%s\n", vddk::default_libdir);
  printf("vddk_has_nfchostport=1\n");
  if (!problem.empty()) nbdkit_error("%s", problem.c_str());
  if (!loaded) return;
  printf("vddk_library_version=%d\n", library.version);
  Dl_info where;
  if (dladdr(reinterpret_cast<void*>(library.InitEx), &where) != 0 && where.dli_fname != nullptr) {
    char* path = nbdkit_realpath(where.dli_fname);
    if (path != nullptr) printf("vddk_dll=%s\n", path);
    free(path);
  }
  for (const std::string& symbol : library.symbols) printf("%s=1\n", symbol.c_str());
}

struct nbdkit_plugin describe() {
  struct nbdkit_plugin plugin {};
  plugin.name = "vddk";
  plugin.longname = "VMware VDDK plugin of vmferry (reads only)";
  plugin.version = VDDK_PLUGIN_VERSION;
  plugin.magic_config_key = "file";
  plugin.config_help =
      "[file=]<FILENAME>   (required) The disk, \"[datastore] folder/disk.vmdk\" on a server.\n"
      "The parameters are those of nbdkit-vddk-plugin(1), but for create=.";
  plugin.load = on_load;
  plugin.unload = on_unload;
  plugin.config = on_config;
  plugin.config_complete = on_config_complete;
  plugin.dump_plugin = on_dump_plugin;
  plugin.get_ready = on_get_ready;
  plugin.after_fork = on_after_fork;
  plugin.open = on_open;
  plugin.close = on_close;
  plugin.get_size = on_get_size;
  plugin.can_multi_conn = on_can_multi_conn;
  plugin.can_extents = on_can_extents;
  plugin.pread = on_pread;
  plugin.extents = on_extents;
#ifdef VDDK_NBDKIT_HAS_BLOCK_SIZE
  plugin.block_size = on_block_size;
#endif
  return plugin;
}

struct nbdkit_plugin plugin = describe();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
