// Volumes, attachments, servers and ports where things go wrong: lost replies, states in between, quotas.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "openstack/attachments.hpp"
#include "openstack/errors.hpp"
#include "openstack/flavors.hpp"
#include "openstack/networks.hpp"
#include "openstack/ports.hpp"
#include "openstack/servers.hpp"
#include "scripted.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;
using support::has;
using support::thrown;

[[noreturn]] void lose(bool acted = true) {
  throw http::Broken(Fault::unavailable, "the connection was closed", acted);
}

// Cinder and Nova in a few lines: volumes by id, and who has them.
struct TinyCloud {
  std::map<std::string, json> volumes;
  std::map<std::string, std::string> attached;  // volume -> server, as Nova sees it
  int made = 0;
  int lose_creations = 0;                       // replies of creations lost after the act
  int fail_creations = 0;                       // answered 502 before the act
  std::string quota;                            // body of a 413 for creations
  std::vector<http::Response> attach_refusals;  // given first
  int attach_delay = 2;                         // looks until it is in-use
  bool attach_fails = false;                    // goes back to available
  int pending = 0;
  std::string pending_volume, pending_status;

  json view(const std::string& id) {
    json v = volumes.at(id);
    if (v["status"] == "in-use" && attached.count(id) > 0)
      v["attachments"] = {{{"server_id", attached[id]}, {"device", "/dev/vdb"}}};
    return v;
  }
  void tick() {
    if (pending > 0 && --pending == 0) {
      volumes[pending_volume]["status"] = pending_status;
      if (pending_status == "available") attached.erase(pending_volume);
      if (pending_status == "in-use") attached.try_emplace(pending_volume, "host");
    }
  }
  void later(const std::string& id, const std::string& status, int looks) {
    pending = looks;
    pending_volume = id;
    pending_status = status;
  }

  http::Response operator()(const http::Request& r) {
    if (has(r.url, "/compute/")) return compute(r);
    const std::string path = r.url.substr(std::string("http://cloud/volume/v3/p1").size());
    if (r.method == "POST" && path == "/volumes") return create(r);
    if (r.method == "GET" && path.rfind("/volumes/detail", 0) == 0) {
      json list = json::array();
      for (const auto& [id, v] : volumes) list.push_back(view(id));
      return answer(200, json{{"volumes", list}}.dump());
    }
    if (path == "/limits")
      return answer(
          200,
          R"({"limits":{"absolute":{"maxTotalVolumeGigabytes":100,"totalGigabytesUsed":95,"maxTotalVolumes":10,"totalVolumesUsed":3}}})");
    if (path.rfind("/messages", 0) == 0)
      return answer(
          200,
          R"({"messages":[{"user_message":"schedule allocate volume:Could not find any available weighted backend."}]})");
    const std::string id = path.substr(9, path.find('/', 9) - 9);
    if (volumes.count(id) == 0) return answer(404, R"({"itemNotFound":{"message":"Volume could not be found."}})");
    if (r.method == "GET") {
      tick();
      if (volumes.count(id) == 0) return answer(404, "");
      return answer(200, json{{"volume", view(id)}}.dump());
    }
    if (r.method == "POST" && path.find("/action") != std::string::npos) {
      const json body = json::parse(r.body);
      if (body.contains("os-extend")) {
        volumes[id]["size"] = body["os-extend"]["new_size"];
        if (lose_creations-- > 0) lose();
        return answer(202, "");
      }
      return answer(200, "");
    }
    return answer(500, "unmodelled");
  }

  http::Response create(const http::Request& r) {
    if (!quota.empty()) return answer(413, quota);
    if (fail_creations-- > 0) return answer(502, "Bad Gateway");
    json volume = json::parse(r.body)["volume"];
    const std::string id = "v" + std::to_string(++made);
    volume["id"] = id;
    volume["status"] = "creating";
    volume["bootable"] = "false";
    volumes[id] = volume;
    if (lose_creations-- > 0) lose();
    return answer(202, json{{"volume", volume}}.dump());
  }

