// Facts survive their own encoding, and the fold draws the right conclusions from them.
#include <gtest/gtest.h>

#include "base/error.hpp"
#include "job/fact.hpp"
#include "job/state.hpp"

namespace vmferry::job {
namespace {

using model::ChangeId;
using model::DiskKey;

std::vector<Body> one_of_each() {
  // One by one: g++ takes minutes over an initializer list of so many kinds.
  std::vector<Body> all;
  all.emplace_back(JobCreated{JobId{"j"}, "vcenter x", model::VmId{"vm-1"}, "web01", "/DC0/vm/web01", "cloud", "uuid",
                              "vcenter.example", "Debian 12"});
  all.emplace_back(TrackingEnsured{false});
  all.emplace_back(VolumeAllocated{DiskKey{2000}, VolumeId{"v"}, 5, true, ChangeId{"aa", "3"}, "web01-1-2000",
                                   "Hard disk 1", "[ds] a.vmdk"});
  all.emplace_back(CycleBegan{2, true});
  all.emplace_back(SnapshotTaken{2,
                                 SnapshotId{"snapshot-1"},
                                 "crash",
                                 "tools are off",
                                 {{DiskKey{2000}, 5, ChangeId{"aa", "4"}}, {DiskKey{2001}, 6, {}}},
                                 true});
  all.emplace_back(DiskProgressed{
      model::DiskKey{2001}, SnapshotId{"snapshot-7"}, model::ChangeId{"52 a", "9"}, 1 << 20, {{0, 65536}}});
  all.emplace_back(DiskCopied{2, DiskKey{2000}, true, "first copy", 1, 2, 0.5, 5, ChangeId{"aa", "4"}, false, 3, 4, 0,
                              "0129", "https", "80 MB/s against ssh", 80000000, true});
  all.emplace_back(DiskRemembered{2, DiskKey{2000}});
  all.emplace_back(SnapshotRemoved{2, SnapshotId{"snapshot-1"}});
  all.emplace_back(DiskAttaching{DiskKey{2000}, VolumeId{"v"}});
  all.emplace_back(DiskDetached{DiskKey{2000}, VolumeId{"v"}});
  all.emplace_back(CycleEnded{2});
  all.emplace_back(PortEnsured{"00:50:56:00:00:01", PortId{"p"}, true});
  all.emplace_back(ShutdownBegan{17});
  all.emplace_back(PoweredOff{});
  all.emplace_back(PoweredOnAgain{});
  all.emplace_back(FinalCopyDoubted{});
  all.emplace_back(HandedOver{});
  all.emplace_back(HandoverTakenBack{});
  all.emplace_back(ConversionCommitting{model::DiskKey{2000}, {{4096, 512}, {1ULL << 42, 1}}});
  all.emplace_back(GuestConverted{12.5, 1 << 20});
  all.emplace_back(DamageFound{model::DiskKey{2001}, {{65536, 131072}}});
  all.emplace_back(TrackingDoubted{model::DiskKey{2001}});
  all.emplace_back(ServerLaunched{ServerId{"s"}, "ACTIVE"});
  all.emplace_back(CutoverDone{18, 1.5});
  all.emplace_back(VolumeDiscarded{DiskKey{2000}, VolumeId{"v"}});
  all.emplace_back(PortDiscarded{PortId{"p"}});
  all.emplace_back(Aborted{true});
  all.emplace_back(RunBegan{"migrate", "0.1.0"});
  all.emplace_back(DigestsRecorded{2, DiskKey{2000}, 5, 65536, "xxh3-128", "00ff", 1, 2, "09?"});
  all.emplace_back(DiskVerified{DiskKey{2000}, 5, 1, 2, 0.5});
  all.emplace_back(ImageUploaded{DiskKey{2000}, ImageId{"i"}, "00ff", "qcow2", "raw", 5, 0.5, "sha512", "ab", "r"});
  all.emplace_back(VolumeDelivered{DiskKey{2000}, VolumeId{"v"}, ImageId{"i"}, "00ff"});
  all.emplace_back(ImagesRemoved{{"image i: in use"}});
  return all;
}

TEST(Fact, EveryKindIsEncodedAndDecoded) {
  const std::vector<Body> all = one_of_each();
  ASSERT_EQ(all.size(), std::variant_size_v<Body>) << "a new kind of fact needs a line above";
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Body& body = all[i];
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
  EXPECT_FALSE(std::get<DiskCopied>(body).equal) << "not known, which is not zero";
}

State fold_of(std::vector<Body> bodies) {
  std::vector<Fact> facts;
  std::int64_t at = 100;
  for (Body& body : bodies) facts.push_back({at++, std::move(body)});
  return fold(facts);
}

const JobCreated created{JobId{"j"}, "", model::VmId{"vm-1"}, "web01", "", "", ""};
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
  const State state =
      fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, false, {}}, CycleBegan{1, false},
               SnapshotTaken{1, SnapshotId{"a"}, "crash", "", {{disk, 5, ChangeId{"u", "1"}}}},
               DiskCopied{1, disk, true, "", 0, 0, 0, 5, ChangeId{"u", "1"}}, SnapshotRemoved{1, SnapshotId{"a"}},
               SnapshotTaken{1, SnapshotId{"b"}, "crash", "", {{disk, 5, ChangeId{"u", "2"}}}}});
  EXPECT_EQ(state.disks.at(disk).copied_in, 0);
  EXPECT_TRUE(state.disks.at(disk).complete);
  EXPECT_EQ(state.disks.at(disk).base->text(), "u/1");
  EXPECT_FALSE(state.open_cycle()->snapshot_removed);
}

