// Logging in and staying so. One thread renews, the others wait for it.
#include "openstack/keystone.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>

#include "base/finally.hpp"
#include "openstack/errors.hpp"
#include "openstack/fields.hpp"

namespace vmferry::openstack {

namespace {

using nlohmann::json;

json domain_of(const Named& thing) {
  if (!thing.domain_id.empty()) return {{"id", thing.domain_id}};
  return {{"name", thing.domain_name}};
}

// By id alone, or by name with its domain: Keystone refuses a domain beside an id.
json named(const Named& thing) {
  if (!thing.id.empty()) return {{"id", thing.id}};
  return {{"name", thing.name}, {"domain", domain_of(thing)}};
}

std::string revealed(const Secret& secret) { return std::string(secret.reveal()); }

// "2024-01-31T12:00:00.000000Z" as seconds since the epoch.
std::optional<std::chrono::seconds> utc(const std::string& text) {
  std::tm when{};
  const char* rest = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &when);
  if (rest == nullptr) return std::nullopt;
  return std::chrono::seconds(timegm(&when));
}

// A token is renewed a little before its end, so that a call in flight does not meet it.
std::chrono::milliseconds margin(std::chrono::seconds lifetime) {
  return std::min(std::chrono::milliseconds(60000), std::chrono::milliseconds(lifetime) / 10);
}

std::string described(const Named& thing) {
  if (!thing.name.empty()) return fmt::format("'{}'", thing.name);
  return thing.id.empty() ? "" : fmt::format("{}", thing.id);
}

std::string without_slash(std::string url) {
  while (!url.empty() && url.back() == '/') url.pop_back();
  return url;
}

bool same_project(const Named& wanted, const Token& token) {
  if (wanted.empty()) return true;
  return wanted.id.empty() ? wanted.name == token.project_name : wanted.id == token.project_id;
}

}  // namespace

std::string keystone_url(const std::string& auth_url) {
  const std::string url = without_slash(auth_url);
  const std::string last = url.substr(url.rfind('/') + 1);
  if (last == "v3") return url;
  if (last == "v2.0" || last == "v2") return url.substr(0, url.rfind('/')) + "/v3";
  return url + "/v3";
}

