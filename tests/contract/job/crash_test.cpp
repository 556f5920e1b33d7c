// Death around every call that changes something and around every fact, then the same command again: the end is the
// same, the bytes are equal, and nothing is left behind.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "support/thrown.hpp"
#include "target/memory_keys.hpp"
#include "world.hpp"

namespace vmferry::job {
namespace {

void whole_journey(World& world) {
  world.insist(false);
  world.insist(false);
  world.insist(true);
}

void expect_arrived(World& world) {
  EXPECT_FALSE(world.machine.on());
  world.expect_equal(world.convert ? world.converted() : world.resting());
  world.expect_nothing_left();
  EXPECT_EQ(world.cloud.servers().size(), 1u);
  EXPECT_EQ(world.cloud.ports().size(), 1u);
}

// ./test runs a third of the points, chosen by its seed; ./test --full contract runs them all.
struct Slice {
  explicit Slice(int points) {
    const char* seed = std::getenv("VMFERRY_SLICE_SEED");
    if (!seed) return;
    stride = 3;
    first = static_cast<int>(std::strtoul(seed, nullptr, 10) % 3);
    std::printf("crash points %d, %d, ... of %d; all of them: ./test --full contract\n", first, first + stride, points);
  }
  int first = 0, stride = 1;
};

TEST(Journey, WithoutDeath) {
  World world;
  world.run(false);
  EXPECT_EQ(world.observer.fulls, 2);
  world.run(false);
  EXPECT_EQ(world.observer.fulls, 2);
  EXPECT_EQ(world.observer.deltas, 2);
  world.run(true);
  EXPECT_EQ(world.observer.deltas, 6) << "a warm and a final cycle of two disks";
  expect_arrived(world);
  world.run(true);
  EXPECT_EQ(world.cloud.servers().size(), 1u) << "again is nothing";
}

TEST(Journey, DeathAtEveryPoint) {
  World counting;
  whole_journey(counting);
  const int points = static_cast<int>(counting.events.size());
  ASSERT_GT(points, 100);
  const Slice slice(points);
  for (int at = slice.first; at < points; at += slice.stride) {
    World world;
    world.checkpoints = true;
    world.dies_at = at;
    whole_journey(world);
    SCOPED_TRACE(fmt::format(
        "died {} (point {} of {})",
        at < static_cast<int>(world.events.size()) ? world.events[static_cast<std::size_t>(at)] : "?", at, points));
    expect_arrived(world);
    if (HasFailure()) return;
  }
}

TEST(Journey, EveryCycleEndsEqualToItsSnapshot) {
  World world;
  for (int cycle = 0; cycle < 6; ++cycle) {
    if (cycle == 4) world.machine.reset_tracking();
    world.run(false);
    world.expect_equal_to_last_snapshot();
    world.expect_nothing_left();
  }
  EXPECT_EQ(world.observer.fulls, 4) << "the first cycle, and the one after the reset";
}

TEST(Journey, VerifyFindsDamageAndRepairsJustThat) {
  World world;
  EXPECT_THROW(world.verify(false), Error) << "nothing was copied yet";
  world.run(false);
  world.verify(false);
  const model::DiskKey key = world.machine.keys().front();
  world.cloud.scribble(world.volume(key));
  try {
    world.verify(false);
    FAIL() << "the damage was not found";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::data);
    EXPECT_NE(std::string(e.what()).find("65536 bytes at offset 0"), std::string::npos) << e.what();
  }
  job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
  const int fulls = world.observer.fulls;
  world.verify(true);
  EXPECT_EQ(world.observer.fulls, fulls) << "only what differs is copied";
  world.verify(false);
  world.run(true);
  expect_arrived(world);
  EXPECT_THROW(world.verify(false), Error) << "the server has the volumes";
}

TEST(Journey, DamageIsKnownAlsoWhenTheCloudCannotBeTold) {
  World world;
  world.run(false);
  world.cloud.scribble(world.volume(world.machine.keys().front()));
  const auto hook = world.cloud.around;
  world.cloud.around = [&](const std::string& call, bool acted) {
    if (call == "remember") throw Error(Fault::unavailable, "the cloud is away");
    hook(call, acted);
  };
  EXPECT_EQ(support::thrown([&] { world.verify(false); }).fault(), Fault::data);
  world.cloud.around = hook;
  job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
  world.run(true);
  expect_arrived(world);
}

// Its volume says nothing of a base while it is mended, and nothing is left to mend when that breaks off.
TEST(Journey, ADiskThatIsBeingMendedIsNotTakenForAnotherHosts) {
  World world;
  world.run(false);
  world.cloud.scribble(world.volume(world.machine.keys().front()));
  EXPECT_EQ(support::thrown([&] { world.verify(false); }).fault(), Fault::data);
  job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
  const model::DiskKey key = world.machine.keys().front();
  const auto left_to_mend = [&] { return fold(world.journal->facts()).disks.at(key).rewritten; };
  EXPECT_FALSE(left_to_mend().empty());
  world.journal->refuse = [&](const Body& body) {
    const auto* copied = std::get_if<DiskCopied>(&body);
    if (copied && copied->disk == key) throw Error(Fault::unavailable, "the storage is away");
  };
  EXPECT_THROW(world.run(false), Error);
  // Whether a copy this short makes a checkpoint of what it mends is luck; this is the one that it would have made.
  const SnapshotTaken snapshot = *fold(world.journal->facts()).cycles.back().snapshot;
  const auto frozen = std::find_if(snapshot.disks.begin(), snapshot.disks.end(),
                                   [&](const FrozenDiskFact& disk) { return disk.disk == key; });
  ASSERT_NE(frozen, snapshot.disks.end());
  const RangeSet mended = left_to_mend();
  world.journal->append(DiskProgressed{
      key, snapshot.snapshot, frozen->change_id, frozen->capacity, {mended.ranges().begin(), mended.ranges().end()}});
  job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
  EXPECT_TRUE(left_to_mend().empty()) << "what is mended is noted";
  world.journal->refuse = [](const Body&) {};
  world.run(false);
  const std::vector<Fact> facts = world.journal->facts();
  EXPECT_EQ(std::count_if(facts.begin(), facts.end(),
                          [](const Fact& fact) { return std::holds_alternative<VolumeAllocated>(fact.body); }),
            2);
  world.expect_equal_to_last_snapshot();
  world.verify(false);
}

// What was to be merged before a snapshot that somebody removed is theirs, also for the run after the one that took it.
TEST(Journey, WhatWaitedBeforeALostSnapshotIsKnownToTheNextRun) {
  for (const bool waited : {false, true}) {
    World world;
    world.machine.unmerged = waited;
    world.journal->refuse = [](const Body& body) {
      if (std::holds_alternative<DiskCopied>(body)) throw Error(Fault::unavailable, "the storage is away");
    };
    EXPECT_THROW(world.run(false), Error);
    world.journal->refuse = [](const Body&) {};
    world.machine.lose_snapshots();
    world.machine.unmerged = true;  // what somebody left, or what was there before: the machine says the same of both
    world.run(false);
    EXPECT_EQ(world.machine.told_of_unmerged, waited);
    world.expect_equal_to_last_snapshot();
  }
}

TEST(Journey, ACutoverThatVerifiesDoesNotStartFromDamage) {
  World world;
  world.run(false);
  world.verified = true;
  world.run(false);
  // The final copy is done, and its facts are written; then something happens to the storage.
  bool damaged = false;
  world.journal->around = [&](const std::string& call, bool acted) {
    if (damaged || call != "fact GuestConverted" || !acted) return;
    damaged = true;
    world.cloud.scribble(world.volume(world.machine.keys().front()));
  };
  EXPECT_THROW(world.run(true), Error);
  EXPECT_TRUE(damaged);
  EXPECT_TRUE(world.cloud.servers().empty());
  job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, AFullCopyAfterALostHistoryWritesOnlyWhatDiffers) {
  World world;
  world.run(false);
  const std::uint64_t read = world.observer.read, written = world.observer.written;
  world.machine.reset_tracking();
  world.run(false);
  EXPECT_EQ(world.observer.fulls, 4);
  EXPECT_LT(world.observer.written - written, (world.observer.read - read) / 2);
  world.expect_nothing_left();
}

// Each attempt brings a little more, from a snapshot of its own, while the guest writes on: what is put together from
// all of them is the last snapshot.
TEST(Journey, ACopyThatFailsAgainAndAgainGoesOnFromNewSnapshots) {
  for (int seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(static_cast<unsigned>(seed));
    World world;
    world.request = 64 * 1024;
    world.checkpoints = true;
    if (seed % 2 == 1) world.run(false);  // a delta that fails, not a first copy
    const int attempts = 1 + seed % 4;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      std::atomic<int> left = 1 + static_cast<int>(random() % 6);
      world.journal->around = [&](const std::string& call, bool acted) {
        if (call == "fact DiskProgressed" && acted && --left == 0)
          throw Error(Fault::unavailable, "the storage is away");
      };
      try {
        world.run(false);
      } catch (const Error&) {
      }
      world.journal->around = [](const std::string&, bool) {};
      job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
    }
    world.run(false);
    world.expect_equal_to_last_snapshot();
    world.expect_nothing_left();
    if (HasFailure()) return;
  }
}

