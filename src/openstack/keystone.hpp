// A login that lasts: gets a token from Keystone, renews it once for all threads when it ends or is refused, and reads
// the service catalogue. Knows no other service.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/secret.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "openstack/cloud_config.hpp"

namespace vmferry::openstack {

struct Endpoint {
  std::string interface;
  std::string region;
  std::string url;
};

struct CatalogEntry {
  std::string type;
  std::string name;
  std::vector<Endpoint> endpoints;
};

struct Token {
  Secret value;
  std::optional<std::chrono::seconds> lifetime;  // by Keystone's own clock, so that ours may be wrong
  std::string project_id;
  std::string project_name;
  std::vector<CatalogEntry> catalog;
};

// The body of POST /v3/auth/tokens. Holds secrets.
std::string auth_body(const CloudConfig& config);
// The answer to it, `value` from its X-Subject-Token.
Token parse_token(const std::string& body, Secret value);
// "https://host/identity" -> "https://host/identity/v3"; a version 2 address becomes one of version 3.
std::string keystone_url(const std::string& auth_url);

// The URL of a service by its catalogue types, in order of preference. Error(config) that names what there is.
std::string find_endpoint(const std::vector<CatalogEntry>& catalog, const std::string& what,
                          const std::vector<std::string>& types, const std::string& region,
                          const std::string& interface);

class Session {
 public:
  Session(CloudConfig config, std::unique_ptr<http::Transport> transport, Clock& clock, log::Log& log);

  void log_in(std::stop_token stop);
  // Sends with the token; a refused token is renewed and the request sent again, three times at most, whatever it is:
  // 401 means not done.
  http::Response send(http::Request request, std::stop_token stop);

  const CloudConfig& config() const noexcept { return config_; }
  std::vector<CatalogEntry> catalog() const;
  std::string project_id() const;
  std::string project_name() const;
  Clock& clock() const noexcept { return clock_; }
  log::Log& log() const noexcept { return log_; }

 private:
  struct Current {
    Secret value;
    std::uint64_t generation = 0;  // how often we logged in; 0 = never
  };
  Current current(std::stop_token stop);
  Current renewed(std::uint64_t refused, std::stop_token stop);
  Token authenticate(std::stop_token stop);
  Token adopt_given_token(std::stop_token stop);
  Token ask(std::stop_token stop);
  std::string whom() const;

  const CloudConfig config_;
  const std::string url_;  // Keystone's, with its version
  const std::unique_ptr<http::Transport> transport_;
  Clock& clock_;
  log::Log& log_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  bool renewing_ = false;
  std::uint64_t generation_ = 0;
  Token token_;
  std::optional<std::chrono::steady_clock::time_point> renew_at_;
};

}  // namespace vmferry::openstack
