// The metadata service, docs.openstack.org/nova/latest/user/metadata.html, and what stands in for it.
#include "openstack/instance.hpp"

#include <fmt/format.h>

#include <cctype>
#include <fstream>
#include <optional>

#include "base/error.hpp"
#include "openstack/config_drive.hpp"
#include "openstack/fields.hpp"

namespace vmferry::openstack {

namespace {

constexpr std::chrono::milliseconds metadata_timeout(10000);

// Both the service and the drive have the same document.
ServerId id_in(const std::string& document, const std::string& where) {
  std::string uuid;
  try {
    uuid = Fields::parse(document, "the metadata").text("uuid");
  } catch (const Error& e) {
    throw Error(Fault::config, fmt::format("{} did not answer with OpenStack metadata ({})", where, e.what()));
  }
  if (uuid.empty()) throw Error(Fault::config, fmt::format("{} answered without a uuid", where));
  return ServerId{uuid};
}

ServerId by_service(http::Transport& transport, const std::string& url, std::stop_token stop) {
  http::Request request;
  request.url = url;
  request.headers = {{"Accept", "application/json"}};
  request.idempotent = true;
  request.timeout = metadata_timeout;
  http::Response response;
  try {
    response = transport.send(request, stop);
  } catch (const Error& e) {
    throw Error(Fault::config, fmt::format("{} does not answer ({})", url, e.what()));
  }
  if (response.status != 200) throw Error(Fault::config, fmt::format("{} answered HTTP {}", url, response.status));
  return id_in(response.body, url);
}

std::string first_line(const std::filesystem::path& file) {
  std::string line;
  std::ifstream in(file);
  std::getline(in, line);
  return line;
}

// Nova's libvirt driver gives the guest the instance's id as its system UUID and calls the product "OpenStack Nova",
// a vendor's build "OpenStack Compute" or alike (nova/virt/libvirt/driver.py, _get_guest_config_sysinfo).
ServerId by_firmware(const std::filesystem::path& directory) {
  const std::string product = first_line(directory / "product_name");
  if (!product.starts_with("OpenStack"))
    throw Error(Fault::config,
                fmt::format("the firmware calls this machine \"{}\", not an OpenStack instance", product));
  std::string uuid = first_line(directory / "product_uuid");
  if (uuid.empty())
    throw Error(Fault::config, fmt::format("{} cannot be read (only root may)", (directory / "product_uuid").string()));
  for (char& c : uuid) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ServerId{uuid};
}

}  // namespace

ServerId this_instance(http::Transport& transport, const InstanceSources& sources, std::stop_token stop) {
  std::string reasons;
  const auto ask = [&](const auto& source) -> std::optional<ServerId> {
    try {
      return source();
    } catch (const Error& e) {
      if (!reasons.empty()) reasons += "; ";
      reasons += e.what();
    }
    return std::nullopt;
  };
  if (const auto id = ask([&] { return by_service(transport, sources.metadata_url, stop); })) return *id;
  if (const auto id = ask([&] { return id_in(read_config_drive(sources.config_drive), "the config drive"); }))
    return *id;
  if (const auto id = ask([&] { return by_firmware(sources.firmware); })) return *id;
  throw Error(Fault::config,
              fmt::format("cannot find out which OpenStack instance this host is: {}. vmferry must run inside an "
                          "instance of the cloud it migrates to, since it attaches the volumes to itself; if it does, "
                          "give its id with --instance-id",
                          reasons));
}

}  // namespace vmferry::openstack
