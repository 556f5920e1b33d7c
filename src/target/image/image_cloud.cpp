// Two clouds behind one door. What the folder knows by "folder/name" is never an id of Cinder's, nor the other way
// round.
#include "target/image/image_cloud.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.hpp"
#include "openstack/volumes.hpp"
#include "plan/plan.hpp"
#include "target/image/delivery.hpp"
#include "target/image/qcow2.hpp"
#include "target/local/local_cloud.hpp"
#include "target/memory_keys.hpp"
#include "target/openstack/room.hpp"
#include "target/openstack/volume_wish.hpp"

namespace vmferry::target::image {

namespace {

namespace client = ::vmferry::openstack;

class ImageCloud final : public Cloud {
 public:
  ImageCloud(Options options, std::shared_ptr<client::Cloud> cloud, process::Runner& runner, Clock& clock,
             log::Log& log)
      : options_(std::move(options)), cloud_(std::move(cloud)), runner_(runner) {
    options_.openstack.conversion_host = false;
    local::Options folder;
    folder.directory = options_.directory;
    folder_ = local::local_cloud(folder, clock, log);
    openstack_ = openstack::openstack_cloud(options_.openstack, cloud_, nullptr, clock, log);
    delivery_ = image_delivery(options_, *cloud_, runner, clock, log);
  }

  std::string describe() const override {
    return fmt::format("{}, by images from {}", openstack_->describe(), folder_->describe());
  }
  void check_settings(std::stop_token stop) override;
  std::vector<plan::Finding> judge_settings(std::stop_token stop) override;
  std::vector<plan::Finding> examine(const Arrival& arrival, std::stop_token stop) override;
  Delivery* delivery() noexcept override { return delivery_.get(); }

  std::optional<Volume> find(const Tag& tag, std::stop_token stop) override { return folder_->find(tag, stop); }
  Volume allocate(const VolumeWish& wish, std::stop_token stop) override { return folder_->allocate(wish, stop); }
  std::unique_ptr<Device> attach(const Volume& volume, std::stop_token stop) override {
    return folder_->attach(volume, stop);
  }
  void detach(const VolumeId& volume, std::stop_token stop) override { folder_->detach(volume, stop); }
  void remember(const VolumeId& volume, const Memory& memory, std::stop_token stop) override {
    folder_->remember(volume, memory, stop);
  }
  void discard(const VolumeId& volume, const JobId& job, std::stop_token stop) override {
    folder_->discard(volume, job, stop);
  }

  Port ensure_port(const JobId& job, const model::Nic& nic, const NetworkChoice& choice,
                   std::stop_token stop) override {
    return openstack_->ensure_port(job, nic, choice, stop);
  }
  std::vector<PortId> ports_of(const JobId& job, std::stop_token stop) override {
    return openstack_->ports_of(job, stop);
  }
  void discard_port(const PortId& port, const JobId& job, std::stop_token stop) override {
    openstack_->discard_port(port, job, stop);
  }
  void prepare_launch(const model::Vm& vm, std::stop_token stop) override { openstack_->prepare_launch(vm, stop); }
  std::optional<ServerId> find_server(const JobId& job, std::stop_token stop) override {
    return openstack_->find_server(job, stop);
  }
  Launched launch(const LaunchWish& wish, std::stop_token stop) override { return openstack_->launch(wish, stop); }

 private:
  void check_delivery(std::stop_token stop);
  std::vector<VolumeWish> to_deliver(const Arrival& arrival, std::stop_token stop);
  void judge_quota(const std::vector<VolumeWish>& wishes, std::vector<plan::Finding>& found, std::stop_token stop);

