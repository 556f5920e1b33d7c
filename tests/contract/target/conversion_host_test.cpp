// A conversion host in the lab's OpenStack: made once although replies get lost and runs die between any two calls,
// and removed without a trace and without touching anybody else's.
#include "target/openstack/conversion_host.hpp"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "openstack/attachments.hpp"
#include "openstack/images.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/networks.hpp"
#include "support/greeter.hpp"
#include "support/lab.hpp"
#include "support/openstack_lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::target::openstack {
namespace {

using support::refusal;

namespace client = ::vmferry::openstack;
using nlohmann::json;
using namespace std::chrono_literals;
using support::has;

const std::string key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDY2KAh+dBMEDvzQv5z6ZkjPXKl9yHKJ0PHiHUUdv00q me@here";
const std::string other_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDY2KAh+dBMEDvzQv5z6ZkjPXKl9yHKJ0PHiHUUdv01q";
constexpr std::chrono::seconds patience(120);

class ConversionHost : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    lab_ = new support::Lab({"--devices", "file", "--writer-rate", "0"});
    if (!real())
      control("POST", "/settings", {{"server_delay_ms", 60}, {"create_delay_ms", 30}, {"attach_delay_ms", 30}});
    try {
      control("POST", "/flavors", {{"id", "9"}, {"name", "m1.disk"}, {"vcpus", 1}, {"ram", 512}, {"disk", 10}});
    } catch (const std::runtime_error& e) {
      // A lab that is lent has it from the suite before.
      if (!has(e.what(), "already")) throw;
    }
  }
  static void TearDownTestSuite() {
    delete lab_;
    lab_ = nullptr;
  }
  void SetUp() override {
    quiet();
    before_ = counts();
    cloud_ = support::open_cloud(*lab_, clock_, log_);
  }
  void TearDown() override {
    quiet();
    EXPECT_EQ(settled(before_), before_);
  }
  static bool real() { return lab_->real_openstack(); }
  static json control(const std::string& method, const std::string& path, const json& body = nullptr) {
    const std::string text = lab_->control("openstack", method, path, body.is_null() ? "" : body.dump());
    return text.empty() ? json() : json::parse(text, nullptr, false);
  }
  static void quiet() {
    control("DELETE", "/faults");
    control("DELETE", "/calls");
    control("POST", "/quota",
            {{"instances", 10},
             {"ports", 500},
             {"volumes", 50},
             {"security_groups", 10},
             {"security_group_rules", 100},
             {"floating_ips", 50}});
  }
  static std::map<std::string, std::size_t> counts() {
    std::map<std::string, std::size_t> all;
    const json state = control("GET", "/state");
    for (const auto& [name, value] : state.items())
      if (value.is_array()) all[name] = value.size();
    return all;
  }
  // What is there once it is that: a boot volume goes a moment after its server.
  std::map<std::string, std::size_t> settled(const std::map<std::string, std::size_t>& expected) {
    std::map<std::string, std::size_t> now = counts();
    for (const auto end = clock_.mono() + 60s; now != expected && clock_.mono() < end; now = counts())
      clock_.sleep(50ms, {});
    return now;
  }
  static std::vector<std::string> posts() {
    std::vector<std::string> paths;
    for (const json& call : control("GET", "/calls"))
      if (call["method"] == "POST" && call["service"] != "identity") paths.push_back(call["path_or_object"]);
    return paths;
  }
  static HostWish wish() {
    HostWish w;
    w.name = "host";
    w.image = "conversion-host-image";
    w.flavor = "m1.small";
    w.network = "lab-net";
    w.public_key = key;
    w.floating_network = "public";
    w.boot_volume_gib = 1;
    w.server_patience = patience;
    return w;
  }
  Host deploy(const HostWish& w = wish()) {
    return deploy_host(*cloud_, w, [](const std::string&) {}, {});
  }
  void destroy(const std::string& name = "host") {
    destroy_host(*cloud_, find_host(*cloud_, name, {}), [](const std::string&) {}, {});
  }
  static std::map<std::string, int> made(const Host& host) {
    std::map<std::string, int> kinds;
    for (const Piece& piece : host.pieces) kinds[piece.kind] += piece.made ? 1 : 0;
    return kinds;
  }
  // Exactly one of each carries the mark.
  void expect_one_of_each() {
    const HostParts parts = find_host(*cloud_, "host", {});
    EXPECT_EQ(parts.servers.size(), 1u);
    EXPECT_EQ(parts.ports.size(), 1u);
    EXPECT_EQ(parts.floating_ips.size(), 1u);
    EXPECT_EQ(parts.groups.size(), 1u);
    EXPECT_TRUE(parts.key_pair);
    std::map<std::string, std::size_t> expected = before_;
    for (const char* kind : {"servers", "ports", "floating_ips", "security_groups", "keypairs", "volumes"})
      ++expected[kind];
    EXPECT_EQ(settled(expected), expected);
    EXPECT_EQ(ingress().size(), 2u);
  }
  std::vector<std::string> ingress() {
    std::vector<std::string> prefixes;
    const HostParts parts = find_host(*cloud_, "host", {});
    for (const client::SecurityRule& rule : parts.groups.at(0).rules)
      if (rule.direction == "ingress") prefixes.push_back(rule.from + " " + std::to_string(rule.first_port));
    std::sort(prefixes.begin(), prefixes.end());
    return prefixes;
  }

  static support::Lab* lab_;
  SystemClock clock_;
  log::Log log_;
  std::unique_ptr<client::Cloud> cloud_;
  std::map<std::string, std::size_t> before_;
};

