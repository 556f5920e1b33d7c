// What the evidence says is what the facts say, and nothing more; and whatever a machine is called, the page stays a
// page.
#include "report/evidence.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "report/text.hpp"

namespace vmferry::report {
namespace {

using job::Fact;
using model::ChangeId;
using model::DiskKey;

constexpr std::uint64_t mib = 1 << 20;
constexpr std::int64_t start = 1'700'000'000'000;  // 2023-11-14 22:13:20 UTC
const DiskKey disk{2000};

class Story {
 public:
  explicit Story(const std::string& name = "web01") {
    job::JobCreated created;
    created.job = JobId{"c4ec75c2-1"};
    created.source = "vcenter 4f1b";
    created.vm = model::VmId{"vm-42"};
    created.vm_name = name;
    created.vm_path = "/DC0/vm/" + name;
    created.target = "OpenStack project lab";
    add(0, created);
  }
  Story& add(std::int64_t after, job::Body body) {
    facts.push_back({(facts.empty() ? start : facts.back().at) + after, std::move(body)});
    return *this;
  }
  Story& run(const char* command) { return add(10, job::RunBegan{command, "0.1.0"}); }
  Story& allocated(bool adopted = false) {
    job::VolumeAllocated fact{disk, VolumeId{"v-1"}, 8 * mib, adopted, std::nullopt};
    fact.label = "Hard disk 1";
    fact.file = "[ds] web01/web01.vmdk";
    return add(10, fact);
  }
  Story& frozen(int cycle, const char* number, bool final = false) {
    add(10, job::CycleBegan{cycle, final});
    return add(
        500,
        job::SnapshotTaken{
            cycle, SnapshotId{"s"}, final ? "powered off" : "crash", "", {{disk, 8 * mib, ChangeId{"aa", number}}}});
  }
  Story& copied(int cycle, const char* number, bool full = false, std::uint64_t bytes = mib) {
    job::DiskCopied fact{cycle,     disk, full,    full ? "first copy" : "", bytes,
                         bytes / 2, 1.0,  8 * mib, ChangeId{"aa", number}};
    fact.equal = 100;
    fact.zeroed = 7;
    return add(2000, fact).add(5, job::DiskRemembered{cycle, disk});
  }
  Story& recorded(int cycle, const char* root = "00ff", std::uint64_t unknown = 0) {
    return add(
        1, job::DigestsRecorded{cycle, disk, 8 * mib, 65536, "xxh3-128", root, mib, unknown, std::string(200, '9')});
  }
  Story& ended(int cycle) {
    return add(300, job::SnapshotRemoved{cycle, SnapshotId{"s"}}).add(1, job::CycleEnded{cycle});
  }
  Story& migrated(int cycle, const char* number) {
    return run("migrate").frozen(cycle, number).copied(cycle, number, cycle == 1).ended(cycle).recorded(cycle);
  }
  Story& cut_over(int cycle, const char* number) {
    run("cutover");
    add(1000, job::ShutdownBegan{facts.back().at + 1000}).add(700, job::PoweredOff{});
    frozen(cycle, number, true).copied(cycle, number);
    add(10, job::HandedOver{}).add(1200, job::ServerLaunched{ServerId{"server-1"}, "ACTIVE"});
    add(0, job::CutoverDone{facts.back().at, 4.425});
    return ended(cycle).recorded(cycle, "abcd");
  }
  Evidence told() const { return evidence_of(facts); }
  nlohmann::json json() const { return nlohmann::json::parse(as_json(told(), "0.1.0", start)); }
  std::string page() const { return as_page(told(), "0.1.0", start); }
  std::vector<Fact> facts;
};

TEST(Evidence, OfACutover) {
  const Evidence told = Story().run("migrate").allocated().migrated(1, "1").migrated(2, "2").cut_over(3, "3").told();
  EXPECT_EQ(told.phase, "done");
  EXPECT_EQ(told.server, "server-1");
  ASSERT_TRUE(told.downtime);
  EXPECT_NEAR(told.downtime->whole(), 4.425, 0.0001);
  EXPECT_EQ(told.interruptions, 0);
  ASSERT_EQ(told.cycles.size(), 3u);
  EXPECT_TRUE(told.cycles[0].copies[0].full);
  EXPECT_FALSE(told.cycles[0].copies[0].before) << "a full copy builds on nothing";
  EXPECT_EQ(told.cycles[1].copies[0].before, (ChangeId{"aa", "1"}));
  EXPECT_EQ(told.cycles[1].copies[0].after, (ChangeId{"aa", "2"}));
  EXPECT_TRUE(told.cycles[2].final);
  ASSERT_EQ(told.disks.size(), 1u);
  EXPECT_EQ(told.disks[0].read, 3 * mib);
  EXPECT_EQ(told.disks[0].written, 3 * mib / 2);
  EXPECT_EQ(told.disks[0].equal, 300u);
  EXPECT_EQ(told.disks[0].zeroed, 21u);
  EXPECT_EQ(told.disks[0].root->digest, "abcd");
  EXPECT_EQ(told.disks[0].no_root, "");
  const std::string words = in_words(told);
  EXPECT_NE(words.find("web01 was moved to server server-1 on 2023-11-14"), std::string::npos) << words;
  EXPECT_NE(words.find("down for 4.4 s"), std::string::npos) << words;
  EXPECT_NE(words.find("1 disk (8.0 MiB) arrived"), std::string::npos) << words;
  EXPECT_EQ(words.find("read back"), std::string::npos) << "nobody did";
}

TEST(Evidence, TheShutdownIsOfTheFinalCycle) {
  const Evidence told = Story().allocated().migrated(1, "1").cut_over(2, "2").told();
  std::vector<std::string> final;
  for (const Phase& phase : told.phases)
    if (phase.cycle == 2) final.push_back(fmt::format("{} {}", phase.name, phase.ended - phase.began));
  EXPECT_EQ(final, (std::vector<std::string>{"shutdown 700", "snapshot 500", "copy 2000", "server 1200",
                                             "remove snapshot 300"}));
}

TEST(Evidence, WhatIsNotKnownIsLeftOut) {
  Story story;
  story.allocated().frozen(1, "1").add(1000,
                                       job::DiskCopied{1, disk, true, "first copy", 5, 5, 1, 8 * mib, std::nullopt});
  const nlohmann::json j = story.json();
  EXPECT_EQ(j["format"], 1);
  for (const char* key : {"server", "moved", "downtime"}) EXPECT_FALSE(j.contains(key)) << key;
  for (const char* key : {"equal", "zeroed", "change_id", "digests", "volume_name"})
    EXPECT_FALSE(j["disks"][0].contains(key)) << key;
  EXPECT_NE(j["disks"][0]["no_root_because"].get<std::string>().find("not recorded"), std::string::npos);
  EXPECT_FALSE(j["cycles"][0].contains("ended"));
  EXPECT_NE(in_words(story.told()).find("under way, or was interrupted"), std::string::npos);
}

TEST(Evidence, ADigestOfAnEarlierCopyIsNone) {
  Story story;
  story.allocated().migrated(1, "1").run("migrate").frozen(2, "2").copied(2, "2");
  EXPECT_FALSE(story.told().disks[0].root);
  EXPECT_NE(story.told().disks[0].no_root, "");
}

TEST(Evidence, AVolumeOfAnotherToolHasNoRoot) {
  const Evidence told =
      Story().allocated(true).run("migrate").frozen(1, "1").copied(1, "1").ended(1).recorded(1, "", 4096).told();
  EXPECT_EQ(told.disks[0].root->unknown, 4096u);
  EXPECT_NE(told.disks[0].no_root.find("4096 bytes"), std::string::npos);
  EXPECT_NE(in_words(told).find("another tool or host"), std::string::npos);
}

TEST(Evidence, InterruptionsAreCounted) {
  Story story;
  story.allocated().run("migrate").frozen(1, "1");
  story.run("migrate").copied(1, "1", true).ended(1);
  story.run("cutover").add(5, job::ShutdownBegan{start}).add(5, job::PoweredOff{});
  story.run("cutover");
  EXPECT_EQ(story.told().interruptions, 2);
  EXPECT_FALSE(story.told().runs[0].resumed);
  EXPECT_TRUE(story.told().runs[1].resumed);
}

TEST(Evidence, DamageIsToldUntilItIsCopiedAgain) {
  Story story;
  story.allocated().migrated(1, "1");
  story.run("verify")
      .add(10, job::DamageFound{disk, {{65536, 65536}}})
      .add(1, job::DiskVerified{disk, 8 * mib, 0, 65536, 1});
  EXPECT_EQ(story.told().disks[0].damaged, 65536u);
  EXPECT_NE(in_words(story.told()).find("found damaged"), std::string::npos);
  EXPECT_NE(story.page().find("class=\"notice\""), std::string::npos);
  story.migrated(2, "2");
  EXPECT_EQ(story.told().disks[0].damaged, 0u);
  story.run("verify").add(900, job::DiskVerified{disk, 8 * mib, 0, 0, 1});
  EXPECT_EQ(in_words(story.told()).find("damaged"), std::string::npos);
  EXPECT_NE(in_words(story.told()).find("Every byte was read back"), std::string::npos) << in_words(story.told());
}

TEST(Evidence, ASampleThatWasReadBackIsNotEveryByte) {
  const std::string words =
      in_words(Story().allocated().migrated(1, "1").add(900, job::DiskVerified{disk, mib, 0, 0, 1}).told());
  EXPECT_NE(words.find("1.0 MiB of it was read back"), std::string::npos) << words;
}

TEST(Evidence, AConversionIsTold) {
  Story story;
  story.allocated()
      .migrated(1, "1")
      .run("cutover")
      .add(0, job::ShutdownBegan{start + 60'000})
      .add(700, job::PoweredOff{});
  story.frozen(2, "2", true).copied(2, "2");
  story.add(10, job::ConversionCommitting{disk, {{0, 65536}}}).add(3000, job::GuestConverted{3, 65536});
  story.add(10, job::HandedOver{})
      .add(10, job::ServerLaunched{ServerId{"x"}, "ACTIVE"})
      .add(0, job::CutoverDone{start + 70'000, 10});
  story.ended(2).recorded(2);
  EXPECT_TRUE(story.told().disks[0].root->converted);
  EXPECT_NE(in_words(story.told()).find("rewrote 64.0 KiB"), std::string::npos) << in_words(story.told());
  EXPECT_NE(story.page().find("after the conversion of the guest"), std::string::npos);
}

TEST(Evidence, AFinalCycleInVainIsCalledSo) {
  Story story;
  story.allocated().migrated(1, "1").run("cutover").add(5, job::ShutdownBegan{start}).add(5, job::PoweredOff{});
  story.frozen(2, "2", true).add(5, job::PoweredOnAgain{});
  EXPECT_TRUE(story.told().cycles[1].abandoned);
}

TEST(Evidence, NamesNoImageOfAnOlderState) {
  const auto image = [](const char* id, const char* content) {
    job::ImageUploaded fact;
    fact.disk = disk;
    fact.image = ImageId{id};
    fact.content = content;
    return fact;
  };
  const auto volume = [](const char* id, const char* of, const char* content) {
    return job::VolumeDelivered{disk, VolumeId{id}, ImageId{of}, content};
  };
  const auto names = [](const Evidence& told) {
    const Disk& d = told.disks.at(0);
    return fmt::format("{} {}", d.image ? d.image->image.value : "-", d.delivered.empty() ? "-" : d.delivered);
  };
  const auto delivered = [&] {
    Story story;
    story.allocated().migrated(1, "1").run("cutover").frozen(2, "2", true).copied(2, "2");
    story.add(10, image("i-1", "aaaa")).add(10, volume("w-1", "i-1", "aaaa"));
    return story;
  };
  EXPECT_EQ(names(delivered().told()), "i-1 w-1");
  // The machine ran again, and was copied once more.
  Story again = delivered();
  again.run("cutover").add(1, job::FinalCopyDoubted{}).frozen(3, "3", true).copied(3, "3");
  EXPECT_EQ(names(again.told()), "- -");
  EXPECT_EQ(names(Story(again).recorded(3, "bbbb").told()), "- -");
  EXPECT_EQ(names(Story(again).recorded(3, "aaaa").told()), "i-1 w-1") << "it had written nothing";
  EXPECT_EQ(names(Story(again).add(1, volume("w-2", "i-1", "aaaa")).told()), "i-1 w-2");
  EXPECT_EQ(names(Story(again).add(1, image("i-2", "bbbb")).told()), "i-2 -");
  // Found to be right, and given to the server.
  EXPECT_EQ(names(Story(again).add(1, job::HandedOver{}).told()), "i-1 w-1");
  EXPECT_EQ(names(delivered().add(1, job::ConversionCommitting{disk, {{0, 4096}}}).told()), "- -");
  EXPECT_EQ(names(delivered().add(1, job::DamageFound{disk, {{0, 4096}}}).recorded(2, "aaaa").told()), "- -");
  EXPECT_EQ(names(delivered().add(1, job::Aborted{}).told()), "- -");
}

TEST(Evidence, NeedsTheJobsMaking) {
  EXPECT_THROW(evidence_of({}), Error);
  const std::vector<Fact> without = {{1, job::PoweredOff{}}};
  EXPECT_THROW(evidence_of(without), Error);
}

TEST(Page, WhateverTheMachineIsCalledItIsText) {
  for (const char* name :
       {"<b>x", "\"><script>alert(1)</script>", "a & b", "it's", "</title></style>", "\x01\xff\xc0"}) {
    const Story story = [&] {
      Story s(name);
      s.run("<i>").allocated().migrated(1, "1").cut_over(2, "2");
      return s;
    }();
    const std::string page = story.page();
    for (const char* tag : {"<b>x", "<script", "<i>", "\"><s", "</title></style>", "\x01", "\xff"})
      EXPECT_EQ(page.find(tag), std::string::npos) << tag << " in the page of " << name;
    EXPECT_NE(page.find("<h1>" + escaped(name) + "</h1>"), std::string::npos);
  }
}

TEST(Page, NeedsNothingElse) {
  const std::string page = Story().allocated().migrated(1, "1").cut_over(2, "2").page();
  for (const char* word : {"http:", "https:", "src=", "href=", "url(", "@import", "<script", "javascript:"})
    EXPECT_EQ(page.find(word), std::string::npos) << word;
}

TEST(Page, OfHundredsOfCyclesStaysSmall) {
  Story story;
  story.allocated();
  for (int i = 1; i <= 300; ++i) story.migrated(i, std::to_string(i).c_str());
  EXPECT_LT(story.page().size(), 400'000u);
}

TEST(Text, EscapesAndQuotes) {
  EXPECT_EQ(escaped("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  EXPECT_EQ(escaped("Größe"), "Größe");
  EXPECT_EQ(escaped("\xc0\xbc"), "\xef\xbf\xbd\xef\xbf\xbd") << "an overlong '<' is no '<'";
  EXPECT_EQ(escaped("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd") << "half a surrogate pair";
  EXPECT_EQ(shell_word("/DC0/vm/web01"), "/DC0/vm/web01");
  EXPECT_EQ(shell_word("it's; rm"), "'it'\\''s; rm'");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(iso_time(start + 5), "2023-11-14T22:13:20.005Z");
  EXPECT_EQ(plain_time(start), "2023-11-14 22:13:20 UTC");
}

}  // namespace
}  // namespace vmferry::report
