// libvixDiskLib as far as reading goes, for a lab without VMware's: the entry points, and the rules that the real
// library has for those who call them. What it does not know it refuses. The rules are those of the VDDK Programming
// Guide; where the lab is stricter than the real one, docs/lab.md says so.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <map>
#include <mutex>
#include <set>

#include "disk.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using lab::Disk;
using lab::Problem;

struct Connection {
  std::unique_ptr<lab::Session> session;  // none: local files
  std::string vm, snapshot, transports, mode;
  int open = 0;
};

struct Handle {
  Connection* connection = nullptr;
  std::unique_ptr<Disk> disk;
  std::string file;
  std::atomic<bool> busy{false};
  std::mutex mutex;
  std::condition_variable idle;
  int under_way = 0;
};

std::mutex state;
bool initialized = false;
bool local_allowed = false;
std::string map_order;                            // empty: as it should be
std::map<std::string, std::string> nfc_settings;  // of the file that InitEx was given
vix::Log *log_info = nullptr, *log_warning = nullptr;
std::set<Connection*> connections;
std::set<Handle*> handles;
std::atomic<bool> opening{false};

__attribute__((format(printf, 2, 3))) void say(vix::Log* to, const char* format, ...) {
  if (to == nullptr) return;
  va_list arguments;
  va_start(arguments, format);
  to(format, arguments);
  va_end(arguments);
}

// Two calls at a time where the library allows one.
class Alone {
 public:
  Alone(std::atomic<bool>& busy, const char* what) : busy_(busy) {
    if (busy_.exchange(true)) throw Problem{vix::fail, std::string("two threads are in ") + what + " at once"};
  }
  ~Alone() { busy_ = false; }

 private:
  std::atomic<bool>& busy_;
};

template <typename Body>
vix::Error guarded(const char* name, const Body& body) {
  try {
    {
      std::scoped_lock lock(state);
      if (!initialized) throw Problem{vix::not_initialized, "VixDiskLib_InitEx was not called"};
    }
    body();
    return vix::ok;
  } catch (const Problem& problem) {
    say(log_warning, "%s: %s\n", name, problem.words.c_str());
    return problem.error;
  } catch (const std::exception& error) {
    say(log_warning, "%s: %s\n", name, error.what());
    return vix::fail;
  }
}

template <typename Thing>
Thing& known(std::set<Thing*>& things, void* pointer, vix::Error otherwise) {
  std::scoped_lock lock(state);
  const auto found = things.find(static_cast<Thing*>(pointer));
  if (found == things.end()) throw Problem{otherwise, "this is not open"};
  return **found;
}
Handle& handle_of(void* pointer) { return known(handles, pointer, vix::invalid_handle); }

