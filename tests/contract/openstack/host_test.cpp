// What a conversion host is made of, against the lab's OpenStack: each thing once, whatever replies are lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "openstack/attachments.hpp"
#include "openstack/cloud.hpp"
#include "openstack/floating_ips.hpp"
#include "openstack/images.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/networks.hpp"
#include "openstack/ports.hpp"
#include "openstack/security_groups.hpp"
#include "openstack/servers.hpp"
#include "support/lab.hpp"
#include "support/openstack_lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;
using support::has;
using support::thrown;

const std::string key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDY2KAh+dBMEDvzQv5z6ZkjPXKl9yHKJ0PHiHUUdv00q me@here";
constexpr std::chrono::seconds patience(120);

// One lab for all tests of the suite; each leaves nothing behind.
class HostResources : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    lab_ = new support::Lab({"--devices", "file", "--writer-rate", "0"});
    if (!lab_->real_openstack()) lab_->control("openstack", "POST", "/settings", R"({"server_delay_ms":100})");
  }
  static void TearDownTestSuite() {
    delete lab_;
    lab_ = nullptr;
  }
  void SetUp() override {
    control("DELETE", "/faults");
    before_ = counts();
    cloud_ = support::open_cloud(*lab_, clock_, log_);
  }
  void TearDown() override {
    control("DELETE", "/faults");
    EXPECT_FALSE(before_.empty());
    // A boot volume goes a moment after its server.
    for (const auto end = clock_.mono() + 60s; counts() != before_ && clock_.mono() < end;) clock_.sleep(50ms, {});
    EXPECT_EQ(counts(), before_);
  }
  static json control(const std::string& method, const std::string& path, const json& body = nullptr) {
    const std::string text = lab_->control("openstack", method, path, body.is_null() ? "" : body.dump());
    return text.empty() ? json() : json::parse(text, nullptr, false);
  }
  static std::map<std::string, std::size_t> counts() {
    std::map<std::string, std::size_t> all;
    const json state = control("GET", "/state");
    for (const auto& [name, value] : state.items())
      if (value.is_array()) all[name] = value.size();
    return all;
  }
  // The next such call is carried out, but nobody hears of it.
  static void lose(const std::string& method, const std::string& path) {
    control("POST", "/faults", {{"method", method}, {"path_regex", path}, {"count", 1}, {"kind", "lost-reply"}});
  }
  static void expire(const std::string& method, const std::string& path) {
    control("POST", "/faults", {{"method", method}, {"path_regex", path}, {"count", 1}, {"kind", "expire"}});
  }
  Service& compute() { return cloud_->compute({}); }
  Service& network() { return cloud_->network({}); }

  static support::Lab* lab_;
  SystemClock clock_;
  log::Log log_;
  std::unique_ptr<Cloud> cloud_;
  std::map<std::string, std::size_t> before_;
};

support::Lab* HostResources::lab_ = nullptr;

TEST_F(HostResources, ImagesByIdAndByName) {
  const Image named = images::find(cloud_->image({}), "conversion-host-image", {});
  EXPECT_EQ(named.status, "active");
  EXPECT_EQ(images::find(cloud_->image({}), named.id, {}).name, named.name);
  const Error e = thrown([&] { images::find(cloud_->image({}), "nothing", {}); });
  EXPECT_EQ(e.fault(), Fault::config);
  EXPECT_TRUE(has(e.what(), "it has: conversion-host-image")) << e.what();
}

TEST_F(HostResources, AKeyPairIsImportedOnce) {
  for (const auto& trouble : {&HostResources::lose, &HostResources::expire}) {
    trouble("POST", "/os-keypairs$");
    const KeyPair made = keypairs::ensure(compute(), "host", key, {});
    EXPECT_EQ(made.fingerprint, keypairs::fingerprint_of(key)) << "the lab computes it as Nova does";
    EXPECT_EQ(keypairs::ensure(compute(), "host", key.substr(0, key.rfind(' ')), {}).fingerprint, made.fingerprint);
    EXPECT_EQ(thrown([&] { keypairs::ensure(compute(), "host", "ssh-ed25519 AAAA", {}); }).fault(), Fault::conflict);
    EXPECT_EQ(keypairs::get(compute(), "host", {}).fingerprint, made.fingerprint);
    EXPECT_TRUE(has(thrown([&] { keypairs::get(compute(), "other", {}); }).what(), "but has: host"));
    lose("DELETE", "/os-keypairs/");
    keypairs::remove(compute(), "host", {});
    keypairs::remove(compute(), "host", {});
    EXPECT_FALSE(keypairs::look_up(compute(), "host", {}));
  }
}

