// Lookups by name, each of which throws Error(config) that lists what there is.
#include "target/openstack/settings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.hpp"
#include "openstack/flavors.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/networks.hpp"
#include "openstack/servers.hpp"
#include "openstack/volumes.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;

constexpr std::size_t own_metadata = 2;  // of a server: vmferry_job, vmferry_vm

void add_volumes(std::vector<Question>& all, const Options& options, client::Cloud& cloud, std::stop_token stop) {
  std::set<std::string> types;
  if (!options.volume_type.empty()) types.insert(options.volume_type);
  for (const auto& [datastore, type] : options.volume_types) types.insert(type);
  for (const std::string& type : types)
    all.emplace_back([&cloud, type, stop] { client::volumes::find_type(cloud.volume(stop), type, stop); });
  if (!options.volume_availability_zone.empty())
    all.emplace_back([&, stop] {
      client::volumes::check_availability_zone(cloud.volume(stop), options.volume_availability_zone, stop);
    });
}

void add_networks(std::vector<Question>& all, const Options& options, client::Cloud& cloud, std::stop_token stop) {
  std::set<std::string> groups(options.security_groups.begin(), options.security_groups.end());
  for (const NetworkChoice& choice : options.networks) {
    all.emplace_back([&cloud, &choice, stop] {
      client::Service& service = cloud.network(stop);
      const client::Network network = client::networks::find(service, choice.network, stop);
      if (!choice.subnet.empty()) client::networks::find_subnet(service, network, choice.subnet, stop);
    });
    if (choice.port_security != false) groups.insert(choice.security_groups.begin(), choice.security_groups.end());
  }
  for (const std::string& group : groups)
    all.emplace_back(
        [&cloud, group, stop] { client::networks::find_security_group(cloud.network(stop), group, stop); });
}

void add_server(std::vector<Question>& all, const Options& options, client::Cloud& cloud, std::stop_token stop) {
  const ServerSettings& server = options.server;
  if (!options.flavor.automatic())
    all.emplace_back([&, stop] { client::flavors::find(cloud.compute(stop), options.flavor.wanted, stop); });
  if (!server.key_pair.empty())
    all.emplace_back([&, stop] { client::keypairs::get(cloud.compute(stop), server.key_pair, stop); });
  if (!server.group.empty())
    all.emplace_back([&, stop] { client::servers::find_group(cloud.compute(stop), server.group, stop); });
  all.emplace_back([&, stop] { client::servers::check_wish(cloud.compute(stop), server.host, server.tags); });
  all.emplace_back([&, stop] { check_metadata(cloud, server.metadata.size(), stop); });
}

}  // namespace

std::vector<Question> questions_of(const Options& options, client::Cloud& cloud, std::stop_token stop) {
  std::vector<Question> all;
  add_volumes(all, options, cloud, stop);
  if (!options.availability_zone.empty())
    all.emplace_back(
        [&, stop] { client::servers::check_availability_zone(cloud.compute(stop), options.availability_zone, stop); });
  add_networks(all, options, cloud, stop);
  add_server(all, options, cloud, stop);
  return all;
}

void ask_all(const std::vector<Question>& questions, std::vector<plan::Finding>& found) {
  for (const Question& question : questions) {
    try {
      question();
    } catch (const Error& e) {
      const plan::Finding finding{plan::Level::problem, "target", e.what(), "", e.fault()};
      if (std::find(found.begin(), found.end(), finding) == found.end()) found.push_back(finding);
      if (e.fault() == Fault::unavailable || e.fault() == Fault::timeout) return;
    }
  }
}

void check_metadata(client::Cloud& cloud, std::size_t entries, std::stop_token stop) {
  if (entries == 0) return;
  const std::int64_t most = client::servers::limits(cloud.compute(stop), stop).metadata;
  const std::size_t wanted = entries + own_metadata;
  if (most >= 0 && wanted > static_cast<std::size_t>(most))
    throw Error(Fault::quota,
                fmt::format("the server would get {} entries of metadata, the cloud allows {}: give fewer "
                            "--server-metadata, or leave --vmware-labels out",
                            wanted, most));
}

}  // namespace vmferry::target::openstack
