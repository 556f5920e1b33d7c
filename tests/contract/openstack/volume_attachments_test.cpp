// Cinder's attachments without an instance, against the stand-in and the real services: one, whatever reply gets lost;
// found again; given back; nobody else's touched.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "openstack/attachments.hpp"
#include "openstack/cloud.hpp"
#include "openstack/errors.hpp"
#include "openstack/volume_attachments.hpp"
#include "support/lab.hpp"
#include "support/openstack_lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;
using support::has;
using support::thrown;

constexpr auto patience = 120s;
const std::string here = "ferry1/0badcafe";
const std::string there = "ferry2/deadbeef";
const std::string connector =
    R"({"host":"ferry1","ip":"127.0.0.1","initiator":"iqn.1993-08.org.debian:01:ferry1","multipath":false,"platform":"x86_64","os_type":"linux"})";

class Attachments : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { lab_ = new support::Lab({"--devices", "file", "--writer-rate", "0"}); }
  static void TearDownTestSuite() {
    delete lab_;
    lab_ = nullptr;
  }
  void SetUp() override {
    lab_->control("openstack", "DELETE", "/faults");
    cloud_ = open({{"OS_CLIENT_CONFIG_FILE", lab_->get("openstack.clouds_yaml")}, {"OS_CLOUD", "lab"}});
    VolumeWish wish;
    wish.name = "attached";
    wish.gib = 1;
    wish.type = lab_->get("openstack.volume_type");
    wish.metadata = wish.tag = {{"test", random_uuid()}};
    volume_ = volumes::create(cinder(), wish, {}).id;
    volumes::wait_for(cinder(), volume_, {"available"}, patience, {});
  }
  void TearDown() override {
    lab_->control("openstack", "DELETE", "/faults");
    for (const std::string& host : {here, there})
      volume_attachments::release(cinder(), volume_, host, [](const CinderAttachment*) {}, patience, {});
    volumes::remove(cinder(), volume_, {});
  }

  std::unique_ptr<Cloud> open(const Environment& environment) {
    return support::open_cloud(load(environment), clock_, log_);
  }
  Service& cinder() { return cloud_->volume({}); }
  CinderAttachment claim(const std::string& host = here) {
    return volume_attachments::claim(cinder(), volume_, host, connector, patience, {});
  }
  // How often something was disconnected, and by which attachments.
  std::vector<std::string> release(const std::string& host = here) {
    std::vector<std::string> seen;
    volume_attachments::release(cinder(), volume_, host,
                                [&](const CinderAttachment* a) { seen.push_back(a ? a->connection_info : ""); },
                                patience, {});
    return seen;
  }
  std::vector<CinderAttachment> all() { return volume_attachments::list(cinder(), volume_, {}); }
  Volume now() { return volumes::get(cinder(), volume_, {}); }
  // What a call answers that a user makes by hand.
  int status(Cloud& cloud, const std::string& method, const std::string& path, const json& body = nullptr) {
    Call call;
    call.method = method;
    call.path = path;
    call.body = body.is_null() ? "" : body.dump();
    call.doing = "try";
    call.accept = {400, 404, 409, 500};
    const http::Response response = cloud.volume({}).call(call, {});
    answer_ = json::parse(response.body, nullptr, false);
    return response.status;
  }

  static support::Lab* lab_;
  SystemClock clock_;
  log::Log log_;
  std::unique_ptr<Cloud> cloud_;
  VolumeId volume_;
  json answer_;
};

support::Lab* Attachments::lab_ = nullptr;

