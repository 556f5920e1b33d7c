// What only OpenStack as a target has: image properties, lost replies, servers and ports as they were asked for, other
// people's things.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/error.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/ports.hpp"
#include "openstack/servers.hpp"
#include "openstack_target.hpp"
#include "plan/plan.hpp"
#include "support/thrown.hpp"
#include "target/openstack/placement.hpp"

namespace vmferry::target {
namespace {

using support::refusal;

constexpr std::uint64_t size = (1 << 20) + 512;

TEST_F(OpenstackTarget, names_metadata_and_image_properties_are_migratekits_and_only_the_boot_disk_is_bootable) {
  auto options = world_.options();
  options.disk_bus = "scsi";
  const auto cloud = world_.open(options);
  const Volume boot = cloud->allocate(scene_.wish(size, 0), {});
  const Volume data = cloud->allocate(scene_.wish(size, 1), {});
  EXPECT_EQ(boot.bytes, 1ull << 30);
  const nlohmann::json made = volume_in_lab(boot.id);
  EXPECT_EQ(made.at("name"), scene_.tag(0).volume_name);
  const nlohmann::json metadata = made.at("metadata");
  EXPECT_EQ(metadata.at("migrate_kit"), "true");
  EXPECT_EQ(metadata.at("vm"), scene_.vm.id.value);
  EXPECT_EQ(metadata.at("disk"), to_string(scene_.tag(0).disk));
  EXPECT_EQ(metadata.at("hw_disk_bus"), "scsi");
  EXPECT_EQ(metadata.at("hw_scsi_model"), "virtio-scsi");
  EXPECT_EQ(made.at("image_metadata").at("hw_firmware_type"), "uefi");
  EXPECT_TRUE(made.at("bootable").dump().find("true") != std::string::npos) << made.dump();
  const nlohmann::json second = volume_in_lab(data.id);
  EXPECT_TRUE(second.at("bootable").dump().find("false") != std::string::npos) << second.dump();
  EXPECT_TRUE(second.at("image_metadata").empty()) << second.dump();
}

// By a job whose journal is elsewhere: what the server wrote is nowhere else.
TEST_F(OpenstackTarget, a_volume_that_a_server_had_is_overwritten_only_when_told_to) {
  const VolumeWish wish = scene_.wish(size, 1);
  const VolumeId id = world_.cloud().allocate(wish, {}).id;
  VolumeWish later = wish;
  later.tag.job = scene_.other_job;
  world_.cloud().remember(id, {{"vmferry_moved", scene_.job.value}}, {});
  EXPECT_TRUE(says(refusal([&] { world_.cloud().allocate(later, {}); }, Fault::conflict), "--again"));
  openstack::Options options = world_.options();
  options.again = true;
  EXPECT_EQ(world_.open(options)->allocate(later, {}).id, id);
  // It is the other job's from now on, and no server had it since.
  EXPECT_EQ(world_.cloud().allocate(later, {}).id, id);
  EXPECT_EQ(world_.cloud().allocate(wish, {}).id, id);
  // Copied whole again after its server failed, it holds a point like any other.
  world_.cloud().remember(id, {{"vmferry_moved", scene_.job.value}, {"vmferry_complete", "yes"}}, {});
  EXPECT_EQ(world_.cloud().allocate(later, {}).id, id);
}

TEST_F(OpenstackTarget, a_machine_that_was_renamed_keeps_its_volumes) {
  const VolumeId id = world_.cloud().allocate(scene_.wish(size), {}).id;
  Tag renamed = scene_.tag();
  renamed.vm_name = "other";
  renamed.volume_name = "other-" + to_string(renamed.disk);
  ASSERT_TRUE(world_.cloud().find(renamed, {}));
  EXPECT_EQ(world_.cloud().find(renamed, {})->id, id);
}

TEST_F(OpenstackTarget, a_lost_reply_makes_no_second_volume) {
  fault(R"({"service":"volume","method":"POST","path_regex":"/volumes$","count":1,"kind":"lost-reply"})");
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  EXPECT_EQ(volumes_in_lab(scene_.tag()), 1u);
  EXPECT_TRUE(volume.fresh);
}

TEST_F(OpenstackTarget, a_lost_reply_makes_no_second_server_and_no_second_port) {
  LaunchWish wish;
  wish.job = scene_.job;
  wish.vm = scene_.vm;
  wish.flavor = world_.flavor();
  wish.volumes = {world_.cloud().allocate(scene_.wish(size), {}).id};
  fault(R"({"service":"network","method":"POST","path_regex":"/ports$","count":1,"kind":"lost-reply"})");
  const model::Nic& nic = scene_.vm.nics.front();
  const Port port = world_.cloud().ensure_port(scene_.job, nic, world_.choice(nic.mac), {});
  EXPECT_TRUE(port.created);
  wish.ports = {port.id};
  fault(R"({"service":"compute","method":"POST","path_regex":"/servers$","count":1,"kind":"lost-reply"})");
  const ServerId id = world_.cloud().launch(wish, {}).id;
  std::size_t servers = 0;
  const nlohmann::json state = world_.state_of_lab();
  for (const auto& server : state.at("servers"))
    if (server.at("name") == scene_.vm.name) {
      ++servers;
      EXPECT_EQ(server.at("id"), id.value);
    }
  EXPECT_EQ(servers, 1u);
  // A server that has the port keeps it.
  refusal([&] { world_.cloud().discard_port(port.id, scene_.job, {}); }, Fault::conflict);
}

TEST_F(OpenstackTarget, an_attachment_whose_reply_was_lost_is_found) {
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  fault(R"({"service":"compute","method":"POST","path_regex":"os-volume_attachments$","count":1,"kind":"lost-reply"})");
  const auto device = world_.cloud().attach(volume, {});
  device->check();
  // It is attached already: another run goes on with it once this one has let go.
  EXPECT_FALSE(volume_in_lab(volume.id).at("attachments").empty());
}

TEST_F(OpenstackTarget, a_device_that_is_torn_away_is_noticed) {
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  const auto device = world_.cloud().attach(volume, {});
  world_.cloud().detach(volume.id, {});
  const std::string why = refusal([&] { device->check(); }, Fault::conflict);
  EXPECT_TRUE(says(why, volume.id.value)) << why;
}

TEST_F(OpenstackTarget, a_server_is_refused_while_a_volume_is_attached_here) {
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  world_.cloud().attach(volume, {}).reset();
  LaunchWish wish;
  wish.job = scene_.job;
  wish.vm = scene_.vm;
  wish.flavor = world_.flavor();
  wish.volumes = {volume.id};
  const std::string why = refusal([&] { world_.cloud().launch(wish, {}); }, Fault::conflict);
  EXPECT_TRUE(says(why, volume.id.value)) << why;
  refusal([&] { world_.cloud().discard(volume.id, scene_.job, {}); }, Fault::conflict);
  world_.cloud().detach(volume.id, {});
  const Launched launched = world_.cloud().launch(wish, {});
  EXPECT_EQ(launched.state, "ACTIVE");
}

TEST_F(OpenstackTarget, a_server_boots_from_the_volumes_in_their_order_and_leaves_them_when_it_goes) {
  LaunchWish wish;
  wish.job = scene_.job;
  wish.vm = scene_.vm;
  wish.flavor = world_.flavor();
  std::vector<std::string> ids;
  for (const int disk : {0, 2, 1}) {
    wish.volumes.push_back(world_.cloud().allocate(scene_.wish(size, disk), {}).id);
    ids.push_back(wish.volumes.back().value);
  }
  const ServerId id = world_.cloud().launch(wish, {}).id;
  const nlohmann::json state = world_.state_of_lab();
  bool seen = false;
  for (const auto& server : state.at("servers")) {
    if (server.at("id") != id.value) continue;
    seen = true;
    std::vector<std::string> booted;
    for (const auto& volume : server.at("volumes"))
      booted.push_back(volume.is_string() ? volume.get<std::string>() : volume.at("id").get<std::string>());
    EXPECT_EQ(booted, ids);
  }
  EXPECT_TRUE(seen);
  const auto cloud = world_.client();
  client::Call gone;
  gone.method = "DELETE";
  gone.path = "/servers/" + id.value;
  gone.doing = "delete the server";
  cloud->compute({}).call(gone, {});
  for (const VolumeId& volume : wish.volumes)
    client::volumes::wait_for(cloud->volume({}), volume, {"available"}, std::chrono::seconds(120), {});
}

TEST_F(OpenstackTarget, a_server_gets_what_was_asked_for_beside_its_disks) {
  const auto cloud = world_.client();
  client::Service& compute = cloud->compute({});
  const std::string name = "made-" + random_uuid();
  client::keypairs::ensure(compute, name,
                           "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqkLbYyQmTLGs4kqFdGtdPRzx7pFkOVTHbE0WfqkVKD test", {});
  client::Call call;
  call.method = "POST";
  call.path = "/os-server-groups";
  call.body = nlohmann::json{{"server_group", {{"name", name}, {"policy", "soft-anti-affinity"}}}}.dump();
  call.doing = "make a server group";
  compute.call(call, {});
  openstack::Options options = world_.options();
  options.server.key_pair = name;
  options.server.user_data = std::string("#cloud-config\n\0\xff", 16);
  options.server.config_drive = true;
  options.server.group = name;
  options.server.tags = {"wave-1", "web"};
  options.server.metadata = {{"owner", "it's \"odd\" ü"}};
  LaunchWish wish;
  wish.job = scene_.job;
  wish.vm = scene_.vm;
  wish.flavor = world_.flavor();
  wish.volumes = {world_.cloud().allocate(scene_.wish(size, 0), {}).id};
  const auto target = world_.open(options);
  target->check_settings({});
  const ServerId id = target->launch(wish, {}).id;
  const client::Fields made = compute.get("/servers/" + id.value, "show the server", {}).at("server");
  EXPECT_EQ(made.text("key_name"), name);
  EXPECT_TRUE(made.flag("config_drive")) << made.text("config_drive");
  std::vector<std::string> tags = made.texts("tags");
  std::sort(tags.begin(), tags.end());
  EXPECT_EQ(tags, options.server.tags);
  EXPECT_EQ(made.at("metadata").text("owner"), "it's \"odd\" ü");
  EXPECT_EQ(made.at("metadata").text("vmferry_job"), scene_.job.value);
  bool member = false;
  for (const client::Fields& group : compute.list("/os-server-groups", "server_groups", "list server groups", {}))
    if (group.text("name") == name) member = group.texts("members") == std::vector<std::string>{id.value};
  EXPECT_TRUE(member);
  client::servers::remove(compute, id, std::chrono::seconds(120), {});
}

TEST_F(OpenstackTarget, an_address_in_use_and_a_port_with_another_address_are_refused_in_words) {
  model::Nic nic = scene_.vm.nics.front();
  const Port first = world_.cloud().ensure_port(scene_.job, nic, world_.choice(nic.mac), {});
  const std::string address = address_of(first.id);
  NetworkChoice choice = world_.choice(Scene::other_mac());
  choice.ips = {address};
  model::Nic other = nic;
  other.mac = choice.mac;
  const std::string taken =
      refusal([&] { world_.cloud().ensure_port(scene_.job, other, choice, {}); }, Fault::conflict);
  EXPECT_TRUE(says(taken, "address " + address + " cannot be had")) << taken;
  choice.mac = nic.mac;
  choice.ips = {"203.0.113.9"};
  const std::string differs =
      refusal([&] { world_.cloud().ensure_port(scene_.other_job, nic, choice, {}); }, Fault::conflict);
  EXPECT_TRUE(says(differs, address)) << differs;
  EXPECT_TRUE(says(differs, "203.0.113.9")) << differs;
}

TEST_F(OpenstackTarget, a_port_of_this_job_follows_its_mapping) {
  const model::Nic nic = scene_.vm.nics.front();
  Cloud& cloud = world_.cloud();
  NetworkChoice choice = world_.choice(nic.mac);
  // An address that is free for certain: one that was given away and taken back.
  model::Nic other = nic;
  other.mac = Scene::other_mac();
  const Port lent = cloud.ensure_port(scene_.job, other, world_.choice(other.mac), {});
  const Port first = cloud.ensure_port(scene_.job, nic, choice, {});
  choice.ips = {address_of(lent.id)};
  cloud.discard_port(lent.id, scene_.job, {});
  const Port second = cloud.ensure_port(scene_.job, nic, choice, {});
  EXPECT_NE(second.id, first.id);
  EXPECT_TRUE(second.created);
  EXPECT_EQ(address_of(second.id), choice.ips.front());
  EXPECT_EQ(cloud.ports_of(scene_.job, {}), std::vector<PortId>{second.id});
  // The same wish again changes nothing, and other security groups are another wish.
  EXPECT_EQ(cloud.ensure_port(scene_.job, nic, choice, {}).id, second.id);
  openstack::Options options = world_.options();
  options.security_groups = {"web"};
  EXPECT_NE(world_.open(options)->ensure_port(scene_.job, nic, choice, {}).id, second.id);
}

TEST_F(OpenstackTarget, a_port_has_several_addresses_and_its_own_rules) {
  const model::Nic nic = scene_.vm.nics.front();
  NetworkChoice choice = world_.choice(nic.mac);
  // Addresses that are free for certain: given away and taken back.
  std::vector<Port> lent;
  for (const std::string& mac : {Scene::other_mac(), Scene::other_mac()}) {
    model::Nic other = nic;
    other.mac = mac;
    lent.push_back(world_.cloud().ensure_port(scene_.job, other, world_.choice(mac), {}));
    choice.ips.push_back(address_of(lent.back().id));
  }
  for (const Port& port : lent) world_.cloud().discard_port(port.id, scene_.job, {});
  choice.security_groups = {"web"};
  choice.allowed_addresses = {"203.0.113.7", "203.0.113.32/28"};
  const auto shown = [&](const PortId& id) { return *client::ports::look_up(world_.client()->network({}), id, {}); };
  const Port made = world_.cloud().ensure_port(scene_.job, nic, choice, {});
  client::Port port = shown(made.id);
  ASSERT_EQ(port.fixed_ips.size(), 2u);
  EXPECT_EQ((std::set<std::string>{port.fixed_ips[0].ip, port.fixed_ips[1].ip}),
            (std::set<std::string>(choice.ips.begin(), choice.ips.end())));
  EXPECT_EQ(port.security_groups.size(), 1u);
  EXPECT_EQ((std::set<std::string>(port.allowed_addresses.begin(), port.allowed_addresses.end())),
            (std::set<std::string>(choice.allowed_addresses.begin(), choice.allowed_addresses.end())));
  EXPECT_TRUE(port.port_security);
  EXPECT_EQ(world_.cloud().ensure_port(scene_.job, nic, choice, {}).id, made.id);
  // Another wish makes it anew.
  choice.security_groups.clear();
  choice.allowed_addresses.clear();
  choice.port_security = false;
  const Port open = world_.cloud().ensure_port(scene_.job, nic, choice, {});
  EXPECT_NE(open.id, made.id);
  port = shown(open.id);
  EXPECT_FALSE(port.port_security);
  EXPECT_TRUE(port.security_groups.empty());
  EXPECT_EQ(world_.cloud().ensure_port(scene_.job, nic, choice, {}).id, open.id);
  // Not said, it is as the network has it, and no reason to make the port anew.
  choice.port_security.reset();
  EXPECT_EQ(world_.cloud().ensure_port(scene_.job, nic, choice, {}).id, open.id);
}

TEST_F(OpenstackTarget, an_address_that_cannot_be_had_is_replaced_when_that_is_allowed) {
  openstack::Options options = world_.options();
  options.any_address = true;
  const auto cloud = world_.open(options);
  const Port first =
      cloud->ensure_port(scene_.job, scene_.vm.nics.front(), world_.choice(scene_.vm.nics.front().mac), {});
  model::Nic other = scene_.vm.nics.front();
  other.mac = Scene::other_mac();
  for (const std::string& address : {address_of(first.id), std::string("198.18.0.1")}) {
    NetworkChoice choice = world_.choice(other.mac);
    choice.ips = {address};
    Arrival arrival;
    arrival.vm = scene_.vm;
    arrival.ports = {choice};
    const auto found = cloud->examine(arrival, {});
    ASSERT_EQ(found.size(), 1u) << address;
    EXPECT_EQ(found.front().level, plan::Level::warning) << found.front().fact;
    const Port port = cloud->ensure_port(scene_.job, other, choice, {});
    EXPECT_NE(address_of(port.id), address);
    EXPECT_FALSE(address_of(port.id).empty());
    EXPECT_TRUE(says(port.remark, address)) << port.remark;
    const Port again = cloud->ensure_port(scene_.job, other, choice, {});
    EXPECT_EQ(again.id, port.id);
    EXPECT_TRUE(says(again.remark, address)) << again.remark;
    cloud->discard_port(port.id, scene_.job, {});
  }
}

TEST_F(OpenstackTarget, the_smallest_flavor_is_chosen_or_made_and_the_choice_explained) {
  const auto client = world_.client();
  model::Vm vm = scene_.vm;
  vm.vcpus = 1;
  vm.memory = 200ull << 20;
  const openstack::ChosenFlavor plain = openstack::choose_flavor(*client, {}, vm, {});
  EXPECT_EQ(plain.flavor.name, "m1.tiny") << plain.reason;
  EXPECT_TRUE(says(plain.reason, "g1.medium: gpu")) << plain.reason;
  vm.vcpus = 2;
  vm.memory = 4096ull << 20;
  EXPECT_EQ(openstack::choose_flavor(*client, {}, vm, {}).flavor.name, "m1.medium");
  EXPECT_EQ(openstack::choose_flavor(*client, {"", {plan::Reserved::gpu}, false}, vm, {}).flavor.name, "g1.medium");
  EXPECT_EQ(openstack::choose_flavor(*client, {"m1.medium", {}, false}, vm, {}).flavor.name, "m1.medium");
  vm.vcpus = 3;
  vm.memory = 5000ull << 20;
  EXPECT_TRUE(says(refusal([&] { openstack::choose_flavor(*client, {}, vm, {}); }, Fault::config), "m1.medium"));
  EXPECT_TRUE(says(refusal(
                       [&] {
                         openstack::choose_flavor(*client, {"auto", {}, true}, vm, {});
                       },
                       Fault::auth),
                   "only administrators make flavors"));
  const auto administrator = world_.administrator();
  fault(R"({"service":"compute","method":"POST","path_regex":"/flavors$","count":1,"kind":"lost-reply"})");
  const openstack::ChosenFlavor made = openstack::choose_flavor(*administrator, {"auto", {}, true}, vm, {});
  EXPECT_EQ(made.flavor.name, "vmferry-3-5000");
  EXPECT_EQ(openstack::choose_flavor(*administrator, {"auto", {}, true}, vm, {}).flavor.id, made.flavor.id);
  EXPECT_EQ(openstack::choose_flavor(*client, {}, vm, {}).flavor.id, made.flavor.id);
  client::Call gone;
  gone.method = "DELETE";
  gone.path = "/flavors/" + made.flavor.id;
  gone.doing = "delete the flavor";
  administrator->compute({}).call(gone, {});
  EXPECT_TRUE(says(refusal([&] { openstack::choose_flavor(*client, {}, vm, {}); }, Fault::config), "m1.medium"));
}

TEST_F(OpenstackTarget, a_datastore_decides_the_volume_type) {
  openstack::Options options = world_.options();
  options.volume_types = {{"ssd", "fast"}};
  const auto cloud = world_.open(options);
  VolumeWish wish = scene_.wish(size, 0);
  wish.datastore = "ssd";
  VolumeWish other = scene_.wish(size, 1);
  other.datastore = "nas";
  EXPECT_EQ(volume_in_lab(cloud->allocate(wish, {}).id).at("volume_type"), "fast");
  EXPECT_EQ(volume_in_lab(cloud->allocate(other, {}).id).at("volume_type"), options.volume_type);
  options.volume_types = {{"ssd", "no-such-type"}};
  EXPECT_TRUE(says(refusal([&] { world_.open(options)->check_settings({}); }, Fault::config), "no-such-type"));
}

TEST_F(OpenstackTarget, a_new_encrypted_volume_is_not_taken_to_be_zero) {
  openstack::Options options = world_.options();
  options.volume_type = "vault";
  const Volume volume = world_.open(options)->allocate(scene_.wish(size), {});
  EXPECT_EQ(volume_in_lab(volume.id).at("volume_type"), "vault");
  EXPECT_FALSE(volume.fresh);
}

TEST_F(OpenstackTarget, a_volume_that_several_servers_may_have_is_refused_while_another_has_it) {
  openstack::Options options = world_.options();
  options.volume_type = "shared";
  const auto cloud = world_.open(options);
  const Volume volume = cloud->allocate(scene_.wish(size), {});
  EXPECT_EQ(cloud->attach(volume, {})->bytes(), 1ull << 30);
  cloud->detach(volume.id, {});
  world_.take_away(volume.id);
  EXPECT_TRUE(says(refusal([&] { cloud->attach(volume, {}); }, Fault::conflict), world_.taker()));
  world_.give_back(volume.id);
}

TEST_F(OpenstackTarget, what_the_storage_has_already_becomes_the_volume) {
  support::Lab& lab = OpenstackWorld::lab();
  const bool real = lab.real_openstack();
  const std::filesystem::path lun = std::filesystem::path(lab.get("openstack.volumes_dir")) / ("lun-" + random_uuid());
  std::ofstream(lun) << "old";
  std::filesystem::resize_file(lun, 1ull << 30);
  openstack::Options options = world_.options();
  options.existing_volumes[scene_.tag(1).disk] = {"storage@lab#lab", "source-name", "127.0.0.1:" + lun.string()};
  const VolumeWish wish = scene_.wish(size, 1);
  if (!real) {
    const auto cloud = world_.open(options);
    EXPECT_TRUE(says(refusal([&] { cloud->allocate(wish, {}); }, Fault::auth), "volume_manage"));
    lab.control("openstack", "POST", "/settings", R"({"manage_by_members":true})");
  }
  openstack::Options wrong = options;
  wrong.existing_volumes.begin()->second.reference += "-not-there";
  EXPECT_TRUE(says(refusal([&] { world_.open(wrong)->allocate(wish, {}); }, Fault::unavailable), "status error"));
  // The record of the failed attempt is in nobody's way, nor is a lost reply.
  fault(R"({"service":"volume","method":"POST","path_regex":"/manageable_volumes$","count":1,"kind":"lost-reply"})");
  const auto cloud = world_.open(options);
  const Volume volume = cloud->allocate(wish, {});
  EXPECT_FALSE(volume.fresh) << "what it holds is not known";
  EXPECT_EQ(volume.bytes, 1ull << 30);
  EXPECT_FALSE(std::filesystem::exists(lun));
  EXPECT_EQ(cloud->allocate(wish, {}).id, volume.id);
  char first[3] = {};
  auto device = cloud->attach(volume, {});
  ASSERT_EQ(::pread(device->fd(), first, 3, 0), 3);
  EXPECT_EQ(std::string(first, 3), "old");
  device.reset();
  cloud->detach(volume.id, {});
  // It was there before us: what gives the migration up does not take it away.
  cloud->discard(volume.id, scene_.job, {});
  EXPECT_TRUE(volume_in_lab(volume.id).is_null());
  EXPECT_TRUE(std::filesystem::exists(lun.parent_path() / ("volume-" + volume.id.value)));
  if (!real) lab.control("openstack", "POST", "/settings", R"({"manage_by_members":false})");
}

TEST_F(OpenstackTarget, settings_that_do_not_exist_are_refused_by_name) {
  const auto check = [&](const auto& change) {
    openstack::Options options = world_.options();
    change(options);
    return refusal([&] { world_.open(options)->check_settings({}); }, Fault::config);
  };
  EXPECT_TRUE(says(check([](auto& o) { o.volume_type = "gold-plated"; }), "gold-plated"));
  EXPECT_TRUE(says(check([](auto& o) { o.flavor.wanted = "m1.colossal"; }), "m1.colossal"));
  EXPECT_TRUE(says(check([](auto& o) { o.volume_availability_zone = "atlantis"; }), "atlantis"));
  EXPECT_TRUE(says(check([](auto& o) { o.availability_zone = "atlantis"; }), "atlantis"));
  EXPECT_TRUE(says(check([](auto& o) {
                     o.networks = {{"00:50:56:00:00:01", "no-such-net", "", {}, {}, {}}};
                   }),
                   "no-such-net"));
  EXPECT_TRUE(says(check([](auto& o) { o.security_groups = {"no-such-group"}; }), "no-such-group"));
  EXPECT_TRUE(says(check([](auto& o) { o.server.key_pair = "no-such-key"; }), "no-such-key"));
  EXPECT_TRUE(says(check([](auto& o) { o.server.group = "no-such-servers"; }), "no-such-servers"));
  EXPECT_TRUE(says(check([](auto& o) { o.disk_bus = "floppy"; }), "floppy"));
  EXPECT_TRUE(says(check([](auto& o) { o.instance_id = "11111111-2222-4333-8444-555555555555"; }), "11111111-2222"));
}

TEST_F(OpenstackTarget, a_quota_without_room_for_the_server_is_said_before_the_cutover) {
  OpenstackWorld::lab().control("openstack", "POST", "/quota", R"({"instances":0})");
  openstack::Options options = world_.options();
  options.flavor.wanted = world_.flavor();
  Arrival arrival;
  arrival.vm = scene_.vm;
  arrival.server = true;
  const std::vector<plan::Finding> found = world_.open(options)->examine(arrival, {});
  OpenstackWorld::lab().control("openstack", "POST", "/quota", R"({"instances":-1})");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found.front().fault, Fault::quota);
  EXPECT_TRUE(says(found.front().fact, "server")) << found.front().fact;
  EXPECT_TRUE(world_.open(options)->examine(arrival, {}).empty());
}

TEST_F(OpenstackTarget, a_quota_without_room_for_the_volume_is_said_in_numbers) {
  // Cinder takes no limit below what is used.
  const std::int64_t used = client::volumes::limits(world_.client()->volume({}), {}).gib_used;
  OpenstackWorld::lab().control("openstack", "POST", "/quota", fmt::format(R"({{"gigabytes":{}}})", used));
  const std::string why = refusal([&] { world_.cloud().allocate(scene_.wish(size), {}); }, Fault::quota);
  OpenstackWorld::lab().control("openstack", "POST", "/quota", R"({"gigabytes":-1})");
  EXPECT_TRUE(says(why, "GiB")) << why;
  EXPECT_TRUE(world_.cloud().allocate(scene_.wish(size), {}).fresh);
}

TEST_F(OpenstackTarget, a_volume_that_another_host_works_on_keeps_its_tag) {
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  world_.take_away(volume.id);
  Scene second = scene_;
  second.job = scene_.other_job;
  const std::string why = refusal([&] { world_.cloud().allocate(second.wish(size), {}); }, Fault::conflict);
  EXPECT_TRUE(says(why, world_.taker())) << why;
  EXPECT_TRUE(says(why, scene_.job.value)) << why;
  EXPECT_EQ(world_.cloud().find(scene_.tag(), {})->memory.at("vmferry_job"), scene_.job.value);
}

TEST_F(OpenstackTarget, a_token_that_ends_in_the_middle_is_renewed) {
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  OpenstackWorld::lab().control("openstack", "POST", "/tokens/revoke");
  const auto device = world_.cloud().attach(volume, {});
  device->check();
  OpenstackWorld::lab().control("openstack", "POST", "/tokens/revoke");
  world_.cloud().remember(volume.id, {{"change_id", "a/1"}}, {});
  EXPECT_EQ(world_.cloud().find(scene_.tag(), {})->memory.at("change_id"), "a/1");
}

TEST_F(OpenstackTarget, a_device_that_never_appears_is_a_timeout_in_words) {
  support::TemporaryDirectory empty;
  openstack::Options options = world_.options();
  options.device_directory = empty.path();
  options.device_patience = std::chrono::seconds(1);
  const auto cloud = world_.open(options);
  const Volume volume = cloud->allocate(scene_.wish(size), {});
  const std::string why = refusal([&] { cloud->attach(volume, {}); }, Fault::timeout);
  EXPECT_TRUE(says(why, empty.path().string())) << why;
  EXPECT_TRUE(says(why, "conversion-host")) << why;
  cloud->detach(volume.id, {});
}

TEST_F(OpenstackTarget, another_volumes_identity_is_refused) {
  support::TemporaryDirectory liar;
  openstack::Options options = world_.options();
  options.identity = file_identity(liar.path());  // says nothing of any device
  const auto cloud = world_.open(options);
  const Volume volume = cloud->allocate(scene_.wish(size), {});
  refusal([&] { cloud->attach(volume, {}); }, Fault::conflict);
  cloud->detach(volume.id, {});
  EXPECT_TRUE(cloud->find(scene_.tag(), {})->fresh);  // it was not opened for writing
}

}  // namespace
}  // namespace vmferry::target
