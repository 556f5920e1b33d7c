// What is recognized as ours, and what is not.
#include "source/vmware/hotadd_marks.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace vmferry::source::vmware {
namespace {

const DiskMark mark{"5010-vm", "run-1", "host1", "[Local DS] web 01/web 01.vmdk", {"job-1"}};

vsphere::AttachedDisk disk(std::int32_t key, vsphere::ScsiSlot slot, std::vector<std::string> files) {
  vsphere::AttachedDisk made;
  made.key = key;
  made.slot = slot;
  made.files = std::move(files);
  return made;
}

RC_GTEST_PROP(DiskMark, SurvivesAsText, ()) {
  const auto word = rc::gen::nonEmpty(rc::gen::container<std::string>(rc::gen::inRange('!', '~')));
  const DiskMark any{*word, *word, *word, "[" + *word + "] " + *word + " " + *word + ".vmdk", {*word}};
  RC_ASSERT(parse_disk_mark(to_string(any)) == any);
}

TEST(DiskMark, AHostMayBeCalledAnything) {
  DiskMark odd = mark;
  odd.host = "my\tlap top";
  const auto read = parse_disk_mark(to_string(odd));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->host, "my_lap_top");
  EXPECT_EQ(read->file, mark.file);
}

// What it cannot say is no reason to leave a disk attached.
TEST(DiskMark, OfAnOlderVersionNamesNoJob) {
  EXPECT_EQ(parse_disk_mark("vm=a run=b host=c file=[ds] d e.vmdk"), (DiskMark{"a", "b", "c", "[ds] d e.vmdk", {}}));
}

TEST(DiskMark, OtherTextsAreNone) {
  for (const char* text :
       {"", "vm=", "vm=a run=b host=c", "vm=a run=b host=c file=", "run=b vm=a host=c file=f", "TRUE"})
    EXPECT_FALSE(parse_disk_mark(text)) << text;
}

TEST(MarkedDisks, AreThoseOfTheMachineThatStandWhereTheMarkSays) {
  vsphere::Configuration proxy;
  proxy.settings = {{disk_mark_key({0, 1}), to_string(mark)},
                    {disk_mark_key({0, 2}), to_string(DiskMark{"5010-other", "run-2", "host2", "[ds] a/a.vmdk", {}})},
                    {disk_mark_key({0, 3}), to_string(DiskMark{"5010-vm", "run-1", "host1", "[ds] gone.vmdk"})},
                    {disk_mark_key({0, 4}), to_string(DiskMark{"5010-vm", "run-1", "host1", "[ds] old.vmdk"})},
                    {"vmferry.hotadd.proxy.5020", "vm-1 name=x host=y"},
                    {"scsi0:1.ctkEnabled", "TRUE"},
                    {"vmferry.hotadd.scsi9:1", to_string(mark)}};
  proxy.disks = {disk(2000, {0, 0}, {mark.file}),                    // the same file, but nobody's mark
                 disk(2001, {0, 1}, {"[ds] redo.vmdk", mark.file}),  // ours, shown above a redo file
                 disk(2002, {0, 2}, {"[ds] a/a.vmdk"}),              // of another machine
                 disk(2004, {0, 4}, {"[ds] somebody/elses.vmdk"})};  // came to the place of one that left
  const std::vector<MarkedDisk> found = marked_disks(proxy, "5010-vm");
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].slot, (vsphere::ScsiSlot{0, 1}));
  ASSERT_TRUE(found[0].disk);
  EXPECT_EQ(found[0].disk->key, 2001);
  EXPECT_EQ(found[0].mark, mark);
  EXPECT_FALSE(found[1].disk);
  EXPECT_FALSE(found[2].disk);
}

// Renaming a datastore must not make an attached disk look gone: its snapshot would be removed under it.
TEST(MarkedDisks, AreKnownAfterTheirDatastoreWasRenamed) {
  vsphere::Configuration proxy;
  proxy.settings = {{disk_mark_key({0, 1}), to_string(mark)}};
  proxy.disks = {disk(2001, {0, 1}, {"[Local DS (old)] web 01/web 01.vmdk"})};
  ASSERT_EQ(marked_disks(proxy, "5010-vm").size(), 1U);
  EXPECT_TRUE(marked_disks(proxy, "5010-vm").front().disk);
}

TEST(TakeOutOthers, LeavesWhatNoOtherRunCanBeReading) {
  vsphere::SnapshotTree snapshots;
  for (const char* description : {"vmferry job=mine cycle=1", "vmferry job=theirs cycle=1", "a backup's"}) {
    model::Snapshot snapshot;
    snapshot.name = "vmferry";
    snapshot.description = description;
    snapshots.snapshots.push_back(snapshot);
  }
  const auto marked = [](int unit, const std::string& run, const std::string& job, bool attached = true) {
    MarkedDisk made{{0, unit}, {"5010-vm", run, "host1", "[ds] a.vmdk", {job}}, std::nullopt};
    if (attached) made.disk = disk(2000 + unit, {0, unit}, {"[ds] a.vmdk"});
    return made;
  };
  const std::vector<MarkedDisk> all{
      marked(1, "theirs-1", "theirs"),         // a job of another host
      marked(2, "died", "mine"),               // a job of this host, whose lock is held
      marked(3, "me", "theirs"),               // attached by this run itself
      marked(4, "theirs-2", "thawed"),         // of a job without a snapshot
      marked(5, "theirs-3", "theirs", false),  // a mark without its disk
      marked(6, "old", ""),
  };
  std::vector<MarkedDisk> disks = all;
  EXPECT_EQ(places(take_out_others(disks, {"me", {{"x"}, {"mine"}}, false}, snapshots)), "scsi0:1");
  EXPECT_EQ(places(disks), "scsi0:2, scsi0:3, scsi0:4, scsi0:5, scsi0:6");
  disks = all;
  EXPECT_TRUE(take_out_others(disks, {"me", {}, true}, snapshots).empty());
  EXPECT_EQ(disks.size(), all.size());
}

TEST(MarkedProxies, AreReadFromTheSource) {
  vsphere::Configuration source;
  source.settings = {{proxy_mark_key("500a-1"), proxy_mark({"vm-198"}, "proxy 01", "host1")},
                     {proxy_mark_key("500a-2"), ""},
                     {"vmferry.hotadd.scsi0:1", to_string(mark)}};
  const std::vector<MarkedProxy> found = marked_proxies(source);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].instance_uuid, "500a-1");
  EXPECT_EQ(found[0].vm.value, "vm-198");
}

}  // namespace
}  // namespace vmferry::source::vmware
