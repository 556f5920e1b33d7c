// Which flavor suits a machine: the smallest that holds it, and why. Pure; knows nothing of Nova's API.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace vmferry::plan {

struct FlavorOffer {
  std::string id;
  std::string name;
  std::int64_t vcpus = 0;
  std::int64_t memory_mib = 0;
  bool disabled = false;
  bool is_public = true;
  std::map<std::string, std::string> extra_specs;
  bool specs_shown = true;  // false: what it is kept for is not known
};

// Hardware or tenants that an ordinary machine must not take from those who need them. In the order of `all_reserved`.
enum class Reserved { gpu, pinned, huge_pages, bare_metal, not_public };
std::string_view word(Reserved kind) noexcept;  // "gpu", "pinned", "huge-pages", "bare-metal", "private"
std::optional<Reserved> parse_reserved(std::string_view word) noexcept;

// What the flavor is kept for; empty for an ordinary one.
std::set<Reserved> reserved_for(const FlavorOffer& flavor);

struct FlavorNeed {
  std::int64_t vcpus = 1;
  std::int64_t memory_mib = 1;
  std::set<Reserved> allowed;  // reserved flavors that may be chosen all the same
};
FlavorNeed flavor_need(int vcpus, std::uint64_t memory_bytes, std::set<Reserved> allowed = {});

struct FlavorChoice {
  std::optional<FlavorOffer> flavor;
  // A whole sentence: which one and why, or what is lacking; names fitting flavors that were left out and for what.
  std::string reason;
};

// At least the machine's vCPUs and memory; of these the one with the least to spare, measured in multiples of what is
// needed. The flavor's disk does not count: the server boots from its volumes.
FlavorChoice choose_flavor(const std::vector<FlavorOffer>& offers, const FlavorNeed& need);

}  // namespace vmferry::plan
