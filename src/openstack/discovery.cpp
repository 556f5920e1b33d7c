// The paths are built on the catalogue's URL, never taken from the links inside version documents: behind a proxy those
// often name an inner host, plain http, or lack the prefix.
#include "openstack/discovery.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "openstack/errors.hpp"

namespace vmferry::openstack {

namespace {

// What we speak. The ceilings are the highest microversions whose changes were read and tried: answers of newer ones
// may differ. Nova's and Cinder's histories: docs.openstack.org/nova/latest/reference/api-microversion-history.html,
// docs.openstack.org/cinder/latest/contributor/api_microversion_history.html
struct Spoken {
  std::string_view version;
  Microversion ceiling;
};

Spoken spoken(ServiceKind kind) {
  switch (kind) {
    case ServiceKind::volume:
      return {"v3", {3, 70}};
    case ServiceKind::compute:
      return {"v2.1", {2, 79}};
    case ServiceKind::network:
      return {"v2.0", {}};
    case ServiceKind::image:
      return {"v2", {}};
  }
  return {};
}

bool is_version(const std::string& segment) {
  return segment.size() >= 2 && segment[0] == 'v' && std::isdigit(static_cast<unsigned char>(segment[1])) != 0 &&
         std::all_of(segment.begin() + 1, segment.end(),
                     [](unsigned char c) { return std::isdigit(c) != 0 || c == '.'; });
}

// "v2.1" -> "2"
std::string major(const std::string& version) { return version.substr(1, version.find('.') - 1); }

const ApiVersion* pick(const std::vector<ApiVersion>& versions, std::string_view wanted) {
  const ApiVersion* found = nullptr;
  for (const ApiVersion& version : versions) {
    if (!is_version(version.id) || major(version.id) != major(std::string(wanted))) continue;
    // Nova shows v2.0 (no microversions) beside v2.1: the one with microversions is the better.
    if (found == nullptr || version.highest > found->highest || version.id == wanted) found = &version;
  }
  return found;
}

struct Answer {
  int status = 0;
  std::vector<ApiVersion> versions;
};

Answer ask(Session& session, const std::string& url, std::stop_token stop) {
  http::Request request;
  request.url = url + "/";
  request.headers = {{"Accept", "application/json"}};
  request.idempotent = true;
  const http::Response response = session.send(request, stop);
  // 300 Multiple Choices is how the roots of Cinder and Glance answer.
  if (response.status != 200 && response.status != 300) return {response.status, {}};
  return {response.status, parse_versions(response.body)};
}

Microversion negotiated(Session& session, ServiceKind kind, const ApiVersion& version, const std::string& url) {
  Microversion ceiling = spoken(kind).ceiling;
  const auto& limits = session.config().api_versions;
  if (const auto limit = limits.find(std::string(to_string(kind))); limit != limits.end())
    if (const auto asked = parse_microversion(limit->second); asked && asked->major == ceiling.major)
      ceiling = std::min(ceiling, *asked);
  if (version.highest == Microversion{}) return {};
  if (ceiling < version.lowest)
    throw Error(Fault::unsupported,
                fmt::format("the {} API at {} needs at least microversion {}, and vmferry may speak at most {}: "
                            "use a newer vmferry, or raise the cloud's {}_api_version setting",
                            to_string(kind), url, version.lowest.text(), ceiling.text(), to_string(kind)));
  return std::min(ceiling, version.highest);
}

}  // namespace

std::optional<Microversion> parse_microversion(const std::string& text) {
  Microversion parsed;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, parsed.major);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, parsed.minor);
  if (second.ec != std::errc() || second.ptr != end) return std::nullopt;
  return parsed;
}

EndpointUrl split_endpoint(const std::string& url) {
  std::string rest = url.substr(0, url.find_first_of("?#"));
  while (!rest.empty() && rest.back() == '/') rest.pop_back();
  const std::size_t scheme = rest.find("://");
  const std::size_t path = rest.find('/', scheme == std::string::npos ? 0 : scheme + 3);
  EndpointUrl split{rest, "", ""};
  if (path == std::string::npos) return split;
  const std::size_t last = rest.rfind('/');
  const std::string tail = rest.substr(last + 1);
  if (is_version(tail)) return {rest.substr(0, last), tail, ""};
  if (last == path) return split;
  const std::size_t before = rest.rfind('/', last - 1);
  const std::string segment = rest.substr(before + 1, last - before - 1);
  if (is_version(segment)) return {rest.substr(0, before), segment, tail};
  return split;
}

std::vector<ApiVersion> parse_versions(const std::string& body) {
  std::vector<ApiVersion> versions;
  try {
    const Fields document = Fields::parse(body, "a version document");
    std::vector<Fields> items;
    if (document.has("versions")) items = document.each("versions");
    if (document.has("version")) items.push_back(document.at("version"));
    for (const Fields& item : items) {
      ApiVersion version{item.text("id"), {}, {}};
      // Old Nova says "", others leave it out: no microversions.
      const std::string highest = item.text(item.has("max_version") ? "max_version" : "version");
      if (const auto parsed = parse_microversion(highest)) version.highest = *parsed;
      if (const auto parsed = parse_microversion(item.text("min_version"))) version.lowest = *parsed;
      versions.push_back(std::move(version));
    }
  } catch (const Error&) {
    // Not a version document: somebody else answers there.
    return {};
  }
  return versions;
}

Discovered discover(Session& session, ServiceKind kind, const std::string& url, std::stop_token stop) {
  const Spoken ours = spoken(kind);
  const std::string wanted(ours.version);
  const EndpointUrl given = split_endpoint(url);
  if (!given.version.empty() && major(given.version) != major(wanted))
    throw Error(Fault::config,
                fmt::format("the {} endpoint {} is of API {}, and vmferry speaks {}: set {}_endpoint_override",
                            to_string(kind), url, given.version, wanted, to_string(kind)));
  // A plain "v2" of Nova is its old API without microversions: the other one is beside it.
  const bool outdated = kind == ServiceKind::compute && given.version != wanted;
  std::string version = given.version.empty() || outdated ? wanted : given.version;
  const bool microversioned = ours.ceiling != Microversion{};
  if (!microversioned && !given.version.empty()) return {given.base + "/" + version, {}};

  Answer answer = ask(session, given.base + "/" + version, stop);
  const ApiVersion* found = pick(answer.versions, version);
  if (found == nullptr) {
    // Neutron's and some proxies' versioned roots answer something else; the unversioned one lists them all.
    const int versioned_status = answer.status;
    answer = ask(session, given.base, stop);
    found = pick(answer.versions, wanted);
    if (found == nullptr && versioned_status == 404)
      throw Error(Fault::config,
                  fmt::format("there is no {} API {} at {}: check the catalogue, or set {}_endpoint_override",
                              to_string(kind), wanted, given.base, to_string(kind)));
    // A root that lists versions of the same major one under another name ("v2.9" of Glance) does not move the path.
    if (found != nullptr && microversioned && found->id == "v2.0" && kind == ServiceKind::compute) version = "v2";
  }
  Discovered result{given.base + "/" + version, {}};
  if (found != nullptr && microversioned) result.microversion = negotiated(session, kind, *found, given.base);

  std::string project = given.project;
  // Cinder's paths need the project's id up to 3.66, whether the catalogue has it or not.
  const bool optional_project = found != nullptr && found->highest >= Microversion{3, 67};
  if (kind == ServiceKind::volume && project.empty() && !optional_project) project = session.project_id();
  if (!project.empty()) result.endpoint += "/" + project;
  return result;
}

}  // namespace vmferry::openstack
