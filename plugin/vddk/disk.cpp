#include "disk.hpp"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "nbdkit.hpp"

extern "C" {
// nbdkit -D vddk.datapath=1: each read is logged. virt-v2v gives the others, too; nbdkit warns of flags it does not
// find.
NBDKIT_DLL_PUBLIC int vddk_debug_datapath = 0;
NBDKIT_DLL_PUBLIC int vddk_debug_extents = 0;
NBDKIT_DLL_PUBLIC int vddk_debug_stats = 0;
NBDKIT_DLL_PUBLIC int vddk_debug_diskinfo = 0;
}

namespace vddk {

thread_local bool may_be_refused = false;

namespace {

// "Best practices for NBD transport" (VDDK Programming Guide) and the servers' own limit: NFC moves at most 2 MiB in
// one request when it goes through vCenter; larger ones fail with "Failed to allocate the requested 2097176 bytes"
// (nbdkit-vddk-plugin(1), Out of memory errors).
constexpr std::uint64_t most_sectors = 2 * 1024 * 1024 / vix::sector;

// Requests under way of one call of nbdkit.
class Pending {
 public:
  void begin() {
    std::scoped_lock lock(mutex_);
    ++open_;
  }
  // Called by VDDK in threads of its own. The lock is held while waking, since the waiter destroys this.
  void end(vix::Error result) {
    std::scoped_lock lock(mutex_);
    if (result != vix::ok && error_ == vix::ok) error_ = result;
    if (--open_ == 0) done_.notify_one();
  }
  vix::Error wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return open_ == 0; });
    return error_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  int open_ = 0;
  vix::Error error_ = vix::ok;
};

extern "C" void read_ended(void* pending, vix::Error result) { static_cast<Pending*>(pending)->end(result); }

// One block after another, within the range that was asked for. What a map leaves out is read as zeroes, so one that is
// not as it should be must not be made the best of.
bool in_order(const vix::BlockList& list, std::uint64_t from, std::uint64_t end) {
  for (std::uint32_t i = 0; i < list.count; ++i) {
    const vix::Block& block = list.blocks[i];
    if (block.offset < from || block.offset > end || block.length > end - block.offset) return false;
    from = block.offset + block.length;
  }
  return true;
}

char* text(const char* constant) { return const_cast<char*>(constant); }  // VDDK's structures are not const

}  // namespace

std::unique_ptr<Disk> Disk::open(const Library& library, Worker& control, const Access& access) {
  std::unique_ptr<Disk> disk(new Disk(library, control));
  bool opened = false;
  control.run([&] { opened = disk->connect(access); });
  if (!opened) return nullptr;
  disk->worker_ = std::make_unique<Worker>();
  vix::Error error = vix::ok;
  disk->worker_->run([&] {
    vix::Info* info = nullptr;
    error = library.GetInfo(disk->handle_, &info);
    if (error != vix::ok) return;
    disk->sectors_ = info->capacity;
    library.FreeInfo(info);
    std::vector<Extent> first;
    disk->maps_ =
        library.QueryAllocatedBlocks != nullptr && library.FreeBlockList != nullptr && disk->sectors_ >= vix::min_chunk;
    if (disk->maps_) disk->maps_ = disk->ask_map(0, vix::min_chunk, first);
  });
  if (error == vix::ok) return disk;
  nbdkit_error("VDDK does not tell the size of %s: %s", access.file, library.error_text(error).c_str());
  return nullptr;
}

