// What people do in vSphere around a job: they rename its machine, give it another disk during the cutover, or have it
// moved once more.
#include <algorithm>

#include "support/thrown.hpp"
#include "world.hpp"

namespace vmferry::job {
namespace {

using support::refusal;

State state_of(const World& world) {
  const std::vector<Fact> facts = world.journal->facts();
  return fold(facts);
}

// Dies before it writes the server down that it has just made.
void die_with_an_unrecorded_server(World& world) {
  world.journal->refuse = [](const Body& body) {
    if (std::holds_alternative<ServerLaunched>(body)) throw Died();
  };
  EXPECT_THROW(world.run(true), Died);
  world.journal->refuse = [](const Body&) {};
}

TEST(Renamed, nothing_is_taken_away_from_the_server_of_a_machine_that_has_another_name_by_now) {
  World world;
  world.run(true);
  world.machine.name = "web01-old";
  const std::string why =
      refusal([&] { abort(world.parts(), *world.journal, world.observer, true, {}); }, Fault::conflict);
  EXPECT_TRUE(support::has(why, "server " + world.cloud.servers().begin()->first.value)) << why;
  EXPECT_FALSE(state_of(world).aborted);
  EXPECT_EQ(world.cloud.volumes().size(), 2u);
  EXPECT_EQ(world.cloud.ports().size(), 1u);
}

TEST(Renamed, the_same_holds_when_no_fact_names_the_server) {
  World world;
  die_with_an_unrecorded_server(world);
  world.machine.name = "web01-old";
  refusal([&] { abort(world.parts(), *world.journal, world.observer, false, {}); }, Fault::conflict);
  EXPECT_EQ(world.cloud.ports().size(), 1u);
}

TEST(Renamed, a_cutover_that_died_with_an_unrecorded_server_ends_with_that_one) {
  World world;
  die_with_an_unrecorded_server(world);
  world.machine.name = "web01-old";
  world.run(true);
  EXPECT_EQ(world.cloud.servers().size(), 1u);
  EXPECT_TRUE(state_of(world).cutover);
  world.expect_nothing_left();
}

TEST(Renamed, a_job_goes_on_with_its_volumes) {
  World world;
  world.run(false);
  const VolumeId before = world.volume(model::DiskKey{2000});
  world.machine.name = "web01-new";
  world.run(true);
  EXPECT_EQ(world.volume(model::DiskKey{2000}), before);
  ASSERT_EQ(world.cloud.examined.copied.size(), 2u);
  EXPECT_EQ(world.cloud.examined.copied.front().tag.vm_name, "web01") << "as its volumes are called";
  EXPECT_EQ(world.cloud.servers().begin()->second.name, "web01-new");
  world.expect_equal(world.converted());
  world.expect_nothing_left();
}

std::vector<std::string> let_go_of(World& world) {
  std::vector<std::string> said;
  let_go(world.cloud, world.job, world.machine.describe({}), [&](const std::string& what) { said.push_back(what); },
         {});
  return said;
}

TEST(MovedAgain, is_refused_while_the_server_stands_whatever_the_machine_is_called_by_now) {
  World world;
  world.run(true);
  world.machine.name = "web01-old";
  const std::string why = refusal([&] { let_go_of(world); }, Fault::conflict);
  EXPECT_TRUE(support::has(why, "server " + world.cloud.servers().begin()->first.value)) << why;
  EXPECT_TRUE(support::has(why, "deletes the ports")) << why;
  EXPECT_EQ(world.cloud.ports().size(), 1u);
}

TEST(MovedAgain, the_ports_of_the_first_job_go_and_it_is_said_and_its_volumes_stay) {
  World world;
  world.run(true);
  const PortId first = world.cloud.ports().begin()->first;
  const VolumeId volume = world.volume(model::DiskKey{2000});
  world.cloud.delete_server(world.cloud.servers().begin()->first);
  world.machine.power_on();
  const std::vector<std::string> said = let_go_of(world);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_TRUE(support::has(said.front(), "port " + first.value)) << said.front();
  EXPECT_TRUE(world.cloud.ports().empty());
  world.begin_again(JobId{"job-2"});
  world.run(true);
  EXPECT_EQ(world.volume(model::DiskKey{2000}), volume);
  ASSERT_EQ(world.cloud.ports().size(), 1u);
  EXPECT_EQ(world.cloud.ports().begin()->second.job, "job-2");  // so its abort would delete it
  world.expect_equal(world.converted());
}

TEST(MovedAgain, a_port_that_is_not_the_jobs_stays_and_is_used) {
  World world;
  world.cloud.ensure_port(JobId{"somebody"}, world.machine.describe({}).nics.front(),
                          {"00:50:56:00:00:01", world.network, "subnet", {}, {}, {}}, {});
  const PortId port = world.cloud.ports().begin()->first;
  world.run(true);
  world.cloud.delete_server(world.cloud.servers().begin()->first);
  world.machine.power_on();
  EXPECT_TRUE(let_go_of(world).empty());
  world.begin_again(JobId{"job-2"});
  world.run(true);
  EXPECT_EQ(world.cloud.servers().begin()->second.ports, std::vector<PortId>{port});
}

// A disk that comes right after the final snapshot was taken.
void add_disk_after_final_snapshot(World& world) {
  world.machine.around = [&world, hook = world.machine.around](const std::string& call, bool acted) {
    if (call == "freeze" && acted && !world.machine.on() && world.machine.keys().size() == 2)
      world.machine.add_disk(model::DiskKey{2002}, 262144);
    hook(call, acted);
  };
}

void expect_all_three_disks_arrived(World& world) {
  ASSERT_EQ(world.cloud.servers().size(), 1u);
  const std::vector<VolumeId> volumes = world.cloud.servers().begin()->second.volumes;
  ASSERT_EQ(volumes.size(), 3u);
  EXPECT_EQ(volumes.back(), world.volume(model::DiskKey{2002}));
  world.expect_equal(world.converted());
  EXPECT_EQ(world.machine.snapshots(), 0u);
}

TEST(NewDisk, comes_along_when_the_command_is_run_again) {
  World world;
  add_disk_after_final_snapshot(world);
  const std::string why = refusal([&] { world.run(true); }, Fault::conflict);
  EXPECT_TRUE(support::has(why, "Hard disk 3 (2002) appeared during cutover; run the same command again")) << why;
  EXPECT_TRUE(world.cloud.servers().empty());
  release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
  world.run(true);
  expect_all_three_disks_arrived(world);
}

TEST(NewDisk, also_after_a_run_that_was_killed_and_let_its_snapshot_stay) {
  World world;
  add_disk_after_final_snapshot(world);
  refusal([&] { world.run(true); }, Fault::conflict);
  world.run(true);
  expect_all_three_disks_arrived(world);
}

TEST(NewDisk, is_refused_in_the_same_way_without_a_conversion) {
  World world;
  world.convert = false;
  add_disk_after_final_snapshot(world);
  refusal([&] { world.run(true); }, Fault::conflict);
  world.run(true);
  EXPECT_EQ(world.cloud.servers().begin()->second.volumes.size(), 3u);
  world.expect_equal(world.resting());
}

}  // namespace
}  // namespace vmferry::job