support::Lab* ConversionHost::lab_ = nullptr;

TEST_F(ConversionHost, IsMadeOnceAndRemovedWithoutATrace) {
  const Host host = deploy();
  EXPECT_EQ(host.status, "ACTIVE");
  EXPECT_TRUE(host.address.starts_with("203.0.113.")) << host.address;
  EXPECT_EQ(host.pieces.size(), 5u);
  for (const auto& [kind, count] : made(host)) EXPECT_EQ(count, 1) << kind;
  expect_one_of_each();
  const Host again = deploy();
  EXPECT_EQ(again.id, host.id);
  EXPECT_EQ(again.address, host.address);
  EXPECT_EQ(again.pieces.size(), 5u);
  for (const auto& [kind, count] : made(again)) EXPECT_EQ(count, 0) << kind;
  expect_one_of_each();
  destroy();
  EXPECT_TRUE(find_host(*cloud_, "host", {}).empty());
  destroy();
}

TEST_F(ConversionHost, EveryReplyGetsLostOnce) {
  for (const char* path :
       {"/security-groups$", "/os-keypairs$", "/security-group-rules$", "/ports$", "/floatingips$", "/servers$"}) {
    control("POST", "/faults", {{"method", "POST"}, {"path_regex", path}, {"count", 1}, {"kind", "lost-reply"}});
    deploy();
    expect_one_of_each();
    // Fewer than it tries one call.
    control("POST", "/faults", {{"method", "DELETE"}, {"count", 4}, {"probability", 0.5}, {"kind", "lost-reply"}});
    destroy();
    control("DELETE", "/faults");
    EXPECT_TRUE(find_host(*cloud_, "host", {}).empty()) << path;
  }
}

// A call that is refused ends the run as its death there would: what was made until then is what is there.
TEST_F(ConversionHost, GoesOnFromBetweenAnyTwoCalls) {
  deploy();
  const std::size_t steps = posts().size();
  EXPECT_EQ(steps, 7u);
  destroy();
  for (const bool by_another_process : {false, true})
    for (std::size_t at = 0; at < steps; ++at) {
      control("POST", "/faults",
              {{"method", "POST"},
               {"path_regex", "^/(compute|network)"},
               {"skip", at},
               {"count", 1},
               {"kind", "http"},
               {"status", 400}});
      refusal([&] { deploy(); }, Fault::config);
      control("DELETE", "/faults");
      if (by_another_process) cloud_ = support::open_cloud(*lab_, clock_, log_);
      deploy();
      expect_one_of_each();
      destroy();
    }
}

