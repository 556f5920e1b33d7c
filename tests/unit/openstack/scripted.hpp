// A cloud made of answers written down in a test, and what was asked of it.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "http/http.hpp"
#include "openstack/cloud.hpp"
#include "support/fake_clock.hpp"

namespace vmferry::openstack {

using Answer = std::function<http::Response(const http::Request&)>;

inline http::Response answer(int status, std::string body, http::Headers headers = {}) {
  http::Response response;
  response.status = status;
  response.body = std::move(body);
  response.headers = std::move(headers);
  return response;
}

// Shared by the transport, which the Cloud owns, and the test.
struct Script {
  std::mutex mutex;
  Answer act;
  std::vector<http::Request> asked;
  int logins = 0;
  int lifetime_s = 3600;      // of the tokens
  bool act_on_login = false;  // logins go to `act` as well

  std::size_t count(const std::string& method, const std::string& part) {
    std::scoped_lock lock(mutex);
    std::size_t n = 0;
    for (const http::Request& r : asked)
      if (r.method == method && r.url.find(part) != std::string::npos) ++n;
    return n;
  }
};

inline std::string header_of(const http::Request& request, const std::string& name) {
  for (const auto& [key, value] : request.headers)
    if (key == name) return value;
  return {};
}

inline const char* catalog_json() {
  return R"([{"type":"volumev3","name":"cinderv3","endpoints":[{"interface":"public","region":"RegionOne","url":"http://cloud/volume/v3/p1"}]},
             {"type":"compute","name":"nova","endpoints":[{"interface":"public","region":"RegionOne","url":"http://cloud/compute/v2.1"}]},
             {"type":"network","name":"neutron","endpoints":[{"interface":"public","region":"RegionOne","url":"http://cloud/network"}]}])";
}

inline std::string token_json(int lifetime_s = 3600) {
  const int hours = lifetime_s / 3600, minutes = lifetime_s / 60 % 60, seconds = lifetime_s % 60;
  char expires[64];
  snprintf(expires, sizeof expires, "2027-01-01T%02d:%02d:%02d.000000Z", hours, minutes, seconds);
  return std::string(R"({"token":{"issued_at":"2027-01-01T00:00:00.000000Z","expires_at":")") + expires +
         R"(","project":{"id":"p1","name":"demo"},"catalog":)" + catalog_json() + "}}";
}

// Answers logins (token "t1", "t2", ...) and version documents itself; everything else goes to the script.
class ScriptedTransport final : public http::Transport {
 public:
  explicit ScriptedTransport(std::shared_ptr<Script> script) : script_(std::move(script)) {}
  http::Response send(const http::Request& request, std::stop_token stop) override {
    if (stop.stop_requested()) throw Cancelled();
    Answer act;
    {
      std::scoped_lock lock(script_->mutex);
      script_->asked.push_back(request);
      if (request.url == "http://cloud/identity/v3/auth/tokens" && request.method == "POST" && !script_->act_on_login)
        return answer(201, token_json(script_->lifetime_s),
                      {{"X-Subject-Token", "t" + std::to_string(++script_->logins)}});
      if (request.url == "http://cloud/volume/v3/")
        return answer(200, R"({"versions":[{"id":"v3.0","version":"3.70","min_version":"3.0"}]})");
      if (request.url == "http://cloud/compute/v2.1/")
        return answer(200, R"({"version":{"id":"v2.1","version":"2.93","min_version":"2.1"}})");
      if (request.url == "http://cloud/network/")
        return answer(200, R"({"versions":[{"id":"v2.0","status":"CURRENT"}]})");
      act = script_->act;
    }
    return act(request);
  }

 private:
  std::shared_ptr<Script> script_;
};

inline CloudConfig demo_config() {
  return read_config({{"OS_AUTH_URL", "http://cloud/identity"},
                      {"OS_USERNAME", "demo"},
                      {"OS_PASSWORD", "pass-of-demo"},
                      {"OS_PROJECT_NAME", "demo"}},
                     {});
}

// A Cloud on the script, logged in.
struct Bench {
  std::shared_ptr<Script> script = std::make_shared<Script>();
  support::FakeClock clock;
  log::Log log;
  std::unique_ptr<Cloud> cloud;

  explicit Bench(Answer act, int lifetime_s = 3600) {
    script->act = std::move(act);
    script->lifetime_s = lifetime_s;
    cloud = Cloud::open(demo_config(), std::make_unique<ScriptedTransport>(script), clock, log, {});
  }
  Service& volume() { return cloud->volume({}); }
  Service& compute() { return cloud->compute({}); }
  Service& network() { return cloud->network({}); }
};

}  // namespace vmferry::openstack