std::string auth_body(const CloudConfig& config) {
  json identity;
  json auth;
  switch (config.method) {
    case AuthMethod::password: {
      json user = named(config.user);
      user["password"] = revealed(config.password);
      identity = {{"methods", {"password"}}, {"password", {{"user", std::move(user)}}}};
      break;
    }
    case AuthMethod::application_credential: {
      json credential{{"secret", revealed(config.application_secret)}};
      if (!config.application_credential.id.empty()) {
        credential["id"] = config.application_credential.id;
      } else {
        credential["name"] = config.application_credential.name;
        credential["user"] = named(config.user);
      }
      identity = {{"methods", {"application_credential"}}, {"application_credential", std::move(credential)}};
      break;
    }
    case AuthMethod::token:
      identity = {{"methods", {"token"}}, {"token", {{"id", revealed(config.token)}}}};
      break;
  }
  auth["identity"] = std::move(identity);
  // Keystone refuses a scope beside an application credential, which has its own.
  if (config.method != AuthMethod::application_credential && !config.project.empty())
    auth["scope"] = {{"project", named(config.project)}};
  return json{{"auth", std::move(auth)}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

Token parse_token(const std::string& body, Secret value) {
  if (value.empty())
    throw Error(Fault::data, "Keystone's answer has no X-Subject-Token: is auth_url the address of Keystone?");
  const Fields fields = Fields::parse(body, "Keystone's answer").at("token");
  Token token;
  token.value = std::move(value);
  token.project_id = fields.at("project").text("id");
  token.project_name = fields.at("project").text("name");
  const auto issued = utc(fields.text("issued_at")), expires = utc(fields.text("expires_at"));
  if (issued && expires && *expires > *issued) token.lifetime = *expires - *issued;
  for (const Fields& item : fields.each("catalog")) {
    CatalogEntry entry{item.text("type"), item.text("name"), {}};
    for (const Fields& endpoint : item.each("endpoints")) {
      const std::string region = endpoint.text("region");
      entry.endpoints.push_back(
          {endpoint.text("interface"), region.empty() ? endpoint.text("region_id") : region, endpoint.text("url")});
    }
    token.catalog.push_back(std::move(entry));
  }
  return token;
}

std::string find_endpoint(const std::vector<CatalogEntry>& catalog, const std::string& what,
                          const std::vector<std::string>& types, const std::string& region,
                          const std::string& interface) {
  std::vector<std::string> elsewhere;
  for (const std::string& type : types) {
    std::set<std::string> urls, regions;
    for (const CatalogEntry& entry : catalog) {
      if (entry.type != type) continue;
      for (const Endpoint& endpoint : entry.endpoints) {
        if (endpoint.interface == interface && (region.empty() || endpoint.region == region)) {
          urls.insert(endpoint.url);
          regions.insert(endpoint.region);
        } else {
          elsewhere.push_back(fmt::format("{} in region {}", endpoint.interface, endpoint.region));
        }
      }
    }
    if (regions.size() > 1)
      throw Error(Fault::config,
                  fmt::format("the cloud has {} in several regions: choose one with OS_REGION_NAME or region_name: {}",
                              what, fmt::join(regions, ", ")));
    if (!urls.empty()) return *urls.begin();
  }
  const std::string where = region.empty() ? fmt::format("with a {} endpoint", interface)
                                           : fmt::format("with a {} endpoint in region {}", interface, region);
  if (!elsewhere.empty())
    throw Error(Fault::config,
                fmt::format("the cloud's catalogue has no {} {}, only: {}; set region_name and interface to match",
                            what, where, fmt::join(elsewhere, ", ")));
  std::set<std::string> known;
  for (const CatalogEntry& entry : catalog) known.insert(entry.type);
  throw Error(Fault::config, fmt::format("the cloud's catalogue has no {} (service type {}); it has: {}", what,
                                         fmt::join(types, " or "),
                                         known.empty() ? "nothing (the user has no role in the project?)"
                                                       : fmt::format("{}", fmt::join(known, ", "))));
}

Session::Session(CloudConfig config, std::unique_ptr<http::Transport> transport, Clock& clock, log::Log& log)
    : config_(std::move(config)),
      url_(keystone_url(config_.auth_url)),
      transport_(std::move(transport)),
      clock_(clock),
      log_(log) {
  for (const Secret* secret : {&config_.password, &config_.application_secret, &config_.token})
    if (!secret->empty()) log_.redactor().add(*secret);
}

std::string Session::whom() const {
  if (config_.method == AuthMethod::token) return "with the given token";
  if (config_.method == AuthMethod::application_credential)
    return fmt::format("with application credential {}", described(config_.application_credential));
  return fmt::format("as user {} to project {}", described(config_.user), described(config_.project));
}

Token Session::ask(std::stop_token stop) {
  http::Request request;
  request.method = "POST";
  request.url = url_ + "/auth/tokens";
  request.headers = {{"Content-Type", "application/json"}, {"Accept", "application/json"}};
  request.body = auth_body(config_);
  // Two tokens do no harm.
  request.idempotent = true;
  const Finally forget([&]() noexcept { wipe(request.body); });
  http::Response response = transport_->send(request, stop);
  // An application credential that was deleted is not found, as a wrong path is.
  if (response.status == 404 && error_text(response).starts_with("Could not find"))
    throw Error(Fault::auth, fmt::format("Keystone at {} refused to log in {}: {}; check the application credential",
                                         url_, whom(), error_text(response)));
  if (response.status == 404 || response.status == 300)
    throw Error(Fault::config, fmt::format("there is no Keystone version 3 at {}: check auth_url (OS_AUTH_URL)", url_));
  if (response.status != 201 && response.status != 200)
    throw refusal(fmt::format("Keystone at {}", url_), fmt::format("log in {}", whom()), response);
  return parse_token(response.body, Secret(response.header("x-subject-token")));
}

// A token that already has the right scope is used as it is: one made from an application credential may not be
// exchanged ("Using a delegated token to create another token is not allowed"), and an exchange adds no time.
Token Session::adopt_given_token(std::stop_token stop) {
  http::Request request;
  request.url = url_ + "/auth/tokens";
  request.headers = {{"X-Auth-Token", revealed(config_.token)},
                     {"X-Subject-Token", revealed(config_.token)},
                     {"Accept", "application/json"}};
  request.idempotent = true;
  const http::Response response = transport_->send(request, stop);
  if (response.status == 401 || (response.status == 404 && !request_id(response).empty()))
    throw Error(
        Fault::auth,
        fmt::format("Keystone at {} does not accept the given token: it has expired or was revoked; get a new one "
                    "(openstack token issue), or use a password or an application credential, which can be renewed",
                    url_));
  if (response.status == 404)
    throw Error(Fault::config, fmt::format("there is no Keystone version 3 at {}: check auth_url (OS_AUTH_URL)", url_));
  if (response.status == 200) {
    Token token = parse_token(response.body, config_.token.share());
    if (!token.project_id.empty() && same_project(config_.project, token)) {
      // How much is left of it is not known by Keystone's clock alone, so it is used until it is refused.
      token.lifetime.reset();
      return token;
    }
  }
  // Not the project we want, or a policy that lets nobody look at his own token.
  return ask(stop);
}

Token Session::authenticate(std::stop_token stop) {
  Token token = config_.method == AuthMethod::token ? adopt_given_token(stop) : ask(stop);
  log_.redactor().add(token.value);
  if (token.project_id.empty())
    throw Error(
        Fault::config,
        fmt::format("the token from Keystone at {} is for no project: set project_name (OS_PROJECT_NAME)", url_));
  return token;
}

void Session::log_in(std::stop_token stop) { renewed(0, stop); }

Session::Current Session::current(std::stop_token stop) {
  std::uint64_t generation = 0;
  {
    std::scoped_lock lock(mutex_);
    const bool ends_soon = renew_at_ && clock_.mono() >= *renew_at_;
    if (generation_ > 0 && !ends_soon) return {token_.value.share(), generation_};
    generation = generation_;
  }
  return renewed(generation, stop);
}

Session::Current Session::renewed(std::uint64_t refused, std::stop_token stop) {
  {
    std::unique_lock lock(mutex_);
    const bool woken = changed_.wait(lock, stop, [&] { return !renewing_ || generation_ > refused; });
    if (!woken) throw Cancelled();
    if (generation_ > refused) return {token_.value.share(), generation_};
    renewing_ = true;
  }
  const Finally done([&]() noexcept {
    {
      std::scoped_lock lock(mutex_);
      renewing_ = false;
    }
    changed_.notify_all();
  });
  if (refused > 0) log_.info("renewing the OpenStack token");
  Token token = authenticate(stop);
  std::scoped_lock lock(mutex_);
  renew_at_.reset();
  if (token.lifetime) renew_at_ = clock_.mono() + *token.lifetime - margin(*token.lifetime);
  token_ = std::move(token);
  ++generation_;
  return {token_.value.share(), generation_};
}

http::Response Session::send(http::Request request, std::stop_token stop) {
  Current token = current(stop);
  const http::Headers plain = request.headers;
  const auto send_with = [&](const Current& with) {
    request.headers = plain;
    request.headers.emplace_back("X-Auth-Token", revealed(with.value));
    return transport_->send(request, stop);
  };
  http::Response response = send_with(token);
  // More than once: the new token may be one that another thread was given just before the old ones were revoked, and
  // an administrator who revokes tokens may do so a few times in a row.
  constexpr int most = 3;
  for (int renewals = 0; response.status == 401 && renewals < most; ++renewals) {
    log_.info("OpenStack refused the token", {{"url", request.url}});
    token = renewed(token.generation, stop);
    response = send_with(token);
  }
  return response;
}

std::vector<CatalogEntry> Session::catalog() const {
  std::scoped_lock lock(mutex_);
  return token_.catalog;
}

std::string Session::project_id() const {
  std::scoped_lock lock(mutex_);
  return token_.project_id;
}

std::string Session::project_name() const {
  std::scoped_lock lock(mutex_);
  return token_.project_name;
}

}  // namespace vmferry::openstack