std::map<std::string, std::string> settings_in(const std::string& file, bool& there) {
  std::ifstream in(file);
  there = static_cast<bool>(in);
  std::map<std::string, std::string> settings;
  for (std::string line; std::getline(in, line);) {
    const std::size_t equals = line.find('=');
    if (equals != std::string::npos && line[0] != '#') settings[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return settings;
}

std::string transport_in(const char* modes) {
  const std::string wanted = modes != nullptr && *modes != '\0' ? modes : "nbdssl";
  for (std::size_t at = 0; at <= wanted.size();) {
    const std::size_t end = std::min(wanted.find(':', at), wanted.size());
    const std::string mode = wanted.substr(at, end - at);
    if (mode == "nbd" || mode == "nbdssl") return mode;
    at = end + 1;
  }
  throw Problem{vix::not_supported,
                "no transport mode of '" + wanted + "' is to be had here; the lab has nbd and nbdssl"};
}

std::string needed(const char* text, const char* what) {
  if (text == nullptr || *text == '\0') throw Problem{vix::invalid_argument, std::string("no ") + what + " is given"};
  return text;
}

lab::Login login_in(const vix::ConnectParams& params) {
  lab::Login login;
  login.server = needed(params.server, "server");
  login.thumbprint = needed(params.thumbprint, "thumbprint");
  if (params.port != 0) login.port = static_cast<std::uint16_t>(params.port);
  switch (params.credentials) {
    case vix::credentials_user:
      login.user = needed(params.creds.uid.user, "user");
      login.password = needed(params.creds.uid.password, "password");
      break;
    case vix::credentials_session:
      login.cookie = "vmware_soap_session=" + needed(params.creds.session.cookie, "cookie");
      break;
    default:
      throw Problem{vix::invalid_argument, "these credentials are of no kind that is known here"};
  }
  if (params.spec_type != vix::spec_vmx) throw Problem{vix::not_supported, "only virtual machines' disks are served"};
  return login;
}

// Nothing of it changes what is read here.
std::map<std::string, std::string> orders_of(const Connection& connection, std::uint32_t flags) {
  std::map<std::string, std::string> orders = nfc_settings;
  orders["compression"] = (flags & vix::open_zlib) != 0     ? "zlib"
                          : (flags & vix::open_fastlz) != 0 ? "fastlz"
                          : (flags & vix::open_skipz) != 0  ? "skipz"
                                                            : "none";
  orders["transports"] = connection.transports;
  orders["mode"] = connection.mode;
  return orders;
}

void check_read(const Handle& handle, std::uint64_t sector, std::uint64_t sectors, const unsigned char* buffer) {
  if (buffer == nullptr || sectors == 0) throw Problem{vix::invalid_argument, "a read of nothing"};
  if (sector > handle.disk->sectors() || sectors > handle.disk->sectors() - sector)
    throw Problem{vix::out_of_range, "a read beyond the end of the disk"};
  if (sectors * vix::sector > handle.disk->read_limit())
    throw Problem{vix::fail,
                  "NfcFssrvrProcessErrorMsg: received NFC error 5 from server: Failed to allocate the requested " +
                      std::to_string(sectors * vix::sector) + " bytes"};
}

void start_read(Handle& handle, std::uint64_t sector, std::uint64_t sectors, unsigned char* buffer, lab::Done done) {
  check_read(handle, sector, sectors, buffer);
  {
    std::scoped_lock lock(handle.mutex);
    ++handle.under_way;
  }
  handle.disk->read(sector, sectors, buffer, [&handle, done = std::move(done)](vix::Error result) {
    done(result);
    std::scoped_lock lock(handle.mutex);
    if (--handle.under_way == 0) handle.idle.notify_all();
  });
}

void await(Handle& handle) {
  std::unique_lock lock(handle.mutex);
  handle.idle.wait(lock, [&] { return handle.under_way == 0; });
}

const char* words_for(vix::Error error) {
  switch (vix::code(error)) {
    case vix::ok:
      return "The operation was successful";
    case vix::invalid_argument:
      return "One of the parameters was invalid";
    case vix::file_not_found:
      return "A file was not found";
    case vix::not_supported:
      return "The operation is not supported";
    case vix::file_error:
      return "A file access error occurred on the host or guest operating system";
    case vix::file_access:
      return "You do not have access rights to this file";
    case vix::authentication:
      return "Authentication failure or insufficient permissions";
    case vix::invalid_handle:
      return "The handle is not a valid VIX object";
    case vix::snapshot_not_found:
      return "The snapshot does not exist";
    case vix::connection_refused:
      return "The server refused connection";
    case vix::connection_lost:
      return "The connection to the remote host was lost";
    case vix::not_initialized:
      return "The virtual disk library was not initialized";
    case vix::out_of_range:
      return "The requested sector is beyond the end of the disk";
    case vix::invalid_connection:
      return "The connection is invalid";
    case vix::cannot_connect:
      return "Cannot connect to the host";
    default:
      return "Unknown error";
  }
}

}  // namespace

EXPORT vix::Error VixDiskLib_InitEx(std::uint32_t major, std::uint32_t minor, vix::Log* log, vix::Log* warn,
                                    vix::Log* panic, const char* libdir, const char* config_file) {
  std::scoped_lock lock(state);
  if (initialized || log == nullptr || warn == nullptr || panic == nullptr || major < 5 || major > 8)
    return vix::invalid_argument;
  log_info = log;
  log_warning = warn;
  bool there = false;
  if (config_file != nullptr) {
    const auto settings = settings_in(config_file, there);
    if (!there) return vix::file_not_found;
    for (const auto& [name, value] : settings) {
      say(log, "%s=%s\n", name.c_str(), value.c_str());
      if (name.starts_with("vixDiskLib.nfc")) nfc_settings[name] = value;
    }
  }
  const auto settings = settings_in(std::string(libdir != nullptr ? libdir : "") + "/lab-vddk.conf", there);
  if (const auto local = settings.find("local"); local != settings.end()) local_allowed = local->second == "yes";
  if (const auto order = settings.find("map"); order != settings.end()) map_order = order->second;
  say(log, "the lab's stand-in for libvixDiskLib, asked for %u.%u\n", major, minor);
  initialized = true;
  return vix::ok;
}

EXPORT void VixDiskLib_Exit() {
  std::scoped_lock lock(state);
  if (!handles.empty()) say(log_warning, "VixDiskLib_Exit with %zu open disks\n", handles.size());
  initialized = false;
}

EXPORT char* VixDiskLib_GetErrorText(vix::Error error, const char*) { return strdup(words_for(error)); }
EXPORT void VixDiskLib_FreeErrorText(char* text) { free(text); }

EXPORT vix::ConnectParams* VixDiskLib_AllocateConnectParams() {
  return static_cast<vix::ConnectParams*>(calloc(1, sizeof(vix::ConnectParams)));
}
EXPORT void VixDiskLib_FreeConnectParams(vix::ConnectParams* params) { free(params); }

EXPORT vix::Error VixDiskLib_ConnectEx(const vix::ConnectParams* params, char read_only, const char* snapshot,
                                       const char* transports, vix::Connection* result) {
  return guarded("VixDiskLib_ConnectEx", [&] {
    const Alone alone(opening, "opening and closing");
    auto connection = std::make_unique<Connection>();
    if (params->server == nullptr) {
      if (!local_allowed)
        throw Problem{vix::not_supported, "local files are read only with local=yes in lab-vddk.conf in the libdir"};
      connection->mode = "file";
    } else {
      connection->transports = transports != nullptr ? transports : "";
      connection->mode = transport_in(transports);
      const std::string spec = needed(params->vmx_spec, "VM");
      if (!spec.starts_with("moref=")) throw Problem{vix::invalid_argument, "the VM is not named by moref="};
      connection->vm = spec.substr(strlen("moref="));
      connection->snapshot = snapshot != nullptr ? snapshot : "";
      if (!connection->snapshot.empty() && read_only == 0)
        throw Problem{vix::invalid_argument, "a snapshot can only be read"};
      connection->session = std::make_unique<lab::Session>(login_in(*params));
    }
    std::scoped_lock lock(state);
    connections.insert(connection.get());
    *result = connection.release();
  });
}

EXPORT vix::Error VixDiskLib_Disconnect(vix::Connection pointer) {
  return guarded("VixDiskLib_Disconnect", [&] {
    const Alone alone(opening, "opening and closing");
    Connection& connection = known(connections, pointer, vix::invalid_connection);
    if (connection.open > 0) throw Problem{vix::fail, "its disks are still open"};
    {
      std::scoped_lock lock(state);
      connections.erase(&connection);
    }
    delete &connection;
  });
}

EXPORT vix::Error VixDiskLib_Open(vix::Connection pointer, const char* path, std::uint32_t flags, vix::Handle* result) {
  return guarded("VixDiskLib_Open", [&] {
    const Alone alone(opening, "opening and closing");
    Connection& connection = known(connections, pointer, vix::invalid_connection);
    if ((flags & vix::open_read_only) == 0) throw Problem{vix::file_access, "the lab's disks are opened to be read"};
    const int kinds =
        ((flags & vix::open_zlib) != 0) + ((flags & vix::open_fastlz) != 0) + ((flags & vix::open_skipz) != 0);
    if (kinds > 1) throw Problem{vix::invalid_argument, "more than one compression"};
    auto handle = std::make_unique<Handle>();
    handle->connection = &connection;
    handle->file = needed(path, "disk");
    handle->disk = connection.session != nullptr ? connection.session->open(connection.vm, connection.snapshot,
                                                                            handle->file, orders_of(connection, flags))
                                                 : lab::open_local(handle->file);
    ++connection.open;
    std::scoped_lock lock(state);
    handles.insert(handle.get());
    *result = handle.release();
  });
}

EXPORT vix::Error VixDiskLib_Close(vix::Handle pointer) {
  return guarded("VixDiskLib_Close", [&] {
    const Alone alone(opening, "opening and closing");
    Handle& handle = handle_of(pointer);
    const Alone unused(handle.busy, "one disk");
    await(handle);
    {
      std::scoped_lock lock(state);
      handles.erase(&handle);
    }
    --handle.connection->open;
    handle.disk.reset();
    delete &handle;
  });
}

EXPORT const char* VixDiskLib_GetTransportMode(vix::Handle pointer) {
  std::scoped_lock lock(state);
  const auto found = handles.find(static_cast<Handle*>(pointer));
  return found == handles.end() ? nullptr : (*found)->connection->mode.c_str();
}

EXPORT vix::Error VixDiskLib_GetInfo(vix::Handle pointer, vix::Info** result) {
  return guarded("VixDiskLib_GetInfo", [&] {
    Handle& handle = handle_of(pointer);
    const Alone alone(handle.busy, "one disk");
    auto* info = static_cast<vix::Info*>(calloc(1, sizeof(vix::Info)));
    info->capacity = handle.disk->sectors();
    info->adapter = 3;
    info->links = 1;
    info->logical_sector = info->physical_sector = vix::sector;
    *result = info;
  });
}
EXPORT void VixDiskLib_FreeInfo(vix::Info* info) { free(info); }

EXPORT vix::Error VixDiskLib_Read(vix::Handle pointer, std::uint64_t sector, std::uint64_t sectors,
                                  unsigned char* buffer) {
  return guarded("VixDiskLib_Read", [&] {
    Handle& handle = handle_of(pointer);
    const Alone alone(handle.busy, "one disk");
    std::atomic<vix::Error> error{vix::ok};
    start_read(handle, sector, sectors, buffer, [&](vix::Error result) { error = result; });
    await(handle);
    if (error != vix::ok) throw Problem{error, words_for(error)};
  });
}

EXPORT vix::Error VixDiskLib_ReadAsync(vix::Handle pointer, std::uint64_t sector, std::uint64_t sectors,
                                       unsigned char* buffer, vix::Completion completion, void* data) {
  const vix::Error error = guarded("VixDiskLib_ReadAsync", [&] {
    Handle& handle = handle_of(pointer);
    const Alone alone(handle.busy, "one disk");
    if (completion == nullptr) throw Problem{vix::invalid_argument, "nobody to call when it is read"};
    start_read(handle, sector, sectors, buffer, [=](vix::Error result) { completion(data, result); });
  });
  return error == vix::ok ? vix::async : error;
}

EXPORT vix::Error VixDiskLib_Wait(vix::Handle pointer) {
  return guarded("VixDiskLib_Wait", [&] {
    Handle& handle = handle_of(pointer);
    const Alone alone(handle.busy, "one disk");
    await(handle);
  });
}

EXPORT vix::Error VixDiskLib_QueryAllocatedBlocks(vix::Handle pointer, std::uint64_t sector, std::uint64_t sectors,
                                                  std::uint64_t chunk, vix::BlockList** result) {
  return guarded("VixDiskLib_QueryAllocatedBlocks", [&] {
    Handle& handle = handle_of(pointer);
    const Alone alone(handle.busy, "one disk");
    if (chunk < vix::min_chunk || sectors == 0 || sector % chunk != 0 || sectors % chunk != 0 ||
        sectors / chunk > vix::max_chunks)
      throw Problem{vix::invalid_argument,
                    "a chunk has at least 128 sectors, and whole chunks are asked for, 524288 at most"};
    if (sector > handle.disk->sectors() || sectors > handle.disk->sectors() - sector)
      throw Problem{vix::invalid_argument, "a chunk that lies beyond the end of the disk"};
    std::vector<vix::Block> blocks = handle.disk->map(sector, sectors, chunk);
    if (map_order == "backwards") std::reverse(blocks.begin(), blocks.end());
    if (map_order == "overlapping" && blocks.size() > 1) blocks[1].offset = blocks[0].offset;
    if (map_order == "beyond" && !blocks.empty())
      blocks.back().length = sector + sectors - blocks.back().offset + chunk;
    auto* list = static_cast<vix::BlockList*>(malloc(sizeof(vix::BlockList) + blocks.size() * sizeof(vix::Block)));
    list->count = static_cast<std::uint32_t>(blocks.size());
    std::copy(blocks.begin(), blocks.end(), list->blocks);
    *result = list;
  });
}
EXPORT vix::Error VixDiskLib_FreeBlockList(vix::BlockList* list) {
  free(list);
  return vix::ok;
}
// nbdkit's own plugin wants these to be there; nothing is written in the lab.
EXPORT vix::Error VixDiskLib_Write(vix::Handle, std::uint64_t, std::uint64_t, const unsigned char*) {
  return vix::not_supported;
}
EXPORT vix::Error VixDiskLib_WriteAsync(vix::Handle, std::uint64_t, std::uint64_t, const unsigned char*,
                                        vix::Completion, void*) {
  return vix::not_supported;
}
EXPORT vix::Error VixDiskLib_Flush(vix::Handle) { return vix::ok; }
