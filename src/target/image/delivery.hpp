// Images and the volumes made of them, each once and with the job's tag. Knows nothing of folders.
#pragma once

#include "target/image/image_cloud.hpp"

namespace vmferry::target::image {

// `cloud` and the rest outlive it.
std::unique_ptr<Delivery> image_delivery(const Options& options, ::vmferry::openstack::Cloud& cloud,
                                         process::Runner& runner, Clock& clock, log::Log& log);

}  // namespace vmferry::target::image