// In a first copy, in a delta on a good one, and when the volumes cannot be told: what was read beside the delta, to
// audit it, is wrong as well.
TEST(Journey, NothingBuildsOnBytesThatMayBeAnotherDisks) {
  for (const std::string which : {"first", "delta", "unnoted"}) {
    SCOPED_TRACE(which);
    World world;
    world.checkpoints = true;
    world.audit = 1;
    if (which != "first") world.run(false);
    world.machine.serves_another_disk = true;
    const auto hook = world.cloud.around;
    if (which == "unnoted")
      world.cloud.around = [&](const std::string& call, bool acted) {
        if (call == "remember") throw Error(Fault::unavailable, "the cloud is away");
        hook(call, acted);
      };
    EXPECT_THROW(world.run(false), copy::BytesInDoubt);
    world.cloud.around = hook;
    world.machine.serves_another_disk = false;
    job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
    // The other disk's copy may not have begun.
    const auto volumes = world.cloud.volumes();
    EXPECT_EQ(std::all_of(volumes.begin(), volumes.end(),
                          [](const auto& one) { return one.second.memory.contains(target::memory_key::complete); }),
              which == "unnoted");
    world.run(false);
    EXPECT_EQ(world.observer.said_going_on, 0);
    world.expect_equal_to_last_snapshot();
    world.expect_nothing_left();
  }
}

