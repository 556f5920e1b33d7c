// The choice itself is plan's; here it meets what the cloud offers.
#include "target/openstack/placement.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "openstack/servers.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;
using plan::Finding;
using plan::Level;

constexpr const char* remedy = "name one with --flavor, let --allow-flavors choose among more, or use --create-flavor";

struct Chosen {
  std::optional<client::Flavor> flavor;
  std::string reason;
};

Chosen smallest(client::Service& compute, const plan::FlavorNeed& need, std::stop_token stop) {
  const std::vector<client::Flavor> all = client::flavors::list_with_specs(compute, stop);
  std::vector<plan::FlavorOffer> offers;
  for (const client::Flavor& f : all)
    offers.push_back({f.id, f.name, f.vcpus, f.ram_mib, f.disabled, f.is_public, f.extra_specs, f.specs_shown});
  const plan::FlavorChoice choice = plan::choose_flavor(offers, need);
  if (!choice.flavor) return {std::nullopt, choice.reason};
  for (const client::Flavor& f : all)
    if (f.id == choice.flavor->id) return {f, choice.reason};
  throw Error(Fault::bug, fmt::format("flavor {} was chosen, which nobody offered", choice.flavor->id));
}

// The same size has the same name, whichever machine asked first.
std::string name_for(const plan::FlavorNeed& need) { return fmt::format("vmferry-{}-{}", need.vcpus, need.memory_mib); }

// A flavor that was named may be smaller than the machine; its owner may know better, but should be told.
void compare(const client::Flavor& flavor, const plan::FlavorNeed& need, std::vector<Finding>& found) {
  if (flavor.vcpus >= need.vcpus && flavor.ram_mib >= need.memory_mib) return;
  found.push_back({Level::warning, "flavor " + flavor.name,
                   fmt::format("it has {} vCPUs and {} MiB, the machine has {} and {}", flavor.vcpus, flavor.ram_mib,
                               need.vcpus, need.memory_mib),
                   "choose a larger one, or --flavor auto", Fault::config});
}

}  // namespace

std::map<std::string, std::string> ServerSettings::all_metadata(std::stop_token stop) const {
  std::map<std::string, std::string> all = metadata;
  if (labels) all.merge(labels(stop));
  return all;
}

ChosenFlavor choose_flavor(client::Cloud& cloud, const FlavorRules& rules, const model::Vm& vm, std::stop_token stop) {
  client::Service& compute = cloud.compute(stop);
  if (!rules.automatic()) return {client::flavors::find(compute, rules.wanted, stop), ""};
  const plan::FlavorNeed need = plan::flavor_need(vm.vcpus, vm.memory, rules.allowed);
  const Chosen chosen = smallest(compute, need, stop);
  if (chosen.flavor) return {*chosen.flavor, chosen.reason};
  if (!rules.create) throw Error(Fault::config, fmt::format("{}: {}", chosen.reason, remedy));
  return {client::flavors::ensure(compute, name_for(need), static_cast<int>(need.vcpus), need.memory_mib, stop),
          fmt::format("{}, so flavor {} is made", chosen.reason, name_for(need))};
}

void judge_server(client::Cloud& cloud, const FlavorRules& rules, const model::Vm& vm, std::vector<Finding>& found,
                  std::stop_token stop) {
  client::Service& compute = cloud.compute(stop);
  const plan::FlavorNeed need = plan::flavor_need(vm.vcpus, vm.memory, rules.allowed);
  const std::string name = name_for(need);
  std::optional<client::Flavor> flavor;
  if (rules.automatic()) {
    const Chosen chosen = smallest(compute, need, stop);
    if (!chosen.flavor && !rules.create) {
      found.push_back({Level::problem, cloud.describe(), chosen.reason, remedy, Fault::config});
      return;
    }
    found.push_back({Level::note, vm.name,
                     chosen.flavor ? chosen.reason : fmt::format("{}: flavor {} will be made", chosen.reason, name),
                     ""});
    flavor = chosen.flavor;
  } else {
    flavor = client::flavors::find(compute, rules.wanted, stop);
    compare(*flavor, need, found);
  }
  const client::servers::Limits limits = client::servers::limits(compute, stop);
  const auto lacking =
      flavor ? limits.lacking(flavor->vcpus, flavor->ram_mib) : limits.lacking(need.vcpus, need.memory_mib);
  if (lacking)
    found.push_back({Level::problem, cloud.describe(),
                     fmt::format("a server of flavor {} cannot be made: {}", flavor ? flavor->name : name, *lacking),
                     "raise the quota before the cutover", Fault::quota});
}

}  // namespace vmferry::target::openstack
