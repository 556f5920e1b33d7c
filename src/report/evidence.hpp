// What can be shown of a migration afterwards, drawn from its facts alone: for the owner of the machine and for whoever
// has to sign. What the facts do not tell is missing here, never zero. Pure; knows no file, no clock and no layout.
//
// Times are milliseconds since the epoch, durations seconds, sizes bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "job/downtime.hpp"
#include "job/fact.hpp"

namespace vmferry::report {

// A command that worked on the job.
struct Run {
  std::int64_t at = 0;
  std::string command;
  std::string version;
  bool resumed = false;  // it went on from what an interrupted run had left
};

// The copy of one disk in one cycle.
struct DiskCopy {
  model::DiskKey disk;
  std::int64_t ended = 0;
  double seconds = 0;
  bool full = false;
  std::string reason;  // why full
  std::uint64_t read = 0;
  std::uint64_t written = 0;
  std::optional<std::uint64_t> equal, zeroed, audited;
  std::optional<model::ChangeId> before, after;  // of a delta: from which point to which; of a full copy only `after`
  std::string strip;                             // where on the disk, see job/strip.hpp; empty: not known
  bool conversion_kept = false;                  // nothing had changed, nothing was copied
  std::string transport, transport_reason;       // by which it was read and why; empty: not known
};

struct Cycle {
  int number = 0;
  bool final = false;      // of the machine confirmed off
  bool abandoned = false;  // was final, and the machine may have run again
  std::int64_t began = 0;
  std::optional<std::int64_t> frozen, ended;
  std::string snapshot, consistency, remark;
  std::vector<DiskCopy> copies;  // in the order they ended
};

// A stretch of time that went into one thing.
struct Phase {
  std::string name;  // "snapshot", "copy", "remove snapshot", "detach", "shutdown", "conversion", "delivery", "server",
                     // "verify"
  int cycle = 0;     // that it belongs to; 0: to none
  std::int64_t began = 0, ended = 0;
};

struct Verification {
  std::int64_t at = 0;
  model::DiskKey disk;
  std::uint64_t read = 0, unknown = 0, different = 0;
  double seconds = 0;
};

// The digest over a disk's digests, of the volume's last copy.
struct Root {
  int cycle = 0;
  std::uint64_t bytes = 0, chunk = 0, zero = 0, unknown = 0;
  std::string algorithm;
  std::string digest;  // empty: `unknown` bytes are of another tool or host
  std::string strip;
  bool converted = false;  // it is of the disk after the guest was converted
};

struct Disk {
  model::DiskKey key;
  std::string label, file, volume, volume_name;
  bool adopted = false;  // the volume existed before this job
  std::optional<std::uint64_t> capacity;
  std::uint64_t read = 0, written = 0;         // by all cycles
  std::optional<std::uint64_t> equal, zeroed;  // likewise; missing when one cycle does not tell
  std::optional<model::ChangeId> change_id;    // of the last complete point
  std::optional<std::uint64_t> rewritten;      // by the conversion
  std::uint64_t damaged = 0;                   // found, and not copied again
  bool complete = false;                       // the volume holds a whole point of the source
  bool tracking_doubted = false;
  std::optional<Root> root;
  std::string no_root;                      // why there is none, or no digest in it
  std::optional<job::ImageUploaded> image;  // as which it came to the cloud, as it was copied last
  std::string delivered;                    // volume that the cloud made of it
  std::string name() const;                 // "Hard disk 1 (2000)"
};

struct Evidence {
  job::JobCreated job;
  std::int64_t created = 0, last = 0;  // of the first and the last fact
  std::string phase;                   // State::phase()
  std::optional<std::string> server, server_state;
  std::optional<std::int64_t> done;
  std::optional<job::Downtime> downtime;
  bool converted = false;
  std::vector<std::string> images_kept;  // which the cloud would not delete, and why
  std::vector<Run> runs;
  int interruptions = 0;  // runs that had to go on from what an earlier one had left half done
  std::vector<Disk> disks;
  std::vector<Cycle> cycles;
  std::vector<Phase> phases;  // in the order they ended
  std::vector<Verification> verifications;
};

// Error(data) when they do not begin with the job's making.
Evidence evidence_of(std::span<const job::Fact> facts);

// One JSON object, docs/evidence.md describes it. `version`: of the vmferry that writes it.
std::string as_json(const Evidence& evidence, std::string_view version, std::int64_t now);
// One HTML document that needs nothing else: no script, no other file. Everything that comes from outside is escaped.
std::string as_page(const Evidence& evidence, std::string_view version, std::int64_t now);
// The first sentences of the page, as plain text.
std::string in_words(const Evidence& evidence);

}  // namespace vmferry::report