TEST_F(ConversionHost, IsRemovedFromBetweenAnyTwoCalls) {
  for (std::size_t at = 0; at < 7; ++at) {
    control("POST", "/faults",
            {{"method", "POST"},
             {"path_regex", "^/(compute|network)"},
             {"skip", at},
             {"count", 1},
             {"kind", "http"},
             {"status", 400}});
    refusal([&] { deploy(); }, Fault::config);
    control("DELETE", "/faults");
    destroy();
    EXPECT_EQ(settled(before_), before_) << at;
  }
  deploy();
  for (std::size_t at = 0; at < 5; ++at) {
    control("POST", "/faults", {{"method", "DELETE"}, {"skip", at == 0 ? 0 : 1}, {"kind", "http"}, {"status", 400}});
    try {
      destroy();
    } catch (const Error&) {
    }
    control("DELETE", "/faults");
  }
  destroy();
}

TEST_F(ConversionHost, ItsTokenEndsInTheMiddleOfEachCall) {
  for (const char* method : {"POST", "GET", "DELETE"}) {
    // Revoked under its own hands a real Nova does not finish; a 401 is what we see of a token that has ended.
    json rule{{"method", method},
              {"path_regex", "^/(compute|network|image|volume)"},
              {"count", -1},
              {"probability", 0.3},
              {"kind", real() ? "http" : "expire"}};
    if (real()) rule["status"] = 401;
    control("POST", "/faults", rule);
    // Four refusals in a row are not renewed away: again, as a person would.
    for (int i = 0; i < 20; ++i) {
      try {
        deploy();
        break;
      } catch (const Error& e) {
        EXPECT_EQ(e.fault(), Fault::auth) << e.what();
      }
    }
    control("DELETE", "/faults");
    deploy();
    expect_one_of_each();
    destroy();
  }
}

TEST_F(ConversionHost, AKeyPairOfTheUserIsUsedAndStays) {
  client::keypairs::ensure(cloud_->compute({}), "mine", key, {});
  HostWish w = wish();
  w.key_pair = "mine";
  w.public_key.clear();
  deploy(w);
  EXPECT_FALSE(find_host(*cloud_, "host", {}).key_pair);
  destroy();
  EXPECT_TRUE(client::keypairs::look_up(cloud_->compute({}), "mine", {}));
  // The same key under the same name: no second one, and still the user's.
  w.public_key = key;
  deploy(w);
  destroy();
  EXPECT_TRUE(client::keypairs::look_up(cloud_->compute({}), "mine", {}));
  w.public_key = other_key;
  EXPECT_TRUE(has(refusal([&] { deploy(w); }, Fault::conflict), "another key"));
  client::keypairs::remove(cloud_->compute({}), "mine", {});
  w.public_key.clear();
  EXPECT_TRUE(has(refusal([&] { deploy(w); }, Fault::config), "no key pair 'mine'"));
  EXPECT_EQ(settled(before_), before_) << "all of that is found out before anything is made";
}

TEST_F(ConversionHost, OnANetworkOfBothFamiliesIsSpokenToByIPv4) {
  HostWish w = wish();
  w.network = "dual";
  w.floating_network.clear();
  const Host host = deploy(w);
  EXPECT_TRUE(host.address.starts_with("198.18.1.")) << host.address;
  EXPECT_EQ(find_host(*cloud_, "host", {}).ports.at(0).fixed_ips.size(), 2u);
  destroy();
}

TEST_F(ConversionHost, AKeyPairThatSomebodyReplacedStays) {
  deploy();
  client::keypairs::remove(cloud_->compute({}), "host", {});
  client::keypairs::ensure(cloud_->compute({}), "host", other_key, {});
  destroy();
  EXPECT_TRUE(client::keypairs::look_up(cloud_->compute({}), "host", {}));
  client::keypairs::remove(cloud_->compute({}), "host", {});
}