  http::Response compute(const http::Request& r) {
    const std::string tail = r.url.substr(r.url.find("os-volume_attachments"));
    if (r.method == "POST") {
      if (!attach_refusals.empty()) {
        const http::Response refusal = attach_refusals.front();
        attach_refusals.erase(attach_refusals.begin());
        return refusal;
      }
      const std::string id = json::parse(r.body)["volumeAttachment"]["volumeId"];
      volumes[id]["status"] = "reserved";
      attached[id] = "host";
      later(id, attach_fails ? "available" : "in-use", attach_delay);
      return answer(200, "{}");
    }
    const std::string id = tail.substr(tail.rfind('/') + 1);
    if (attached.count(id) == 0) return answer(404, R"({"itemNotFound":{"message":"not attached"}})");
    if (r.method == "GET") return answer(200, R"({"volumeAttachment":{}})");
    volumes[id]["status"] = "detaching";
    later(id, "available", attach_delay);
    return answer(202, "");
  }
};

// A bench whose cloud stays reachable for the test.
struct TinyBench : Bench {
  explicit TinyBench(std::shared_ptr<TinyCloud> shared = std::make_shared<TinyCloud>())
      : Bench([shared](const http::Request& r) { return (*shared)(r); }), tiny(*shared) {}
  TinyCloud& tiny;
};

VolumeWish wish() {
  VolumeWish w;
  w.name = "web01-1-2000";
  w.gib = 10;
  w.metadata = {{"vmferry_job", "j1"}, {"disk", "2000"}, {"quote", "it's \"so\""}};
  w.tag = {{"vmferry_job", "j1"}, {"disk", "2000"}};
  return w;
}

TEST(Volumes, ALostReplyLeavesOneVolume) {
  TinyBench bench;
  bench.tiny.lose_creations = 1;
  const Volume v = volumes::create(bench.volume(), wish(), {});
  EXPECT_EQ(v.id.value, "v1");
  EXPECT_EQ(bench.tiny.made, 1);
  EXPECT_EQ(v.metadata.at("quote"), "it's \"so\"");
}

TEST(Volumes, AGatewayThatGaveUpIsLookedInto) {
  TinyBench bench;
  bench.tiny.fail_creations = 1;
  EXPECT_EQ(volumes::create(bench.volume(), wish(), {}).id.value, "v1");
  // Looked for several times before it was made again.
  EXPECT_GE(bench.script->count("GET", "/volumes/detail?metadata="), 5u);
  EXPECT_EQ(bench.script->count("POST", "/volumes"), 2u);
}

TEST(Volumes, AGatewayThatKeepsFailingEndsIt) {
  TinyBench bench;
  bench.tiny.fail_creations = 100;
  EXPECT_EQ(thrown([&] { volumes::create(bench.volume(), wish(), {}); }).fault(), Fault::unavailable);
  EXPECT_EQ(bench.tiny.made, 0);
}

TEST(Volumes, ARequestThatNeverLeftIsNotLookedFor) {
  Bench bench([](const http::Request&) -> http::Response { lose(false); });
  EXPECT_THROW(volumes::create(bench.volume(), wish(), {}), http::Broken);
  EXPECT_EQ(bench.script->count("GET", "/volumes/detail"), 0u);
}

TEST(Volumes, ATagIsNeeded) {
  TinyBench bench;
  VolumeWish w = wish();
  w.tag.clear();
  EXPECT_EQ(thrown([&] { volumes::create(bench.volume(), w, {}); }).fault(), Fault::bug);
  w.tag = {{"other", "x"}};
  EXPECT_EQ(thrown([&] { volumes::create(bench.volume(), w, {}); }).fault(), Fault::bug);
}

