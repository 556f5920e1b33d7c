// The steps, each made with the collaborators it needs. One file per phase of a migration; the order is
// itinerary.cpp's. "warm" steps work on the open cycle of the running machine, "final" ones on the one after it was
// confirmed off; each finds nothing to do when the open cycle is of the other kind.
#pragma once

#include "copy/digests.hpp"
#include "job/itinerary.hpp"

namespace vmferry::job::steps {

enum class Kind { warm, final };

// The open cycle when it is of that kind, else nothing.
const CycleState* open_cycle(const State& state, Kind kind) noexcept;
// What names the volume of a disk, from the job's first fact.
target::Tag tag_of(const State& state, const model::Disk& disk);
// A volume for that disk; whether it is the boot disk is the caller's to say.
target::VolumeWish wish_for(const State& state, const model::Disk& disk);
// The volumes that the machine's disks need, without what only their making needs.
target::Arrival arrival_of(const State& state, const model::Vm& vm, const CopyOptions& copy);
// Removes it, and passes on what the operator should know of that.
void remove_snapshot(const Parts& parts, const State& state, const SnapshotId& snapshot, Observer& observer,
                     std::stop_token stop);
// Every snapshot of the job: what a crash left, or a lost reply.
void remove_snapshots(const Parts& parts, const State& state, Observer& observer, std::stop_token stop);
// The volume of a disk as it is now. Error(conflict) when it is not there, or not the one the facts know.
target::Volume volume_of(const Parts& parts, const State& state, const model::Disk& disk, std::stop_token stop);
// What is kept of a disk's volume as it was written.
copy::Digests digests_of(const Parts& parts, model::DiskKey disk, const VolumeId& volume, std::uint64_t capacity);
// The machine's disks that are migrated, boot order, each part of the last, final cycle's copy; Error(bug) else.
std::vector<model::Disk> final_disks(const model::Vm& vm, const State& state, const CopyOptions& copy);

// newer_writes.cpp
// The last fence before a server is made of the final copy. Error(conflict) when the machine runs, or ran and wrote
// since. Gives the disks of which nothing but the power state tells, as they are known to the user.
std::vector<std::string> refuse_newer_writes(const Parts& parts, const State& state, const model::Vm& vm,
                                             const CopyOptions& copy, std::stop_token stop);

// prepare.cpp
// `kind`: the itinerary ends with a warm cycle, or with the final one.
std::unique_ptr<Step> check_disks(const Parts& parts, const CopyOptions& copy, Kind kind);
std::unique_ptr<Step> check_cutover(const Parts& parts, const State& state, const CutoverOptions& options);
std::unique_ptr<Step> ensure_ports(const Parts& parts, const CutoverOptions& options);
std::unique_ptr<Step> ensure_tracking(const Parts& parts, const CopyOptions& copy);
std::unique_ptr<Step> allocate_volumes(const Parts& parts, const CopyOptions& copy);

// cycle.cpp
std::unique_ptr<Step> begin_cycle(const Parts& parts, Kind kind);
std::unique_ptr<Step> freeze(const Parts& parts, const CopyOptions& copy, Kind kind);
std::unique_ptr<Step> thaw(const Parts& parts, Kind kind);
std::unique_ptr<Step> detach(const Parts& parts);
std::unique_ptr<Step> end_cycle(const Parts& parts, Kind kind);

// copy_disks.cpp
// `keep_conversion`: when the guest was converted already and nothing changed since, that stands.
std::unique_ptr<Step> copy_disks(const Parts& parts, const CopyOptions& copy, Kind kind, bool keep_conversion);

// verify_disks.cpp
// `remedy`: what to do about damage, "run ..., which copies".
std::unique_ptr<Step> verify_disks(const Parts& parts, const CopyOptions& copy, const VerifyOptions& options,
                                   std::string_view remedy);

// convert_guest.cpp
std::unique_ptr<Step> convert_guest(const Parts& parts, const CopyOptions& copy);

// deliver.cpp
// For a cloud with a delivery: the disks of the final copy become images, and these volumes.
std::unique_ptr<Step> deliver(const Parts& parts, const CopyOptions& copy);
std::unique_ptr<Step> remove_images(const Parts& parts);
// Deletes images that the facts do not name: halves.
void sweep_broken_images(const Parts& parts, const State& state, Observer& observer, std::stop_token stop);
// Deletes all that was delivered. Volumes that a server had only with `delete_volumes`. False when a volume stays that
// should not, which is told.
bool undo_delivery(const Parts& parts, const State& state, bool delete_volumes, Observer& observer,
                   std::stop_token stop);

// record_digests.cpp
// What is kept of each volume as one digest, once for each copy of it that is whole.
std::unique_ptr<Step> record_digests(const Parts& parts);

// finish.cpp
std::unique_ptr<Step> shut_down(const Parts& parts, const CutoverOptions& options);
std::unique_ptr<Step> launch(const Parts& parts, const CopyOptions& copy, const CutoverOptions& options);
std::unique_ptr<Step> finish(const Parts& parts);

}  // namespace vmferry::job::steps
