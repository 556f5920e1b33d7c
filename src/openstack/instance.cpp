// The metadata service, docs.openstack.org/nova/latest/user/metadata.html.
#include "openstack/instance.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "openstack/fields.hpp"

namespace vmferry::openstack {

namespace {

constexpr std::chrono::milliseconds metadata_timeout(10000);

[[noreturn]] void throw_unknown(const std::string& url, const std::string& why) {
  throw Error(
      Fault::config,
      fmt::format(
          "cannot find out which OpenStack instance this host is: {} {}. vmferry must run inside an instance of the "
          "cloud it migrates to, since it attaches the volumes to itself; if it does, give its id with --instance-id",
          url, why));
}

}  // namespace

ServerId this_instance(http::Transport& transport, const std::string& metadata_url, std::stop_token stop) {
  http::Request request;
  request.url = metadata_url;
  request.headers = {{"Accept", "application/json"}};
  request.idempotent = true;
  request.timeout = metadata_timeout;
  http::Response response;
  try {
    response = transport.send(request, stop);
  } catch (const Error& e) {
    throw_unknown(metadata_url, fmt::format("does not answer ({})", e.what()));
  }
  if (response.status != 200) throw_unknown(metadata_url, fmt::format("answered HTTP {}", response.status));
  std::string uuid;
  try {
    uuid = Fields::parse(response.body, "the metadata").text("uuid");
  } catch (const Error& e) {
    throw_unknown(metadata_url, fmt::format("did not answer with OpenStack metadata ({})", e.what()));
  }
  if (uuid.empty()) throw_unknown(metadata_url, "answered without a uuid");
  return ServerId{uuid};
}

}  // namespace vmferry::openstack