TEST(Journey, WhatAnInterruptedCopyBroughtIsNotReadAgain) {
  World world;
  world.checkpoints = true;
  std::atomic<bool> died = false;
  world.journal->around = [&](const std::string& call, bool acted) {
    if (call == "fact DiskProgressed" && acted && !died.exchange(true)) throw Died();
  };
  // However fast it is, no copy is done before the first checkpoint.
  world.machine.midway = [&] {
    for (int i = 0; i < 6000 && !died; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  };
  EXPECT_THROW(world.run(false), Died);
  world.journal->around = [](const std::string&, bool) {};
  world.machine.midway = {};
  world.machine.guest_sleeps = true;  // what it writes is another test's
  const std::uint64_t first = world.observer.read;
  world.run(false);
  EXPECT_GT(world.observer.said_going_on, 0);
  EXPECT_LT(world.observer.read - first,
            world.machine.bytes(model::DiskKey{2000}).size() + world.machine.bytes(model::DiskKey{2001}).size());
  world.expect_equal_to_last_snapshot();
}

// The first host's journal knows nothing of what the second one did to the volumes.
TEST(Journey, AHostThatComesBackDoesNotBuildOnWhatAnotherOneLeft) {
  World world;
  world.run(false);
  world.on_another_host([&] {
    world.run(false);
    world.cloud.launch_refusal = "no valid host";
    EXPECT_THROW(world.run(true), Error);  // converted; the volumes hold no point of the source
    job::release(world.parts(), *world.journal, world.observer, std::chrono::seconds(10));
    world.cloud.launch_refusal.clear();
    world.machine.power_on();
  });
  world.run(false);
  world.expect_equal_to_last_snapshot();
}

TEST(Journey, WhatIsKeptOfAVolumeThatAnotherHostWroteToIsForgotten) {
  World world;
  world.run(false);
  world.on_another_host([&] { world.run(false); });
  world.run(false);
  for (const model::DiskKey key : world.machine.keys()) {
    const std::string bytes = world.cloud.bytes(world.volume(key), 0, world.machine.bytes(key).size());
    const copy::Digests kept(world.parts().digests / fmt::format("{}.digests", key.value), world.volume(key).value,
                             bytes.size());
    for (std::size_t at = 0; at < bytes.size(); at += copy::Digests::chunk) {
      const copy::Digest digest = kept.read(at, 1)[0];
      if (digest.known()) {
        EXPECT_EQ(digest, copy::digest_of(std::as_bytes(std::span(bytes).subspan(
                              at, std::min<std::size_t>(copy::Digests::chunk, bytes.size() - at)))))
            << key.value << " at " << at;
      }
    }
  }
  world.machine.reset_tracking();
  world.run(false);
  world.expect_equal_to_last_snapshot();
}

// How many events came before this one.
int events_before(const World& world, const std::string& event) {
  const auto found = std::find(world.events.begin(), world.events.end(), event);
  EXPECT_NE(found, world.events.end()) << event;
  return static_cast<int>(found - world.events.begin());
}
int before_launch(const World& world) { return events_before(world, "before launch"); }
int after_launch(const World& world) { return events_before(world, "after launch"); }

TEST(Journey, AMachinePoweredOnAgainIsCopiedOnceMore) {
  World counting;
  counting.run(true);
  // Die when the server is about to be made, and let somebody start the machine meanwhile.
  World world;
  world.dies_at = before_launch(counting);
  EXPECT_THROW(world.run(true), Died);
  EXPECT_FALSE(world.machine.on());
  world.machine.power_on();
  world.machine.describe({});  // its guest writes
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, AMachineThatRanUnseenBetweenTwoCutoversIsCopiedOnceMore) {
  World counting;
  counting.run(true);
  World world;
  world.dies_at = before_launch(counting);
  EXPECT_THROW(world.run(true), Died);
  // Started, used and shut down again while nobody looked: it is off, as it was left.
  world.machine.power_on();
  world.machine.describe({});  // its guest writes
  world.machine.around = [](const std::string&, bool) {};
  world.machine.power_off(source::Stop::guest, std::chrono::seconds(1), {});
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, AMachineThatRanUnseenBeforeItsServerWasMadeIsCopiedOnceMore) {
  for (const bool answers : {true, false})
    for (const char* moment : {"fact GuestConverted", "fact DiskDetached"}) {
      SCOPED_TRACE(fmt::format("{}, {}", moment, answers ? "asked without a snapshot" : "by a snapshot"));
      World world;
      world.machine.answers_without_snapshot = answers;
      world.run(false);
      bool ran = false;
      world.journal->around = [&](const std::string& call, bool acted) {
        const std::vector<Fact> facts = acted ? world.journal->facts() : std::vector<Fact>{};
        if (ran || call != moment || !fold(facts).converted) return;
        ran = true;
        world.machine.run_unseen();
      };
      EXPECT_THROW(world.run(true), Error);
      EXPECT_TRUE(ran);
      EXPECT_TRUE(world.cloud.servers().empty());
      world.run(true);
      expect_arrived(world);
    }
}

TEST(Journey, AMachineWhoseHistoryIsLostAfterItsLastCopyIsCopiedOnceMore) {
  World world;
  world.journal->around = [&](const std::string& call, bool acted) {
    if (call == "fact GuestConverted" && acted) world.machine.reset_tracking();
  };
  EXPECT_THROW(world.run(true), Error);
  EXPECT_TRUE(world.cloud.servers().empty());
  world.journal->around = [](const std::string&, bool) {};
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, AHostThatAnswersOnlyAboutSnapshotsIsAskedAboutOne) {
  World world;
  world.machine.answers_without_snapshot = false;
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, WhatTheSourceDoesAfterItsServerWasMadeStopsNothing) {
  World counting;
  counting.run(true);
  World world;
  world.dies_at = after_launch(counting);
  EXPECT_THROW(world.run(true), Died);
  const auto moved = world.converted();
  world.machine.run_unseen();
  world.run(true);
  world.expect_equal(moved);
  EXPECT_EQ(world.cloud.servers().size(), 1u);
}

TEST(Journey, NothingBuildsOnAVolumeThatAServerHad) {
  World world;
  world.run(true);
  expect_arrived(world);
  const int fulls = world.observer.fulls, deltas = world.observer.deltas;
  // The way back: the server is deleted, the machine runs again, and is migrated once more later.
  world.cloud.delete_server(world.cloud.servers().begin()->first);
  world.machine.power_on();
  for (const auto& [id, volume] : world.cloud.volumes()) world.cloud.scribble(id);
  world.begin_again(JobId{"job-2"});
  world.run(false);
  EXPECT_EQ(world.observer.fulls, fulls + 2);
  EXPECT_EQ(world.observer.deltas, deltas);
  world.run(true);
  world.expect_equal(world.converted());
}

TEST(Journey, AServerDeletedBeforeTheJobKnewOfItIsNoBaseEither) {
  World counting;
  counting.run(true);
  World world;
  world.dies_at = after_launch(counting);
  EXPECT_THROW(world.run(true), Died);
  EXPECT_EQ(world.events.back(), "after launch");
  world.cloud.delete_server(world.cloud.servers().begin()->first);
  for (const auto& [id, volume] : world.cloud.volumes()) world.cloud.scribble(id);
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, AChangedMappingLeavesNoPortBehind) {
  World counting;
  counting.run(true);
  const int points = after_launch(counting);
  const Slice slice(points);
  for (int at = slice.first; at < points; at += slice.stride) {
    World world;
    world.dies_at = at;
    EXPECT_THROW(world.run(true), Died);
    SCOPED_TRACE(fmt::format("died {}", world.events.back()));
    world.network = "another";
    world.run(true);
    expect_arrived(world);
    EXPECT_EQ(world.cloud.ports().begin()->second.network, "another");
    if (HasFailure()) return;
  }
}

TEST(Journey, AGuestThatCannotBeAskedToShutDownIsRefusedBeforeAnythingHappens) {
  World world;
  world.machine.tools_running = false;
  try {
    world.run(true);
    FAIL() << "it was not refused";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("--force-poweroff"), std::string::npos) << e.what();
  }
  EXPECT_TRUE(world.machine.on());
  EXPECT_EQ(world.machine.snapshots(), 0u);
  EXPECT_TRUE(world.cloud.ports().empty());
  world.force_power_off = true;
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, AGuestOnItsWayDownIsNotRefused) {
  World counting;
  counting.run(true);
  const auto event = std::find(counting.events.begin(), counting.events.end(), "before power_off");
  ASSERT_NE(event, counting.events.end());
  World world;
  world.dies_at = static_cast<int>(event - counting.events.begin());
  EXPECT_THROW(world.run(true), Died);
  world.machine.tools_running = false;
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, WithoutConversionTheTargetIsTheSource) {
  World world;
  world.convert = false;
  world.run(true);
  expect_arrived(world);
  EXPECT_EQ(world.converter.conversions, 0);
}