TEST_F(HostResources, ASecurityGroupAndItsRulesAreMadeOnce) {
  const auto ours = [&] {
    std::vector<SecurityGroupRules> found;
    for (SecurityGroupRules& group : security_groups::list(network(), cloud_->project_id(), {}))
      if (group.description == "mark") found.push_back(std::move(group));
    return found;
  };
  for (const auto& trouble : {&HostResources::lose, &HostResources::expire}) {
    trouble("POST", "/security-groups$");
    const SecurityGroupRules group = security_groups::create(network(), cloud_->project_id(), "host", "mark", {});
    ASSERT_EQ(ours().size(), 1u);
    EXPECT_EQ(group.rules.size(), 2u) << "both let everything out";
    for (const char* from : {"0.0.0.0/0", "::/0", "192.0.2.0/24"}) {
      trouble("POST", "/security-group-rules$");
      security_groups::allow(network(), {group.id, 22, from, "mark"}, {});
      security_groups::allow(network(), {group.id, 22, from, "mark"}, {});
    }
    const std::vector<SecurityRule> rules = ours().front().rules;
    EXPECT_EQ(rules.size(), 5u);
    const auto narrow =
        std::find_if(rules.begin(), rules.end(), [](const auto& rule) { return rule.from == "192.0.2.0/24"; });
    ASSERT_NE(narrow, rules.end());
    EXPECT_EQ(narrow->first_port, 22);
    lose("DELETE", "/security-group-rules/");
    security_groups::remove_rule(network(), narrow->id, {});
    security_groups::remove_rule(network(), narrow->id, {});
    EXPECT_EQ(ours().front().rules.size(), 4u);
    lose("PUT", "/security-groups/");
    security_groups::describe(network(), group.id, "other mark", {});
    EXPECT_TRUE(ours().empty());
    lose("DELETE", "/security-groups/");
    security_groups::remove(network(), group.id, {});
    security_groups::remove(network(), group.id, {});
  }
}

TEST_F(HostResources, AFloatingIpIsMadeOnceAndGivenOn) {
  const auto port = [&](const std::string& description) {
    return ports::create(network(), {"p", description, lab_->get("openstack.network_id"), "", {}, {}}, {});
  };
  lose("POST", "/ports$");
  const Port first = port("first");
  EXPECT_EQ(ports::find_by_description(network(), "first", "", {}).size(), 1u);
  const Port second = port("second");
  EXPECT_NE(first.mac, second.mac);
  const std::string outside = networks::find(network(), "public", {}).id;
  for (const auto& trouble : {&HostResources::lose, &HostResources::expire}) {
    trouble("POST", "/floatingips$");
    const FloatingIp ip = floating_ips::create(network(), outside, first.id, "mark", {});
    EXPECT_EQ(floating_ips::find_by_description(network(), "mark", cloud_->project_id(), {}).size(), 1u);
    EXPECT_EQ(floating_ips::of_port(network(), first.id, {}).value().address, ip.address);
    lose("PUT", "/floatingips/");
    EXPECT_EQ(floating_ips::give(network(), ip.id, second.id, {}).port, second.id);
    EXPECT_FALSE(floating_ips::of_port(network(), first.id, {}));
    lose("DELETE", "/floatingips/");
    floating_ips::remove(network(), ip.id, {});
    floating_ips::remove(network(), ip.id, {});
  }
  const Error inside =
      thrown([&] { floating_ips::create(network(), lab_->get("openstack.network_id"), first.id, "mark", {}); });
  EXPECT_TRUE(has(inside.what(), "not a valid external network")) << inside.what();
  for (const PortId& id : {first.id, second.id}) ports::remove(network(), id, {});
}

TEST_F(HostResources, AServerFromAnImageOnAVolumeThatGoesWithIt) {
  ServerWish wish;
  wish.name = "host";
  wish.flavor_id = lab_->get("openstack.flavor_id");
  wish.image_id = images::find(cloud_->image({}), "conversion-host-image", {}).id;
  wish.boot_volume_gib = 3;
  wish.metadata = wish.tag = {{"vmferry_host", "host"}};
  wish.user_data = "#cloud-config\n";
  wish.config_drive = true;
  wish.ports = {ports::create(network(), {"p", "mark", lab_->get("openstack.network_id"), "", {}, {}}, {}).id};
  lose("POST", "/servers$");
  const Server server = servers::create(compute(), wish, {});
  servers::wait_for_active(compute(), server.id, patience, {});
  EXPECT_EQ(servers::find(compute(), wish.tag, {}).size(), 1u);
  const std::vector<Attached> volumes = attachments::list(compute(), server.id, {});
  ASSERT_EQ(volumes.size(), 1u);
  EXPECT_TRUE(volumes.front().ends_with_server);
  EXPECT_EQ(volumes::get(cloud_->volume({}), volumes.front().volume, {}).gib, 3u);
  ASSERT_EQ(ports::of_server(network(), server.id, {}).size(), 1u);
  const json state = control("GET", "/state");
  for (const json& shown : state["servers"])
    if (shown["id"] == server.id.value) {
      EXPECT_EQ(shown["user_data"], "I2Nsb3VkLWNvbmZpZwo=");
      EXPECT_EQ(shown["config_drive"], "True");
    }
  servers::remove(compute(), server.id, patience, {});
  ports::remove(network(), wish.ports.front(), {});
}

}  // namespace
}  // namespace vmferry::openstack
