// The client of the lab's OpenStack, as the program opens it, but not as patient.
#pragma once

#include <functional>
#include <memory>

#include "base/clock.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "openstack/cloud.hpp"
#include "openstack/cloud_config.hpp"
#include "support/lab.hpp"

namespace vmferry::support {

inline openstack::Environment openstack_environment(const Lab& lab) {
  return {{"OS_CLIENT_CONFIG_FILE", lab.get("openstack.clouds_yaml")}, {"OS_CLOUD", lab.get("openstack.cloud")}};
}

inline std::unique_ptr<http::Transport> openstack_transport(const openstack::CloudConfig& config, Clock& clock,
                                                            log::Log& log) {
  http::CurlOptions options;
  options.trust = openstack::trust(config);
  http::RetryPolicy policy;
  policy.first_wait = std::chrono::milliseconds(20);
  return http::retrying(http::curl(std::move(options), log), policy, clock, log);
}

// Between the client and the wire: sees each request before it is sent, and its answer before the client does.
class Watched final : public http::Transport {
 public:
  using Before = std::function<void(const http::Request&)>;
  using After = std::function<void(const http::Request&, const http::Response&)>;
  Watched(std::unique_ptr<http::Transport> below, Before before, After after)
      : below_(std::move(below)), before_(std::move(before)), after_(std::move(after)) {}
  http::Response send(const http::Request& request, std::stop_token stop) override {
    if (before_) before_(request);
    http::Response response = below_->send(request, stop);
    if (after_) after_(request, response);
    return response;
  }

 private:
  std::unique_ptr<http::Transport> below_;
  Before before_;
  After after_;
};

// `wrap`: something between the client and the wire.
using Wrap = std::function<std::unique_ptr<http::Transport>(std::unique_ptr<http::Transport>)>;
inline std::unique_ptr<openstack::Cloud> open_cloud(openstack::CloudConfig config, Clock& clock, log::Log& log,
                                                    const Wrap& wrap = {}) {
  auto transport = openstack_transport(config, clock, log);
  if (wrap) transport = wrap(std::move(transport));
  return openstack::Cloud::open(std::move(config), std::move(transport), clock, log, {});
}
inline std::unique_ptr<openstack::Cloud> open_cloud(const Lab& lab, Clock& clock, log::Log& log,
                                                    const Wrap& wrap = {}) {
  return open_cloud(openstack::load(openstack_environment(lab)), clock, log, wrap);
}

}  // namespace vmferry::support