  Options options_;
  std::shared_ptr<client::Cloud> cloud_;
  process::Runner& runner_;
  std::unique_ptr<Cloud> folder_;
  std::unique_ptr<Cloud> openstack_;
  std::unique_ptr<Delivery> delivery_;
};

void ImageCloud::check_settings(std::stop_token stop) {
  folder_->check_settings(stop);
  openstack_->check_settings(stop);
  check_delivery(stop);
}

std::vector<plan::Finding> ImageCloud::judge_settings(std::stop_token stop) {
  std::vector<plan::Finding> found = folder_->judge_settings(stop);
  const std::vector<plan::Finding> there = openstack_->judge_settings(stop);
  found.insert(found.end(), there.begin(), there.end());
  try {
    check_delivery(stop);
  } catch (const Error& e) {
    found.push_back({plan::Level::problem, "target", e.what(), "", e.fault()});
  }
  return found;
}

void ImageCloud::check_delivery(std::stop_token stop) {
  if (options_.format == "qcow2") check_qemu_img(runner_, stop);
  const bool importing = client::images::may_import(cloud_->image(stop), stop);
  if (options_.method == Method::import && !importing)
    throw Error(Fault::config, fmt::format("{} does not import images by glance-direct: choose --image-upload direct",
                                           cloud_->describe()));
}

// The largest image in the folder, as far as it holds anything: the qcow2 file of it needs about as much room.
std::uint64_t largest_image(const std::filesystem::path& folder) {
  std::uint64_t largest = 0;
  std::error_code problem;
  for (const auto& entry : std::filesystem::directory_iterator(folder, problem)) {
    struct stat status {};
    if (entry.path().extension() == ".img" && ::stat(entry.path().c_str(), &status) == 0)
      largest = std::max(largest, static_cast<std::uint64_t>(status.st_blocks) * 512);
  }
  return largest;
}

// The disks that the cloud will have to make volumes for. Before the cutover they are in the folder already, and
// nothing of them is in the cloud.
std::vector<VolumeWish> ImageCloud::to_deliver(const Arrival& arrival, std::stop_token stop) {
  std::vector<VolumeWish> wishes = arrival.volumes;
  if (arrival.server) wishes.insert(wishes.end(), arrival.copied.begin(), arrival.copied.end());
  if (wishes.empty() || arrival.job.empty()) return wishes;
  for (const client::Volume& made :
       client::volumes::find(cloud_->volume(stop), {{memory_key::job, arrival.job.value}}, stop))
    std::erase_if(wishes, [&](const VolumeWish& wish) {
      return memory_key::names(value(made.metadata, memory_key::disk), wish.tag.disk) &&
             made.metadata.contains(memory_key::image);
    });
  return wishes;
}

void ImageCloud::judge_quota(const std::vector<VolumeWish>& wishes, std::vector<plan::Finding>& found,
                             std::stop_token stop) {
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> needs;  // volumes and GiB, by type; "": all
  for (const VolumeWish& wish : wishes)
    for (const std::string& type : std::set<std::string>{"", openstack::type_for(options_.openstack, wish)}) {
      ++needs[type].first;
      needs[type].second += plan::gib_for(wish.bytes);
    }
  for (const auto& [type, need] : needs) openstack::judge_volumes(*cloud_, type, need.first, need.second, found, stop);
}

std::vector<plan::Finding> ImageCloud::examine(const Arrival& arrival, std::stop_token stop) {
  Arrival disks = arrival, machine = arrival;
  disks.ports.clear();
  disks.server = false;
  // Other volumes of this disk are not looked for: none is ever adopted.
  machine.volumes.clear();
  std::vector<plan::Finding> found = folder_->examine(disks, stop);
  const std::vector<plan::Finding> there = openstack_->examine(machine, stop);
  found.insert(found.end(), there.begin(), there.end());
  judge_quota(to_deliver(arrival, stop), found, stop);
  if (!arrival.server || options_.format != "qcow2") return found;
  std::error_code problem;
  // As the machine was called when its disks came.
  const std::string& name = arrival.copied.empty() ? arrival.vm.name : arrival.copied.front().tag.vm_name;
  const std::uint64_t needed = largest_image(options_.directory / local::file_name(name));
  const std::filesystem::space_info space = std::filesystem::space(options_.directory, problem);
  if (!problem && space.available < needed)
    found.push_back({plan::Level::problem, options_.directory.string(),
                     fmt::format("{} bytes are free there, and the qcow2 file of the largest disk may need {}",
                                 space.available, needed),
                     "make room, or send the disks as they are (--image-format raw)", Fault::quota});
  return found;
}

}  // namespace

std::unique_ptr<Cloud> image_cloud(Options options, std::shared_ptr<client::Cloud> cloud, process::Runner& runner,
                                   Clock& clock, log::Log& log) {
  return std::make_unique<ImageCloud>(std::move(options), std::move(cloud), runner, clock, log);
}

}  // namespace vmferry::target::image