TEST(Journey, AFailedConversionLeavesTheCopyAndTheWayBack) {
  World world;
  world.run(false);
  world.converter.fails = true;
  EXPECT_THROW(world.run(true), Error);
  world.expect_equal(world.resting());
  EXPECT_TRUE(world.cloud.servers().empty());
  // The way back: the machine runs again and its cycles go on as deltas.
  world.machine.power_on();
  const int fulls = world.observer.fulls;
  world.run(false);
  EXPECT_EQ(world.observer.fulls, fulls);
  world.converter.fails = false;
  world.run(true);
  expect_arrived(world);
  EXPECT_EQ(world.observer.fulls, fulls);
}

TEST(Journey, ACutoverGivenUpAfterTheConversionGoesOnWithDeltas) {
  World world;
  world.cloud.launch_refusal = "quota";
  EXPECT_THROW(world.run(true), Error);
  EXPECT_EQ(world.converter.conversions, 1);
  world.expect_equal(world.converted());
  const int fulls = world.observer.fulls;
  world.machine.power_on();
  world.run(false);
  EXPECT_EQ(world.observer.fulls, fulls) << "only what the conversion wrote and what changed is copied again";
  world.expect_equal_to_last_snapshot();
}

TEST(Journey, AConversionIsNotRepeatedWhenNothingChanged) {
  World world;
  world.cloud.launch_refusal = "quota";
  EXPECT_THROW(world.run(true), Error);
  world.cloud.launch_refusal.clear();
  world.run(true);
  EXPECT_EQ(world.converter.conversions, 1);
  expect_arrived(world);
}

