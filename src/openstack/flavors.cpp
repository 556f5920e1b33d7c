// Nova flavors, docs.openstack.org/api-ref/compute/#flavors.
#include "openstack/flavors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::flavors {

namespace {

Flavor read(const Fields& item) {
  Flavor flavor;
  flavor.id = item.text("id");
  flavor.name = item.text("name");
  flavor.vcpus = static_cast<int>(item.number("vcpus"));
  flavor.ram_mib = item.number("ram");
  flavor.disk_gib = item.number("disk");
  flavor.disabled = item.flag("OS-FLV-DISABLED:disabled");
  flavor.is_public = !item.has("os-flavor-access:is_public") || item.flag("os-flavor-access:is_public");
  flavor.extra_specs = item.map("extra_specs");
  flavor.specs_shown = item.has("extra_specs");
  return flavor;
}

// A name is free for several flavors in the API, though not in Nova's own database.
std::vector<Flavor> named(Service& compute, const std::string& name, std::stop_token stop) {
  std::vector<Flavor> found = list(compute, stop);
  std::erase_if(found, [&](const Flavor& flavor) { return flavor.name != name; });
  return found;
}

}  // namespace

std::vector<Flavor> list(Service& compute, std::stop_token stop) {
  std::vector<Flavor> all;
  for (const Fields& item : compute.list("/flavors/detail", "flavors", "list flavors", stop)) all.push_back(read(item));
  return all;
}

std::vector<Flavor> list_with_specs(Service& compute, std::stop_token stop) {
  std::vector<Flavor> all = list(compute, stop);
  // Since 2.61 the list has them: https://docs.openstack.org/nova/latest/reference/api-microversion-history.html
  if (compute.microversion() >= Microversion{2, 61}) return all;
  for (Flavor& flavor : all) {
    Call call;
    call.path = "/flavors/" + http::encode(flavor.id) + "/os-extra_specs";
    call.doing = fmt::format("show the extra specs of flavor {}", flavor.name);
    call.accept = {403, 404};
    const http::Response response = compute.call(call, stop);
    flavor.specs_shown = response.status == 200;
    if (flavor.specs_shown) flavor.extra_specs = Fields::parse(response.body, "Nova's answer").map("extra_specs");
  }
  return all;
}

Flavor ensure(Service& compute, const std::string& name, int vcpus, std::int64_t ram_mib, std::stop_token stop) {
  const std::string doing = fmt::format("create flavor '{}'", name);
  const auto look = [&]() -> std::optional<Flavor> {
    const std::vector<Flavor> found = named(compute, name, stop);
    if (found.empty()) return std::nullopt;
    for (const Flavor& flavor : found)
      if (flavor.vcpus == vcpus && flavor.ram_mib == ram_mib && !flavor.disabled) return flavor;
    throw Error(Fault::conflict,
                fmt::format("flavor {} has {} vCPUs and {} MiB, not {} and {}, or is disabled: choose a flavor with "
                            "--flavor, or have this one deleted",
                            name, found.front().vcpus, found.front().ram_mib, vcpus, ram_mib));
  };
  if (auto known = look()) return *std::move(known);
  const auto post = [&] {
    Call call;
    call.method = "POST";
    call.path = "/flavors";
    call.body = nlohmann::json{{"flavor", {{"name", name}, {"vcpus", vcpus}, {"ram", ram_mib}, {"disk", 0}}}}.dump();
    call.doing = doing;
    return read(Fields::parse(compute.call(call, stop).body, "Nova's answer").at("flavor"));
  };
  try {
    return make_once<Flavor>(compute, doing, post, look, stop);
  } catch (const Refused& refused) {
    if (refused.status() == 409)
      if (auto known = look()) return *std::move(known);  // somebody was quicker
    if (refused.status() != 403) throw;
    throw Error(
        Fault::auth,
        fmt::format("{} (by Nova's default only administrators make flavors: have one made with {} vCPUs and {} "
                    "MiB, or leave --create-flavor out)",
                    refused.what(), vcpus, ram_mib),
        refused.name());
  }
}

Flavor find(Service& compute, const std::string& id_or_name, std::stop_token stop) {
  const std::vector<Flavor> all = list(compute, stop);
  std::vector<Flavor> same_name;
  std::vector<std::string> names;
  for (const Flavor& flavor : all) {
    // An id is never ambiguous, even if another flavor has it as its name.
    if (flavor.id == id_or_name) return flavor;
    if (flavor.name == id_or_name) same_name.push_back(flavor);
    names.push_back(flavor.name);
  }
  if (same_name.size() == 1) return same_name.front();
  if (same_name.size() > 1)
    throw Error(Fault::conflict,
                fmt::format("{} flavors are called '{}': give the id of one", same_name.size(), id_or_name));
  std::sort(names.begin(), names.end());
  throw Error(Fault::config, fmt::format("the cloud has no flavor '{}' that this project may use; it has: {}",
                                         id_or_name, fmt::join(names, ", ")));
}

}  // namespace vmferry::openstack::flavors
