// An OpenStack cloud one is logged into: a token that renews itself, the service catalogue, and the services found
// through it. Knows no resource. Thread-safe.
#pragma once

#include <memory>
#include <stop_token>
#include <string>

#include "base/clock.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "openstack/cloud_config.hpp"
#include "openstack/service.hpp"

namespace vmferry::openstack {

class Cloud {
 public:
  // Logs in. `transport` is used for every service: http::retrying over http::curl with trust(config). `clock` and
  // `log` must outlive it. Tokens are added to the log's redactor. Throws Error(auth) with Keystone's words.
  static std::unique_ptr<Cloud> open(CloudConfig config, std::unique_ptr<http::Transport> transport, Clock& clock,
                                     log::Log& log, std::stop_token stop);
  ~Cloud();
  Cloud(const Cloud&) = delete;
  Cloud& operator=(const Cloud&) = delete;

  // Finds its endpoint and versions at the first call; the reference lives as long as the Cloud. A service that the
  // catalogue lacks is Error(config) naming what it has.
  Service& volume(std::stop_token stop);
  Service& compute(std::stop_token stop);
  Service& network(std::stop_token stop);
  Service& image(std::stop_token stop);

  std::string project_id() const;
  // "project lab at https://cloud.example/identity/v3 (region RegionOne)"
  std::string describe() const;

 private:
  Cloud();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vmferry::openstack