TEST_F(ConversionHost, WhoMayReachItsSshIsWhatWasSaidLast) {
  HostWish w = wish();
  w.ssh_from = {"192.0.2.0/24", "2001:db8::/32"};
  deploy(w);
  const std::vector<std::string> narrow{"192.0.2.0/24 22", "2001:db8::/32 22"};
  EXPECT_EQ(ingress(), narrow);
  w.ssh_from.reset();
  EXPECT_FALSE(deploy(w).open_to_all);
  EXPECT_EQ(ingress(), narrow) << "silence does not widen it";
  w.ssh_from = {"192.0.2.7/32"};
  w.ssh_port = 2222;
  deploy(w);
  EXPECT_EQ(ingress(), std::vector<std::string>{"192.0.2.7/32 2222"});
  destroy();
}

TEST_F(ConversionHost, ItsSshIsNotOpenedAgain) {
  HostWish narrow = wish();
  narrow.ssh_from = {"198.51.100.0/24"};
  deploy(narrow);
  const HostParts parts = find_host(*cloud_, "host", {});
  for (const client::SecurityRule& rule : parts.groups.at(0).rules)
    if (rule.direction == "ingress") client::security_groups::remove_rule(cloud_->network({}), rule.id, {});
  EXPECT_FALSE(deploy().open_to_all);
  EXPECT_EQ(ingress(), std::vector<std::string>());
  destroy();
}

TEST_F(ConversionHost, AFloatingIpThatWasGivenToSomebodyElseIsLeftThere) {
  client::Service& network = cloud_->network({});
  deploy();
  const HostParts parts = find_host(*cloud_, "host", {});
  const client::Port other =
      client::ports::create(network, {"other", "somebody's", lab_->get("openstack.network_id"), "", {}, {}}, {});
  const std::string ip = parts.floating_ips.at(0).id;
  client::floating_ips::give(network, ip, other.id, {});
  EXPECT_TRUE(has(refusal([&] { deploy(); }, Fault::conflict), other.id.value));
  EXPECT_TRUE(has(refusal([&] { destroy(); }, Fault::conflict), other.id.value));
  EXPECT_EQ(client::floating_ips::of_port(network, other.id, {})->id, ip);
  client::floating_ips::give(network, ip, parts.ports.at(0).id, {});
  client::ports::remove(network, other.id, {});
  destroy();
}

TEST_F(ConversionHost, WhatHasNoRoomIsSaidBeforeAnythingIsMade) {
  // Cinder may count volumes that are gone, for a moment or after failures for ever, and takes no quota below that.
  const auto used = [this] { return client::volumes::limits(cloud_->volume({}), {}).volumes_used; };
  const auto there = static_cast<std::int64_t>(before_.at("volumes"));
  for (const auto end = clock_.mono() + 5s; used() != there && clock_.mono() < end;) clock_.sleep(500ms, {});
  control("POST", "/quota",
          {{"instances", 1},
           {"ports", before_.at("ports")},
           {"volumes", used()},
           {"security_groups", 2},
           {"security_group_rules", 9},
           {"floating_ips", 0}});
  const std::string said = refusal([&] { deploy(); }, Fault::quota);
  for (const char* part :
       {"may have 1 servers and has 1", "1 more port is needed", "no room for 1 more volume",
        "1 more security group is needed", "4 more security rules are needed", "1 more floating IP is needed"})
    EXPECT_TRUE(has(said, part)) << said;
  EXPECT_TRUE(posts().empty());
  quiet();
  HostWish w = wish();
  w.image = "nothing";
  EXPECT_TRUE(has(refusal([&] { deploy(w); }, Fault::config), "no image 'nothing'"));
  w = wish();
  w.availability_zone = "mars";
  EXPECT_TRUE(has(refusal([&] { deploy(w); }, Fault::config), "mars"));
  EXPECT_TRUE(posts().empty());
}

TEST_F(ConversionHost, ADiskOfTheFlavorDoesAsWell) {
  HostWish w = wish();
  w.boot_volume_gib = 0;
  EXPECT_TRUE(has(refusal([&] { deploy(w); }, Fault::config), "--boot-volume"));
  w.flavor = "m1.disk";
  w.floating_network.clear();
  const Host host = deploy(w);
  EXPECT_TRUE(host.address.starts_with("192.0.2.") || host.address.starts_with("203.0.113.")) << host.address;
  EXPECT_EQ(client::attachments::list(cloud_->compute({}), host.id, {}).size(), 0u);
  destroy();
}

