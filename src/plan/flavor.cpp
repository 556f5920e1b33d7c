// The names of extra specs: https://docs.openstack.org/nova/latest/configuration/extra-specs.html
#include "plan/flavor.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <tuple>

namespace vmferry::plan {

namespace {

constexpr std::array all_reserved{std::pair{Reserved::gpu, std::string_view("gpu")},
                                  std::pair{Reserved::pinned, std::string_view("pinned")},
                                  std::pair{Reserved::huge_pages, std::string_view("huge-pages")},
                                  std::pair{Reserved::bare_metal, std::string_view("bare-metal")},
                                  std::pair{Reserved::not_public, std::string_view("private")}};

std::string describe(const FlavorOffer& flavor) {
  return fmt::format("{} ({} vCPU{}, {} MiB)", flavor.name, flavor.vcpus, flavor.vcpus == 1 ? "" : "s",
                     flavor.memory_mib);
}

// Without the number of a numbered group: "resources3:VGPU" asks for a VGPU too.
std::string resource_of(const std::string& key) {
  if (!key.starts_with("resources")) return "";
  const std::size_t colon = key.find(':');
  return colon == std::string::npos ? "" : key.substr(colon + 1);
}

std::string words(const std::set<Reserved>& kinds) {
  std::vector<std::string_view> list;
  for (const Reserved kind : kinds) list.push_back(word(kind));
  return fmt::format("{}", fmt::join(list, ", "));
}

double spare(const FlavorOffer& flavor, const FlavorNeed& need) {
  return static_cast<double>(flavor.vcpus) / static_cast<double>(need.vcpus) +
         static_cast<double>(flavor.memory_mib) / static_cast<double>(need.memory_mib);
}

}  // namespace

std::string_view word(Reserved kind) noexcept {
  for (const auto& [known, name] : all_reserved)
    if (known == kind) return name;
  return "";
}

std::optional<Reserved> parse_reserved(std::string_view text) noexcept {
  for (const auto& [known, name] : all_reserved)
    if (name == text) return known;
  return std::nullopt;
}

std::set<Reserved> reserved_for(const FlavorOffer& flavor) {
  std::set<Reserved> kinds;
  if (!flavor.is_public) kinds.insert(Reserved::not_public);
  for (const auto& [key, value] : flavor.extra_specs) {
    const std::string resource = resource_of(key);
    if (key == "pci_passthrough:alias" || key == "accel:device_profile" || resource == "VGPU" || resource == "PGPU")
      kinds.insert(Reserved::gpu);
    else if (resource == "PCPU" || ((key == "hw:cpu_policy" || key == "hw_cpu_policy") && value != "shared") ||
             (key == "hw:cpu_realtime" && value != "no" && value != "false"))
      kinds.insert(Reserved::pinned);
    // "small" is what every server has, "any" leaves it to the image.
    else if (key == "hw:mem_page_size" && value != "small" && value != "any" && value != "4" && value != "4KB")
      kinds.insert(Reserved::huge_pages);
    // Ironic's nodes offer one resource of a class of their own and no others:
    // https://docs.openstack.org/ironic/latest/install/configure-nova-flavors.html
    else if ((resource == "VCPU" || resource == "MEMORY_MB") && value == "0")
      kinds.insert(Reserved::bare_metal);
    else if (resource.starts_with("CUSTOM_BAREMETAL"))
      kinds.insert(Reserved::bare_metal);
    else if (resource.starts_with("CUSTOM_"))
      kinds.insert(Reserved::gpu);
  }
  return kinds;
}

FlavorNeed flavor_need(int vcpus, std::uint64_t memory_bytes, std::set<Reserved> allowed) {
  constexpr std::uint64_t mib = 1 << 20;
  return {std::max(vcpus, 1),
          std::max<std::int64_t>(static_cast<std::int64_t>(memory_bytes / mib + (memory_bytes % mib != 0)), 1),
          std::move(allowed)};
}

FlavorChoice choose_flavor(const std::vector<FlavorOffer>& offers, const FlavorNeed& need) {
  std::optional<FlavorOffer> best, largest;
  std::vector<std::string> left_out;
  const auto order = [&](const FlavorOffer& f) {
    return std::tuple(spare(f, need), f.vcpus, f.memory_mib, f.name, f.id);
  };
  for (const FlavorOffer& flavor : offers) {
    if (flavor.disabled) continue;
    std::set<Reserved> kinds = reserved_for(flavor);
    for (const Reserved kind : need.allowed) kinds.erase(kind);
    const bool fits = flavor.vcpus >= need.vcpus && flavor.memory_mib >= need.memory_mib;
    if (!kinds.empty()) {
      if (fits) left_out.push_back(fmt::format("{}: {}", flavor.name, words(kinds)));
      continue;
    }
    if (!largest || std::tuple(flavor.memory_mib, flavor.vcpus) > std::tuple(largest->memory_mib, largest->vcpus))
      largest = flavor;
    if (fits && (!best || order(flavor) < order(*best))) best = flavor;
  }
  std::sort(left_out.begin(), left_out.end());
  constexpr std::size_t shown = 5;
  const std::size_t more = left_out.size() > shown ? left_out.size() - shown : 0;
  left_out.resize(left_out.size() - more);
  const std::string others = left_out.empty() ? ""
                                              : fmt::format("; left out: {}{}", fmt::join(left_out, "; "),
                                                            more == 0 ? "" : fmt::format(" and {} more", more));
  const std::string machine =
      fmt::format("{} vCPU{} and {} MiB", need.vcpus, need.vcpus == 1 ? "" : "s", need.memory_mib);
  if (best) {
    const bool exact = best->vcpus == need.vcpus && best->memory_mib == need.memory_mib;
    return {best,
            fmt::format("flavor {} {} {}{}{}", describe(*best), exact ? "is exactly" : "is the smallest that holds",
                        machine, best->specs_shown ? "" : " (the cloud does not show this user what it is kept for)",
                        others)};
  }
  return {std::nullopt, fmt::format("no flavor that this project may use holds {}{}{}", machine,
                                    largest ? ": the largest is " + describe(*largest) : "", others)};
}

}  // namespace vmferry::plan
