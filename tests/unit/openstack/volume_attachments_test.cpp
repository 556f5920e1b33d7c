// Cinder's own attachments where two hosts race and where Cinder stops half-way.
#include "openstack/volume_attachments.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "openstack/errors.hpp"
#include "scripted.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;
using support::has;
using support::thrown;

const VolumeId id{"v1"};
const std::string here = "ferry1/0badcafe";
const std::string there = "ferry2/deadbeef";

// One volume of Cinder and its attachments.
struct TinyCinder {
  std::string record;                       // vmferry_attachment
  std::map<std::string, json> attachments;  // by id
  int made = 0;
  int updates_without_info = 0;      // PUTs that end in a timeout half-way
  int lose_reservations = 0;         // replies of POSTs lost after the act
  bool lose_deletion = false;        // the request goes on alone, before the act
  std::function<void()> after_list;  // what another host does then, once

  std::string status() const {
    if (attachments.empty()) return "available";
    return attachments.begin()->second["status"] == "attached" ? "in-use" : attachments.begin()->second["status"];
  }
  void reserve(const std::string& name) {
    attachments[name] = {
        {"id", name}, {"status", "reserved"}, {"volume_id", id.value}, {"connection_info", json::object()}};
  }
  void connect(const std::string& name) {
    attachments[name]["status"] = "attaching";
    attachments[name]["connection_info"] = {{"driver_volume_type", "nfs"}};
  }
  http::Response act(const http::Request& r) {
    const std::string path = r.url.substr(std::string("http://cloud/volume/v3/p1").size());
    const auto one = path.starts_with("/attachments/") ? path.substr(std::string("/attachments/").size()) : "";
    if (path == "/volumes/v1" && r.method == "GET") {
      json volume{{"id", id.value}, {"name", "disk"}, {"status", status()}, {"size", 1}, {"metadata", json::object()}};
      if (!record.empty()) volume["metadata"]["vmferry_attachment"] = record;
      return answer(200, json{{"volume", volume}}.dump());
    }
    if (path == "/volumes/v1/metadata") {
      record = json::parse(r.body)["metadata"]["vmferry_attachment"];
      return answer(200, r.body);
    }
    if (path.starts_with("/volumes/v1/metadata/")) {
      record.clear();
      return answer(200, "");
    }
    if (path.starts_with("/attachments?") && r.method == "GET") {
      json all = json::array();
      for (const auto& [name, a] : attachments) all.push_back(a);
      if (after_list) std::exchange(after_list, nullptr)();
      return answer(200, json{{"attachments", all}}.dump());
    }
    if (path == "/attachments" && r.method == "POST") {
      const std::string name = "a" + std::to_string(++made);
      reserve(name);
      if (lose_reservations-- > 0) throw http::Broken(Fault::unavailable, "the connection was closed", true);
      return answer(200, json{{"attachment", attachments[name]}}.dump());
    }
    if (!attachments.contains(one)) return answer(404, R"({"itemNotFound":{"message":"gone","code":404}})");
    if (r.method == "PUT") {
      if (updates_without_info-- > 0) {
        attachments[one]["status"] = "attaching";
        return answer(500, R"({"computeFault":{"message":"Timed out waiting for a reply","code":500}})");
      }
      connect(one);
    }
    if (r.method == "DELETE") {
      if (std::exchange(lose_deletion, false))
        throw http::Broken(Fault::unavailable, "the connection was closed", true);
      attachments.erase(one);
      return answer(200, R"({"attachments":[]})");
    }
    return answer(200, json{{"attachment", attachments[one]}}.dump());
  }
};

struct VolumeAttachments : testing::Test {
  TinyCinder cinder;
  Bench bench{[this](const http::Request& r) { return cinder.act(r); }};
  CinderAttachment claim() { return volume_attachments::claim(bench.volume(), id, here, "{}", 60s, {}); }
  int release(const std::string& host = here) {
    int disconnected = 0;
    volume_attachments::release(bench.volume(), id, host, [&](const CinderAttachment* a) { disconnected += a ? 1 : 0; },
                                60s, {});
    return disconnected;
  }
};