bool Disk::connect(const Access& access) {
  params_ = library_.AllocateConnectParams != nullptr
                ? library_.AllocateConnectParams()
                : static_cast<vix::ConnectParams*>(calloc(1, sizeof(vix::ConnectParams)));
  if (params_ == nullptr) {
    nbdkit_error("no memory for a connection of VDDK");
    return false;
  }
  if (access.server != nullptr) {
    params_->vmx_spec = text(access.vm);
    params_->server = text(access.server);
    params_->thumbprint = text(access.thumbprint);
    params_->port = access.port;
    params_->nfc_host_port = access.nfc_host_port;
    params_->spec_type = vix::spec_vmx;
    if (access.cookie != nullptr) {
      params_->credentials = vix::credentials_session;
      params_->creds.session.cookie = text(access.cookie);
      params_->creds.session.user = text(access.user);
      params_->creds.session.key = text(access.password);
    } else {
      params_->credentials = vix::credentials_user;
      params_->creds.uid.user = text(access.user);
      params_->creds.uid.password = text(access.password);
    }
  }
  nbdkit_debug("VixDiskLib_ConnectEx: server %s, %s, snapshot %s, transports %s",
               access.server != nullptr ? access.server : "none", access.vm != nullptr ? access.vm : "no VM",
               access.snapshot != nullptr ? access.snapshot : "none",
               access.transports != nullptr ? access.transports : "any");
  vix::Error error = library_.ConnectEx(params_, 1, access.snapshot, access.transports, &connection_);
  if (error != vix::ok) {
    connection_ = nullptr;
    nbdkit_error("VDDK cannot connect to %s: %s", access.server != nullptr ? access.server : "local files",
                 library_.error_text(error).c_str());
    return false;
  }
  error = library_.Open(connection_, access.file, access.open_flags | vix::open_read_only, &handle_);
  if (error != vix::ok) {
    handle_ = nullptr;
    nbdkit_error("VDDK cannot open %s: %s", access.file, library_.error_text(error).c_str());
    return false;
  }
  const char* mode = library_.GetTransportMode(handle_);
  nbdkit_debug("%s is read by transport mode %s", access.file, mode != nullptr ? mode : "unknown");
  return true;
}

void Disk::disconnect() {
  if (handle_ != nullptr) library_.Close(handle_);
  if (connection_ != nullptr) library_.Disconnect(connection_);
  if (library_.AllocateConnectParams != nullptr) {
    if (params_ != nullptr) library_.FreeConnectParams(params_);
  } else {
    free(params_);
  }
}

Disk::~Disk() {
  if (worker_ != nullptr && library_.Wait != nullptr) worker_->run([this] { library_.Wait(handle_); });
  worker_.reset();
  control_.run([this] { disconnect(); });
}

bool Disk::read(unsigned char* buffer, std::uint32_t count, std::uint64_t offset) {
  const std::uint64_t end = offset + count;
  const std::uint64_t from = offset / vix::sector * vix::sector;
  const std::uint64_t to = (end + vix::sector - 1) / vix::sector * vix::sector;
  if (from == offset && to == end) return read_sectors(buffer, count, offset);
  // VDDK knows whole sectors only; a client that does not care gets its bytes out of a larger piece.
  std::vector<unsigned char> whole(to - from);
  if (!read_sectors(whole.data(), whole.size(), from)) return false;
  memcpy(buffer, whole.data() + (offset - from), count);
  return true;
}

bool Disk::read_sectors(unsigned char* buffer, std::uint64_t count, std::uint64_t offset) {
  if (vddk_debug_datapath != 0)
    nbdkit_debug("reading %llu bytes at %llu", static_cast<unsigned long long>(count),
                 static_cast<unsigned long long>(offset));
  Pending pending;
  pending.begin();  // of the worker, so that the first piece to end is not taken for the last
  worker_->post([&] {
    vix::Error refused = vix::ok;
    for (std::uint64_t done = 0; done < count && refused == vix::ok; done += most_sectors * vix::sector) {
      const std::uint64_t sector = (offset + done) / vix::sector;
      const std::uint64_t sectors = std::min(most_sectors, (count - done) / vix::sector);
      if (library_.ReadAsync == nullptr || library_.Wait == nullptr) {
        refused = library_.Read(handle_, sector, sectors, buffer + done);
        continue;
      }
      pending.begin();
      const vix::Error taken = library_.ReadAsync(handle_, sector, sectors, buffer + done, &read_ended, &pending);
      if (taken == vix::async) continue;
      // Nobody will call back. What is not known to have been read counts as not read.
      refused = taken == vix::ok ? vix::fail : taken;
      pending.end(refused);
    }
    pending.end(refused);
  });
  const vix::Error error = pending.wait();
  if (error == vix::ok) return true;
  nbdkit_error("VDDK cannot read %llu bytes at %llu: %s", static_cast<unsigned long long>(count),
               static_cast<unsigned long long>(offset), library_.error_text(error).c_str());
  nbdkit_set_error(EIO);
  return false;
}

