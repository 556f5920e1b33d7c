// The journeys: a warm cycle, a cutover, an abort, and the release of what a stopped run must not leave behind.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <set>

#include "base/clock.hpp"
#include "convert/converter.hpp"
#include "job/step.hpp"
#include "source/machine.hpp"
#include "target/cloud.hpp"

namespace vmferry::job {

struct CopyOptions {
  source::Quiesce quiesce = source::Quiesce::automatic;
  copy::Tuning tuning;
  std::set<model::DiskKey> skip;                        // --skip-disk
  bool no_tracking = false;                             // --no-cbt: always copy in full
  std::map<std::string, std::string> image_properties;  // of the boot volume
  double audit = 0.005;         // of what change tracking calls unchanged, this part is read and compared
  bool verify = false;          // read the volumes again after the copy
  bool verify_changed = false;  // of them what was not read back since it was written
  bool verifies() const noexcept { return verify || verify_changed; }
};

struct CutoverOptions {
  std::vector<target::NetworkChoice> networks;
  std::string flavor;
  std::string availability_zone;
  std::chrono::seconds shutdown_patience{300};
  bool force_power_off = false;
  bool convert = true;
};

struct VerifyOptions {
  double sample = 1;        // part of the disk that is read, 0 to 1
  bool repair = false;      // copy what differs once more
  bool changed = false;     // read only what was not read back since it was written
  bool after_copy = false;  // as a part of migrate or cutover
};

// Everything a step talks to. Outlives the itinerary.
struct Parts {
  source::Machine& machine;
  target::Cloud& cloud;
  convert::Converter& converter;
  Clock& clock;
  log::Log& log;
  std::filesystem::path digests;  // folder of this job's digests; exists
  // Leave to connect to an ESXi host, `urgent` for a machine that is off. Empty: none is needed.
  std::function<std::shared_ptr<copy::Permits>(const std::string& host, bool urgent)> connections_to = {};
};

// One cycle of the running machine: begins a new one, or finishes the one that a crash left open.
Itinerary warm(const Parts& parts, const State& state, const CopyOptions& copy);
// Ports, a warm cycle, shutdown, confirmed off, the final cycle, the conversion, the server. Safe to repeat at any
// point.
Itinerary cutover(const Parts& parts, const State& state, const CopyOptions& copy, const CutoverOptions& options);
// Reads the volumes again and compares them with the digests of what was written. Error(data) names what differs; with
// `repair` that is copied again by a warm cycle instead, and read once more.
Itinerary verify(const Parts& parts, const State& state, const CopyOptions& copy, const VerifyOptions& options);
// What a cancelled or failed run must not leave: our snapshots and attachments, found by fact and by tag. Runs under a
// fresh token with a deadline; throws nothing; tells the observer what it could not undo.
void release(const Parts& parts, Journal& journal, Observer& observer, std::chrono::seconds deadline) noexcept;
// Snapshots, attachments and ports undone; with delete_volumes the volumes too.
void abort(const Parts& parts, Journal& journal, Observer& observer, bool delete_volumes, std::stop_token stop);
// Before a machine is moved once more: what its finished job made and the next one would stumble over is deleted, and
// each port told to `say`. Its volumes stay, to be taken over. Error(conflict) while its server has them.
void let_go(target::Cloud& cloud, const JobId& finished, const model::Vm& vm,
            const std::function<void(const std::string&)>& say, std::stop_token stop);

// Names every disk that cannot be migrated and is not skipped, with the reason and the remedy, in one
// Error(unsupported).
void refuse_impossible_disks(const model::Vm& vm, const std::set<model::DiskKey>& skip);
// Error(usage) that lists the disks when the machine has none with the key that `flag` names.
void refuse_unknown_disk(const model::Vm& vm, model::DiskKey key, const std::string& flag);

}  // namespace vmferry::job