TEST(Journey, AConversionIsUndoneWhenTheNextTryDoesNotWantIt) {
  World world;
  world.cloud.launch_refusal = "quota";
  EXPECT_THROW(world.run(true), Error);
  world.cloud.launch_refusal.clear();
  world.convert = false;
  world.run(true);
  expect_arrived(world);
}

TEST(Journey, AConversionIsRepeatedWhenTheMachineRanInBetween) {
  World world;
  world.cloud.launch_refusal = "quota";
  EXPECT_THROW(world.run(true), Error);
  world.cloud.launch_refusal.clear();
  world.machine.power_on();
  world.machine.describe({});  // its guest writes
  world.machine.power_off(source::Stop::guest, std::chrono::seconds(1), {});
  world.run(true);
  EXPECT_EQ(world.converter.conversions, 2);
  expect_arrived(world);
}

TEST(Journey, AbortAfterDeathInACutoverLeavesNothing) {
  World counting;
  counting.run(true);
  const int points = after_launch(counting);
  const Slice slice(points);
  for (int at = slice.first; at < points; at += slice.stride) {
    World world;
    world.dies_at = at;
    EXPECT_THROW(world.run(true), Died);
    SCOPED_TRACE(fmt::format("died {}", world.events.back()));
    abort(world.parts(), *world.journal, world.observer, true, {});
    EXPECT_EQ(world.machine.snapshots(), 0u);
    EXPECT_TRUE(world.cloud.volumes().empty());
    EXPECT_TRUE(world.cloud.ports().empty());
    if (HasFailure()) return;
  }
}

TEST(Journey, AbortAfterDeathAtEveryPointLeavesNothing) {
  World counting;
  counting.run(false);
  const int points = static_cast<int>(counting.events.size());
  for (int at = 0; at < points; ++at) {
    World world;
    world.dies_at = at;
    EXPECT_THROW(world.run(false), Died);
    SCOPED_TRACE(fmt::format("died {}", world.events.back()));
    abort(world.parts(), *world.journal, world.observer, true, {});
    EXPECT_EQ(world.machine.snapshots(), 0u);
    EXPECT_TRUE(world.cloud.volumes().empty());
    if (HasFailure()) return;
  }
}

TEST(Journey, WarmIsRefusedAfterTheCutoverBegan) {
  World world;
  world.run(true);
  EXPECT_THROW(world.run(false), Error);
}

}  // namespace
}  // namespace vmferry::job