TEST(Volumes, QuotaInWordsWithNumbers) {
  TinyBench bench;
  bench.tiny.quota =
      R"({"overLimit":{"code":413,"message":"VolumeSizeExceedsAvailableQuota: Requested volume exceeds allowed quota."}})";
  const Error e = thrown([&] { volumes::create(bench.volume(), wish(), {}); });
  EXPECT_EQ(e.fault(), Fault::quota);
  EXPECT_EQ(e.name(), "overLimit");
  EXPECT_TRUE(has(e.what(), "may have 100 GiB in volumes and 95 GiB are used, so 10 GiB more do not fit")) << e.what();
  EXPECT_TRUE(has(e.what(), "VolumeSizeExceedsAvailableQuota")) << e.what();
}

TEST(Volumes, FindKeepsOnlyWhatCarriesTheTag) {
  TinyBench bench;
  volumes::create(bench.volume(), wish(), {});
  VolumeWish other = wish();
  other.metadata["disk"] = other.tag["disk"] = "2001";
  volumes::create(bench.volume(), other, {});
  const auto found = volumes::find(bench.volume(), {{"disk", "2001"}}, {});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found.front().id.value, "v2");
  EXPECT_EQ(bench.script->count("GET", "metadata=%7B%22disk%22%3A%222001%22%7D"), 1u);
}

TEST(Volumes, AnErrorStatusEndsTheWaitAtOnceWithCindersReason) {
  TinyBench bench;
  const Volume v = volumes::create(bench.volume(), wish(), {});
  bench.tiny.volumes["v1"]["status"] = "error";
  const auto before = bench.clock.mono();
  const Error e = thrown([&] { volumes::wait_for(bench.volume(), v.id, {"available"}, 600s, {}); });
  EXPECT_TRUE(has(e.what(), "Could not find any available weighted backend")) << e.what();
  EXPECT_EQ(bench.clock.mono(), before);
}

TEST(Volumes, WaitingEndsInTime) {
  TinyBench bench;
  const Volume v = volumes::create(bench.volume(), wish(), {});
  const auto before = bench.clock.mono();
  const Error e = thrown([&] { volumes::wait_for(bench.volume(), v.id, {"available"}, 60s, {}); });
  EXPECT_EQ(e.fault(), Fault::timeout);
  EXPECT_EQ(bench.clock.mono() - before, 60s);
  std::stop_source source;
  source.request_stop();
  EXPECT_THROW(volumes::wait_for(bench.volume(), v.id, {"available"}, 60s, source.get_token()), Cancelled);
}

TEST(Volumes, ExtendingTwiceOrWithALostReplyIsOneExtension) {
  TinyBench bench;
  const Volume v = volumes::create(bench.volume(), wish(), {});
  bench.tiny.volumes["v1"]["status"] = "available";
  bench.tiny.lose_creations = 1;
  volumes::extend(bench.volume(), v.id, 20, {});
  volumes::extend(bench.volume(), v.id, 20, {});
  EXPECT_EQ(bench.script->count("POST", "/action"), 1u);
}

TEST(Volumes, RemovingWhatIsGoneIsSuccess) {
  TinyBench bench;
  volumes::remove(bench.volume(), VolumeId{"gone"}, {});
  EXPECT_EQ(thrown([&] { volumes::get(bench.volume(), VolumeId{"gone"}, {}); }).fault(), Fault::not_found);
}

TEST(Limits, WhatIsLacking) {
  volumes::Limits l;
  EXPECT_FALSE(l.lacking(1, 1'000'000));
  l = {.volumes = 10, .volumes_used = 10, .gib = 100, .gib_used = 95};
  EXPECT_EQ(l.lacking(0, 5), std::nullopt);
  EXPECT_EQ(l.lacking(1, 5), "the project may have 10 volumes and has 10, so 1 more does not fit");
  EXPECT_TRUE(has(*l.lacking(1, 6), "100 GiB"));
}

// A volume "v1" that is available, on a bench.
struct AttachBench : TinyBench {
  AttachBench() {
    tiny.volumes["v1"] = {{"id", "v1"}, {"name", "web01-1-2000"}, {"status", "available"}, {"size", 10}};
  }
  void attach() { attachments::attach(compute(), volume(), ServerId{"host"}, VolumeId{"v1"}, 60s, {}); }
  void detach() { attachments::detach(compute(), volume(), ServerId{"host"}, VolumeId{"v1"}, 60s, {}); }
  std::size_t posts() { return script->count("POST", "os-volume_attachments"); }
};