// In the worker. False: the question was refused.
bool Disk::ask_map(std::uint64_t sector, std::uint64_t sectors, std::vector<Extent>& found) {
  vix::BlockList* list = nullptr;
  // Many servers cannot tell (bugzilla.redhat.com/1709211).
  may_be_refused = true;
  const vix::Error error = library_.QueryAllocatedBlocks(handle_, sector, sectors, vix::min_chunk, &list);
  may_be_refused = false;
  if (error != vix::ok) {
    nbdkit_debug("VixDiskLib_QueryAllocatedBlocks(%llu, %llu): %s; from now on all counts as allocated",
                 static_cast<unsigned long long>(sector), static_cast<unsigned long long>(sectors),
                 library_.error_text(error).c_str());
    return false;
  }
  const std::uint64_t end = sector + sectors;
  if (!in_order(*list, sector, end)) {
    library_.FreeBlockList(list);
    static std::atomic_flag said;
    if (!said.test_and_set())
      nbdkit_error(
          "VDDK's map of what is allocated from sector %llu to %llu of a disk is out of order; it is not "
          "believed, and all counts as allocated",
          static_cast<unsigned long long>(sector), static_cast<unsigned long long>(end));
    return false;
  }
  std::uint64_t at = sector;
  const auto add = [&](std::uint64_t to, bool allocated) {
    if (to == at) return;
    found.push_back({at * vix::sector, (to - at) * vix::sector, allocated});
    at = to;
  };
  // What lies between the blocks is a hole, and so is what comes after the last.
  for (std::uint32_t i = 0; i < list->count; ++i) {
    add(list->blocks[i].offset, false);
    add(list->blocks[i].offset + list->blocks[i].length, true);
  }
  add(end, false);
  library_.FreeBlockList(list);
  return true;
}

std::vector<Extent> Disk::extents(std::uint32_t count, std::uint64_t offset, bool one_is_enough) {
  const std::uint64_t end = offset + count;
  std::vector<Extent> found;
  // Whole chunks only: the question begins at the chunk that `offset` lies in. The rest of the disk that is no whole
  // chunk cannot be asked and counts as allocated.
  std::uint64_t at = offset / vix::sector / vix::min_chunk * vix::min_chunk;
  const std::uint64_t askable = sectors_ / vix::min_chunk * vix::min_chunk;
  const std::uint64_t wanted = (end + vix::sector - 1) / vix::sector;
  while (maps_ && at < std::min(wanted, askable) && !(one_is_enough && at * vix::sector > offset)) {
    const std::uint64_t chunks = (std::min(wanted, askable) - at + vix::min_chunk - 1) / vix::min_chunk;
    const std::uint64_t sectors = std::min(chunks, vix::max_chunks) * vix::min_chunk;
    bool answered = false;
    worker_->run([&] { answered = ask_map(at, sectors, found); });
    if (answered)
      at += sectors;
    else
      maps_ = false;
  }
  if (at < wanted && !(one_is_enough && at * vix::sector > offset))
    found.push_back({at * vix::sector, sectors_ * vix::sector - at * vix::sector, true});
  if (vddk_debug_extents != 0)
    nbdkit_debug("%zu extents of %u bytes at %llu", found.size(), count, static_cast<unsigned long long>(offset));
  return found;
}

}  // namespace vddk
