// Networks with a subnet of each family: what an adapter's port gets there, and what is said before it does.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <set>

#include "base/error.hpp"
#include "openstack/networks.hpp"
#include "openstack/ports.hpp"
#include "plan/plan.hpp"
#include "target/openstack/openstack_cloud.hpp"
#include "target/openstack/room.hpp"
#include "worlds.hpp"

namespace vmferry::target {
namespace {

namespace client = ::vmferry::openstack;

using Texts = std::vector<std::string>;

class DualStack : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = OpenstackWorld::unavailable(); !why.empty()) GTEST_SKIP() << "not shown here: " << why;
    // What the real services tell an administrator only.
    if (!OpenstackWorld::lab().real_openstack()) settings(R"({"ip_availability":"shown"})");
  }
  void TearDown() override {
    if (IsSkipped()) return;
    if (restore_) restore_();
    for (const PortId& port : world_.cloud().ports_of(scene_.job, {}))
      world_.cloud().discard_port(port, scene_.job, {});
    if (!OpenstackWorld::lab().real_openstack()) settings(R"({"ip_availability":"forbidden"})");
  }
  static void settings(const std::string& json) {
    OpenstackWorld::lab().control("openstack", "POST", "/settings", json);
  }

  // Addresses that nobody has, and that were not given out here before: a lab that is lent remembers what earlier
  // programs made.
  static std::string fresh(const std::function<std::string()>& any) {
    static std::set<std::string> given;
    for (;;)
      if (const auto [address, is_new] = given.insert(any()); is_new) return *address;
  }
  static std::string fresh_v4(int net = 1) {
    return fresh([&] { return fmt::format("198.18.{}.{}", net, 10 + random() % 200); });
  }
  static std::string fresh_v6(const std::string& net = "2001:db8:1") {
    return fresh([&] { return fmt::format("{}:0:a:b{:x}:c:d{:x}", net, random() % 0xfff, random() % 0xfff); });
  }
  static unsigned random() {
    static std::random_device device;
    return device();
  }
  static model::Nic nic(const std::string& mac) {
    return {4000, "Network adapter 1", "VM Network", mac, "", "vmxnet3", true};
  }
  static NetworkChoice choice(const std::string& mac, const Texts& ips, const std::string& subnet = "",
                              const std::string& network = "dual") {
    NetworkChoice choice;
    choice.mac = mac;
    choice.network = network;
    choice.subnet = subnet;
    choice.ips = ips;
    return choice;
  }
  Port made(const NetworkChoice& wanted) { return world_.cloud().ensure_port(scene_.job, nic(wanted.mac), wanted, {}); }
  client::Port shown(const PortId& id) {
    if (!client_) client_ = world_.client();
    return *client::ports::look_up(client_->network({}), id, {});
  }
  std::set<std::string> addresses(const PortId& id) {
    std::set<std::string> all;
    for (const client::FixedIp& fixed : shown(id).fixed_ips) all.insert(fixed.ip);
    return all;
  }
  std::unique_ptr<Cloud> generous() {
    openstack::Options options = world_.options();
    options.any_address = true;
    return world_.open(options);
  }
  // What is said of it before anything is done.
  static std::vector<plan::Finding> findings(Cloud& cloud, const NetworkChoice& wanted) {
    Arrival arrival;
    arrival.vm.name = "machine";
    arrival.ports = {wanted};
    return cloud.examine(arrival, {});
  }
  // A digit for each.
  static std::string families(const std::set<std::string>& addresses) {
    std::string all;
    for (const std::string& ip : addresses) all += ip.find(':') == std::string::npos ? '4' : '6';
    std::sort(all.begin(), all.end());
    return all;
  }
  static bool says(const std::string& message, const std::string& words) {
    return message.find(words) != std::string::npos;
  }
  // Both, in words: the finding beforehand, and the refusal when it is tried all the same.
  void cannot_be(const NetworkChoice& wanted, Fault fault, const std::string& words) {
    SCOPED_TRACE(fmt::format("{} in {}", fmt::join(wanted.ips, " "), wanted.network));
    const auto found = findings(world_.cloud(), wanted);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found.front().level, plan::Level::problem);
    EXPECT_EQ(found.front().fault, fault);
    EXPECT_TRUE(says(found.front().fact, words)) << found.front().fact;
    EXPECT_TRUE(says(found.front().remedy, wanted.mac)) << found.front().remedy;
    try {
      made(wanted);
      ADD_FAILURE() << "was not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), fault) << e.what();
      EXPECT_TRUE(says(e.what(), "cannot be had in network " + wanted.network)) << e.what();
      EXPECT_TRUE(says(e.what(), "--fallback-to-dhcp")) << e.what();
    }
  }
  // Others of the same families where `gone` cannot be had, when that will do.
  void is_replaced(const NetworkChoice& wanted, const Texts& gone) {
    SCOPED_TRACE(fmt::format("{} in {}", fmt::join(wanted.ips, " "), wanted.network));
    const auto cloud = generous();
    const auto warned = findings(*cloud, wanted);
    ASSERT_EQ(warned.size(), gone.size());
    for (const plan::Finding& finding : warned) EXPECT_EQ(finding.level, plan::Level::warning) << finding.fact;
    const Port port = cloud->ensure_port(scene_.job, nic(wanted.mac), wanted, {});
    EXPECT_EQ(port.mac, wanted.mac);
    const std::set<std::string> all = addresses(port.id);
    EXPECT_EQ(families(all), families({wanted.ips.begin(), wanted.ips.end()}));
    for (const std::string& ip : wanted.ips)
      EXPECT_EQ(all.count(ip), std::count(gone.begin(), gone.end(), ip) == 0 ? 1u : 0u) << ip;
    for (const std::string& ip : wanted.ips) EXPECT_TRUE(says(port.remark, ip)) << port.remark;
    EXPECT_EQ(cloud->ensure_port(scene_.job, nic(wanted.mac), wanted, {}).id, port.id);
    cloud->discard_port(port.id, scene_.job, {});
  }

  OpenstackWorld world_;
  std::function<void()> restore_;
  std::unique_ptr<client::Cloud> client_;
  Scene scene_;
  std::string mac_ = scene_.vm.nics.front().mac;
};

