// state = fold(facts): everything a step or `status` needs to know of a job. Pure.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "job/fact.hpp"

namespace vmferry::job {

// What an unfinished copy has brought to the target, from one snapshot.
struct Layer {
  SnapshotId snapshot;
  std::optional<model::ChangeId> change_id;
  std::uint64_t capacity = 0;
  RangeSet done;
};

struct DiskState {
  VolumeId volume;
  std::uint64_t capacity = 0;           // when last copied; 0 = never
  std::optional<model::ChangeId> base;  // last complete point
  bool complete = false;                // the volume holds a whole point
  bool tracking_doubted = false;        // it was found wrong: no delta is built on it any more
  bool handed_over = false;             // a server may have written to the volume: nothing builds on it
  bool disowned = false;                // the volume must not say any more that it is whole; it may not know that yet
  RangeSet rewritten;                   // by a conversion, or damaged: the next copy brings these bytes back
  std::vector<Layer> layers;            // since the last complete point, oldest first; disjoint
  int copied_in = 0;                    // cycle of the last DiskCopied
  int remembered_in = 0;
  int digested_in = 0;                       // cycle of the last DigestsRecorded
  bool attached = false;                     // as far as the facts tell: attaching began and no detach since
  std::optional<ImageUploaded> image;        // the last that was sent; gone after ImagesRemoved
  std::optional<VolumeDelivered> delivered;  // the last; is it still what the disk is? its content tells
  bool delivered_used = false;               // a server may have written to that volume
  bool last_full = false;
  std::string last_reason;
  std::uint64_t last_read = 0, last_written = 0;
  double last_seconds = 0;
  std::string last_transport, last_transport_reason;  // empty: not known
  double transport_speed = 0;                         // bytes a second when that one was chosen; 0: not known
  bool transport_anew = false;                        // to be chosen anew: much slower by now, or another's substitute
};

struct CycleState {
  int number = 0;
  bool final = false;
  std::optional<SnapshotTaken> snapshot;
  bool snapshot_removed = false;
  bool ended = false;
  std::int64_t began_at = 0, ended_at = 0;
};

struct State {
  std::optional<JobCreated> job;
  bool tracking_ensured = false;
  bool tracking_available = false;
  std::map<model::DiskKey, DiskState> disks;
  std::vector<CycleState> cycles;
  std::map<std::string, PortEnsured> ports;  // by MAC
  std::optional<std::int64_t> shutdown_at;
  bool powered_off = false;
  bool converted = false;  // the volumes hold the whole converted guest
  std::optional<ServerLaunched> server;
  std::optional<CutoverDone> cutover;
  bool aborted = false;

  const CycleState* open_cycle() const noexcept;  // the last one when it has not ended
  // One word for `status`: "new", "copying", "synced", "cutting over", "done", "aborted".
  std::string phase() const;
  // Begun with the machine of that instance UUID, as far as both are known: an id may be given to another one.
  bool is_of(const std::string& instance_uuid) const noexcept;
};

State fold(std::span<const Fact> facts);

}  // namespace vmferry::job