TEST(Attachments, Cycle) {
  AttachBench bench;
  bench.attach();
  EXPECT_EQ(bench.tiny.volumes["v1"]["status"], "in-use");
  bench.attach();
  EXPECT_EQ(bench.posts(), 1u);
  bench.detach();
  EXPECT_EQ(bench.tiny.volumes["v1"]["status"], "available");
  bench.detach();
  EXPECT_EQ(bench.script->count("DELETE", "os-volume_attachments"), 1u);
}

TEST(Attachments, StatesInBetweenAreWaitedFor) {
  AttachBench bench;
  const http::Response busy = answer(
      409,
      R"({"conflictingRequest":{"code":409,"message":"Cannot 'attach_volume' instance host while it is in task_state rebooting"}})");
  bench.tiny.attach_refusals = {
      busy, busy,
      answer(
          400,
          R"({"badRequest":{"code":400,"message":"Invalid volume: Volume v1 status must be available or downloading to reserve"}})")};
  bench.attach();
  EXPECT_EQ(bench.posts(), 4u);
  // Detaching in the middle of another change: waits, then detaches.
  bench.tiny.volumes["v1"]["status"] = "extending";
  bench.tiny.later("v1", "in-use", 3);
  bench.detach();
  EXPECT_EQ(bench.tiny.volumes["v1"]["status"], "available");
}

TEST(Attachments, AConflictThatStaysEndsInTimeWithNovasWords) {
  AttachBench bench;
  bench.tiny.attach_refusals.assign(
      1000,
      answer(
          409,
          R"({"conflictingRequest":{"code":409,"message":"Cannot 'attach_volume' instance host while it is in vm_state error"}})"));
  const Error e = thrown([&] { bench.attach(); });
  EXPECT_EQ(e.fault(), Fault::timeout);
  EXPECT_TRUE(has(e.what(), "while it is in vm_state error")) << e.what();
}

TEST(Attachments, ABadRequestThatIsNoStateEndsAtOnce) {
  AttachBench bench;
  bench.tiny.attach_refusals.assign(
      10, answer(400, R"({"badRequest":{"code":400,"message":"The supplied device path (/dev/vda) is invalid."}})"));
  EXPECT_EQ(thrown([&] { bench.attach(); }).fault(), Fault::config);
  EXPECT_EQ(bench.posts(), 2u);
}

TEST(Attachments, NovaGivingUpSilentlyIsNoticed) {
  AttachBench bench;
  bench.tiny.attach_fails = true;
  const Error e = thrown([&] { bench.attach(); });
  EXPECT_EQ(e.fault(), Fault::unavailable);
  EXPECT_TRUE(has(e.what(), "gave it up each time")) << e.what();
}

