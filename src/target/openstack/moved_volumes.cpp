// What a volume says of itself, in the words of whoever made it.
#include "target/openstack/moved_volumes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "target/cloud.hpp"
#include "target/memory_keys.hpp"
#include "target/partial.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;
using Maker = MovedVolume::Maker;
using Holds = MovedVolume::Holds;

MovedVolume of_osm(client::Volume volume) {
  MovedVolume moved;
  moved.maker = Maker::vmware_migration_kit;
  moved.change_id = value(volume.metadata, osm_key::change_id);
  moved.holds = value(volume.metadata, osm_key::converted) == "true" ? Holds::converted : Holds::unproven;
  moved.volume = std::move(volume);
  return moved;
}

MovedVolume of_migratekit_or_us(client::Volume volume) {
  const client::Metadata& words = volume.metadata;
  MovedVolume moved;
  moved.vm = value(words, memory_key::vm);
  moved.disk = value(words, memory_key::disk);
  moved.change_id = value(words, memory_key::change_id);
  moved.job = JobId{value(words, memory_key::job)};
  if (moved.job.empty()) {
    // It writes a change id only after a whole cycle, but keeps it when virt-v2v fails half-way through the volume.
    moved.maker = Maker::migratekit;
    moved.holds = moved.change_id.empty() ? Holds::part : Holds::unproven;
  } else if (words.contains(memory_key::image)) {
    moved.holds = Holds::image;
  } else if (value(words, memory_key::complete) == memory_key::yes) {
    moved.holds = Holds::all;
    moved.cycle = value(words, memory_key::cycle);
  } else if (const auto partial = partial_of(words); partial && partial->capacity > 0) {
    moved.percent = static_cast<int>(partial->bytes * 100 / partial->capacity);
  } else if (value(words, memory_key::moved) == moved.job.value) {
    moved.holds = Holds::moved;  // after what a copy says: one that came later, since the server failed, is the truth
  } else if (value(words, memory_key::made_by) == moved.job.value && !words.contains(memory_key::opened) &&
             !words.contains(memory_key::written)) {
    moved.holds = Holds::nothing;
  }
  moved.volume = std::move(volume);
  return moved;
}

}  // namespace

std::string to_string(Maker maker) {
  switch (maker) {
    case Maker::vmferry:
      return "vmferry";
    case Maker::migratekit:
      return "migratekit";
    case Maker::vmware_migration_kit:
      return "vmware-migration-kit";
  }
  return "";
}

std::string describe_content(const MovedVolume& volume) {
  switch (volume.holds) {
    case Holds::nothing:
      return "nothing yet";
    case Holds::part:
      return volume.percent < 0 ? "a part of the disk" : fmt::format("{} % of the disk", volume.percent);
    case Holds::all:
      return volume.cycle.empty() ? "all" : fmt::format("all, as of cycle {}", volume.cycle);
    case Holds::unproven:
      return "a copy, unproven";
    case Holds::converted:
      return "converted";
    case Holds::image:
      return "an image's content";
    case Holds::moved:
      return "the moved disk";
  }
  return "";
}

std::vector<MovedVolume> moved_volumes(client::Cloud& cloud, std::stop_token stop) {
  std::vector<MovedVolume> all;
  client::Service& service = cloud.volume(stop);
  for (client::Volume& volume : client::volumes::find(service, {{memory_key::migrate_kit, "true"}}, stop))
    all.push_back(of_migratekit_or_us(std::move(volume)));
  for (client::Volume& volume : client::volumes::find(service, {{osm_key::mark, "true"}}, stop))
    if (value(volume.metadata, memory_key::migrate_kit) != "true")  // else it was taken over, and is above
      all.push_back(of_osm(std::move(volume)));
  std::erase_if(all, [](const MovedVolume& moved) { return moved.volume.status == "deleting"; });
  std::sort(all.begin(), all.end(), [](const MovedVolume& a, const MovedVolume& b) {
    return std::tie(a.volume.name, a.volume.id.value) < std::tie(b.volume.name, b.volume.id.value);
  });
  return all;
}

}  // namespace vmferry::target::openstack
