// Calls of one service, and the walk through its pages.
#include "openstack/service.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "openstack/errors.hpp"
#include "openstack/keystone.hpp"

namespace vmferry::openstack {

namespace {

// The project's name, which the messages and the documentation of a cloud use.
std::string_view project_of(ServiceKind kind) noexcept {
  switch (kind) {
    case ServiceKind::volume:
      return "Cinder";
    case ServiceKind::compute:
      return "Nova";
    case ServiceKind::network:
      return "Neutron";
    case ServiceKind::image:
      return "Glance";
  }
  return "OpenStack";
}

// The query of the link to the next page; empty on the last. Only the query: the host in it may be an inner one.
std::string next_query(const Fields& page, const std::string& key) {
  std::string href;
  for (const Fields& link : page.each(key + "_links"))
    if (link.text("rel") == "next") href = link.text("href");
  // Glance's way.
  if (href.empty() && page.has("next")) href = page.text("next");
  const std::size_t question = href.find('?');
  return question == std::string::npos ? std::string() : href.substr(question);
}

}  // namespace

std::string_view to_string(ServiceKind kind) noexcept {
  switch (kind) {
    case ServiceKind::volume:
      return "volume";
    case ServiceKind::compute:
      return "compute";
    case ServiceKind::network:
      return "network";
    case ServiceKind::image:
      return "image";
  }
  return "unknown";
}

std::string Microversion::text() const { return fmt::format("{}.{}", major, minor); }

Service::Service(ServiceKind kind, std::shared_ptr<Session> session, std::string endpoint, Microversion microversion)
    : kind_(kind), session_(std::move(session)), endpoint_(std::move(endpoint)), microversion_(microversion) {}

std::string Service::name() const { return fmt::format("{} at {}", project_of(kind_), endpoint_); }
Clock& Service::clock() const noexcept { return session_->clock(); }
log::Log& Service::log() const noexcept { return session_->log(); }

http::Response Service::call(const Call& call, std::stop_token stop) const {
  http::Request request;
  request.method = call.method;
  request.url = endpoint_ + call.path;
  request.body = call.body;
  request.idempotent = call.idempotent || call.method == "GET" || call.method == "HEAD";
  request.headers = {{"Accept", "application/json"}};
  if (!call.body.empty()) request.headers.emplace_back("Content-Type", "application/json");
  if (call.upload != nullptr) {
    // The longest that a proxy in front of the service may think about what it was given, before it answers.
    constexpr std::chrono::minutes longest_silence(15);
    request.upload = call.upload;
    request.timeout = longest_silence;
    request.headers.emplace_back("Content-Type", "application/octet-stream");
  }
  if (microversion_ != Microversion{}) {
    request.headers.emplace_back("OpenStack-API-Version", fmt::format("{} {}", to_string(kind_), microversion_.text()));
    // Up to 2.26 Nova listens to its own header only.
    if (kind_ == ServiceKind::compute)
      request.headers.emplace_back("X-OpenStack-Nova-API-Version", microversion_.text());
  }
  try {
    http::Response response = session_->send(std::move(request), stop);
    const bool wanted = (response.status >= 200 && response.status < 300) ||
                        std::find(call.accept.begin(), call.accept.end(), response.status) != call.accept.end();
    if (!wanted) throw refusal(std::string(project_of(kind_)), call.doing, response);
    return response;
  } catch (const Refused&) {
    throw;
  } catch (Error& e) {
    e.during(fmt::format("asking {} to {}", project_of(kind_), call.doing));
    throw;
  }
}

Fields Service::get(const std::string& path, const std::string& doing, std::stop_token stop) const {
  Call get;
  get.path = path;
  get.doing = doing;
  return Fields::parse(call(get, stop).body, fmt::format("{}'s answer to GET {}", project_of(kind_), path));
}

std::vector<Fields> Service::list(const std::string& path, const std::string& key, const std::string& doing,
                                  std::stop_token stop) const {
  std::vector<Fields> items;
  std::set<std::string> seen;
  const std::string bare = path.substr(0, path.find('?'));
  std::string next = path;
  for (;;) {
    const Fields page = get(next, doing, stop);
    for (Fields& item : page.each(key)) items.push_back(std::move(item));
    const std::string query = next_query(page, key);
    if (query.empty()) return items;
    if (!seen.insert(query).second)
      throw Error(Fault::data, fmt::format("{} leads in a circle through the pages of {} ({})", name(), bare, query));
    next = bare + query;
  }
}

bool may_have_acted(const std::exception_ptr& failure) noexcept {
  try {
    std::rethrow_exception(failure);
  } catch (const http::Broken& broken) {
    return broken.may_have_acted();
  } catch (const Refused& refused) {
    // 500 in the middle of the work, or a gateway that gave up on a service that did not.
    return refused.status() >= 500;
  } catch (...) {
    return false;
  }
}

}  // namespace vmferry::openstack