TEST(Fold, DigestsAreOfOneCopy) {
  std::vector<Body> facts = {created, VolumeAllocated{disk, VolumeId{"v"}, 5, false, {}},
                             DiskCopied{1, disk, true, "", 0, 0, 0, 5, {}}};
  EXPECT_EQ(fold_of(facts).disks.at(disk).digested_in, 0);
  facts.push_back(DigestsRecorded{1, disk, 5, 65536, "xxh3-128", "00", 0, 0, ""});
  EXPECT_EQ(fold_of(facts).disks.at(disk).digested_in, 1);
  facts.push_back(VolumeAllocated{disk, VolumeId{"w"}, 5, false, {}});
  EXPECT_EQ(fold_of(facts).disks.at(disk).digested_in, 0);
}

TEST(Fold, AnotherVolumeStartsFromNothing) {
  const State state = fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, false, {}},
                               DiskCopied{1, disk, true, "", 0, 0, 0, 5, ChangeId{"u", "1"}},
                               VolumeAllocated{disk, VolumeId{"w"}, 5, false, {}}});
  EXPECT_FALSE(state.disks.at(disk).complete);
  EXPECT_FALSE(state.disks.at(disk).base);
}

TEST(Fold, AnAdoptedVolumeIsCompleteOnlyWithABase) {
  EXPECT_TRUE(
      fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, true, ChangeId{"u", "1"}}}).disks.at(disk).complete);
  EXPECT_FALSE(fold_of({created, VolumeAllocated{disk, VolumeId{"v"}, 5, true, {}}}).disks.at(disk).complete);
}

TEST(Fold, PoweredOnAgainForgetsTheFinalCycleAndTheDowntime) {
  const State state = fold_of({created, ShutdownBegan{5}, PoweredOff{}, CycleBegan{3, true}, PoweredOnAgain{}});
  EXPECT_FALSE(state.powered_off);
  EXPECT_FALSE(state.shutdown_at);
  EXPECT_EQ(state.open_cycle(), nullptr) << "nothing goes on from a moment before it ran again";
}

TEST(Fold, AnUnfinishedCopyIsKnownByItsSnapshots) {
  const model::ChangeId first{"a", "1"}, second{"a", "2"};
  std::vector<Body> facts = {created, VolumeAllocated{disk, VolumeId{"v"}, 100, false, {}}, CycleBegan{1, false}};
  facts.push_back(DiskProgressed{disk, SnapshotId{"s1"}, first, 100, {{0, 40}}});
  facts.push_back(DiskProgressed{disk, SnapshotId{"s1"}, first, 100, {{60, 10}}});
  facts.push_back(DiskProgressed{disk, SnapshotId{"s2"}, second, 100, {{30, 20}}});
  const std::vector<Layer> layers = fold_of(facts).disks.at(disk).layers;
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].done, RangeSet(std::vector<ByteRange>{{0, 30}, {60, 10}})) << "the later copy counts";
  EXPECT_EQ(layers[0].change_id, first);
  EXPECT_EQ(layers[1].done, RangeSet(std::vector<ByteRange>{{30, 20}}));
  facts.push_back(DiskCopied{1, disk, true, "", 1, 1, 1, 100, second, false});
  EXPECT_TRUE(fold_of(facts).disks.at(disk).layers.empty());
}