TEST_F(VolumeAttachments, AskedAgainWhenCinderStoppedHalfWay) {
  cinder.updates_without_info = 2;
  EXPECT_FALSE(claim().connection_info.empty());
  EXPECT_EQ(bench.script->count("PUT", "/attachments/"), 3U);
  EXPECT_EQ(cinder.made, 1);
}

TEST_F(VolumeAttachments, ADeadRunsHalfConnectedOneIsGoneOnWith) {
  cinder.reserve("a0");
  cinder.attachments["a0"]["status"] = "attaching";
  cinder.record = "a0 " + here;
  EXPECT_EQ(claim().id, "a0");
}

TEST_F(VolumeAttachments, ThatCinderNeverConnectsItIsSaidAndNothingIsLeft) {
  cinder.updates_without_info = 99;
  const Error e = thrown([&] { claim(); });
  EXPECT_EQ(e.fault(), Fault::unavailable);
  EXPECT_TRUE(has(e.what(), "Timed out waiting")) << e.what();
  EXPECT_TRUE(cinder.attachments.empty());
}

TEST_F(VolumeAttachments, AReservationThatAnotherHostWroteDownIsNotDeleted) {
  cinder.reserve("a0");
  cinder.record = "a0 " + there;
  EXPECT_TRUE(has(thrown([&] { claim(); }).what(), there));
  EXPECT_EQ(release(), 0);
  EXPECT_EQ(bench.script->count("DELETE", "/attachments/"), 0U);
}

TEST_F(VolumeAttachments, NorOneWrittenDownMeanwhile) {
  cinder.lose_reservations = 1;
  bool raced = false;
  // As if the one that is found were another host's, which goes on just then.
  cinder.after_list = [&] {
    cinder.after_list = [&] {
      raced = true;
      cinder.record = cinder.attachments.begin()->first + " " + there;
      cinder.connect(cinder.attachments.begin()->first);
    };
  };
  EXPECT_TRUE(has(thrown([&] { claim(); }).what(), there));
  EXPECT_TRUE(raced);
  EXPECT_EQ(bench.script->count("DELETE", "/attachments/"), 0U);
}

TEST_F(VolumeAttachments, ALostDeletionOfAReservationIsNotRepeatedBlindly) {
  cinder.lose_reservations = 1;
  cinder.lose_deletion = true;
  EXPECT_FALSE(claim().connection_info.empty());
  EXPECT_EQ(cinder.made, 2);
  for (const http::Request& r : bench.script->asked) EXPECT_FALSE(r.method == "DELETE" && r.idempotent);
  // The second one waited: what a lost reply explains was used up.
  EXPECT_EQ(bench.script->count("DELETE", "/attachments/"), 2U);
}

TEST_F(VolumeAttachments, ARenamedHostKeepsWhatItHas) {
  const std::string mine = claim().id;
  EXPECT_EQ(release(there), 0);
  EXPECT_EQ(cinder.attachments.size(), 1U);
  EXPECT_EQ(volume_attachments::claim(bench.volume(), id, "renamed/0badcafe", "{}", 60s, {}).id, mine);
  EXPECT_EQ(release("renamed/0badcafe"), 1);
  EXPECT_TRUE(cinder.attachments.empty());
}

TEST_F(VolumeAttachments, AHostKnowsWhatAnOlderVersionWroteDownAndNoClonesOfIt) {
  claim();
  EXPECT_EQ(release("ferry1/0badcafe-11111111"), 1) << "written down as " << here;
  volume_attachments::claim(bench.volume(), id, "ferry1/0badcafe-11111111", "{}", 60s, {});
  EXPECT_EQ(release("ferry1/0badcafe-22222222"), 0) << "a clone";
  EXPECT_EQ(release("ferry1/0badcafe-11111111"), 1);
}

TEST_F(VolumeAttachments, WhatMayBeOursIsNotTakenForReleased) {
  cinder.reserve("a0");
  cinder.connect("a0");
  const Error e = thrown([&] { release(); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_TRUE(has(e.what(), "volume attachment delete a0")) << e.what();
  // A server's stays.
  cinder.attachments["a0"]["instance"] = "s1";
  EXPECT_EQ(release(), 0);
  EXPECT_EQ(cinder.attachments.size(), 1U);
}

}  // namespace
}  // namespace vmferry::openstack