TEST_F(Attachments, OneIsMadeGoneOnWithAndGivenBack) {
  const CinderAttachment made = claim();
  EXPECT_EQ(made.status, "attaching");
  EXPECT_TRUE(made.instance.empty());
  const json info = json::parse(made.connection_info);
  EXPECT_EQ(info["driver_volume_type"], "nfs");
  EXPECT_EQ(info["name"], "volume-" + volume_.value);
  EXPECT_EQ(info["format"], "raw");
  EXPECT_EQ(claim().id, made.id);
  volume_attachments::complete(cinder(), made, patience, {});
  const CinderAttachment again = claim();
  EXPECT_EQ(again.id, made.id);
  EXPECT_EQ(again.status, "attached");
  volume_attachments::complete(cinder(), again, patience, {});
  EXPECT_EQ(now().status, "in-use");
  EXPECT_EQ(volume_attachments::holder(now()), "host " + here + " (attachment " + made.id + ")");
  EXPECT_EQ(volume_attachments::find(cinder(), now(), here, {})->id, made.id);
  EXPECT_FALSE(volume_attachments::find(cinder(), now(), there, {}));

  EXPECT_EQ(release(), std::vector<std::string>{again.connection_info});
  EXPECT_EQ(now().status, "available");
  EXPECT_FALSE(now().metadata.contains(volume_attachments::record_key));
  EXPECT_TRUE(all().empty());
  // Nothing to give back is success; what may be left on this host is looked after each time.
  EXPECT_EQ(release(), std::vector<std::string>{""});
}

TEST_F(Attachments, NoLostReplyMakesASecondOne) {
  for (const char* path : {"/attachments$", "/attachments/[^/]+$", "/attachments/[^/]+/action$", "/metadata"}) {
    for (const char* method : {"POST", "PUT", "DELETE"})
      lab_->control(
          "openstack", "POST", "/faults",
          json{{"service", "volume"}, {"method", method}, {"path_regex", path}, {"kind", "lost-reply"}}.dump());
    const CinderAttachment made = claim();
    EXPECT_EQ(all().size(), 1u) << path;
    volume_attachments::complete(cinder(), made, patience, {});
    EXPECT_EQ(release().size(), 1u) << path;
    EXPECT_EQ(now().status, "available") << path;
    EXPECT_TRUE(all().empty()) << path;
    lab_->control("openstack", "DELETE", "/faults");
  }
}

TEST_F(Attachments, AReservationThatNobodyWroteDownIsMadeAnew) {
  ASSERT_EQ(status(*cloud_, "POST", "/attachments", {{"attachment", {{"volume_uuid", volume_.value}}}}), 200);
  const std::string bare = answer_["attachment"]["id"];
  EXPECT_EQ(now().status, "reserved");
  const CinderAttachment made = claim();
  EXPECT_NE(made.id, bare);
  EXPECT_EQ(all().size(), 1u);
  // Whoever made it and comes back cannot connect by it any more.
  EXPECT_EQ(status(*cloud_, "PUT", "/attachments/" + bare, {{"attachment", {{"connector", json::parse(connector)}}}}),
            404);
}

TEST_F(Attachments, ADeadRunIsGoneOnWithAfterEachStep) {
  // Written down, and not yet connected.
  ASSERT_EQ(status(*cloud_, "POST", "/attachments", {{"attachment", {{"volume_uuid", volume_.value}}}}), 200);
  const std::string reserved = answer_["attachment"]["id"];
  volumes::update_metadata(cinder(), volume_, {{volume_attachments::record_key, reserved + " " + here}}, {});
  EXPECT_EQ(claim().id, reserved);
  // Deleted, and the record still there.
  ASSERT_EQ(status(*cloud_, "DELETE", "/attachments/" + reserved), 200);
  EXPECT_NE(claim().id, reserved);
  EXPECT_EQ(all().size(), 1u);
  // Reserved and written down is given back, too, without anything to disconnect by.
  release();
  ASSERT_EQ(status(*cloud_, "POST", "/attachments", {{"attachment", {{"volume_uuid", volume_.value}}}}), 200);
  volumes::update_metadata(
      cinder(), volume_,
      {{volume_attachments::record_key, answer_["attachment"]["id"].get<std::string>() + " " + here}}, {});
  std::vector<std::string> seen;
  volume_attachments::release(
      cinder(), volume_, here,
      [&](const CinderAttachment* a) {
        ASSERT_NE(a, nullptr);
        seen.push_back(json::parse(a->connection_info.empty() ? "{}" : a->connection_info).dump());
      },
      patience, {});
  EXPECT_EQ(seen, std::vector<std::string>{"{}"});
  EXPECT_EQ(now().status, "available");
}

