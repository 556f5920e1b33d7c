// The choice of a flavor, as a table and as a property.
#include "plan/flavor.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace vmferry::plan {
namespace {

FlavorOffer offer(const std::string& name, std::int64_t vcpus, std::int64_t memory,
                  std::map<std::string, std::string> specs = {}) {
  return {"id-" + name, name, vcpus, memory, false, true, std::move(specs), true};
}

std::string chosen(const std::vector<FlavorOffer>& offers, const FlavorNeed& need) {
  const FlavorChoice choice = choose_flavor(offers, need);
  return choice.flavor ? choice.flavor->name : "";
}

TEST(ChooseFlavor, TheSmallestThatHoldsTheMachine) {
  const std::vector<FlavorOffer> offers{offer("tiny", 1, 512),   offer("small", 1, 2048), offer("medium", 2, 4096),
                                        offer("large", 4, 8192), offer("fat", 2, 65536),  offer("wide", 16, 4096)};
  struct Case {
    std::int64_t vcpus, memory;
    const char* expected;
  };
  for (const Case& c : {Case{1, 512, "tiny"}, Case{1, 513, "small"}, Case{2, 2048, "medium"}, Case{3, 3000, "large"},
                        Case{2, 10000, "fat"}, Case{8, 1024, "wide"}, Case{32, 1, ""}, Case{4, 65536, ""}})
    EXPECT_EQ(chosen(offers, {c.vcpus, c.memory, {}}), c.expected) << c.vcpus << " " << c.memory;
  EXPECT_EQ(choose_flavor(offers, {1, 512, {}}).reason, "flavor tiny (1 vCPU, 512 MiB) is exactly 1 vCPU and 512 MiB");
  EXPECT_EQ(choose_flavor(offers, {2, 3000, {}}).reason,
            "flavor medium (2 vCPUs, 4096 MiB) is the smallest that holds 2 vCPUs and 3000 MiB");
  EXPECT_EQ(choose_flavor(offers, {32, 1, {}}).reason,
            "no flavor that this project may use holds 32 vCPUs and 1 MiB: the largest is fat (2 vCPUs, 65536 MiB)");
}

TEST(ChooseFlavor, WhatIsReservedIsLeftOutUnlessAsked) {
  struct Case {
    const char* key;
    const char* value;
    std::optional<Reserved> kind;
  };
  for (const Case& c :
       {Case{"pci_passthrough:alias", "a1:2", Reserved::gpu}, Case{"resources:VGPU", "1", Reserved::gpu},
        Case{"resources2:VGPU", "1", Reserved::gpu}, Case{"resources:CUSTOM_FPGA", "1", Reserved::gpu},
        Case{"hw:cpu_policy", "dedicated", Reserved::pinned}, Case{"hw:cpu_policy", "mixed", Reserved::pinned},
        Case{"hw:cpu_policy", "shared", std::nullopt}, Case{"resources:PCPU", "4", Reserved::pinned},
        Case{"hw:mem_page_size", "large", Reserved::huge_pages}, Case{"hw:mem_page_size", "1GB", Reserved::huge_pages},
        Case{"hw:mem_page_size", "any", std::nullopt}, Case{"hw:mem_page_size", "small", std::nullopt},
        Case{"resources:CUSTOM_BAREMETAL_GOLD", "1", Reserved::bare_metal},
        Case{"resources:VCPU", "0", Reserved::bare_metal}, Case{"quota:disk_read_iops", "100", std::nullopt},
        Case{"hw_rng:allowed", "true", std::nullopt}}) {
    const std::vector<FlavorOffer> offers{offer("special", 1, 1024, {{c.key, c.value}}), offer("plain", 1, 4096)};
    EXPECT_EQ(chosen(offers, {1, 1024, {}}), c.kind ? "plain" : "special") << c.key << "=" << c.value;
    if (!c.kind) continue;
    EXPECT_NE(choose_flavor(offers, {1, 1024, {}}).reason.find("left out: special: " + std::string(word(*c.kind))),
              std::string::npos);
    EXPECT_EQ(chosen(offers, {1, 1024, {*c.kind}}), "special") << c.key;
  }
  FlavorOffer mine = offer("mine", 1, 1024);
  mine.is_public = false;
  FlavorOffer gone = offer("gone", 1, 1024);
  gone.disabled = true;
  EXPECT_EQ(chosen({mine, gone, offer("plain", 2, 2048)}, {1, 1024, {}}), "plain");
  EXPECT_EQ(chosen({mine, gone, offer("plain", 2, 2048)}, {1, 1024, {Reserved::not_public}}), "mine");
}

TEST(ChooseFlavor, WhatIsNotShownIsSaid) {
  FlavorOffer hidden = offer("hidden", 1, 1024);
  hidden.specs_shown = false;
  EXPECT_NE(choose_flavor({hidden}, {1, 1024, {}}).reason.find("does not show"), std::string::npos);
}

TEST(ChooseFlavor, WordsAreReadBack) {
  for (const Reserved kind :
       {Reserved::gpu, Reserved::pinned, Reserved::huge_pages, Reserved::bare_metal, Reserved::not_public})
    EXPECT_EQ(parse_reserved(word(kind)), kind);
  EXPECT_FALSE(parse_reserved("vgpu"));
}

TEST(ChooseFlavor, MemoryIsRoundedUp) {
  EXPECT_EQ(flavor_need(0, 1).memory_mib, 1);
  EXPECT_EQ(flavor_need(0, 1).vcpus, 1);
  EXPECT_EQ(flavor_need(2, (512ULL << 20) + 1).memory_mib, 513);
}

// Whatever is offered: what is chosen holds the machine, and nothing that is smaller in both does.
RC_GTEST_PROP(ChooseFlavor, IsMinimal, ()) {
  const auto sizes = *rc::gen::container<std::vector<std::pair<int, int>>>(
      rc::gen::pair(rc::gen::inRange(1, 9), rc::gen::inRange(1, 9)));
  std::vector<FlavorOffer> offers;
  for (const auto& [vcpus, memory] : sizes) offers.push_back(offer(std::to_string(offers.size()), vcpus, memory));
  const FlavorNeed need{*rc::gen::inRange(1, 9), *rc::gen::inRange(1, 9), {}};
  const FlavorChoice choice = choose_flavor(offers, need);
  for (const FlavorOffer& f : offers) {
    const bool fits = f.vcpus >= need.vcpus && f.memory_mib >= need.memory_mib;
    if (!choice.flavor) RC_ASSERT(!fits);
    if (choice.flavor && fits)
      RC_ASSERT(!(f.vcpus <= choice.flavor->vcpus && f.memory_mib <= choice.flavor->memory_mib &&
                  (f.vcpus < choice.flavor->vcpus || f.memory_mib < choice.flavor->memory_mib)));
  }
  if (choice.flavor) RC_ASSERT(choice.flavor->vcpus >= need.vcpus && choice.flavor->memory_mib >= need.memory_mib);
}

}  // namespace
}  // namespace vmferry::plan
