// Disks that are kept here come to the cloud when they are final: each as an image that is proven, and all of them as
// volumes. What was delivered of another content is deleted before anything else, so that no server can get it.
#include <fmt/format.h>

#include <algorithm>

#include "job/steps/disk_progress.hpp"
#include "job/steps/side_by_side.hpp"
#include "job/steps/steps.hpp"

namespace vmferry::job::steps {

namespace {

void tell(const target::Delivery::Swept& swept, Observer& observer) {
  for (const std::string& what : swept.deleted) observer.said(fmt::format("{} is deleted", what));
}

// Of the uploads. One connection is slower than the network between here and the cloud, mostly; more than a few share
// it.
constexpr std::size_t most_at_once = 4;

class Deliver final : public Step {
 public:
  Deliver(const Parts& parts, const CopyOptions& copy) : parts_(parts), copy_(copy) {}
  std::string_view name() const noexcept override { return "bring the disks to the cloud"; }
  bool done(const State& state) const override { return state.server.has_value(); }

  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    if (const auto server = parts_.cloud.find_server(state.job->job, stop)) {
      if (has_them(state, vm)) return;  // only its fact is missing
      throw Error(Fault::conflict, fmt::format("server {} was made of an older state of {}: delete it (its volumes are "
                                               "kept) and run the same command again",
                                               server->value, vm.name));
    }
    refuse_newer_writes(parts_, state, vm, copy_, stop);  // or all of it would be sent for nothing
    target::Delivery& delivery = *parts_.cloud.delivery();
    std::vector<Disk> disks = disks_of(vm, state, stop);
    const target::Delivery::Swept found = delivery.sweep(state.job->job, wanted(state, disks), stop);
    tell(found, observer);
    // An image is in nobody's way; a volume of another content is not left where it could be taken for this one.
    for (const std::string& what : found.stuck) observer.warned(what);
    if (!found.stuck_volumes.empty())
      throw Error(Fault::conflict, fmt::format("what an earlier run delivered cannot be deleted: {}; delete it and run "
                                               "the same command again",
                                               found.stuck_volumes.front()));
    side_by_side(
        disks.size(), most_at_once, OnFailure::finish_begun,
        [&](std::size_t index, std::stop_token token) {
          try {
            bring(disks[index], found, state, journal, observer, token);
          } catch (const Error& e) {
            // The others may take an hour to their end.
            if (disks.size() > 1)
              observer.warned(
                  fmt::format("{} did not come to the cloud; the others that are on their way are waited for: {}",
                              disks[index].label, e.what()));
            throw;
          }
        },
        stop);
    for (const Disk& disk : disks) {
      if (disk.delivered) continue;
      observer.said(fmt::format("{}: volume {} is made of its image ...", disk.label, disk.volume.value));
      delivery.await(disk.wish, disk.volume, stop);
      journal.append(VolumeDelivered{disk.disk.key, disk.volume, disk.image, disk.content});
    }
  }

 private:
  struct Disk {
    model::Disk disk;
    std::string label;
    std::string content;
    target::VolumeWish wish;
    bool delivered = false;
    ImageId image;
    VolumeId volume;
  };

  // Until its volume is there, or on its way.
  void bring(Disk& disk, const target::Delivery::Swept& found, const State& state, Journal& journal, Observer& observer,
             std::stop_token stop) const {
    target::Delivery& delivery = *parts_.cloud.delivery();
    const DiskState& known = state.disks.at(disk.disk.key);
    disk.delivered = known.delivered && found.volumes.contains(known.delivered->volume);
    if (disk.delivered) {
      observer.said(fmt::format("{}: volume {} holds it already", disk.label, known.delivered->volume.value));
      delivery.await(disk.wish, known.delivered->volume, stop);  // as boot disk or not, which may be another now
      return;
    }
    disk.image = known.image && found.images.contains(known.image->image)
                     ? known.image->image
                     : send(disk, known, state, journal, observer, stop);
    disk.volume = delivery.order(disk.wish, disk.image, stop);
  }

  bool has_them(const State& state, const model::Vm& vm) const {
    const std::vector<model::Disk> disks = final_disks(vm, state, copy_);
    return std::all_of(disks.begin(), disks.end(), [&](const model::Disk& disk) {
      const DiskState& known = state.disks.at(disk.key);
      return known.delivered && known.delivered_used;
    });
  }

  std::vector<Disk> disks_of(const model::Vm& vm, const State& state, std::stop_token stop) const {
    std::vector<Disk> disks;
    for (const model::Disk& disk : final_disks(vm, state, copy_)) {
      const bool boot = disks.empty();
      target::VolumeWish wish = wish_for(state, disk);
      // What is kept here only grows: it may be larger than the disk is now.
      wish.bytes = std::max(disk.capacity, volume_of(parts_, state, disk, stop).bytes);
      wish.boot = boot;
      if (boot) wish.image_properties = copy_.image_properties;
      const DiskState& known = state.disks.at(disk.key);
      const copy::Digests digests = digests_of(parts_, disk.key, known.volume, known.capacity);
      const copy::Digest root = digests.settled() ? digests.root() : copy::Digest{};
      disks.push_back({disk,
                       fmt::format("{} ({})", disk.label, disk.key.value),
                       root.known() ? root.text() : "",
                       std::move(wish),
                       false,
                       {},
                       {}});
    }
    return disks;
  }