TEST_F(Attachments, WhatCannotBeDisconnectedStaysAttached) {
  volume_attachments::complete(cinder(), claim(), patience, {});
  const Error e = thrown([&] {
    volume_attachments::release(cinder(), volume_, here,
                                [](const CinderAttachment*) { throw Error(Fault::unavailable, "busy"); }, patience, {});
  });
  EXPECT_TRUE(has(e.what(), "busy")) << e.what();
  EXPECT_EQ(all().size(), 1u);
  EXPECT_EQ(now().status, "in-use");
}

TEST_F(Attachments, AnotherHostsIsNamedAndLeftAlone) {
  const CinderAttachment theirs = claim(there);
  volume_attachments::complete(cinder(), theirs, patience, {});
  const Error e = thrown([&] { claim(); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_TRUE(has(e.what(), there)) << e.what();
  EXPECT_TRUE(has(e.what(), theirs.id)) << e.what();
  release();
  ASSERT_EQ(all().size(), 1u);
  EXPECT_EQ(all().front().id, theirs.id);
  EXPECT_EQ(now().status, "in-use");
}

TEST_F(Attachments, ARenamedHostGivesBackWhatItHas) {
  const std::string renamed = "renamed/0badcafe";
  volume_attachments::complete(cinder(), claim(), patience, {});
  EXPECT_TRUE(volume_attachments::find(cinder(), now(), renamed, {}));
  EXPECT_EQ(release(renamed).size(), 1u);
  EXPECT_TRUE(all().empty());
  EXPECT_EQ(now().status, "available");
}

TEST_F(Attachments, AnotherHostsReservationIsNotDeletedOnceItIsWrittenDown) {
  ASSERT_EQ(status(*cloud_, "POST", "/attachments", {{"attachment", {{"volume_uuid", volume_.value}}}}), 200);
  const std::string theirs = answer_["attachment"]["id"];
  volumes::update_metadata(cinder(), volume_, {{volume_attachments::record_key, theirs + " " + there}}, {});
  EXPECT_TRUE(has(thrown([&] { claim(); }).what(), there));
  release();
  ASSERT_EQ(all().size(), 1u);
  EXPECT_EQ(claim(there).id, theirs);
}

TEST_F(Attachments, WhatMayBeOursIsNotTakenForReleased) {
  const CinderAttachment made = claim();
  volumes::remove_metadata(cinder(), volume_, volume_attachments::record_key, {});
  const Error e = thrown([&] { release(); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_TRUE(has(e.what(), "volume attachment delete " + made.id)) << e.what();
  EXPECT_EQ(status(*cloud_, "DELETE", "/attachments/" + made.id), 200);
}

TEST_F(Attachments, NovasIsNamedAndCannotBeDeleted) {
  const ServerId host{lab_->get("openstack.instance_id")};
  attachments::attach(cloud_->compute({}), cinder(), host, volume_, patience, {});
  const Error e = thrown([&] { claim(); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_TRUE(has(e.what(), host.value)) << e.what();
  release();
  ASSERT_EQ(all().size(), 1u);
  EXPECT_EQ(all().front().instance, host);
  EXPECT_EQ(status(*cloud_, "DELETE", "/attachments/" + all().front().id), 409);
  EXPECT_TRUE(has(answer_.dump(), "Compute API")) << answer_;
  attachments::detach(cloud_->compute({}), cinder(), host, volume_, patience, {});
}

// Why there is no instance_uuid in ours.
TEST_F(Attachments, AnApplicationCredentialDeletesOursButNoneThatNamesAnInstance) {
  std::ifstream file(lab_->get("openstack.appcred_file"));
  const json credential = json::parse(file);
  const auto limited = open({{"OS_AUTH_TYPE", "v3applicationcredential"},
                             {"OS_AUTH_URL", lab_->get("openstack.auth_url")},
                             {"OS_CACERT", lab_->get("openstack.ca")},
                             {"OS_APPLICATION_CREDENTIAL_ID", credential["id"].get<std::string>()},
                             {"OS_APPLICATION_CREDENTIAL_SECRET", credential["secret"].get<std::string>()}});
  const CinderAttachment made = volume_attachments::claim(limited->volume({}), volume_, here, connector, patience, {});
  volume_attachments::complete(limited->volume({}), made, patience, {});
  volume_attachments::release(limited->volume({}), volume_, here, [](const CinderAttachment*) {}, patience, {});
  EXPECT_EQ(now().status, "available");

  ASSERT_EQ(status(*cloud_, "POST", "/attachments",
                   {{"attachment",
                     {{"volume_uuid", volume_.value},
                      {"instance_uuid", "11111111-2222-4333-8444-555555555555"},
                      {"connector", json::parse(connector)}}}}),
            200);
  const std::string named = answer_["attachment"]["id"];
  EXPECT_EQ(status(*limited, "DELETE", "/attachments/" + named), 500) << answer_;
  EXPECT_EQ(status(*cloud_, "DELETE", "/attachments/" + named), 200) << answer_;
}

// Of Nova's attaching: somebody else's reservation may come before the look at the volume or after it, and go again.
TEST_F(Attachments, NovasWaitsForAVolumeThatIsReservedForAMoment) {
  const ServerId server{lab_->get("openstack.instance_id")};
  const struct Row {
    const char* name;
    bool after_the_look;
    bool until_refused;  // or until the client has seen it
    int refusals;
  } rows[] = {{"seen, then gone", false, false, 0},
              {"met, seen, then gone", true, false, 1},
              {"met, then gone", true, true, 1}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    std::string reservation;
    int made = 0, seen = 0, refusals = 0;
    const auto reserve = [&] {
      ++made;
      EXPECT_EQ(status(*cloud_, "POST", "/attachments", {{"attachment", {{"volume_uuid", volume_.value}}}}), 200);
      reservation = answer_["attachment"]["id"];
      EXPECT_EQ(now().status, "reserved");
    };
    const auto let_go = [&] {
      const int answered = status(*cloud_, "DELETE", "/attachments/" + std::exchange(reservation, ""));
      EXPECT_EQ(answered, 200);
    };
    const auto attaches = [](const http::Request& request) {
      return request.method == "POST" && has(request.url, "/os-volume_attachments");
    };
    const auto watched = support::open_cloud(*lab_, clock_, log_, [&](std::unique_ptr<http::Transport> below) {
      return std::make_unique<support::Watched>(
          std::move(below),
          [&](const http::Request& request) {
            if (row.after_the_look && made == 0 && attaches(request)) reserve();
          },
          [&](const http::Request& request, const http::Response& response) {
            if (attaches(request) && response.status == 400) {
              ++refusals;
              if (row.until_refused) let_go();
            } else if (!reservation.empty() && request.method == "GET" &&
                       has(request.url, "/volumes/" + volume_.value) &&
                       json::parse(response.body)["volume"]["status"] == "reserved") {
              ++seen;
              let_go();
            }
          });
    });
    if (!row.after_the_look) reserve();
    attachments::attach(watched->compute({}), watched->volume({}), server, volume_, patience, {});
    EXPECT_EQ(now().status, "in-use");
    EXPECT_EQ(made, 1);
    EXPECT_EQ(seen, row.until_refused ? 0 : 1);
    EXPECT_EQ(refusals, row.refusals);
    attachments::detach(cloud_->compute({}), cinder(), server, volume_, patience, {});
    EXPECT_EQ(now().status, "available");
  }
}

}  // namespace
}  // namespace vmferry::openstack
