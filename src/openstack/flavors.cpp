// Nova flavors, docs.openstack.org/api-ref/compute/#flavors.
#include "openstack/flavors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.hpp"

namespace vmferry::openstack::flavors {

std::vector<Flavor> list(Service& compute, std::stop_token stop) {
  std::vector<Flavor> all;
  for (const Fields& item : compute.list("/flavors/detail", "flavors", "list flavors", stop))
    all.push_back({item.text("id"), item.text("name"), static_cast<int>(item.number("vcpus")), item.number("ram"),
                   item.number("disk")});
  return all;
}

Flavor find(Service& compute, const std::string& id_or_name, std::stop_token stop) {
  const std::vector<Flavor> all = list(compute, stop);
  std::vector<Flavor> named;
  std::vector<std::string> names;
  for (const Flavor& flavor : all) {
    // An id is never ambiguous, even if another flavor has it as its name.
    if (flavor.id == id_or_name) return flavor;
    if (flavor.name == id_or_name) named.push_back(flavor);
    names.push_back(flavor.name);
  }
  if (named.size() == 1) return named.front();
  if (named.size() > 1)
    throw Error(Fault::conflict,
                fmt::format("{} flavors are called '{}': give the id of one", named.size(), id_or_name));
  std::sort(names.begin(), names.end());
  throw Error(Fault::config, fmt::format("the cloud has no flavor '{}' that this project may use; it has: {}",
                                         id_or_name, fmt::join(names, ", ")));
}

}  // namespace vmferry::openstack::flavors
