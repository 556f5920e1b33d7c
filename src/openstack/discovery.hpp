// Where below a catalogue URL a service's API is, and which microversion both sides know. The reading of URLs and
// version documents is pure; only discover() asks.
#pragma once

#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "openstack/keystone.hpp"
#include "openstack/service.hpp"

namespace vmferry::openstack {

// "https://h/volume/v3/abc" = base "https://h/volume", version "v3", project "abc".
struct EndpointUrl {
  std::string base;
  std::string version;
  std::string project;
  bool operator==(const EndpointUrl&) const = default;
};
EndpointUrl split_endpoint(const std::string& url);

// One entry of a version document; both shapes {"version":{}} and {"versions":[]} are read, anything else is none.
struct ApiVersion {
  std::string id;  // "v2.1"
  Microversion lowest;
  Microversion highest;
};
std::vector<ApiVersion> parse_versions(const std::string& body);
std::optional<Microversion> parse_microversion(const std::string& text);

struct Discovered {
  std::string endpoint;
  Microversion microversion;
};

// `url` from the catalogue or an override. Error(config) when there is no such API, Error(unsupported) when it is too
// new.
Discovered discover(Session& session, ServiceKind kind, const std::string& url, std::stop_token stop);

}  // namespace vmferry::openstack
