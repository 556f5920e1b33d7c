// The copy engine: ranges in, exact bytes out. Reads over several NBD connections with several requests in flight,
// writes to one open target, skips zeroes, flushes before it reports done. Knows nothing of vSphere, OpenStack or jobs.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/ranges.hpp"
#include "copy/permits.hpp"
#include "log/log.hpp"
#include "nbd/nbd.hpp"

namespace vmferry::copy {

class Progress;

// By which way a source's bytes come.
struct Way {
  std::string name;     // "https"; empty: there is nothing to tell
  std::string reason;   // why this one, for people
  double speed = 0;     // bytes a second that it had when it was chosen; 0: was not measured
  bool counted = true;  // the next connection may be one to the machine's host, which takes so many only: permits.hpp
};

// Thrown by a source when what it gave so far may be bytes that the disk never had: the copy ends by it, and nothing
// that it brought counts.
class BytesInDoubt : public Error {
 public:
  explicit BytesInDoubt(const std::string& message) : Error(Fault::conflict, message) {}
};

// Where bytes come from: frozen for as long as the object lives.
class Source {
 public:
  virtual ~Source() = default;
  virtual std::uint64_t bytes() const = 0;
  // Brings the bytes where connect() can read them, if that takes long; else nothing. Called before each connect(), by
  // the same thread. Blocks, and tells `progress` how far it is by waiting().
  virtual void prepare(Progress& /*progress*/, std::stop_token /*stop*/) {}
  // prepare() takes long, so nothing is connected before there is something to read. Else the first connection is made
  // while the work is still being asked for.
  virtual bool costly() const { return false; }
  // Another connection. Called for each one, and again after one died (the implementation may have to log in again or
  // restart its server). Blocks. Throws Error(unavailable) when it cannot be had now.
  virtual std::unique_ptr<nbd::Handle> connect(std::stop_token stop) = 0;
  // The permit of a connection that was opened already and that connect() gives next. Null: there is none.
  virtual std::unique_ptr<Permit> permit() { return nullptr; }
  // A read of `range` failed on one of the connections; another is asked for next. Must not block. A source that knows
  // a second way to the bytes may try the range and change to that way in the next connect().
  virtual void failed(ByteRange /*range*/) noexcept {}
  // Throws Error(conflict) when the bytes are not frozen any more (their snapshot was removed): then what was read may
  // be of another moment, or BytesInDoubt. Blocks. The engine calls it when a connection is refused, and when the copy
  // ends.
  virtual void check(std::stop_token /*stop*/) {}
  virtual Way way() const { return {}; }
};

// Where bytes go: an open block device or file, held for as long as the object lives.
class Target {
 public:
  virtual ~Target() = default;
  virtual std::string name() const = 0;  // for messages: "volume 5f3... (/dev/vdb)"
  virtual int fd() const = 0;            // open for reading and writing
  virtual std::uint64_t bytes() const = 0;
  virtual std::uint32_t sector() const = 0;  // bytes; direct I/O must be aligned to it
  // Bytes never written read as zeroes (a fresh sparse file, a fresh volume of a backend that says so).
  virtual bool known_zero() const = 0;
  // Throws Error(conflict) when the thing behind fd() is no longer what it was when opened (detached, swapped, shrunk,
  // renamed). The engine calls it before it starts, when a write fails, and before it says done.
  virtual void check() const = 0;
};

// The ranges to copy, in pieces, so that a slow producer (QueryChangedDiskAreas pages) overlaps the copy. Called from
// one thread that may block in it.
class Work {
 public:
  virtual ~Work() = default;
  virtual std::optional<std::vector<ByteRange>> next(std::stop_token stop) = 0;  // nothing = no more
  // The sum of all pieces when it is known in advance (a full copy), else nothing.
  virtual std::optional<std::uint64_t> total() const = 0;
};
std::unique_ptr<Work> work(RangeSet ranges);

class Digests;
class Throttle;

struct Tuning {
  int connections = 4;                  // to one disk's export; opened as they are needed
  std::uint32_t request = 1024 * 1024;  // bytes; vCenter's limit is 2 MiB
  int requests_per_connection = 16;  // at most; large ones are fewer, so that all connections get their share of memory
  std::uint32_t granule = 64 * 1024;    // zero detection and alignment, bytes
  std::uint64_t merge_gap = 64 * 1024;  // areas closer than this are read as one
  int attempts = 5;                     // of one request, each on a fresh connection with back-off
  // A connection that answers nothing for so long is given up. More than any server's own patience, nbdkit's curl
  // plugin's two minutes for one.
  std::chrono::milliseconds silence = std::chrono::minutes(5);
  bool whole_disk = false;  // work covers all of it: the target's bytes outside data must become zero
  // Kept of everything that is written, if not null; then whole chunks are copied, whatever part of them the work
  // names. The caller unsettles them before and settles them after, when all that was interrupted has been copied.
  Digests* digests = nullptr;
  // Chunks whose digest is known and the same are not written. Only with digests that were settled.
  bool skip_equal = false;
  // With skip_equal, called before what is not equal is written; from the writers' threads, must not block.
  std::function<void()> unequal;
  std::shared_ptr<Throttle> throttle;  // of what is read; shared with other copies. Null: as fast as it goes
  // For connections while the source's way is counted; shared with other copies. Null: as many as the copy likes.
  std::shared_ptr<Permits> permits;
  // What the target holds already: neither read nor written, whatever the work says.
  RangeSet done;
  // Called with ranges, when they and their digests are on stable storage: about every so often, also when the copy
  // ends by an error or a cancel, but not with its last ranges when it succeeds. From one thread at a time; may block;
  // what it throws ends the copy.
  std::function<void(const RangeSet&)> checkpoint;
  std::chrono::milliseconds checkpoint_after{2000};
  std::uint64_t checkpoint_bytes = 512ULL << 20;  // or when that much was written
  std::chrono::milliseconds pace_over{60000};     // see Report::pace
};

struct Report {
  std::uint64_t read = 0;     // bytes fetched from the source
  std::uint64_t written = 0;  // bytes of data written
  std::uint64_t equal = 0;    // bytes that the target held already, and that were not written
  std::uint64_t zeroed = 0;   // bytes made zero or left zero without being written
  std::uint64_t requests = 0;
  std::uint64_t retries = 0;
  double seconds = 0;
  // Bytes a second over the last minute in which the source alone was waited for: not the target, not a limit, not the
  // work. 0: there was no such minute, or what was read in it was small pieces, which says nothing of a whole disk.
  double pace = 0;
};

// Called from the engine's threads; must not throw or block.
class Progress {
 public:
  virtual ~Progress() = default;
  // `done` of `total` bytes of work are finished (read or skipped, and written); total grows while Work produces.
  virtual void advanced(std::uint64_t done, std::uint64_t total) noexcept = 0;
  // Nothing is read at the moment, and this is why. Told once for each wait, and now and then if it is a long one.
  virtual void waiting(const std::string& /*reason*/) noexcept {}
};

// Copies every byte of `work` from source to target. When it returns, the bytes are on stable storage (fsync).
// Bytes outside `work` are not touched. Throws Error naming the disk's offset, or Cancelled after draining.
Report run(Source& source, Target& target, Work& work, const Tuning& tuning, Progress& progress, Clock& clock,
           log::Log& log, std::stop_token stop);

}  // namespace vmferry::copy
