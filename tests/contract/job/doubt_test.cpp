// What a job, or another one that finds its volumes, must not believe: what tracking says, what the journal says of a
// volume that others had, what a server that is gone left behind.
#include <algorithm>
#include <atomic>

#include "support/thrown.hpp"
#include "target/memory_keys.hpp"
#include "world.hpp"

namespace vmferry::job {
namespace {

namespace key = target::memory_key;

class Doubt : public testing::Test {
 protected:
  void expect_arrived() {
    EXPECT_FALSE(world_.machine.on());
    world_.expect_equal(world_.converted());
    world_.expect_nothing_left();
    EXPECT_EQ(world_.cloud.servers().size(), 1u);
  }
  // A run that dies when the bytes of its copy are there and nothing says so yet.
  void run_until_copied(bool cut) {
    world_.journal->around = [](const std::string& call, bool acted) {
      if (call == "fact DiskCopied" && !acted) throw Died();
    };
    EXPECT_THROW(world_.run(cut), Died);
    world_.journal->around = [](const std::string&, bool) {};
    release();
  }
  void release() { job::release(world_.parts(), *world_.journal, world_.observer, std::chrono::seconds(10)); }
  // As far as a conversion, and no further: the volumes hold no point of the source then.
  void cutover_refused() {
    world_.cloud.launch_refusal = "no valid host";
    EXPECT_THROW(world_.run(true), Error);
    world_.cloud.launch_refusal.clear();
    release();
  }
  // As far as the launch, and not into it.
  void run_until_launched() {
    world_.cloud.silent_before_asking = true;
    EXPECT_THROW(world_.run(true), Error);
    world_.cloud.silent_before_asking = false;
    release();
  }
  State state() {
    const std::vector<Fact> facts = world_.journal->facts();
    return fold(facts);
  }
  World world_;
};

TEST_F(Doubt, ALieOfChangeTrackingIsKnownToAnotherHost) {
  world_.audit = 1;
  world_.run(false);
  world_.machine.hides_changes = true;
  run_until_copied(false);
  const State now = state();
  int doubted = 0;
  for (const auto& [disk, known] : now.disks) {
    if (!known.tracking_doubted) continue;
    ++doubted;
    EXPECT_FALSE(world_.cloud.volumes().at(known.volume).memory.contains(key::complete));
  }
  EXPECT_GT(doubted, 0);
  world_.run(false);
  world_.expect_equal_to_last_snapshot();
  world_.audit = 0;
  world_.on_another_host([&] {
    world_.run(false);
    world_.expect_equal_to_last_snapshot();
  });
}

// A comparison takes hours: the volume is not to be copied anew for what was noted on it.
TEST_F(Doubt, ALieIsNoReasonToWriteAgainWhatIsEqual) {
  world_.audit = 1;
  world_.run(false);
  world_.machine.hides_changes = true;
  for (int i = 0; i < 2; ++i) {
    const std::uint64_t before = world_.observer.written;
    world_.run(false);
    EXPECT_LT(world_.observer.written - before, 8 * 65536u);
    world_.expect_equal_to_last_snapshot();
  }
}

TEST_F(Doubt, AnAuditThatFailsDoesNotForgetWhatItFound) {
  world_.audit = 1;
  world_.run(false);
  world_.machine.hides_changes = true;
  std::atomic<int> checks = 0;
  // At the end of each delta, then at the end of each audit.
  world_.machine.on_check = [&] {
    const int now = ++checks;
    if (now == 3 || now == 4) throw Error(Fault::unavailable, "the host does not answer");
  };
  EXPECT_THROW(world_.run(false), Error);
  world_.machine.on_check = {};
  const State now = state();
  EXPECT_TRUE(
      std::any_of(now.disks.begin(), now.disks.end(), [](const auto& one) { return one.second.tracking_doubted; }));
}

TEST_F(Doubt, ADiskThatGrewIsReadWhateverTrackingSaysIsAllocated) {
  world_.machine.forgets_growth = true;
  for (const bool elsewhere : {false, true}) {
    SCOPED_TRACE(elsewhere);
    if (!elsewhere) world_.run(false);
    const model::DiskKey disk = world_.machine.keys()[0];
    world_.machine.grow(disk, world_.machine.bytes(disk).size() + 3 * 65536);
    const auto grown = [&] {
      world_.run(false);
      world_.expect_equal_to_last_snapshot();
    };
    elsewhere ? world_.on_another_host(grown) : grown();
  }
}

TEST_F(Doubt, AHistoryThatEndsInItsMiddleIsNoReasonToSkipWhatWasWrittenByThen) {
  world_.run(false);
  world_.machine.loses_history_midway = true;
  const std::uint64_t before = world_.observer.written;
  world_.run(false);
  EXPECT_GT(world_.observer.written - before, 4 * 65536u);
  world_.expect_equal_to_last_snapshot();
}

TEST_F(Doubt, WhatAnotherHostBeganToWriteIsNotTakenForWhatIsKept) {
  world_.run(false);
  std::map<model::DiskKey, std::string> copied;
  const SnapshotId last = state().cycles.back().snapshot->snapshot;
  for (const model::DiskKey disk : world_.machine.keys()) copied[disk] = world_.machine.frozen(last, disk);
  for (int i = 0; i < 20; ++i) world_.machine.describe({});  // its guest writes
  world_.on_another_host([&] { run_until_copied(false); });
  for (const auto& [disk, bytes] : copied) world_.machine.put_back(disk, bytes);
  world_.machine.reset_tracking();
  world_.run(false);
  world_.expect_equal_to_last_snapshot();
}

TEST_F(Doubt, AConversionThatAnotherHostWroteOverDoesNotStand) {
  cutover_refused();
  world_.on_another_host([&] { run_until_copied(false); });
  world_.run(true);
  expect_arrived();
}

TEST_F(Doubt, APartOfACopyThatAnotherHostConvertedIsCopiedAgain) {
  world_.request = 64 * 1024;
  world_.checkpoints = true;
  run_until_copied(false);
  world_.on_another_host([&] {
    cutover_refused();
    world_.machine.power_on();
  });
  world_.run(false);
  world_.expect_equal_to_last_snapshot();
}

TEST_F(Doubt, ACopyThatWasNotNotedBeforeAnotherHostWroteIsNotBuiltOn) {
  world_.journal->around = [](const std::string& call, bool acted) {
    if (call == "fact DiskRemembered" && !acted) throw Died();
  };
  EXPECT_THROW(world_.run(false), Died);
  world_.journal->around = [](const std::string&, bool) {};
  release();
  world_.on_another_host([&] {
    cutover_refused();
    world_.machine.power_on();
  });
  world_.run(false);
  world_.expect_equal_to_last_snapshot();
}

TEST_F(Doubt, WhatAServerWroteThatWasDeletedWhileItStartedIsNotBuiltOn) {
  world_.cloud.while_it_starts = [&](const ServerId& server) {
    world_.cloud.delete_server(server);
    for (const auto& [id, volume] : world_.cloud.volumes()) world_.cloud.scribble(id);
  };
  EXPECT_THROW(world_.run(true), Error);
  world_.cloud.while_it_starts = {};
  release();
  world_.run(true);
  expect_arrived();
}

// The fact of the server is missing: nothing of it is to be verified any more.
TEST_F(Doubt, ACutoverThatVerifiesAlsoEndsWhenItsServerWasMadeUnrecorded) {
  world_.verified = true;
  world_.journal->around = [](const std::string& call, bool acted) {
    if (call == "fact ServerLaunched" && !acted) throw Died();
  };
  EXPECT_THROW(world_.run(true), Died);
  world_.journal->around = [](const std::string&, bool) {};
  world_.run(true);
  expect_arrived();
}

// Whoever finds the volume later must not think that it holds a server's bytes.
TEST_F(Doubt, AVolumeThatWasCopiedAgainIsNoServersAnyMore) {
  world_.cloud.while_it_starts = [&](const ServerId& server) { world_.cloud.delete_server(server); };
  EXPECT_THROW(world_.run(true), Error);
  world_.cloud.while_it_starts = {};
  const auto moved = [&] {
    std::string words;
    for (const auto& [id, volume] : world_.cloud.volumes()) words += " " + target::value(volume.memory, key::moved);
    return words;
  };
  EXPECT_EQ(moved(), " job-1 job-1");
  release();
  run_until_launched();
  EXPECT_EQ(moved(), " no no");
}

// By abort, but only what is still this job's.
TEST_F(Doubt, AnAbortedJobGivesItsVolumesFree) {
  for (const bool taken_over : {false, true}) {
    SCOPED_TRACE(taken_over);
    World world;
    world.run(true);
    world.cloud.delete_server(world.cloud.servers().begin()->first);
    if (taken_over)
      for (const auto& [id, volume] : world.cloud.volumes())
        world.cloud.change(id, [](auto& mine) { mine.memory[key::job] = mine.memory[key::moved] = "another"; });
    abort(world.parts(), *world.journal, world.observer, false, {});
    for (const auto& [id, volume] : world.cloud.volumes())
      EXPECT_EQ(target::value(volume.memory, key::moved), taken_over ? "another" : "no");
  }
}

TEST_F(Doubt, AConversionThatStandsStandsAThirdTimeToo) {
  cutover_refused();
  const int conversions = world_.converter.conversions;
  for (int i = 0; i < 2; ++i) {
    world_.cloud.silent_before_asking = true;
    EXPECT_THROW(world_.run(true), Error);
    world_.cloud.silent_before_asking = false;
    release();
  }
  world_.run(true);
  expect_arrived();
  EXPECT_EQ(world_.converter.conversions, conversions);
}

TEST_F(Doubt, NothingIsVerifiedThatAnotherHostHasWritten) {
  world_.run(false);
  world_.on_another_host([&] { world_.run(false); });
  EXPECT_EQ(support::thrown([&] { world_.verify(false); }).fault(), Fault::conflict);
  world_.run(false);
  world_.verify(false);
}

TEST_F(Doubt, ACloudThatIsSilentBeforeTheServerIsAskedForCostsNoCopy) {
  world_.run(false);
  world_.cloud.silent_before_asking = true;
  EXPECT_THROW(world_.run(true), Error);
  const int fulls = world_.observer.fulls;
  world_.cloud.silent_before_asking = false;
  release();
  world_.run(true);
  expect_arrived();
  EXPECT_EQ(world_.observer.fulls, fulls);
}

}  // namespace
}  // namespace vmferry::job
