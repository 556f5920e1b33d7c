// What Cinder is asked for when a disk's volume is made, whether its bytes are written later or come from an image.
// Knows nothing of attaching.
#pragma once

#include "openstack/volumes.hpp"
#include "target/cloud.hpp"
#include "target/openstack/openstack_cloud.hpp"

namespace vmferry::target::openstack {

// What a volume of this disk must carry; `change_id` and the like are the job's.
::vmferry::openstack::Metadata marks(const Tag& tag);
// Of --volume-type-mapping and --volume-type; empty = the cloud's default.
std::string type_for(const Options& options, const VolumeWish& wish);
// Tagged by marks().
::vmferry::openstack::VolumeWish volume_wish(const Options& options, const VolumeWish& wish);
// Whatever of it is not so yet.
void make_bootable(::vmferry::openstack::Service& service, const ::vmferry::openstack::Volume& volume,
                   const std::map<std::string, std::string>& image_properties, std::stop_token stop);

}  // namespace vmferry::target::openstack
