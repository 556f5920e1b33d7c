// An image is proven or it does not count: whatever a broken upload has left is deleted and made anew.
#include "target/image/delivery.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "openstack/errors.hpp"
#include "openstack/once.hpp"
#include "plan/plan.hpp"
#include "target/image/payload.hpp"
#include "target/image/qcow2.hpp"
#include "target/memory_keys.hpp"
#include "target/openstack/volume_wish.hpp"

namespace vmferry::target::image {

namespace {

namespace client = ::vmferry::openstack;

// Properties of an image; the first is the tag.
constexpr const char* job_property = "vmferry_job";
constexpr const char* disk_property = "vmferry_disk";
constexpr const char* content_property = "vmferry_content";
// For an image whose upload was not answered, and a volume that is to be deleted before it is made.
constexpr std::chrono::seconds late_patience(300);

class ImageDelivery final : public Delivery {
 public:
  ImageDelivery(const Options& options, client::Cloud& cloud, process::Runner& runner, Clock& clock, log::Log& log)
      : options_(options), cloud_(cloud), runner_(runner), clock_(clock), log_(log), room_(options.directory) {}

  Swept sweep(const JobId& job, const Keep& keep, std::stop_token stop) override;
  SentImage send(const VolumeWish& wish, const Device& device, const std::string& content, const Sending& how,
                 std::stop_token stop) override;
  VolumeId order(const VolumeWish& wish, const ImageId& image, std::stop_token stop) override;
  void await(const VolumeWish& wish, const VolumeId& volume, std::stop_token stop) override;
  void hand_over(const VolumeId& volume, std::stop_token stop) override;
  void discard(const VolumeId& volume, const JobId& job, std::stop_token stop) override;

 private:
  void sweep_images(const JobId& job, const Keep& keep, Swept& swept, std::stop_token stop);
  void sweep_volumes(const JobId& job, const Keep& keep, Swept& swept, std::stop_token stop);
  client::ImageWish image_wish(const VolumeWish& wish, const std::string& content) const;
  SentImage attempt(const client::ImageWish& wish, Payload& payload, int sent_fd, const Device& device,
                    std::stop_token stop);
  client::Image upload(const ImageId& image, Payload& payload, std::stop_token stop);
  void prove(SentImage& sent, const client::Image& stored, Payload& payload, int sent_fd, const Device& device,
             std::stop_token stop) const;

