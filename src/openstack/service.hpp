// One OpenStack service: calls below its endpoint with a token that is renewed when it is refused, its microversion,
// its pages, its errors as Fault. Knows no resource.
#pragma once

#include <compare>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "openstack/fields.hpp"

namespace vmferry::openstack {

class Session;
enum class ServiceKind { volume, compute, network, image };
std::string_view to_string(ServiceKind kind) noexcept;

// "2.79" as numbers; {0,0} = the service has none.
struct Microversion {
  int major = 0;
  int minor = 0;
  bool operator==(const Microversion&) const = default;
  // Not defaulted: clang-tidy 14 takes the comparison with 0 in that for a null pointer.
  std::strong_ordering operator<=>(const Microversion& other) const {
    return major == other.major ? minor <=> other.minor : major <=> other.major;
  }
  std::string text() const;
};

struct Call {
  std::string method = "GET";
  std::string path;                // below the endpoint, with its query: "/volumes/detail"
  std::string body;                // JSON
  http::Upload* upload = nullptr;  // instead of it: bytes
  std::string doing;               // for messages: "create volume 'web01-2000'"
  // May be repeated when its reply was lost (GET always is).
  bool idempotent = false;
  // Statuses to be returned instead of thrown, besides 2xx.
  std::vector<int> accept;
};

class Service {
 public:
  // Used by Cloud: asks the endpoint for its versions.
  Service(ServiceKind kind, std::shared_ptr<Session> session, std::string endpoint, Microversion microversion);

  // Throws Error (see errors.hpp), http::Broken, Cancelled. A 401 renews the token and repeats the call, twice at most,
  // whatever it is: refused means not done.
  http::Response call(const Call& call, std::stop_token stop) const;
  Fields get(const std::string& path, const std::string& doing, std::stop_token stop) const;
  // All items of the collection `key`, page after page.
  std::vector<Fields> list(const std::string& path, const std::string& key, const std::string& doing,
                           std::stop_token stop) const;

  // The microversion in use: the highest that both sides know.
  Microversion microversion() const noexcept { return microversion_; }
  const std::string& endpoint() const noexcept { return endpoint_; }
  ServiceKind kind() const noexcept { return kind_; }
  std::string name() const;  // "Cinder at https://..."
  Clock& clock() const noexcept;
  log::Log& log() const noexcept;

 private:
  ServiceKind kind_;
  std::shared_ptr<Session> session_;
  std::string endpoint_;  // without a slash at its end
  Microversion microversion_;
};

// Whether a creation that failed this way may have been carried out: its reply was lost, or a gateway gave up on it.
bool may_have_acted(const std::exception_ptr& failure) noexcept;

}  // namespace vmferry::openstack
