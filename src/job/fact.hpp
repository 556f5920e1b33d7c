// What has happened to a job, one immutable record each. A fact is appended only after what it says is durable, so the
// facts alone tell how to go on after a crash. Adding a field is fine (old journals lack it), changing a meaning is
// not.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ranges.hpp"
#include "model/vm.hpp"

namespace vmferry::job {

struct JobCreated {
  JobId job;
  std::string source;  // instance uuid of the vCenter or ESXi and its address, for `status`
  model::VmId vm;
  std::string vm_name;
  std::string vm_path;
  std::string target;         // Cloud::describe()
  std::string instance_uuid;  // of the machine: a reused id must not pass for it
  std::string endpoint = {};  // host[:port] that it was reached by
  std::string guest = {};     // the guest's operating system in words
};
// A command begins to work on the job.
struct RunBegan {
  std::string command;  // "migrate", "cutover", "verify", "abort"
  std::string version;  // of vmferry
};
struct TrackingEnsured {
  bool available = true;
};
struct VolumeAllocated {
  model::DiskKey disk;
  VolumeId volume;
  std::uint64_t bytes = 0;              // of the disk when it was made; with a base, at that point
  bool adopted = false;                 // it existed before this job (another tool's or host's)
  std::optional<model::ChangeId> base;  // an adopted volume's last complete point
  std::string volume_name = {};
  std::string label = {};  // of the disk, "Hard disk 1"
  std::string file = {};   // the disk's, when the volume was allocated: "[datastore1] web01/web01.vmdk"
};
struct CycleBegan {
  int cycle = 0;
  bool final = false;  // the machine is confirmed off
};
struct FrozenDiskFact {
  model::DiskKey disk;
  std::uint64_t capacity = 0;
  std::optional<model::ChangeId> change_id;
};
struct SnapshotTaken {
  int cycle = 0;
  SnapshotId snapshot;
  std::string consistency;  // "application", "crash", "powered off"
  std::string remark;
  std::vector<FrozenDiskFact> disks;
  bool unmerged_before = false;  // source::Point
};
// These bytes of the disk, as they are in that snapshot, are flushed to the target; the rest is on its way.
struct DiskProgressed {
  model::DiskKey disk;
  SnapshotId snapshot;
  std::optional<model::ChangeId> change_id;  // of the snapshot
  std::uint64_t capacity = 0;
  std::vector<ByteRange> ranges;
};
// The bytes of this disk at that cycle's point are flushed to the target.
struct DiskCopied {
  int cycle = 0;
  model::DiskKey disk;
  bool full = false;
  std::string reason;  // why full: "first copy", "change history was lost", "the disk grew"...
  std::uint64_t read = 0;
  std::uint64_t written = 0;
  double seconds = 0;
  std::uint64_t capacity = 0;
  std::optional<model::ChangeId> change_id;  // the base of the next delta
  // Nothing had changed since the guest was converted, so the conversion stands and nothing was copied.
  bool conversion_kept = false;
  std::optional<std::uint64_t> equal = {};    // bytes read that the volume held already
  std::optional<std::uint64_t> zeroed = {};   // bytes made or left zero without being written
  std::optional<std::uint64_t> audited = {};  // bytes that were called unchanged, read and compared; among `read`
  std::string strip = {};                     // where on the disk: see strip.hpp
  std::string transport = {};                 // by which it was read; the last one if it changed on the way
  std::string transport_reason = {};          // why by that one
  std::optional<std::uint64_t> transport_speed = {};  // bytes a second that it had when it was chosen
  bool transport_anew = false;                        // the next run chooses anew
};
// One digest over all that is kept of the volume as it was written in that cycle (and by the conversion after it).
struct DigestsRecorded {
  int cycle = 0;  // of the disk's last DiskCopied
  model::DiskKey disk;
  std::uint64_t bytes = 0;    // of the disk
  std::uint64_t chunk = 0;    // bytes that one of the digests is of
  std::string algorithm;      // "xxh3-128"
  std::string root;           // see Digests::root(), in hexadecimal digits; empty while some chunk is not known
  std::uint64_t zero = 0;     // bytes in chunks that are zero
  std::uint64_t unknown = 0;  // bytes in chunks that nothing is known of
  std::string strip;          // where there is data, as in strip.hpp; '?' where something is not known
};
// The volume's metadata say so too.
struct DiskRemembered {
  int cycle = 0;
  model::DiskKey disk;
};
struct SnapshotRemoved {
  int cycle = 0;
  SnapshotId snapshot;
};
// Written before the volume is attached, so that a crash in between leaves a trace to follow.
struct DiskAttaching {
  model::DiskKey disk;
  VolumeId volume;
};
struct DiskDetached {
  model::DiskKey disk;
  VolumeId volume;
};
struct CycleEnded {
  int cycle = 0;
};
struct PortEnsured {
  std::string mac;
  PortId port;
  bool created = false;
};
struct ShutdownBegan {
  std::int64_t at = 0;
};  // milliseconds since the epoch: downtime counts from here
struct PoweredOff {};
// Somebody started it after we had shut it down: what it wrote since is in no final copy.
struct PoweredOnAgain {};
// A run came back to a machine that is off, and cannot know whether it ran in between: the final copy is taken once
// more.
struct FinalCopyDoubted {};
// The volumes are about to be given to a server, which may write to them: no delta may build on them any more...
struct HandedOver {};
// ...unless it is certain that no server ever came of it.
struct HandoverTakenBack {};
// The conversion's result is about to be written over these bytes of the volume: until the disk is copied again they
// hold no point of the source.
struct ConversionCommitting {
  model::DiskKey disk;
  std::vector<ByteRange> ranges;
};
// All of it is on the volumes, flushed.
struct GuestConverted {
  double seconds = 0;
  std::uint64_t bytes = 0;
};
// Reading the volume again found other bytes there than were written, or what was written may not have been the disk's:
// until the disk is copied again they hold no point of the source.
struct DamageFound {
  model::DiskKey disk;
  std::vector<ByteRange> ranges;
};
// The volume was read again and compared with the digests of what was written.
struct DiskVerified {
  model::DiskKey disk;
  std::uint64_t read = 0;       // bytes compared
  std::uint64_t unknown = 0;    // bytes that nothing is known of
  std::uint64_t different = 0;  // bytes, in whole chunks; DamageFound tells where
  double seconds = 0;
};
// The disk's change tracking called unchanged what had changed: it is believed no more.
struct TrackingDoubted {
  model::DiskKey disk;
};
// The disk, as it is in the final copy and converted, is in the cloud as an image, and proven.
struct ImageUploaded {
  model::DiskKey disk;
  ImageId image;
  std::string content;      // the root of the disk's digests when it was sent; empty: not known
  std::string format;       // as it was sent
  std::string stored_as;    // what the cloud made of it
  std::uint64_t bytes = 0;  // sent
  double seconds = 0;
  std::string algorithm;  // of the hash; empty: it could not be compared
  std::string hash;       // of what the cloud stores
  std::string remark;
};
// A volume holds what was in the image, and can be used.
struct VolumeDelivered {
  model::DiskKey disk;
  VolumeId volume;
  ImageId image;
  std::string content;
};
// The job's images are gone, but for these, which the cloud would not delete.
struct ImagesRemoved {
  std::vector<std::string> kept;
};
struct ServerLaunched {
  ServerId server;
  std::string state;
};
struct CutoverDone {
  std::int64_t at = 0;
  double downtime_seconds = 0;
};
struct VolumeDiscarded {
  model::DiskKey disk;
  VolumeId volume;
};
struct PortDiscarded {
  PortId port;
};
struct Aborted {
  bool volumes_deleted = false;
};

using Body = std::variant<JobCreated, TrackingEnsured, VolumeAllocated, CycleBegan, SnapshotTaken, DiskProgressed,
                          DiskCopied, DiskRemembered, SnapshotRemoved, DiskAttaching, DiskDetached, CycleEnded,
                          PortEnsured, ShutdownBegan, PoweredOff, PoweredOnAgain, FinalCopyDoubted, HandedOver,
                          HandoverTakenBack, ConversionCommitting, GuestConverted, DamageFound, TrackingDoubted,
                          ServerLaunched, CutoverDone, VolumeDiscarded, PortDiscarded, Aborted, RunBegan,
                          DigestsRecorded, DiskVerified, ImageUploaded, VolumeDelivered, ImagesRemoved>;

struct Fact {
  std::int64_t at = 0;  // milliseconds since the epoch
  Body body;
};

// One JSON object, {"fact": "SnapshotTaken", ...}; decode throws Error(data) on what it does not know.
std::string encode(const Body& body);
Body decode(const std::string& json);
std::string_view name(const Body& body) noexcept;

}  // namespace vmferry::job