TEST(Fold, WhatAConversionOverwroteIsKnownUntilTheDiskIsCopiedAgain) {
  std::vector<Body> facts = {created, VolumeAllocated{disk, VolumeId{"v"}, 5, false, {}}, CycleBegan{1, true}};
  facts.push_back(ConversionCommitting{disk, {{0, 10}, {50, 10}}});
  facts.push_back(ConversionCommitting{disk, {{5, 10}}});  // by a second try
  EXPECT_EQ(fold_of(facts).disks.at(disk).rewritten, RangeSet(std::vector<ByteRange>{{0, 15}, {50, 10}}));
  EXPECT_FALSE(fold_of(facts).converted) << "half a conversion is none";
  facts.push_back(GuestConverted{1, 25});
  EXPECT_TRUE(fold_of(facts).converted);
  DiskCopied kept;
  kept.cycle = 2;
  kept.disk = disk;
  kept.conversion_kept = true;
  facts.push_back(kept);
  EXPECT_TRUE(fold_of(facts).converted);
  EXPECT_FALSE(fold_of(facts).disks.at(disk).rewritten.empty());
  kept.conversion_kept = false;
  facts.push_back(kept);
  EXPECT_FALSE(fold_of(facts).converted);
  EXPECT_TRUE(fold_of(facts).disks.at(disk).rewritten.empty());
}

// Or an interrupted copy of a large disk that was found wrong would begin from nothing each time.
TEST(Fold, WhatWasFoundWrongIsMendedPieceByPiece) {
  std::vector<Body> facts = {created, VolumeAllocated{disk, VolumeId{"v"}, 300, false, {}}, CycleBegan{1, true}};
  facts.push_back(GuestConverted{1, 25});
  facts.push_back(DamageFound{disk, {{0, 300}}});
  facts.push_back(DiskProgressed{disk, SnapshotId{"s"}, std::nullopt, 300, {{0, 100}, {200, 50}}});
  EXPECT_EQ(fold_of(facts).disks.at(disk).rewritten, RangeSet(std::vector<ByteRange>{{100, 100}, {250, 50}}));
  EXPECT_FALSE(fold_of(facts).converted);
  facts.push_back(DiskProgressed{disk, SnapshotId{"s"}, std::nullopt, 300, {{0, 300}}});
  EXPECT_TRUE(fold_of(facts).disks.at(disk).rewritten.empty());
  EXPECT_TRUE(fold_of(facts).disks.at(disk).disowned) << "its volume still says nothing of a base";
  DiskCopied whole;
  whole.disk = disk;
  facts.push_back(whole);
  EXPECT_FALSE(fold_of(facts).disks.at(disk).disowned);
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

TEST(Fold, AServerHasWhatWasDeliveredAndNotTheDiskThatIsKept) {
  std::vector<Body> facts = {created, VolumeAllocated{disk, VolumeId{"folder/v"}, 5, false, {}}};
  facts.push_back(ImageUploaded{disk, ImageId{"i"}, "root", "qcow2", "qcow2", 5, 1, "sha512", "ab", ""});
  facts.push_back(VolumeDelivered{disk, VolumeId{"cinder"}, ImageId{"i"}, "root"});
  facts.push_back(HandedOver{});
  EXPECT_FALSE(fold_of(facts).disks.at(disk).handed_over);
  EXPECT_TRUE(fold_of(facts).disks.at(disk).delivered_used);
  facts.push_back(HandoverTakenBack{});
  EXPECT_FALSE(fold_of(facts).disks.at(disk).delivered_used);
  facts.push_back(HandedOver{});
  facts.push_back(VolumeDelivered{disk, VolumeId{"another"}, ImageId{"i"}, "root"});
  EXPECT_FALSE(fold_of(facts).disks.at(disk).delivered_used);
  EXPECT_TRUE(fold_of(facts).disks.at(disk).image);
  facts.push_back(ImagesRemoved{});
  EXPECT_FALSE(fold_of(facts).disks.at(disk).image);
  EXPECT_EQ(fold_of(facts).disks.at(disk).delivered->volume, VolumeId{"another"});
}

TEST(Fold, WhatWasDeliveredOfADamagedDiskIsNotUsedWhenTheDiskIsMended) {
  std::vector<Body> facts = {created, VolumeAllocated{disk, VolumeId{"folder/v"}, 5, false, {}}};
  facts.push_back(ImageUploaded{disk, ImageId{"i"}, "root", "qcow2", "qcow2", 5, 1, "sha512", "ab", ""});
  facts.push_back(VolumeDelivered{disk, VolumeId{"cinder"}, ImageId{"i"}, "root"});
  facts.push_back(DamageFound{disk, {{0, 5}}});
  EXPECT_FALSE(fold_of(facts).disks.at(disk).image);
  EXPECT_FALSE(fold_of(facts).disks.at(disk).delivered);
}

}  // namespace
}  // namespace vmferry::job
