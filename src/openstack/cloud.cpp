// Puts session, catalogue and services together; each service is looked for once.
#include "openstack/cloud.hpp"

#include <fmt/format.h>

#include <mutex>

#include "openstack/discovery.hpp"
#include "openstack/keystone.hpp"

namespace vmferry::openstack {

namespace {

// The catalogue types a service may have: the official one of service-types.openstack.org, then its older names.
const std::vector<std::string>& types_of(ServiceKind kind) {
  static const std::vector<std::string> volume{"block-storage", "volumev3", "block-store", "volume"},
      compute{"compute"}, network{"network"}, image{"image"};
  switch (kind) {
    case ServiceKind::volume:
      return volume;
    case ServiceKind::compute:
      return compute;
    case ServiceKind::network:
      return network;
    case ServiceKind::image:
      break;
  }
  return image;
}

std::string words_for(ServiceKind kind) {
  switch (kind) {
    case ServiceKind::volume:
      return "block storage (Cinder)";
    case ServiceKind::compute:
      return "compute (Nova)";
    case ServiceKind::network:
      return "network (Neutron)";
    case ServiceKind::image:
      break;
  }
  return "image (Glance)";
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

}  // namespace

struct Cloud::State {
  std::shared_ptr<Session> session;
  // One lock per service: a slow one does not hold up the others.
  struct Slot {
    std::mutex mutex;
    std::unique_ptr<Service> service;
  };
  Slot slots[4];

  std::string url_of(ServiceKind kind) const {
    const CloudConfig& config = session->config();
    const auto given = config.endpoints.find(std::string(to_string(kind)));
    if (given == config.endpoints.end())
      return find_endpoint(session->catalog(), words_for(kind), types_of(kind), config.region, config.interface);
    std::string url = given->second;
    for (const char* placeholder : {"%(project_id)s", "$(project_id)s", "%(tenant_id)s", "$(tenant_id)s"})
      replace_all(url, placeholder, session->project_id());
    return url;
  }

  Service& service(ServiceKind kind, std::stop_token stop) {
    Slot& slot = slots[static_cast<std::size_t>(kind)];
    std::scoped_lock lock(slot.mutex);
    if (!slot.service) {
      const Discovered found = discover(*session, kind, url_of(kind), stop);
      session->log().debug(
          "found an OpenStack service",
          {{"service", to_string(kind)}, {"endpoint", found.endpoint}, {"microversion", found.microversion.text()}});
      slot.service = std::make_unique<Service>(kind, session, found.endpoint, found.microversion);
    }
    return *slot.service;
  }
};

Cloud::Cloud() : state_(std::make_unique<State>()) {}
Cloud::~Cloud() = default;

std::unique_ptr<Cloud> Cloud::open(CloudConfig config, std::unique_ptr<http::Transport> transport, Clock& clock,
                                   log::Log& log, std::stop_token stop) {
  std::unique_ptr<Cloud> cloud(new Cloud());
  cloud->state_->session = std::make_shared<Session>(std::move(config), std::move(transport), clock, log);
  cloud->state_->session->log_in(stop);
  return cloud;
}

Service& Cloud::volume(std::stop_token stop) { return state_->service(ServiceKind::volume, stop); }
Service& Cloud::compute(std::stop_token stop) { return state_->service(ServiceKind::compute, stop); }
Service& Cloud::network(std::stop_token stop) { return state_->service(ServiceKind::network, stop); }
Service& Cloud::image(std::stop_token stop) { return state_->service(ServiceKind::image, stop); }

std::string Cloud::project_id() const { return state_->session->project_id(); }

std::string Cloud::describe() const {
  const Session& session = *state_->session;
  const std::string project = session.project_name().empty() ? session.project_id() : session.project_name();
  std::string text = fmt::format("project {} at {}", project, session.config().auth_url);
  if (!session.config().region.empty()) text += fmt::format(" (region {})", session.config().region);
  return text;
}

}  // namespace vmferry::openstack
