// The words that every target keeps beside a volume. The first four are migratekit's own, so that either
// program goes on with the other's volumes. What a key means belongs to the one who writes it; targets write
// only those marked (target).
#pragma once

#include <string>

#include "model/vm.hpp"

namespace vmferry::target::memory_key {

inline constexpr const char* migrate_kit = "migrate_kit";  // (target) "true"
inline constexpr const char* vm = "vm";                    // (target) the source's id of the machine, "vm-42"
inline constexpr const char* disk = "disk";                // (target) the disk's key, "2000"; see names()
inline constexpr const char* change_id = "change_id";      // "UUID/number" of the last complete point

inline constexpr const char* job = "vmferry_job";          // (target) the job it belongs to now: the tag
inline constexpr const char* made_by = "vmferry_made_by";  // (target) the job that made it; absent on an adopted volume
inline constexpr const char* opened = "vmferry_opened";    // (target) the job that opened it last for writing
inline constexpr const char* written = "vmferry_written";  // "yes" when bytes may have been written
inline constexpr const char* cycle = "vmferry_cycle";      // number of the cycle of its last complete point
inline constexpr const char* capacity = "vmferry_capacity";  // bytes of the disk at its last complete point
inline constexpr const char* partial = "vmferry_partial";    // of a first copy that is under way: see partial.hpp
// "yes" when the volume holds a whole point. (target) says so of a migratekit volume with a change_id that it adopts
// only when it was told to trust it.
inline constexpr const char* complete = "vmferry_complete";
inline constexpr const char* managed = "vmferry_managed";  // (target) "yes": the back end had it, and keeps it
// The job that gave it to its server; "no" when it took it back. Of another job it means nothing. (target) says so of
// a delivered volume.
inline constexpr const char* moved = "vmferry_moved";
inline constexpr const char* image = "vmferry_image";  // (target) the image that a delivered volume was made from
inline constexpr const char* yes = "yes";

// Whether the word of a volume's `disk` means that disk. Until October 2024 migratekit wrote vSphere's diskObjectId
// there, "919-2000", whose first number changes when the machine moves to another ESXi host
// (https://github.com/vexxhost/migratekit/issues/38).
inline bool names(const std::string& word, model::DiskKey wanted) {
  const std::string key = to_string(wanted);
  return word == key || word.ends_with("-" + key);
}

}  // namespace vmferry::target::memory_key
