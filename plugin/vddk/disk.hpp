// One open disk: a connection of VDDK of its own, read with several requests under way, and the map of what is
// allocated on it. Knows VDDK's rules of threads, alignment and sizes; nothing of parameters.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "library.hpp"
#include "worker.hpp"

namespace vddk {

// How to reach the disk; the strings must outlive it. Null: not given.
struct Access {
  const char* file = nullptr;
  const char* server = nullptr;  // null: a local file
  const char* user = nullptr;
  const char* password = nullptr;
  const char* cookie = nullptr;  // of a session that exists already
  const char* thumbprint = nullptr;
  const char* vm = nullptr;
  const char* snapshot = nullptr;
  const char* transports = nullptr;
  std::uint16_t port = 0;
  std::uint16_t nfc_host_port = 0;
  std::uint32_t open_flags = 0;
};

struct Extent {
  std::uint64_t offset;  // bytes
  std::uint64_t length;
  bool allocated;
};

// True in a thread that asks for what the library may well not know: what it then complains of is no error.
extern thread_local bool may_be_refused;

class Disk {
 public:
  // `control` does all that opens and closes, for all disks. Null with nbdkit's error set when it cannot be opened.
  static std::unique_ptr<Disk> open(const Library& library, Worker& control, const Access& access);
  ~Disk();
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;

  std::uint64_t bytes() const { return sectors_ * vix::sector; }
  // Any range of the disk. False with nbdkit's error set.
  bool read(unsigned char* buffer, std::uint32_t count, std::uint64_t offset);
  // Whether it can be asked what is allocated, as far as is known now.
  bool maps() const { return maps_; }
  // The extents from `offset` on, gapless, at least one byte of the range and no more than it. What cannot be asked
  // counts as allocated.
  std::vector<Extent> extents(std::uint32_t count, std::uint64_t offset, bool one_is_enough);

 private:
  Disk(const Library& library, Worker& control) : library_(library), control_(control) {}
  bool connect(const Access& access);
  void disconnect();
  bool read_sectors(unsigned char* buffer, std::uint64_t count, std::uint64_t offset);
  bool ask_map(std::uint64_t sector, std::uint64_t sectors, std::vector<Extent>& found);

  const Library& library_;
  Worker& control_;
  vix::ConnectParams* params_ = nullptr;
  vix::Connection connection_ = nullptr;
  vix::Handle handle_ = nullptr;
  std::uint64_t sectors_ = 0;
  std::atomic<bool> maps_{false};
  // "Concurrent reads on the same disk handles are not allowed": one thread makes all calls on this handle, and
  // ReadAsync lets several requests be under way.
  std::unique_ptr<Worker> worker_;
};

}  // namespace vddk
