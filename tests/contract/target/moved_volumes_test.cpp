// Volumes that others have made of a machine's disks: migratekit's two forms and vmware-migration-kit's are found, told
// of and taken over, and none is believed to be whole for its metadata's sake.
#include <gtest/gtest.h>

#include "openstack_target.hpp"
#include "plan/plan.hpp"
#include "support/thrown.hpp"
#include "target/openstack/moved_volumes.hpp"
#include "target/partial.hpp"

namespace vmferry::target {
namespace {

using support::refusal;

constexpr std::uint64_t size = (1 << 20) + 512;

// virt-v2v may have failed half-way through it, and migratekit keeps the change id all the same.
TEST_F(OpenstackTarget, a_migratekit_volume_is_adopted_but_not_believed_to_be_whole) {
  const VolumeId id = migratekit_volume(scene_.tag(), {{"change_id", "52 aa/12"}});
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  EXPECT_EQ(volume.id, id);
  EXPECT_FALSE(volume.fresh);
  EXPECT_FALSE(volume.memory.contains("vmferry_complete"));
  EXPECT_EQ(volume.memory.at("vmferry_job"), scene_.job.value);
  EXPECT_TRUE(says(volume.remark, "migratekit") && says(volume.remark, "--trust-change-id")) << volume.remark;
  EXPECT_EQ(world_.cloud().allocate(scene_.wish(size), {}).remark, "");
  EXPECT_FALSE(world_.cloud().attach(volume, {})->known_zero());
  world_.cloud().detach(id, {});
}

TEST_F(OpenstackTarget, a_migratekit_volume_is_adopted_with_its_change_id_when_told_so) {
  const VolumeId id = migratekit_volume(scene_.tag(), {{"change_id", "52 aa/12"}});
  openstack::Options options = world_.options();
  options.trust_change_id = true;
  const Volume volume = world_.open(options)->allocate(scene_.wish(size), {});
  EXPECT_EQ(volume.id, id);
  EXPECT_EQ(volume.memory.at("change_id"), "52 aa/12");
  EXPECT_EQ(volume.memory.at("vmferry_complete"), "yes");
}

TEST_F(OpenstackTarget, volumes_of_vmware_migration_kit_are_told_of_and_taken_over_when_wanted) {
  const auto made = [&](const std::string& name, const std::string& converted) {
    const auto cloud = world_.client();
    client::VolumeWish wish;
    wish.name = name;
    wish.gib = 1;
    wish.metadata = wish.tag = {{"osm", "true"}, {"converted", converted}, {"changeID", "52 aa/3"}};
    const VolumeId id = client::volumes::create(cloud->volume({}), wish, {}).id;
    client::volumes::wait_for(cloud->volume({}), id, {"available"}, std::chrono::seconds(120), {});
    return id;
  };
  const VolumeId id = made(plan::osm_volume_name(scene_.vm.name, model::DiskKey{2000}), "false");
  EXPECT_FALSE(world_.cloud().find(scene_.tag(), {}));
  Arrival arrival;
  arrival.vm = scene_.vm;
  arrival.volumes = {scene_.wish(size)};
  const auto told = world_.cloud().examine(arrival, {});
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told.front().level, plan::Level::warning);
  EXPECT_TRUE(says(told.front().object, id.value)) << told.front().object;
  // They are asked for once, however many disks there are.
  for (int disk = 1; disk < 3; ++disk) arrival.volumes.push_back(scene_.wish(size, disk));
  OpenstackWorld::lab().control("openstack", "DELETE", "/calls");
  EXPECT_EQ(world_.cloud().examine(arrival, {}).size(), 1u);
  const auto calls = nlohmann::json::parse(OpenstackWorld::lab().control("openstack", "GET", "/calls"));
  EXPECT_EQ(std::count_if(calls.begin(), calls.end(),
                          [](const nlohmann::json& call) { return says(call["path_or_object"], "/volumes/detail"); }),
            3 + 1);
  openstack::Options options = world_.options();
  options.adopt_osm = true;
  const Volume taken = world_.open(options)->allocate(scene_.wish(size), {});
  EXPECT_EQ(taken.id, id);
  EXPECT_FALSE(taken.fresh);
  EXPECT_FALSE(taken.memory.contains("vmferry_complete"));
  EXPECT_TRUE(says(taken.remark, "vmware-migration-kit")) << taken.remark;
  // From now on it is this machine's without the flag too.
  EXPECT_EQ(world_.cloud().find(scene_.tag(), {})->id, id);
  made(plan::osm_volume_name(scene_.vm.name, model::DiskKey{2001}), "true");
  EXPECT_TRUE(says(refusal([&] { world_.open(options)->allocate(scene_.wish(size, 1), {}); }, Fault::conflict),
                   "was converted by vmware-migration-kit"));
}

// Everybody's volumes, with what is known of each from its own words alone.
TEST_F(OpenstackTarget, volumes_that_hold_moved_disks_are_listed_with_what_they_hold) {
  const auto cloud = world_.client();
  const auto made = [&](const std::string& name, const client::Metadata& words) {
    client::VolumeWish wish;
    wish.name = name;
    wish.gib = 1;
    wish.metadata = wish.tag = words;
    const VolumeId id = client::volumes::create(cloud->volume({}), wish, {}).id;
    client::volumes::wait_for(cloud->volume({}), id, {"available"}, std::chrono::seconds(120), {});
    return id;
  };
  const VolumeId copied = migratekit_volume(scene_.tag(), {{"change_id", "52 aa/12"}}, "kit-1");
  const VolumeId begun = migratekit_volume(scene_.tag(), {}, "kit-2");
  const VolumeId osm = made("osm-1", {{"osm", "true"}, {"converted", "false"}, {"changeID", "52 aa/3"}});
  const VolumeId converted = made("osm-2", {{"osm", "true"}, {"converted", "true"}});
  const VolumeId strange = made("somebody's", {{"osm", "false"}, {"purpose", "other"}});
  const VolumeId ours = world_.cloud().allocate(scene_.wish(size, 1), {}).id;
  const auto listed = [&](const VolumeId& id) {
    std::vector<openstack::MovedVolume> all = openstack::moved_volumes(*cloud, {});
    std::erase_if(all, [&](const auto& moved) { return moved.volume.id != id; });
    return all;
  };
  EXPECT_TRUE(listed(strange).empty());
  const auto find = [&](const VolumeId& id) { return listed(id).at(0); };
  using Maker = openstack::MovedVolume::Maker;
  const auto expect = [&](const VolumeId& id, Maker maker, const std::string& content, const std::string& change_id) {
    const openstack::MovedVolume moved = find(id);
    EXPECT_EQ(moved.maker, maker);
    EXPECT_EQ(openstack::describe_content(moved), content);
    EXPECT_EQ(moved.change_id, change_id);
    EXPECT_EQ(moved.job, maker == Maker::vmferry ? scene_.job : JobId{});
  };
  expect(copied, Maker::migratekit, "a copy, unproven", "52 aa/12");
  expect(begun, Maker::migratekit, "a part of the disk", "");
  expect(osm, Maker::vmware_migration_kit, "a copy, unproven", "52 aa/3");
  expect(converted, Maker::vmware_migration_kit, "converted", "");
  expect(ours, Maker::vmferry, "nothing yet", "");
  EXPECT_EQ(find(ours).vm, scene_.vm.id.value);
  world_.cloud().remember(ours, {{"vmferry_opened", "yes"}, {"vmferry_written", "yes"}}, {});
  expect(ours, Maker::vmferry, "a part of the disk", "");
  const model::ChangeId point = *model::ChangeId::parse("52 aa/4");
  world_.cloud().remember(ours, {{"vmferry_partial", encode(Partial{size / 4, size, point})}}, {});
  expect(ours, Maker::vmferry, "25 % of the disk", "");
  world_.cloud().remember(
      ours, {{"vmferry_partial", ""}, {"vmferry_complete", "yes"}, {"vmferry_cycle", "3"}, {"change_id", "52 aa/4"}},
      {});
  expect(ours, Maker::vmferry, "all, as of cycle 3", "52 aa/4");
  world_.cloud().remember(ours, {{"vmferry_complete", ""}, {"change_id", ""}, {"vmferry_moved", scene_.job.value}}, {});
  expect(ours, Maker::vmferry, "the moved disk", "");
  // Copied again, since the server failed.
  world_.cloud().remember(ours, {{"vmferry_complete", "yes"}, {"vmferry_cycle", "4"}}, {});
  expect(ours, Maker::vmferry, "all, as of cycle 4", "");
  world_.cloud().remember(ours, {{"vmferry_complete", ""}}, {});
  world_.cloud().remember(ours, {{"vmferry_moved", "of a job before"}}, {});
  expect(ours, Maker::vmferry, "a part of the disk", "");
}

TEST_F(OpenstackTarget, a_migratekit_volume_without_a_change_id_is_adopted_and_called_incomplete) {
  const VolumeId id = migratekit_volume(scene_.tag(), {});
  const Volume volume = world_.cloud().allocate(scene_.wish(size), {});
  EXPECT_EQ(volume.id, id);
  EXPECT_FALSE(volume.memory.contains("vmferry_complete"));
  EXPECT_FALSE(volume.fresh);
}

TEST_F(OpenstackTarget, several_volumes_of_one_disk_are_a_conflict_that_names_them) {
  const VolumeId one = migratekit_volume(scene_.tag(), {{"n", "1"}});
  const VolumeId two = migratekit_volume(scene_.tag(), {{"n", "2"}});
  for (const auto& why : {refusal([&] { world_.cloud().find(scene_.tag(), {}); }, Fault::conflict),
                          refusal([&] { world_.cloud().allocate(scene_.wish(size), {}); }, Fault::conflict)}) {
    EXPECT_TRUE(says(why, one.value)) << why;
    EXPECT_TRUE(says(why, two.value)) << why;
  }
}

TEST_F(OpenstackTarget,
       a_volume_with_another_name_is_not_migratekits_and_one_with_another_moref_is_found_only_by_name) {
  migratekit_volume(scene_.tag(), {}, "renamed by hand");
  EXPECT_FALSE(world_.cloud().find(scene_.tag(), {}));
  Tag elsewhere = scene_.tag();
  elsewhere.vm = model::VmId{"ha-vm-7"};
  const VolumeId id = migratekit_volume(elsewhere, {{"change_id", "52 bb/1"}});
  EXPECT_FALSE(world_.cloud().find(scene_.tag(), {}));
  auto options = world_.options();
  options.vz_unsafe_volume_by_name = true;
  const auto cloud = world_.open(options);
  EXPECT_EQ(cloud->find(scene_.tag(), {})->id, id);
  EXPECT_EQ(cloud->allocate(scene_.wish(size), {}).id, id);
  // From now on it is this machine's without the flag too.
  EXPECT_EQ(world_.cloud().find(scene_.tag(), {})->id, id);
}

// As migratekit named and marked volumes until October 2024, by what changes with the machine's ESXi host.
TEST_F(OpenstackTarget, a_migratekit_volume_of_the_older_form_is_adopted_and_keeps_that_form) {
  const std::string object = "919-" + to_string(scene_.tag().disk),
                    name = plan::volume_name(scene_.tag().vm_name, object);
  migratekit_volume(scene_.tag(), {}, name, "919-1" + to_string(scene_.tag().disk));  // another disk's
  const VolumeId id = migratekit_volume(scene_.tag(), {{"change_id", "52 aa/12"}}, name, object);
  auto options = world_.options();
  options.trust_change_id = true;
  const auto cloud = world_.open(options);
  EXPECT_EQ(cloud->find(scene_.tag(), {})->id, id);
  EXPECT_EQ(cloud->allocate(scene_.wish(size), {}).id, id);
  EXPECT_EQ(volumes_in_lab(scene_.tag()), 0u);
  const nlohmann::json adopted = volume_in_lab(id);
  EXPECT_EQ(adopted.at("name"), name);
  EXPECT_EQ(adopted.at("metadata").at("disk"), object) << "migratekit would not find it any more";
  EXPECT_EQ(adopted.at("metadata").at("vmferry_job"), scene_.tag().job.value);
  EXPECT_EQ(world_.cloud().allocate(scene_.wish(size), {}).id, id);
}

}  // namespace
}  // namespace vmferry::target