TEST_F(DualStack, APortHasItsMacAndExactlyTheAddressesOfBothFamilies) {
  const Texts ips{fresh_v4(), fresh_v6(), fresh_v6()};
  for (const std::string subnet : {"", "dual-v6"}) {
    SCOPED_TRACE(subnet);
    const NetworkChoice wanted = choice(mac_, ips, subnet);
    EXPECT_TRUE(findings(world_.cloud(), wanted).empty());
    const Port port = made(wanted);
    EXPECT_TRUE(port.created);
    EXPECT_EQ(port.mac, mac_);
    EXPECT_EQ(port.remark, "");
    EXPECT_EQ(addresses(port.id), std::set<std::string>(ips.begin(), ips.end()));
    EXPECT_EQ(shown(port.id).mac, mac_);
    EXPECT_EQ(made(wanted).id, port.id);
    world_.cloud().discard_port(port.id, scene_.job, {});
  }
}

TEST_F(DualStack, AnAddressIsTheSameHoweverItIsWritten) {
  const unsigned tail = random() % 0xfff;
  const std::string plain = fmt::format("2001:db8:1::a:b{:x}", tail);
  const std::string odd = fmt::format("2001:0DB8:1:0:0:0:A:B{:X}", tail);
  NetworkChoice wanted = choice(mac_, {odd}, "dual-v6");
  wanted.allowed_addresses = {"2001:DB8:77::/64", "2001:db8:78::5", "192.0.2.128/25"};
  const Port port = made(wanted);
  EXPECT_EQ(addresses(port.id), std::set{plain});
  EXPECT_EQ(port.remark, "");
  EXPECT_EQ(made(wanted).id, port.id);
  const Texts allowed = shown(port.id).allowed_addresses;
  EXPECT_EQ(std::set<std::string>(allowed.begin(), allowed.end()),
            std::set<std::string>(wanted.allowed_addresses.begin(), wanted.allowed_addresses.end()));
  const std::string other = Scene::other_mac();
  cannot_be(choice(other, {plain}, "dual-v6"), Fault::conflict,
            "address " + plain + " is in use by port " + port.id.value);
  cannot_be(choice(other, {odd}), Fault::conflict, "address " + odd + " is in use by port " + port.id.value);
  is_replaced(choice(other, {odd}), {odd});
}

TEST_F(DualStack, OnlyAnAddressThatCannotBeHadIsReplaced) {
  const std::string other = Scene::other_mac(), outside = "2001:db8:ffff::1";
  const Texts taken{fresh_v4(), fresh_v6()};
  made(choice(mac_, taken));
  const Texts free{fresh_v4(), fresh_v6()};
  is_replaced(choice(other, {free[0], taken[1]}), {taken[1]});
  is_replaced(choice(other, {taken[0], free[1]}, "dual-v4"), {taken[0]});
  is_replaced(choice(other, {taken[0], taken[1], free[1], outside}), {taken[0], taken[1], outside});
  // It stays in the subnet that was asked for.
  is_replaced(choice(other, {taken[1]}, "dual-v6"), {taken[1]});
  is_replaced(choice(other, {outside}, "dual-v6"), {outside});
}