TEST(Attachments, AnotherInstanceIsNamed) {
  AttachBench bench;
  bench.tiny.volumes["v1"]["status"] = "in-use";
  bench.tiny.attached["v1"] = "other";
  const Error e = thrown([&] { bench.attach(); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_TRUE(has(e.what(), "attached to instance other")) << e.what();
  EXPECT_EQ(bench.posts(), 0u);
}

TEST(Attachments, OneThatIsStillArrivingIsAwaitedAndThenUndone) {
  for (const char* status : {"reserved", "attaching"}) {
    AttachBench bench;
    // Cinder has begun it, Nova shows nothing yet: the run that asked for it died.
    bench.tiny.volumes["v1"]["status"] = status;
    bench.tiny.later("v1", "in-use", 3);
    bench.detach();
    EXPECT_EQ(bench.tiny.volumes["v1"]["status"], "available") << status;
    EXPECT_EQ(bench.script->count("DELETE", "os-volume_attachments"), 1u) << status;
  }
}

TEST(Attachments, DetachingADeletedVolumeIsSuccess) {
  AttachBench bench;
  bench.tiny.volumes.clear();
  bench.detach();
}

ServerWish server_wish() {
  ServerWish w;
  w.name = "web01";
  w.flavor_id = "f1";
  w.volumes = {VolumeId{"v1"}, VolumeId{"v2"}};
  w.ports = {PortId{"p1"}};
  w.availability_zone = "nova";
  w.metadata = w.tag = {{"vmferry_job", "j1"}};
  return w;
}

TEST(Servers, BodyAndLostReply) {
  std::vector<json> made;
  bool lost = false;
  Bench bench([&](const http::Request& r) {
    if (r.method == "POST") {
      made.push_back(json::parse(r.body)["server"]);
      lost = true;
      lose();
    }
    EXPECT_TRUE(lost);
    const json server{{"id", "s1"}, {"name", "web01"}, {"status", "BUILD"}, {"metadata", {{"vmferry_job", "j1"}}}};
    if (has(r.url, "/servers/detail")) return answer(200, json{{"servers", {server}}}.dump());
    return answer(200, json{{"server", server}}.dump());
  });
  EXPECT_EQ(servers::create(bench.compute(), server_wish(), {}).id.value, "s1");
  ASSERT_EQ(made.size(), 1u);
  EXPECT_EQ(made.front(),
            json::parse(R"({"name":"web01","flavorRef":"f1","availability_zone":"nova","metadata":{"vmferry_job":"j1"},
    "networks":[{"port":"p1"}],"block_device_mapping_v2":[
    {"source_type":"volume","destination_type":"volume","uuid":"v1","boot_index":0,"delete_on_termination":false},
    {"source_type":"volume","destination_type":"volume","uuid":"v2","boot_index":1,"delete_on_termination":false}]})"));
}

TEST(Servers, AFaultIsTold) {
  Bench bench([](const http::Request&) {
    return answer(
        200,
        R"({"server":{"id":"s1","name":"web01","status":"ERROR","fault":{"code":500,"message":"No valid host was found. There are not enough hosts available."}}})");
  });
  const Error e = thrown([&] { servers::wait_for_active(bench.compute(), ServerId{"s1"}, 60s, {}); });
  EXPECT_TRUE(has(e.what(), "No valid host was found")) << e.what();
}

TEST(Ports, FoundWhateverTheCaseOfItsMac) {
  Bench bench([](const http::Request& r) {
    if (has(r.url, "mac_address=")) return answer(200, R"({"ports":[]})");
    EXPECT_EQ(r.method, "GET") << "a port must not be made";
    return answer(
        200,
        R"({"ports":[{"id":"p0","mac_address":"00:50:56:AA:BB:01"},{"id":"p1","mac_address":"00:50:56:AA:BB:02","fixed_ips":[{"subnet_id":"s","ip_address":"10.0.0.5"}]}]})");
  });
  const MadePort made = ports::ensure(bench.network(),
                                      {.name = "n",
                                       .description = "d",
                                       .network = "net",
                                       .mac = "00:50:56:aa:BB:02",
                                       .fixed_ips = {},
                                       .security_groups = {}},
                                      {});
  EXPECT_EQ(made.port.id.value, "p1");
  EXPECT_EQ(made.port.mac, "00:50:56:aa:bb:02");
  EXPECT_FALSE(made.created);
  EXPECT_EQ(made.port.fixed_ips.at(0).ip, "10.0.0.5");
}

TEST(Ports, MadeWithALostReplyIsOurs) {
  bool made = false;
  Bench bench([&](const http::Request& r) {
    if (r.method == "POST") {
      EXPECT_EQ(
          json::parse(r.body),
          json::parse(
              R"({"port":{"network_id":"net","mac_address":"00:50:56:aa:bb:02","name":"n","description":"vmferry j1",
        "fixed_ips":[{"subnet_id":"sub","ip_address":"10.0.0.9"}],"security_groups":["g"]}})"));
      made = true;
      lose();
    }
    return answer(200, made ? R"({"ports":[{"id":"p1","mac_address":"00:50:56:aa:bb:02","description":"vmferry j1"}]})"
                            : R"({"ports":[]})");
  });
  const MadePort port = ports::ensure(bench.network(),
                                      {.name = "n",
                                       .description = "vmferry j1",
                                       .network = "net",
                                       .mac = "00:50:56:AA:BB:02",
                                       .fixed_ips = {{"sub", "10.0.0.9"}},
                                       .security_groups = {"g"}},
                                      {});
  EXPECT_TRUE(port.created);
  EXPECT_EQ(bench.script->count("POST", "/ports"), 1u);
}

TEST(Ports, ThePolicyOnSharedNetworksIsExplained) {
  Bench bench([](const http::Request& r) {
    if (r.method == "GET") return answer(200, R"({"ports":[]})");
    return answer(
        403,
        R"({"NeutronError":{"type":"PolicyNotAuthorized","message":"(rule:create_port and rule:create_port:mac_address) is disallowed by policy","detail":""}})");
  });
  const Error e = thrown([&] {
    ports::ensure(bench.network(),
                  {.name = "n",
                   .description = "d",
                   .network = "net",
                   .mac = "00:50:56:aa:bb:02",
                   .fixed_ips = {},
                   .security_groups = {}},
                  {});
  });
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_TRUE(has(e.what(), "rule:create_port:mac_address")) << e.what();
  EXPECT_TRUE(has(e.what(), "only its owner or an administrator may choose the MAC")) << e.what();
}

TEST(Lookups, ByIdOrNameAndWhatThereIs) {
  Bench bench([](const http::Request& r) {
    if (has(r.url, "/flavors"))
      return answer(
          200,
          R"({"flavors":[{"id":"1","name":"small","vcpus":1,"ram":512,"disk":0},{"id":"2","name":"big","vcpus":8},{"id":"3","name":"big"}]})");
    if (has(r.url, "/networks"))
      return answer(200, R"({"networks":[{"id":"n1","name":"lan","subnets":["s1"]},{"id":"n2","name":""}]})");
    if (has(r.url, "/subnets"))
      return answer(200, R"({"subnets":[{"id":"s1","name":"lan4","network_id":"n1","cidr":"10.0.0.0/24"}]})");
    return answer(200, R"({"volume_types":[{"id":"t1","name":"fast"}]})");
  });
  EXPECT_EQ(flavors::find(bench.compute(), "small", {}).ram_mib, 512);
  EXPECT_EQ(flavors::find(bench.compute(), "2", {}).vcpus, 8);
  EXPECT_EQ(thrown([&] { flavors::find(bench.compute(), "big", {}); }).fault(), Fault::conflict);
  EXPECT_TRUE(has(thrown([&] { flavors::find(bench.compute(), "huge", {}); }).what(), "it has: big, big, small"));
  const Network lan = networks::find(bench.network(), "lan", {});
  EXPECT_EQ(lan.subnets, (std::vector<std::string>{"s1"}));
  EXPECT_EQ(networks::find_subnet(bench.network(), lan, "lan4", {}).cidr, "10.0.0.0/24");
  EXPECT_TRUE(has(thrown([&] { networks::find(bench.network(), "wan", {}); }).what(), "there are: lan, n2"));
  EXPECT_EQ(volumes::find_type(bench.volume(), "t1", {}).name, "fast");
  EXPECT_TRUE(has(thrown([&] { volumes::find_type(bench.volume(), "slow", {}); }).what(), "it has: fast"));
}

TEST(PortAddress, IsTheFirstOfIPv4WhereThereIsOne) {
  Port port;
  EXPECT_EQ(ports::address(port), "");
  port.fixed_ips = {{"s6", "2001:db8::5"}};
  EXPECT_EQ(ports::address(port), "2001:db8::5");
  port.fixed_ips.push_back({"s4", "192.0.2.5"});
  port.fixed_ips.push_back({"s4", "192.0.2.6"});
  EXPECT_EQ(ports::address(port), "192.0.2.5");
}

}  // namespace
}  // namespace vmferry::openstack