TEST_F(ConversionHost, IsNotRemovedWhileItHasVolumesOfOthers) {
  const Host host = deploy();
  client::VolumeWish volume;
  volume.name = "web01-1-2000";
  volume.gib = 1;
  volume.metadata = volume.tag = {{"migrate_kit", "true"}};
  const VolumeId id = client::volumes::create(cloud_->volume({}), volume, {}).id;
  client::volumes::wait_for(cloud_->volume({}), id, {"available"}, patience, {});
  client::attachments::attach(cloud_->compute({}), cloud_->volume({}), host.id, id, patience, {});
  const std::string said = refusal([&] { destroy(); }, Fault::conflict);
  for (const std::string& part : {id.value, std::string("web01-1-2000"), std::string("vmferry abort")})
    EXPECT_TRUE(has(said, part)) << said;
  EXPECT_EQ(find_host(*cloud_, "host", {}).servers.size(), 1u);
  // In a real server nothing runs that would let go of the disk. Deleted by hand it leaves the rest to be found.
  if (real())
    client::servers::remove(cloud_->compute({}), host.id, patience, {});
  else
    client::attachments::detach(cloud_->compute({}), cloud_->volume({}), host.id, id, patience, {});
  destroy();
  client::volumes::remove(cloud_->volume({}), id, {});
}

// A Nova that speaks microversions up to 2.60 only.
class OlderNova final : public http::Transport {
 public:
  explicit OlderNova(std::unique_ptr<http::Transport> inner) : inner_(std::move(inner)) {}
  http::Response send(const http::Request& request, std::stop_token stop) override {
    http::Response response = inner_->send(request, stop);
    if (const auto at = response.body.find("2.93");
        at != std::string::npos && request.url.find("servers") == std::string::npos)
      response.body.replace(at, 4, "2.60");
    return response;
  }

 private:
  std::unique_ptr<http::Transport> inner_;
};

TEST_F(ConversionHost, OnAnOlderNovaItsBootVolumeIsItsOwnToo) {
  cloud_ = support::open_cloud(*lab_, clock_, log_,
                               [](auto inner) { return std::make_unique<OlderNova>(std::move(inner)); });
  ASSERT_EQ(cloud_->compute({}).microversion().text(), "2.60");
  HostWish w = wish();
  w.boot_volume_type = "lab";
  EXPECT_TRUE(has(refusal([&] { deploy(w); }, Fault::unsupported), "type of a boot volume"));
  EXPECT_TRUE(posts().empty()) << "before anything is made";
  EXPECT_EQ(client::attachments::list(cloud_->compute({}), deploy().id, {}).size(), 1u);
  EXPECT_TRUE(deploy().remarks.empty());
  destroy();
}

TEST_F(ConversionHost, OneThatDiffersFromWhatIsWishedIsToldOf) {
  EXPECT_TRUE(deploy().remarks.empty());
  EXPECT_TRUE(deploy().remarks.empty());
  HostWish w = wish();
  w.flavor = "m1.disk";
  std::vector<std::string> remarks = deploy(w).remarks;
  ASSERT_EQ(remarks.size(), 1u);
  EXPECT_TRUE(has(remarks[0], "it has flavor m1.small, not m1.disk")) << remarks[0];
  w = wish();
  w.image = "nothing";
  remarks = deploy(w).remarks;
  ASSERT_EQ(remarks.size(), 1u);
  EXPECT_TRUE(has(remarks[0], "no image 'nothing'")) << remarks[0];
  client::ImageWish image;
  image.name = "another";
  image.disk_format = "raw";
  image.properties = image.tag = {{"vmferry_test", "another"}};
  w.image = client::images::create(cloud_->image({}), image, {}).id;
  remarks = deploy(w).remarks;
  ASSERT_EQ(remarks.size(), 1u);
  EXPECT_TRUE(has(remarks[0], "not another (" + w.image)) << remarks[0];
  client::images::remove(cloud_->image({}), ImageId{w.image}, {});
  expect_one_of_each();
  destroy();
}

