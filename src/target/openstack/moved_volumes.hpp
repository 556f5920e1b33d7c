// The volumes of a project that hold moved disks, whoever made them: this program, on whatever host, or one of those
// whose volumes it goes on with.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/cloud.hpp"
#include "openstack/volumes.hpp"

namespace vmferry::target::openstack {

// vmware-migration-kit's own words: its volumes carry no more than these, and "changeID" from before they are copied.
namespace osm_key {
inline constexpr const char* mark = "osm";             // "true"
inline constexpr const char* converted = "converted";  // "true" at the end of a migration
inline constexpr const char* change_id = "changeID";
}  // namespace osm_key

struct MovedVolume {
  enum class Maker { vmferry, migratekit, vmware_migration_kit };
  enum class Holds {
    nothing,    // it was never opened for writing
    part,       // of the disk
    all,        // a whole point of it
    unproven,   // its maker's word is no proof that it is whole
    converted,  // the end of a migration by vmware-migration-kit
    image,      // what an image that vmferry sent holds: a whole, converted disk, not a server's yet
    moved,      // the disk of a server that vmferry made
  };
  ::vmferry::openstack::Volume volume;
  Maker maker = Maker::vmferry;
  JobId job;         // vmferry's; empty of other makers
  std::string vm;    // the source's id of the machine, as the maker wrote it; vmware-migration-kit writes none
  std::string disk;  // likewise
  Holds holds = Holds::part;
  int percent = -1;       // of a part, as far as that is known; else -1
  std::string cycle;      // of a whole point of vmferry's: its number
  std::string change_id;  // as the volume says
};

std::string to_string(MovedVolume::Maker maker);
// "all, as of cycle 3", "44 % of the disk"
std::string describe_content(const MovedVolume& volume);

// By name. What is being deleted is left out.
std::vector<MovedVolume> moved_volumes(::vmferry::openstack::Cloud& cloud, std::stop_token stop);

}  // namespace vmferry::target::openstack
