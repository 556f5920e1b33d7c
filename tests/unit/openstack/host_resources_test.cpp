// Key pairs, security groups and images where the answers are not the plain ones, and what a new server is told.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/security_groups.hpp"
#include "openstack/servers.hpp"
#include "scripted.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using support::thrown;

// Of the right form; nobody has its other half.
const std::string key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDY2KAh+dBMEDvzQv5z6ZkjPXKl9yHKJ0PHiHUUdv00q";

TEST(KeyPairs, TheSameKeyWhateverItsComment) {
  EXPECT_TRUE(keypairs::same_key(key, key + " me@here"));
  EXPECT_TRUE(keypairs::same_key("  " + key + "\n", key));
  EXPECT_FALSE(keypairs::same_key(key, "ssh-rsa" + key.substr(11)));
  EXPECT_FALSE(keypairs::same_key("", ""));
  EXPECT_FALSE(keypairs::same_key("ssh-rsa", "ssh-rsa"));
}

TEST(KeyPairs, FingerprintsAreNovas) {
  EXPECT_EQ(keypairs::fingerprint_of("ssh-x YQ== comment"), "0c:c1:75:b9:c0:f1:b6:a8:31:c3:99:e2:69:77:26:61");
  EXPECT_EQ(keypairs::fingerprint_of("ssh-x YWI="), "18:7e:f4:43:61:22:d1:cc:2f:40:dc:2b:92:f0:eb:a0");
  EXPECT_EQ(keypairs::fingerprint_of("ssh-x YWJj"), "90:01:50:98:3c:d2:4f:b0:d6:96:3f:7d:28:e1:7f:72");
  for (const char* none : {"", "ssh-x", "ssh-x YQ", "ssh-x ????"})
    EXPECT_EQ(keypairs::fingerprint_of(none), "") << none;
}

TEST(KeyPairs, ANameWithAnotherKeyIsAConflict) {
  Bench bench([](const http::Request& r) {
    if (r.method == "GET")
      return answer(200, json{{"keypair", {{"name", "a"}, {"public_key", key}, {"fingerprint", "aa:bb"}}}}.dump());
    return answer(500, "{}");
  });
  EXPECT_EQ(keypairs::ensure(bench.compute(), "a", key + " other comment", {}).fingerprint, "aa:bb");
  const Error e = thrown([&] { keypairs::ensure(bench.compute(), "a", "ssh-ed25519 AAAA", {}); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_NE(std::string(e.what()).find("aa:bb"), std::string::npos) << e.what();
  EXPECT_EQ(bench.script->count("POST", "/os-keypairs"), 0u);
}

TEST(SecurityGroups, ARuleThatIsThereIsSuccessAndAFullQuotaIsNot) {
  std::string type = "SecurityGroupRuleExists";
  Bench bench([&](const http::Request&) {
    return answer(409, json{{"NeutronError", {{"type", type}, {"message", "Quota exceeded"}}}}.dump());
  });
  security_groups::allow(bench.network(), {"g", 22, "::/0", ""}, {});
  EXPECT_NE(bench.script->asked.back().body.find("IPv6"), std::string::npos);
  type = "OverQuota";
  EXPECT_EQ(thrown([&] {
              security_groups::allow(bench.network(), {"g", 22, "0.0.0.0/0", ""}, {});
            }).fault(),
            Fault::quota);
}

TEST(SecurityGroups, OneInUseIsWaitedForButNotForever) {
  int refusals = 3;
  Bench bench([&](const http::Request&) {
    if (refusals-- <= 0) return answer(204, "");
    return answer(409, R"({"NeutronError":{"type":"SecurityGroupInUse","message":"Security Group g in use."}})");
  });
  security_groups::remove(bench.network(), "g", {});
  refusals = 1000;
  const Error e = thrown([&] { security_groups::remove(bench.network(), "g", {}); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_NE(std::string(e.what()).find("in use"), std::string::npos) << e.what();
}

TEST(Servers, WhatANewServerFromAnImageIsTold) {
  Bench bench([](const http::Request& r) {
    if (r.method == "POST") return answer(202, R"({"server":{"id":"s1"}})");
    return answer(200, R"({"server":{"id":"s1","name":"h","status":"BUILD"}})");
  });
  ServerWish wish;
  wish.name = "h";
  wish.flavor_id = "1";
  wish.ports = {PortId{"p1"}};
  wish.metadata = wish.tag = {{"vmferry_host", "h"}};
  wish.key_name = "k";
  wish.image_id = "i1";
  const auto told = [&] {
    servers::create(bench.compute(), wish, {});
    for (auto request = bench.script->asked.rbegin(); request != bench.script->asked.rend(); ++request)
      if (request->method == "POST") return json::parse(request->body).at("server");
    return json();
  };
  json server = told();
  EXPECT_EQ(server.at("imageRef"), "i1");
  EXPECT_EQ(server.at("key_name"), "k");
  for (const char* absent : {"block_device_mapping_v2", "user_data", "config_drive"})
    EXPECT_FALSE(server.contains(absent)) << absent;
  wish.boot_volume_gib = 20;
  wish.boot_volume_type = "fast";
  wish.config_drive = true;
  for (const auto& [bytes, text] :
       std::vector<std::pair<std::string, std::string>>{{"a", "YQ=="},
                                                        {"ab", "YWI="},
                                                        {"abc", "YWJj"},
                                                        {std::string("\0\xff\xfe", 3), "AP/+"},
                                                        {"abcd", "YWJjZA=="}}) {
    wish.user_data = bytes;
    server = told();
    EXPECT_EQ(server.at("user_data"), text);
  }
  EXPECT_EQ(server.at("config_drive"), true);
  EXPECT_FALSE(server.contains("imageRef"));
  const json device = server.at("block_device_mapping_v2").at(0);
  EXPECT_EQ(device.at("volume_size"), 20);
  EXPECT_EQ(device.at("volume_type"), "fast");
  EXPECT_EQ(device.at("delete_on_termination"), true);
}

}  // namespace
}  // namespace vmferry::openstack