TEST_F(DualStack, AnAddressOfNoSubnetIsRefusedInWords) {
  const std::string outside = "2001:db8:ffff::1";
  cannot_be(choice(mac_, {outside}, "dual-v6"), Fault::config, "is not in its subnet 2001:db8:1::/64");
  cannot_be(choice(mac_, {fresh_v6()}, "dual-v4"), Fault::config, "is not in its subnet 198.18.1.0/24");
  for (const Texts& ips : {Texts{fresh_v4(), outside}, Texts{fresh_v6(), "203.0.113.9"}})
    cannot_be(choice(mac_, ips), Fault::config, fmt::format("address {} is in none of its subnets (", ips.back()));
}

// Neutron would make a port without an address, and Nova refuse it when the machine is off.
TEST_F(DualStack, ANetworkWithoutASubnetIsSaidBeforehand) {
  const auto cloud = world_.client();
  client::Network bare = client::networks::find(cloud->network({}), "dual", {});
  bare.subnets.clear();
  std::vector<plan::Finding> found;
  openstack::judge_addresses(*cloud, bare, choice(mac_, {}), false, found, {});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found.front().level, plan::Level::problem);
  EXPECT_TRUE(says(found.front().fact, "it has no subnet")) << found.front().fact;
  EXPECT_TRUE(says(found.front().remedy, mac_)) << found.front().remedy;
}

TEST_F(DualStack, AddressesThatComeFromMacsCannotBeChosen) {
  const Texts ips{fresh_v4(2), fresh_v6("2001:db8:2")};
  cannot_be(choice(mac_, ips, "", "slaac"), Fault::config, "address " + ips[1] + " cannot be chosen");
  cannot_be(choice(mac_, {ips[1]}, "slaac-v6", "slaac"), Fault::config, "address " + ips[1] + " cannot be chosen");
  is_replaced(choice(mac_, ips, "", "slaac"), {ips[1]});
  // They come beside those that are asked for, and that is no reason to make the port anew.
  const NetworkChoice wanted = choice(mac_, {ips[0]}, "slaac-v4", "slaac");
  const Port port = made(wanted);
  const std::set<std::string> all = addresses(port.id);
  EXPECT_EQ(all.size(), 2u);
  EXPECT_EQ(all.count(ips[0]), 1u);
  EXPECT_EQ(port.remark, "");
  EXPECT_EQ(made(wanted).id, port.id);
}

TEST_F(DualStack, ASubnetAloneGivesOneAddressAndNoneGivesOneOfEachFamily) {
  const auto given = [&](const NetworkChoice& wanted) {
    const Port port = made(wanted);
    const std::string all = families(addresses(port.id));
    world_.cloud().discard_port(port.id, scene_.job, {});
    return all;
  };
  EXPECT_EQ(given(choice(mac_, {}, "dual-v6")), "6");
  EXPECT_EQ(given(choice(mac_, {})), "46");
  EXPECT_EQ(given(choice(mac_, {}, "slaac-v6", "slaac")), "6");
}

TEST_F(DualStack, RoomIsCountedForEachFamily) {
  const auto cloud = world_.administrator();
  const client::Network dual = client::networks::find(cloud->network({}), "dual", {});
  const client::Subnet v6 = client::networks::find_subnet(cloud->network({}), dual, "dual-v6", {});
  SystemClock clock;
  const auto target = openstack::openstack_cloud(world_.options(), world_.administrator(), http::curl({}, world_.log()),
                                                 clock, world_.log());
  const auto facts = [&](const std::string& subnet) {
    std::string all;
    for (const plan::Finding& finding : findings(*target, choice(mac_, {}, subnet))) all += finding.fact;
    return all;
  };
  // A subnet of IPv6 has more addresses than a number of 64 bits tells.
  for (const std::string subnet : {"", "dual-v6"}) EXPECT_EQ(facts(subnet), "") << subnet;
  const std::string taken = fresh_v6();
  made(choice(Scene::other_mac(), {taken}));
  const auto pool = [&](const client::Subnet& subnet, const std::string& first, const std::string& last) {
    OpenstackWorld::lab().control("openstack", "POST", "/subnets/" + subnet.id + "/pool",
                                  nlohmann::json{{"start", first}, {"end", last}}.dump());
  };
  restore_ = [pool, v6] { pool(v6, "2001:db8:1::2", "2001:db8:1:0:ffff:ffff:ffff:ffff"); };
  pool(v6, taken, taken);
  for (const std::string subnet : {"", "dual-v6"})
    EXPECT_EQ(facts(subnet), "its subnet 2001:db8:1::/64 has no free address") << subnet;
  EXPECT_EQ(facts("dual-v4"), "");
  // Neutron thinks so too.
  std::string refused;
  try {
    made(choice(mac_, {}));
  } catch (const Error& e) {
    refused = e.name();
  }
  EXPECT_TRUE(refused.starts_with("IpAddressGenerationFailure")) << refused;
  restore_();
  EXPECT_EQ(addresses(made(choice(mac_, {})).id).size(), 2u);
}

}  // namespace
}  // namespace vmferry::target
