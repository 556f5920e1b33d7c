// Cinder's attachment says how the storage is reached, os-brick reaches it. The order of the steps, and what a run that
// died between two of them leaves, is in docs/adr/0011.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <fstream>

#include "base/error.hpp"
#include "base/sync.hpp"
#include "openstack/volume_attachments.hpp"
#include "target/openstack/attacher.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;
namespace cinder = client::volume_attachments;

class BrickAttacher final : public Attacher {
 public:
  BrickAttacher(BrickAttaching options, client::Cloud& cloud, process::Runner& runner, log::Log& log)
      : options_(std::move(options)), cloud_(cloud), brick_(options_.brick, runner, log), log_(log) {}

  void check(std::stop_token stop) override {
    const client::Service& service = cloud_.volume(stop);
    if (service.microversion() < cinder::needed)
      throw Error(Fault::unsupported,
                  fmt::format("{} knows its API up to {}; --attach brick needs {} (OpenStack Queens)", service.name(),
                              service.microversion().text(), cinder::needed.text()));
    connector(stop);
  }
  // There are no slots; whether the storage can be reached is only seen when it is connected.
  void judge(std::size_t, std::vector<plan::Finding>&, std::stop_token) override {}
  void tell(std::vector<plan::Finding>& found, std::stop_token stop) override {
    try {
      found.push_back({plan::Level::note, "this host",
                       fmt::format("volumes are connected by os-brick; it tells Cinder: {}", connector(stop)),
                       "the storage itself must be reachable from here, see docs/attach-modes.md", Fault::config});
    } catch (const Error&) {
      // check() says so.
    }
  }
  bool is_here(const client::Volume& volume, std::stop_token stop) override {
    return cinder::find(cloud_.volume(stop), volume, options_.holder, stop).has_value();
  }

  Place attach(const VolumeId& volume, std::stop_token stop) override {
    client::Service& service = cloud_.volume(stop);
    const client::CinderAttachment attachment =
        cinder::claim(service, volume, options_.holder, connector(stop), options_.patience, stop);
    const Connected connected = brick_.connect(volume, attachment.connection_info, stop);
    log_.info("volume connected",
              {{"volume", volume.value}, {"kind", connected.kind}, {"path", connected.path.string()}});
    cinder::complete(service, attachment, options_.patience, stop);
    return {connected.path, connected_identity(connected.path, volume.value, connected.wwn)};
  }

  void detach(const VolumeId& volume, std::stop_token stop) override {
    cinder::release(
        cloud_.volume(stop), volume, options_.holder,
        [&](const client::CinderAttachment* attachment) {
          // Only reserved: nobody ever connected it.
          const bool connected = attachment && !attachment->connection_info.empty();
          brick_.disconnect(volume, connected ? std::optional(attachment->connection_info) : std::nullopt, stop);
        },
        options_.patience, stop);
  }

 private:
  std::string connector(std::stop_token stop) {
    auto known = connector_.lock();
    if (known->empty()) *known = brick_.connector(cloud_.volume(stop).endpoint(), stop);
    return *known;
  }

  BrickAttaching options_;
  client::Cloud& cloud_;
  Brick brick_;
  log::Log& log_;
  Sync<std::string> connector_;
};

}  // namespace

// Nova gives a guest its id as system UUID (nova/virt/libvirt/driver.py, _get_guest_config_sysinfo); only root can read
// it, which --attach brick needs to be. The metadata service is not asked: another cloud's would answer, too.
void refuse_novas(client::Service& service, const VolumeId& volume, const std::string& instance_id,
                  const std::filesystem::path& firmware, std::stop_token stop) {
  std::string here = instance_id;
  if (here.empty()) {
    std::ifstream file(firmware / "product_uuid");
    std::getline(file, here);
    std::transform(here.begin(), here.end(), here.begin(), [](unsigned char c) { return std::tolower(c); });
  }
  if (here.empty() || !client::volumes::look_up(service, volume, stop)) return;
  for (const client::CinderAttachment& a : cinder::list(service, volume, stop))
    if (a.instance.value == here)
      throw Error(Fault::conflict, fmt::format("volume {} is attached to instance {}, which is this host, by --attach "
                                               "nova: run the same command with --attach nova",
                                               volume.value, here));
}

std::unique_ptr<Attacher> brick_attacher(BrickAttaching options, client::Cloud& cloud, process::Runner& runner,
                                         log::Log& log) {
  return std::make_unique<BrickAttacher>(std::move(options), cloud, runner, log);
}

}  // namespace vmferry::target::openstack