  // What earlier runs delivered of just what the disks hold now.
  static target::Delivery::Keep wanted(const State& state, const std::vector<Disk>& disks) {
    target::Delivery::Keep keep;
    for (const Disk& disk : disks) {
      const DiskState& known = state.disks.at(disk.disk.key);
      if (disk.content.empty()) continue;
      if (known.image && known.image->content == disk.content) keep.images.insert(known.image->image);
      if (known.delivered && known.delivered_used)
        keep.used.insert(known.delivered->volume);
      else if (known.delivered && known.delivered->content == disk.content)
        keep.volumes.insert(known.delivered->volume);
    }
    return keep;
  }

  ImageId send(const Disk& disk, const DiskState& known, const State& state, Journal& journal, Observer& observer,
               std::stop_token stop) const {
    const target::Volume volume = volume_of(parts_, state, disk.disk, stop);
    journal.append(DiskAttaching{disk.disk.key, volume.id});
    const std::unique_ptr<target::Device> device = parts_.cloud.attach(volume, stop);
    DiskProgress progress(observer, disk.disk.key, disk.label + ", sent");
    observer.copied(disk.disk.key, disk.label + ", sent", 0, 0);
    const auto began = parts_.clock.mono();
    const target::SentImage sent =
        parts_.cloud.delivery()->send(disk.wish, *device, disk.content, {progress, copy_.tuning.throttle}, stop);
    const double seconds = std::chrono::duration<double>(parts_.clock.mono() - began).count();
    journal.append(ImageUploaded{disk.disk.key, sent.id, disk.content, sent.format, sent.stored_as, sent.bytes, seconds,
                                 sent.algorithm, sent.hash, sent.remark});
    journal.append(DiskDetached{disk.disk.key, known.volume});
    observer.said(fmt::format("{}: {:.0f} MiB of {} sent in {:.1f} s as image {}{}", disk.label,
                              static_cast<double>(sent.bytes) / 0x1p20, sent.format, seconds, sent.id.value,
                              sent.hash.empty() ? "" : ", whose " + sent.algorithm + " is right"));
    if (!sent.remark.empty()) observer.warned(fmt::format("{}: {}", disk.label, sent.remark));
    return sent.id;
  }

  Parts parts_;
  CopyOptions copy_;
};

// When the server runs: one that failed to start would have been made of new volumes, without another upload.
class RemoveImages final : public Step {
 public:
  explicit RemoveImages(const Parts& parts) : parts_(parts) {}
  std::string_view name() const noexcept override { return "remove the images"; }
  bool done(const State& state) const override {
    for (const auto& [key, disk] : state.disks)
      if (disk.image) return !state.server;
    return true;
  }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    target::Delivery& delivery = *parts_.cloud.delivery();
    target::Delivery::Keep keep;
    for (const auto& [key, disk] : state.disks)
      if (disk.delivered) keep.volumes.insert(disk.delivered->volume);
    for (const VolumeId& volume : keep.volumes) delivery.hand_over(volume, stop);
    // Images, and what a lost reply may have doubled.
    const target::Delivery::Swept swept = delivery.sweep(state.job->job, keep, stop);
    for (const std::string& what : swept.stuck_volumes) observer.warned(what);
    for (const std::string& what : swept.stuck)
      observer.warned(
          fmt::format("{} (where volumes are clones of their image, as with Ceph, it must stay as long as "
                      "they are there)",
                      what));
    journal.append(ImagesRemoved{swept.stuck});
  }

 private:
  Parts parts_;
};

}  // namespace

void sweep_broken_images(const Parts& parts, const State& state, Observer& observer, std::stop_token stop) {
  target::Delivery* delivery = parts.cloud.delivery();
  if (!delivery) return;
  target::Delivery::Keep keep;
  keep.every_volume = true;
  for (const auto& [key, disk] : state.disks)
    if (disk.image) keep.images.insert(disk.image->image);
  const target::Delivery::Swept swept = delivery->sweep(state.job->job, keep, stop);
  tell(swept, observer);
  for (const std::string& what : swept.stuck) observer.warned(what);
}

bool undo_delivery(const Parts& parts, const State& state, bool delete_volumes, Observer& observer,
                   std::stop_token stop) {
  target::Delivery* delivery = parts.cloud.delivery();
  if (!delivery) return true;
  // One that a server had is no replica any more: it has what the server wrote.
  target::Delivery::Keep keep;
  for (const auto& [key, disk] : state.disks) {
    if (!disk.delivered || !disk.delivered_used) continue;
    const VolumeId volume = disk.delivered->volume;
    if (delete_volumes) {
      delivery->discard(volume, state.job->job, stop);
      observer.said(fmt::format("volume {} is deleted", volume.value));
    } else {
      keep.volumes.insert(volume);
      observer.said(fmt::format("volume {} was a server's and is kept (--delete-volumes deletes it)", volume.value));
    }
  }
  const target::Delivery::Swept swept = delivery->sweep(state.job->job, keep, stop);
  tell(swept, observer);
  for (const auto* stuck : {&swept.stuck, &swept.stuck_volumes})
    for (const std::string& what : *stuck) observer.warned(what);
  return swept.stuck_volumes.empty();
}

std::unique_ptr<Step> deliver(const Parts& parts, const CopyOptions& copy) {
  return std::make_unique<Deliver>(parts, copy);
}
std::unique_ptr<Step> remove_images(const Parts& parts) { return std::make_unique<RemoveImages>(parts); }

}  // namespace vmferry::job::steps
