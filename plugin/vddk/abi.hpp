// The part of libvixDiskLib's binary interface that reading disks needs, version 6.5 and later on x86-64, as far as it
// is public: "VDDK Programming Guide" (docs.vmware.com), and the same facts as nbdkit states them in
// plugins/vddk/vddk-structs.h and vddk-stubs.h. Declarations only; the plugin calls it and lab/vddk provides it.
#pragma once

#include <stdarg.h>

#include <cstdint>

namespace vix {

using Error = std::uint64_t;  // the code is in the lowest 16 bits
constexpr Error ok = 0;
constexpr Error fail = 1;
constexpr Error invalid_argument = 3;
constexpr Error file_not_found = 4;
constexpr Error not_supported = 6;
constexpr Error file_error = 7;
constexpr Error file_access = 13;
constexpr Error authentication = 35;
constexpr Error invalid_handle = 1000;
constexpr Error snapshot_not_found = 13003;
constexpr Error connection_refused = 14009;
constexpr Error connection_lost = 14011;
constexpr Error not_initialized = 16001;
constexpr Error out_of_range = 16007;
constexpr Error invalid_connection = 16054;
constexpr Error cannot_connect = 18000;
constexpr Error async = 25000;  // ReadAsync accepted the request
constexpr Error code(Error error) { return error & 0xffff; }

constexpr std::uint32_t sector = 512;
// QueryAllocatedBlocks: the smallest chunk, in sectors, and the most chunks of one question.
constexpr std::uint64_t min_chunk = 128;
constexpr std::uint64_t max_chunks = 512 * 1024;

// Flags of Open.
constexpr std::uint32_t open_unbuffered = 1;
constexpr std::uint32_t open_single_link = 2;
constexpr std::uint32_t open_read_only = 4;
constexpr std::uint32_t open_zlib = 16;
constexpr std::uint32_t open_fastlz = 32;
constexpr std::uint32_t open_skipz = 64;

using Connection = void*;
using Handle = void*;
using Log = void(const char* format, va_list arguments);
using Completion = void (*)(void* data, Error result);

constexpr int credentials_user = 1;     // creds.uid
constexpr int credentials_session = 2;  // creds.session
constexpr int spec_vmx = 0;

struct ConnectParams {
  char* vmx_spec;  // "moref=vm-16"
  char* server;
  char* thumbprint;  // SHA-1, "AA:BB:..."
  long reserved1;
  int credentials;
  union {
    struct {
      char* user;
      char* password;
    } uid;
    struct {
      char* cookie;
      char* user;
      char* key;
    } session;
    void* reserved2;
  } creds;
  std::uint32_t port;
  std::uint32_t nfc_host_port;
  char* reserved3;
  char reserved4[8];
  void* reserved5;
  struct {
    char* id;
    char* datastore;
    char* snapshot;
  } storage_object;
  int spec_type;
};

struct Geometry {
  std::uint32_t cylinders;
  std::uint32_t heads;
  std::uint32_t sectors;
};

struct Info {
  Geometry bios;
  Geometry physical;
  std::uint64_t capacity;  // sectors
  int adapter;
  int links;
  char* parent_hint;
  char* uuid;
  std::uint32_t logical_sector;   // since 7.0
  std::uint32_t physical_sector;  // since 7.0
};

struct Block {
  std::uint64_t offset;  // sectors
  std::uint64_t length;
};

struct BlockList {
  std::uint32_t count;
  Block blocks[1];
};

// The entry points, by their names in the library.
using InitEx = Error(std::uint32_t major, std::uint32_t minor, Log* log, Log* warn, Log* panic, const char* libdir,
                     const char* config_file);
using Exit = void();
using GetErrorText = char*(Error error, const char* locale);
using FreeErrorText = void(char* text);
using AllocateConnectParams = ConnectParams*();  // since 6.7
using FreeConnectParams = void(ConnectParams* params);
using ConnectEx = Error(const ConnectParams* params, char read_only, const char* snapshot, const char* transports,
                        Connection* connection);
using Disconnect = Error(Connection connection);
using Open = Error(Connection connection, const char* path, std::uint32_t flags, Handle* handle);
using Close = Error(Handle handle);
using GetTransportMode = const char*(Handle handle);
using GetInfo = Error(Handle handle, Info** info);
using FreeInfo = void(Info* info);
using Read = Error(Handle handle, std::uint64_t sector, std::uint64_t sectors, unsigned char* buffer);
using ReadAsync = Error(Handle handle, std::uint64_t sector, std::uint64_t sectors, unsigned char* buffer,
                        Completion completion, void* data);  // since 6.0
using Wait = Error(Handle handle);                           // since 6.5
using QueryAllocatedBlocks = Error(Handle handle, std::uint64_t sector, std::uint64_t sectors, std::uint64_t chunk,
                                   BlockList** list);  // since 6.7
using FreeBlockList = Error(BlockList* list);          // since 6.7

static_assert(sizeof(void*) != 8 || sizeof(ConnectParams) == 128, "the layout of x86-64");

}  // namespace vix