  Options options_;
  client::Cloud& cloud_;
  process::Runner& runner_;
  Clock& clock_;
  log::Log& log_;
  Room room_;
};

// ---- what is there

// A deletion that fails is told, so that the others get their turn.
void try_to_delete(const std::string& what, std::vector<std::string>& deleted, std::vector<std::string>& stuck,
                   const std::function<void()>& act) {
  try {
    act();
    deleted.push_back(what);
  } catch (const Error& e) {
    stuck.push_back(fmt::format("{}: {}", what, e.what()));
  }
}

void ImageDelivery::sweep_images(const JobId& job, const Keep& keep, Swept& swept, std::stop_token stop) {
  client::Service& service = cloud_.image(stop);
  for (const client::Image& image : client::images::find_tagged(service, {{job_property, job.value}}, stop)) {
    const ImageId id{image.id};
    if (keep.images.contains(id) && image.status == "active") {
      swept.images.insert(id);
      continue;
    }
    log_.info("deleting image", {{"image", image.id}, {"status", image.status}, {"job", job.value}});
    try_to_delete("image " + image.id, swept.deleted, swept.stuck, [&] { client::images::remove(service, id, stop); });
  }
}

void ImageDelivery::sweep_volumes(const JobId& job, const Keep& keep, Swept& swept, std::stop_token stop) {
  client::Service& service = cloud_.volume(stop);
  for (const client::Volume& volume : client::volumes::find(service, {{memory_key::job, job.value}}, stop)) {
    if (!volume.metadata.contains(memory_key::image) || volume.status == "deleting") continue;
    const bool whole = volume.status == "available" || volume.status == "in-use";
    if (keep.volumes.contains(volume.id)) {
      if (whole) swept.volumes.insert(volume.id);
      continue;
    }
    // Ordered by a run that died before it could say so: order() finds it.
    if (keep.images.contains(ImageId{value(volume.metadata, memory_key::image)}) && !keep.used.contains(volume.id))
      continue;
    log_.info("deleting volume", {{"volume", volume.id.value}, {"status", volume.status}, {"job", job.value}});
    try_to_delete("volume " + volume.id.value, swept.deleted, swept.stuck_volumes, [&] {
      // Cinder deletes none that is still being made.
      if (!whole) client::volumes::wait_for(service, volume.id, {"available", "error"}, late_patience, stop);
      client::volumes::remove(service, volume.id, stop);
    });
  }
}

Delivery::Swept ImageDelivery::sweep(const JobId& job, const Keep& keep, std::stop_token stop) {
  Swept swept;
  if (!keep.every_volume) sweep_volumes(job, keep, swept, stop);
  sweep_images(job, keep, swept, stop);
  return swept;
}

// ---- images

client::ImageWish ImageDelivery::image_wish(const VolumeWish& wish, const std::string& content) const {
  client::ImageWish make;
  make.name = wish.tag.volume_name;
  make.disk_format = options_.format;
  make.min_disk_gib = static_cast<std::int64_t>(plan::gib_for(wish.bytes));
  make.properties = {{job_property, wish.tag.job.value}, {disk_property, to_string(wish.tag.disk)}};
  make.tag = make.properties;
  if (!content.empty()) make.properties[content_property] = content;
  // Cinder takes these over to the volume (get_volume_image_metadata in cinder/volume/volume_utils.py).
  if (wish.boot) make.properties.insert(wish.image_properties.begin(), wish.image_properties.end());
  return make;
}

// Sends the bytes. Whatever goes wrong after the last of them was read may have gone right: then the image tells.
client::Image ImageDelivery::upload(const ImageId& image, Payload& payload, std::stop_token stop) {
  client::Service& service = cloud_.image(stop);
  const bool importing = options_.method == Method::import ||
                         (options_.method == Method::automatic && client::images::may_import(service, stop));
  const auto began = clock_.mono();
  try {
    if (importing)
      client::images::stage_data(service, image, payload, stop);
    else
      client::images::put_data(service, image, payload, stop);
  } catch (const Error& e) {
    if (!payload.spent() || !client::may_have_acted(std::current_exception())) throw;
    log_.warning("the upload was not answered; looking whether it was done",
                 {{"image", image.value}, {"reason", e.what()}});
    // A gateway that holds the body back gives it to Glance when it has all of it, and does not wait for the end: that
    // takes about as long once more.
    const auto patience = late_patience + std::chrono::duration_cast<std::chrono::seconds>(clock_.mono() - began);
    if (!importing) return client::images::wait_until_active(service, image, patience, stop);
    if (!client::images::wait_until_staged(service, image, payload.bytes(), patience, stop)) throw;
  }
  if (importing) client::images::import_staged(service, image, stop);
  return client::images::wait_until_active(service, image, options_.patience, stop);
}

SentImage ImageDelivery::attempt(const client::ImageWish& wish, Payload& payload, int sent_fd, const Device& device,
                                 std::stop_token stop) {
  const ImageId id{client::images::create(cloud_.image(stop), wish, stop).id};
  log_.info("image created", {{"image", id.value}, {"name", wish.name}, {"format", wish.disk_format}});
  try {
    const client::Image stored = upload(id, payload, stop);
    SentImage sent;
    sent.id = id;
    sent.format = wish.disk_format;
    sent.bytes = payload.bytes();
    prove(sent, stored, payload, sent_fd, device, stop);
    return sent;
  } catch (const Error&) {
    const std::exception_ptr failure = std::current_exception();
    try {
      client::images::remove(cloud_.image(stop), id, stop);
    } catch (const Error& e) {
      log_.warning("an image that is of no use is still there; the next run deletes it",
                   {{"image", id.value}, {"reason", e.what()}});
    }
    std::rethrow_exception(failure);
  }
}

bool worth_another(const Error& e) {
  return e.fault() == Fault::unavailable || e.fault() == Fault::timeout || e.fault() == Fault::not_found ||
         e.fault() == Fault::data || e.fault() == Fault::conflict;
}

SentImage ImageDelivery::send(const VolumeWish& wish, const Device& device, const std::string& content,
                              const Sending& how, std::stop_token stop) {
  constexpr int attempts = 3;
  const client::ImageWish make = image_wish(wish, content);
  std::optional<Qcow2> qcow2;
  if (options_.format == "qcow2") {
    how.progress.waiting("qemu-img makes a qcow2 file of it, when there is room for it");
    qcow2 = make_qcow2(runner_, device.fd(), room_, stop);
  }
  const int sent_fd = qcow2 ? qcow2->fd.get() : device.fd();
  Payload payload(sent_fd, qcow2 ? qcow2->bytes : device.bytes(), how, clock_, stop);
  for (int number = 1;; ++number) {
    try {
      return attempt(make, payload, sent_fd, device, stop);
    } catch (const Error& e) {
      if (number == attempts || !worth_another(e)) throw;
      log_.warning("the image is sent again", {{"name", make.name}, {"reason", e.what()}});
      how.progress.waiting(fmt::format("it is sent again: {}", e.what()));
    }
    sleep_or_cancel(clock_, std::chrono::seconds(2), stop);
  }
}

void ImageDelivery::prove(SentImage& sent, const client::Image& stored, Payload& payload, int sent_fd,
                          const Device& device, std::stop_token stop) const {
  sent.stored_as = stored.disk_format;
  const Proof proof = proof_of(stored, sent.format, payload.bytes(), device.bytes());
  std::optional<std::string> ours;
  std::string theirs = stored.hash;
  sent.algorithm = stored.hash_algorithm;
  if (proof == Proof::hash) {
    ours = stored.hash_algorithm == "sha512" ? payload.sha512() : std::nullopt;
    if (!ours) ours = hash_of(sent_fd, payload.bytes(), stored.hash_algorithm, stop);
  } else if (proof == Proof::md5) {
    sent.algorithm = "md5";
    theirs = stored.md5;
    ours = hash_of(sent_fd, payload.bytes(), "md5", stop);
  } else if (proof == Proof::raw_hash) {
    ours = hash_of(device.fd(), device.bytes(), stored.hash_algorithm, stop);
    sent.remark = fmt::format("the cloud converted image {} from {} to raw; it was compared with the raw disk",
                              sent.id.value, sent.format);
  }
  if (proof == Proof::different || (ours && *ours != theirs))
    throw Error(Fault::data,
                fmt::format("image {} does not hold what was sent: {} bytes of {} were sent, it has {} of {}{}",
                            sent.id.value, payload.bytes(), sent.format, stored.bytes, stored.disk_format,
                            ours ? fmt::format(", and another {} ({}, not {})", sent.algorithm, theirs, *ours) : ""));
  if (ours) {
    sent.hash = *ours;
    return;
  }
  sent.remark = fmt::format(
      "image {} could not be compared with what was sent: the cloud {} and gives {}", sent.id.value,
      stored.disk_format == sent.format ? "stored it as it was"
                                        : fmt::format("converted it from {} to {}", sent.format, stored.disk_format),
      stored.hash_algorithm.empty() ? "no hash" : "a hash of the kind " + stored.hash_algorithm);
  sent.algorithm.clear();
}

// ---- volumes

VolumeId ImageDelivery::order(const VolumeWish& wish, const ImageId& image, std::stop_token stop) {
  client::Service& service = cloud_.volume(stop);
  client::VolumeWish make = openstack::volume_wish(options_.openstack, wish);
  make.image = image;
  make.metadata[memory_key::image] = image.value;
  make.tag[memory_key::image] = image.value;
  for (const client::Volume& volume : client::volumes::find(service, make.tag, stop)) {
    if (volume.status == "deleting") continue;
    if (volume.status.rfind("error", 0) != 0) return volume.id;
    log_.warning("deleting a volume that could not be made of its image, to try again",
                 {{"volume", volume.id.value}, {"image", image.value}});
    client::volumes::remove(service, volume.id, stop);
  }
  const VolumeId id = client::volumes::create(service, make, stop).id;
  log_.info("volume ordered", {{"volume", id.value}, {"image", image.value}, {"gib", std::to_string(make.gib)}});
  return id;
}

void ImageDelivery::await(const VolumeWish& wish, const VolumeId& volume, std::stop_token stop) {
  client::Service& service = cloud_.volume(stop);
  const client::Volume made = client::volumes::wait_for(service, volume, {"available"}, options_.patience, stop);
  // Cinder marks each volume that comes from an image as bootable (enable_bootable_flag).
  if (wish.boot)
    openstack::make_bootable(service, made, wish.image_properties, stop);
  else if (made.bootable)
    client::volumes::set_bootable(service, volume, false, stop);
  // Cinder copied the image's properties, and copies them on to images that users make of this volume: those are none
  // of ours.
  for (const auto& [key, ignored] : made.image_metadata)
    if (key.starts_with("vmferry_")) client::volumes::unset_image_metadata(service, volume, key, stop);
}

void ImageDelivery::hand_over(const VolumeId& volume, std::stop_token stop) {
  client::Service& service = cloud_.volume(stop);
  const auto found = client::volumes::look_up(service, volume, stop);
  if (!found || !found->metadata.contains(memory_key::image)) return;
  // First what it is from now on: without either word it would seem to be empty.
  client::volumes::update_metadata(service, volume, {{memory_key::moved, value(found->metadata, memory_key::job)}},
                                   stop);
  client::volumes::remove_metadata(service, volume, memory_key::image, stop);
}

void ImageDelivery::discard(const VolumeId& volume, const JobId& job, std::stop_token stop) {
  client::Service& service = cloud_.volume(stop);
  const auto found = client::volumes::look_up(service, volume, stop);
  if (!found) return;
  if (value(found->metadata, memory_key::job) != job.value)
    throw Error(Fault::conflict, fmt::format("volume {} ('{}') is not deleted: it does not carry the tag of job {}",
                                             volume.value, found->name, job.value));
  log_.info("deleting volume", {{"volume", volume.value}, {"job", job.value}});
  client::volumes::remove(service, volume, stop);
}

}  // namespace

Proof proof_of(const client::Image& stored, const std::string& sent_format, std::uint64_t sent_bytes,
               std::uint64_t disk_bytes) {
  const bool as_sent = stored.disk_format == sent_format;
  if (!as_sent && stored.disk_format != "raw") return Proof::none;
  const std::uint64_t expected = as_sent ? sent_bytes : disk_bytes;
  if (stored.bytes >= 0 && static_cast<std::uint64_t>(stored.bytes) != expected) return Proof::different;
  if (!stored.hash.empty() && Hasher::of(stored.hash_algorithm)) return as_sent ? Proof::hash : Proof::raw_hash;
  return as_sent && !stored.md5.empty() ? Proof::md5 : Proof::none;
}

std::unique_ptr<Delivery> image_delivery(const Options& options, client::Cloud& cloud, process::Runner& runner,
                                         Clock& clock, log::Log& log) {
  return std::make_unique<ImageDelivery>(options, cloud, runner, clock, log);
}

}  // namespace vmferry::target::image
