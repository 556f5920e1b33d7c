// Facts survive their own encoding, and the fold draws the right conclusions from them.
#include <gtest/gtest.h>

#include "base/error.hpp"
#include "job/fact.hpp"
#include "job/state.hpp"

namespace vmferry::job {
namespace {

using model::ChangeId;
using model::DiskKey;

const std::vector<Body>& one_of_each() {
  static const std::vector<Body> all = {
      JobCreated{JobId{"j"}, "vcenter x", model::VmId{"vm-1"}, "web01", "/DC0/vm/web01", "cloud"},
      TrackingEnsured{false},
      VolumeAllocated{DiskKey{2000}, VolumeId{"v"}, 5, true, ChangeId{"aa", "3"}},
      CycleBegan{2, true},
      SnapshotTaken{2, SnapshotId{"snapshot-1"}, "crash", "tools are off", {{DiskKey{2000}, 5, ChangeId{"aa", "4"}}, {DiskKey{2001}, 6, {}}}},
      DiskCopied{2, DiskKey{2000}, true, "first copy", 1, 2, 0.5, 5, ChangeId{"aa", "4"}},
      DiskRemembered{2, DiskKey{2000}},
      SnapshotRemoved{2, SnapshotId{"snapshot-1"}},
      DiskAttaching{DiskKey{2000}, VolumeId{"v"}},
      DiskDetached{DiskKey{2000}, VolumeId{"v"}},
      CycleEnded{2},
      PortEnsured{"00:50:56:00:00:01", PortId{"p"}, true},
      ShutdownBegan{17},
      PoweredOff{},
      PoweredOnAgain{},
      ServerLaunched{ServerId{"s"}, "ACTIVE"},
      CutoverDone{18, 1.5},
      VolumeDiscarded{DiskKey{2000}, VolumeId{"v"}},
      PortDiscarded{PortId{"p"}},
      Aborted{true}};
  return all;
}

TEST(Fact, EveryKindIsEncodedAndDecoded) {
  ASSERT_EQ(one_of_each().size(), std::variant_size_v<Body>) << "a new kind of fact needs a line above";
  for (std::size_t i = 0; i < one_of_each().size(); ++i) {
    const Body& body = one_of_each()[i];
    EXPECT_EQ(body.index(), i);
    EXPECT_EQ(encode(decode(encode(body))), encode(body));
    EXPECT_NE(encode(body).find(name(body)), std::string::npos);
  }
}

TEST(Fact, UnknownOrBrokenFactsAreRefusedInWords) {
  for (const char* text : {R"({"fact":"FromTheFuture"})", "{", "[]", R"({"fact":"CycleBegan","cycle":"x"})"}) {
    try {
      decode(text);
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::data);
    }
  }
}

TEST(Fact, AnOldJournalWithoutNewerFieldsIsRead) {
  const Body body = decode(R"({"fact":"DiskCopied","cycle":1,"disk":2000})");
  EXPECT_EQ(std::get<DiskCopied>(body).disk.value, 2000);
  EXPECT_FALSE(std::get<DiskCopied>(body).change_id);
}

State fold_of(std::vector<Body> bodies) {
  std::vector<Fact> facts;
  std::int64_t at = 100;
  for (Body& body : bodies) facts.push_back({at++, std::move(body)});
  return fold(facts);
}

const JobCreated created{JobId{"j"}, "", model::VmId{"vm-1"}, "web01", "", ""};
const DiskKey disk{2000};

TEST(Fold, PhasesFollowTheFacts) {
  std::vector<Body> facts = {created};
  EXPECT_EQ(fold_of(facts).phase(), "new");
  facts.push_back(CycleBegan{1, false});
  EXPECT_EQ(fold_of(facts).phase(), "copying");
  facts.push_back(CycleEnded{1});
  EXPECT_EQ(fold_of(facts).phase(), "synced");
  facts.push_back(ShutdownBegan{5});
  EXPECT_EQ(fold_of(facts).phase(), "cutting over");
  facts.push_back(CutoverDone{6, 1});
  EXPECT_EQ(fold_of(facts).phase(), "done");
  facts.push_back(Aborted{});
  EXPECT_EQ(fold_of(facts).phase(), "aborted");
}

TEST(Fold, ASecondSnapshotOfACycleMakesItsCopiesABaseOnly) {
  const State state = fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, false, {}}, CycleBegan{1, false},
                               SnapshotTaken{1, SnapshotId{"a"}, "crash", "", {{disk, 5, ChangeId{"u", "1"}}}},
                               DiskCopied{1, disk, true, "", 0, 0, 0, 5, ChangeId{"u", "1"}}, SnapshotRemoved{1, SnapshotId{"a"}},
                               SnapshotTaken{1, SnapshotId{"b"}, "crash", "", {{disk, 5, ChangeId{"u", "2"}}}}});
  EXPECT_EQ(state.disks.at(disk).copied_in, 0);
  EXPECT_TRUE(state.disks.at(disk).complete);
  EXPECT_EQ(state.disks.at(disk).base->text(), "u/1");
  EXPECT_FALSE(state.open_cycle()->snapshot_removed);
}

TEST(Fold, AnotherVolumeStartsFromNothing) {
  const State state = fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, false, {}},
                               DiskCopied{1, disk, true, "", 0, 0, 0, 5, ChangeId{"u", "1"}}, VolumeAllocated{disk, VolumeId{"w"}, 5, false, {}}});
  EXPECT_FALSE(state.disks.at(disk).complete);
  EXPECT_FALSE(state.disks.at(disk).base);
}

TEST(Fold, AnAdoptedVolumeIsCompleteOnlyWithABase) {
  EXPECT_TRUE(fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, true, ChangeId{"u", "1"}}}).disks.at(disk).complete);
  EXPECT_FALSE(fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, true, {}}}).disks.at(disk).complete);
}

TEST(Fold, PoweredOnAgainForgetsTheFinalCycleAndTheDowntime) {
  const State state = fold_of({created, ShutdownBegan{5}, PoweredOff{}, CycleBegan{3, true}, PoweredOnAgain{}});
  EXPECT_FALSE(state.powered_off);
  EXPECT_FALSE(state.shutdown_at);
  EXPECT_FALSE(state.open_cycle()->final);
}

TEST(Fold, TheFirstShutdownStartsTheDowntime) {
  EXPECT_EQ(fold_of({created, ShutdownBegan{5}, ShutdownBegan{9}}).shutdown_at, 5);
}

TEST(Fold, AttachmentsFollowIntentAndDetach) {
  std::vector<Body> facts = {created, VolumeAllocated{disk, VolumeId{"v"}, 5, false, {}}};
  EXPECT_FALSE(fold_of(facts).disks.at(disk).attached);
  facts.push_back(DiskAttaching{disk, VolumeId{"v"}});
  EXPECT_TRUE(fold_of(facts).disks.at(disk).attached);
  facts.push_back(DiskDetached{disk, VolumeId{"v"}});
  EXPECT_FALSE(fold_of(facts).disks.at(disk).attached);
}

}  // namespace
}  // namespace vmferry::job
