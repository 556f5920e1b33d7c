// Names and metadata are migratekit's plus our tag.
#include "target/openstack/volume_wish.hpp"

#include <fmt/format.h>

#include "plan/plan.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::target::openstack {

namespace client = ::vmferry::openstack;

client::Metadata marks(const Tag& tag) {
  return {{memory_key::migrate_kit, "true"},
          {memory_key::vm, tag.vm.value},
          {memory_key::disk, to_string(tag.disk)},
          {memory_key::job, tag.job.value}};
}

std::string type_for(const Options& options, const VolumeWish& wish) {
  const auto mapped = options.volume_types.find(wish.datastore);
  return mapped == options.volume_types.end() ? options.volume_type : mapped->second;
}

client::VolumeWish volume_wish(const Options& options, const VolumeWish& wish) {
  client::VolumeWish make;
  make.name = wish.tag.volume_name;
  make.description = fmt::format("disk {} of {}, moved by vmferry", to_string(wish.tag.disk), wish.tag.vm_name);
  make.gib = plan::gib_for(wish.bytes);
  make.type = type_for(options, wish);
  make.availability_zone = options.volume_availability_zone;
  make.metadata = marks(wish.tag);
  make.tag = make.metadata;
  make.metadata[memory_key::made_by] = wish.tag.job.value;
  if (options.disk_bus == "scsi") {
    make.metadata["hw_disk_bus"] = "scsi";
    make.metadata["hw_scsi_model"] = "virtio-scsi";
  }
  return make;
}

void make_bootable(client::Service& service, const client::Volume& volume,
                   const std::map<std::string, std::string>& image_properties, std::stop_token stop) {
  if (!volume.bootable) client::volumes::set_bootable(service, volume.id, true, stop);
  client::Metadata missing;
  for (const auto& [key, wanted] : image_properties)
    if (value(volume.image_metadata, key) != wanted) missing[key] = wanted;
  client::volumes::set_image_metadata(service, volume.id, missing, stop);
}

}  // namespace vmferry::target::openstack