TEST_F(ConversionHost, WhatOthersMadeIsNotTouched) {
  client::Service& network = cloud_->network({});
  const auto group = client::security_groups::create(network, cloud_->project_id(), "host", "mine", {});
  const auto another = client::security_groups::create(network, cloud_->project_id(), "host", "vmferry host=host2", {});
  const client::Port port =
      client::ports::create(network, {"host", "vmferry host=host2", lab_->get("openstack.network_id"), "", {}, {}}, {});
  deploy();
  destroy();
  EXPECT_TRUE(client::ports::look_up(network, port.id, {}));
  destroy("host2");
  EXPECT_FALSE(client::ports::look_up(network, port.id, {}));
  client::security_groups::remove(network, another.id, {});
  client::security_groups::remove(network, group.id, {});
}

TEST_F(ConversionHost, OneThatFailedIsNamedAndRemoved) {
  HostWish w = wish();
  w.flavor = "nowhere";
  EXPECT_TRUE(has(refusal([&] { deploy(w); }, Fault::unavailable), "No valid host was found"));
  EXPECT_TRUE(has(refusal([&] { deploy(); }, Fault::conflict), "vmferry host destroy --name host"));
  destroy();
}

class Check : public ConversionHost {
 protected:
  std::vector<plan::Finding> examine(const HostQuestion& question) {
    std::vector<plan::Finding> found;
    examine_host(*cloud_, question, found, {});
    return found;
  }
  static std::string words(const std::vector<plan::Finding>& found, plan::Level level) {
    std::string all;
    for (const plan::Finding& finding : found)
      if (finding.level == level) all += finding.fact + "\n";
    return all;
  }
};

TEST_F(Check, OfAHostThatIsThereAndOfNone) {
  HostQuestion question;
  question.name = "host";
  EXPECT_TRUE(has(words(examine(question), plan::Level::problem), "has no such host"));
  deploy();
  const support::Greeter greeter("SSH-2.0-Lab_1\r\n");
  question.ssh_address = Address{"127.0.0.1", greeter.port()};
  const auto found = examine(question);
  EXPECT_EQ(words(found, plan::Level::problem), "");
  for (const char* part : {"deployed by vmferry as 'host'",
                           "SSH-2.0-Lab_1 answers at 127.0.0.1:", "1 volume is attached", "in the zone nova"})
    EXPECT_TRUE(has(words(found, plan::Level::note), part)) << words(found, plan::Level::note);
  question.volume_zone = "mars";
  EXPECT_TRUE(has(words(examine(question), plan::Level::problem), "no availability zone 'mars'"));
  destroy();
}

TEST_F(Check, OfAnInstanceThatOthersMade) {
  HostQuestion question;
  question.name = "host";
  question.instance_id = lab_->get("openstack.instance_id");
  question.ask_ssh = false;
  EXPECT_TRUE(has(words(examine(question), plan::Level::note), "not deployed by vmferry"));
  question.instance_id = "00000000-0000-4000-8000-000000000000";
  EXPECT_TRUE(has(words(examine(question), plan::Level::problem), "has no instance"));
}

TEST(Ssh, GreetingsAndWhatIsNone) {
  const auto at = [](int port) { return ssh_greeting({"127.0.0.1", port}, 30s, {}); };
  const support::Greeter good("a banner\r\nSSH-2.0-Lab_1 \x1b[31m\r\n"), web("HTTP/1.1 400\r\n\r\n"), half("SSH-2.0");
  EXPECT_EQ(at(good.port()).said, "SSH-2.0-Lab_1 ?[31m");
  EXPECT_TRUE(at(good.port()).ssh);
  for (const auto* none : {&web, &half}) EXPECT_FALSE(at(none->port()).ssh);
  EXPECT_EQ(at(support::Greeter("").port()).said, "it closes the connection without a greeting");
  EXPECT_EQ(at(support::ClosedPort().number()).said, "Connection refused");
  EXPECT_FALSE(ssh_greeting({"no.such.host.invalid", 22}, 1s, {}).ssh);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(ssh_greeting({"127.0.0.1", good.port()}, 1s, stop.get_token()), Cancelled);
}

}  // namespace
}  // namespace vmferry::target::openstack
