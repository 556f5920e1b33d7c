// Nova attaches the volume to this instance; udev names the device after the volume.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/machine.hpp"
#include "base/sync.hpp"
#include "openstack/attachments.hpp"
#include "openstack/instance.hpp"
#include "openstack/servers.hpp"
#include "openstack/volume_attachments.hpp"
#include "target/device.hpp"
#include "target/openstack/attacher.hpp"
#include "target/openstack/room.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;

class NovaAttacher final : public Attacher {
 public:
  NovaAttacher(NovaAttaching options, client::Cloud& cloud, std::unique_ptr<http::Transport> metadata, Clock& clock,
               log::Log& log)
      : options_(std::move(options)), cloud_(cloud), metadata_(std::move(metadata)), clock_(clock), log_(log) {}

  void check(std::stop_token stop) override {
    const ServerId id = instance(stop);
    if (!client::servers::look_up(cloud_.compute(stop), id, stop))
      throw Error(
          Fault::config,
          fmt::format("{} would be instance {}, but {} has no such instance: vmferry must run in an instance of "
                      "the project it migrates to (or name it with --instance-id; --attach brick and --target "
                      "image:DIR need none)",
                      options_.here, id.value, cloud_.describe()));
  }
  void judge(std::size_t count, std::vector<plan::Finding>& found, std::stop_token stop) override {
    judge_slots(cloud_, instance(stop), count, found, stop);
  }
  bool is_here(const client::Volume& volume, std::stop_token stop) override {
    if (volume.attachments.empty()) return false;
    const ServerId here = instance(stop);
    return std::any_of(volume.attachments.begin(), volume.attachments.end(),
                       [&](const client::VolumeAttachment& a) { return a.server == here; });
  }
  Place attach(const VolumeId& volume, std::stop_token stop) override {
    refuse_bricks(cloud_.volume(stop), client::volumes::get(cloud_.volume(stop), volume, stop), true, stop);
    const ServerId here = instance(stop);
    client::attachments::attach(cloud_.compute(stop), cloud_.volume(stop), here, volume, options_.attach_patience,
                                stop);
    return {await_link(volume, here, stop), options_.identity};
  }
  void detach(const VolumeId& volume, std::stop_token stop) override {
    if (const auto now = client::volumes::look_up(cloud_.volume(stop), volume, stop))
      refuse_bricks(cloud_.volume(stop), *now, false, stop);
    client::attachments::detach(cloud_.compute(stop), cloud_.volume(stop), instance(stop), volume,
                                options_.attach_patience, stop);
  }

 private:
  ServerId instance(std::stop_token stop) {
    if (!options_.instance_id.empty()) return ServerId{options_.instance_id};
    auto known = instance_.lock();
    if (!*known) *known = client::this_instance(*metadata_, options_.instance_sources, stop);
    return **known;
  }

  std::filesystem::path await_link(const VolumeId& volume, const ServerId& here, std::stop_token stop) {
    const auto began = clock_.mono();
    auto told = began;
    for (;;) {
      if (const auto link = find_link(options_.device_directory, volume)) return *link;
      const auto now = clock_.mono();
      if (now - began >= options_.device_patience)
        throw Error(
            Fault::timeout,
            fmt::format("volume {} is attached to instance {}, but after {} s no link in {} has its id: is {} really "
                        "that instance, does udev run, and does a container see the host's /dev?",
                        volume.value, here.value, options_.device_patience.count(), options_.device_directory.string(),
                        options_.here));
      if (now - told >= std::chrono::seconds(10)) {
        told = now;
        log_.info("waiting for the device to appear",
                  {{"volume", volume.value}, {"directory", options_.device_directory.string()}});
      }
      sleep_or_cancel(clock_, std::chrono::milliseconds(200), stop);
    }
  }

  NovaAttaching options_;
  client::Cloud& cloud_;
  std::unique_ptr<http::Transport> metadata_;
  Clock& clock_;
  log::Log& log_;
  Sync<std::optional<ServerId>> instance_;
};

}  // namespace

void refuse_bricks(client::Service& service, const client::Volume& volume, bool of_any, std::stop_token stop) {
  const auto found = client::volume_attachments::recorded(service, volume, stop);
  if (!found) return;
  const auto mark = look_up_machine_mark();
  const bool here = mark && client::volume_attachments::same_machine(found->host, *mark);
  if (!here && !of_any && !client::volumes::is_passing(volume.status)) return;
  throw Error(Fault::conflict,
              fmt::format("volume {} ('{}') is attached to host {} (attachment {}, {}) by --attach brick: run the same "
                          "command {}with --attach brick",
                          volume.id.value, volume.name, found->host, found->attachment.id, found->attachment.status,
                          here ? "" : "there "));
}

std::unique_ptr<Attacher> nova_attacher(NovaAttaching options, client::Cloud& cloud,
                                        std::unique_ptr<http::Transport> metadata, Clock& clock, log::Log& log) {
  return std::make_unique<NovaAttacher>(std::move(options), cloud, std::move(metadata), clock, log);
}

}  // namespace vmferry::target::openstack
