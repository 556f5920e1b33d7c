// Decisions as pure functions: no clock, no network, no files.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/vm.hpp"

namespace vmferry::plan {

struct CopyMode {
  bool full = true;
  std::string reason;  // why it is full, in words; empty for a delta
};

struct Base {
  bool complete = false;       // the target holds a whole point of this disk
  std::uint64_t capacity = 0;  // 0 = not known (another tool's volume)
  std::optional<model::ChangeId> change_id;
};

// Full or delta? Delta only when the target is complete, both points have a changeId of the same history and the disk
// did not grow: a changeId from before a growth must never be trusted (VMware KB 2090639).
CopyMode copy_mode(const Base& base, std::uint64_t capacity, const std::optional<model::ChangeId>& now, bool tracking);

// migratekit's volume name for a disk's key (or for its object id, as before October 2024): lower-case ASCII letters,
// digits, '-' and '_'; everything else a single '-'.
std::string volume_name(const std::string& vm_name, const std::string& disk);

// vmware-migration-kit's: letters, digits, '_' and '-', at most 64, then the disk's key: "rhel_1-2000". Other letters
// than ASCII are written as '_' here, there some lose their accents: volumes of such names are not found.
std::string osm_volume_name(const std::string& vm_name, model::DiskKey disk);

// Whole GiB that hold the bytes.
std::uint64_t gib_for(std::uint64_t bytes);

// Why this disk cannot be moved by change tracking and snapshots; nothing when it can.
std::optional<std::string> impossible(const model::Disk& disk);

// "[datastore1] web01/web01.vmdk": "datastore1". Empty when the path names none.
std::string datastore_of(const std::string& file);

// By vSphere's guest id ("windows2019srv_64Guest").
bool is_windows(const model::Vm& vm);

// The distribution's name in Glance's words ("debian", "rhel", "windows"), by vSphere's guest id; empty when that does
// not say it.
std::string distribution(const model::Vm& vm);

// Image properties of the boot volume: firmware, secure boot, bus, os_type ("auto" = by guest id), guest agent.
// Error(config) when vif_model is "source" and an adapter has a model that QEMU has not, or the adapters differ.
struct ImageWish {
  std::string os_type = {};  // "", "auto", or a value
  bool guest_agent = false;
  std::string disk_bus = {};   // "virtio" or "scsi"
  std::string os_distro = {};  // "", "auto", or a value
  std::string vif_model = {};  // "", "source" = as the machine's adapters are, or a value
};
std::map<std::string, std::string> image_properties(const model::Vm& vm, const ImageWish& wish);

// VMware's custom attributes and tags as a server's metadata, "vmware_attribute_NAME" and "vmware_tag_CATEGORY" (the
// tags with commas between them). What Nova does not take in a key becomes '_'; both are cut at 255 characters.
std::map<std::string, std::string> label_metadata(const std::map<std::string, std::string>& attributes,
                                                  const std::map<std::string, std::vector<std::string>>& tags);

// Up to `count` of `names` that are nearest to `wanted` (case-insensitive, by edit distance and common parts).
std::vector<std::string> nearest(const std::string& wanted, const std::vector<std::string>& names, std::size_t count);

}  // namespace vmferry::plan
