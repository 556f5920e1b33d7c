// The loop rule of QueryChangedDiskAreas.
#include "vsphere/changed_areas.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "fake_server.hpp"

namespace vmferry::vsphere {
namespace {

struct Pages {
  std::vector<ChangedPage> pages;
  std::vector<std::uint64_t> asked;
  ChangedAreas areas(std::uint64_t capacity) {
    return ChangedAreas(capacity, "disk 2000", [this](std::uint64_t start, std::stop_token) {
      asked.push_back(start);
      return pages.at(asked.size() - 1);
    });
  }
};

std::vector<ByteRange> drain(ChangedAreas areas) {
  std::vector<ByteRange> all;
  while (auto page = areas.next({})) all.insert(all.end(), page->begin(), page->end());
  return all;
}

TEST(ChangedPage, IsReadAsItStands) {
  const ChangedPage page = parse_changed_page(decode_reply(golden("changed-areas.xml")).value["returnval"]);
  EXPECT_EQ(page.start, 65536U);
  EXPECT_EQ(page.length, 1048576U);
  EXPECT_EQ(page.areas, (std::vector<ByteRange>{{65536, 131072}, {524288, 65536}}));
  EXPECT_TRUE(parse_changed_page(decode_reply(golden("changed-areas-empty.xml")).value["returnval"]).areas.empty());
}

TEST(ChangedPage, RefusesImpossibleNumbers) {
  for (
      const char* bad :
      {"<R><startOffset>-1</startOffset><length>1</length></R>", "<R><startOffset>0</startOffset></R>",
       "<R><startOffset>0</startOffset><length>9</length><changedArea><start>1</start></changedArea></R>",
       "<R><startOffset>0</startOffset><length>9</length><changedArea><start>1</start><length>-4</length></changedArea></R>"})
    EXPECT_THROW(parse_changed_page(decode_reply(envelope(bad)).value), Error) << bad;
  EXPECT_THROW(parse_changed_page(Node()), Error);
}

TEST(ChangedAreas, AnEmptyPageIsNotTheEnd) {
  Pages pages{{{0, 100, {}}, {100, 50, {{120, 5}}}, {150, 50, {}}}, {}};
  EXPECT_EQ(drain(pages.areas(200)), (std::vector<ByteRange>{{120, 5}}));
  EXPECT_EQ(pages.asked, (std::vector<std::uint64_t>{0, 100, 150}));
}

TEST(ChangedAreas, EndOnlyWhenTheCapacityIsCovered) {
  Pages pages{{{0, 199, {{0, 10}}}, {199, 1, {{199, 1}}}}, {}};
  EXPECT_EQ(drain(pages.areas(200)), (std::vector<ByteRange>{{0, 10}, {199, 1}}));
}

TEST(ChangedAreas, AreClampedToTheCapacity) {
  Pages pages{{{0, 512, {{100, 300}, {250, 10}}}}, {}};
  EXPECT_EQ(drain(pages.areas(200)), (std::vector<ByteRange>{{100, 100}}));
}

TEST(ChangedAreas, APageThatDoesNotAdvanceIsAnError) {
  for (const ChangedPage& stuck : {ChangedPage{50, 0, {}}, ChangedPage{0, 50, {}}, ChangedPage{10, 20, {}}}) {
    Pages pages{{{0, 50, {}}, stuck}, {}};
    ChangedAreas areas = pages.areas(100);
    EXPECT_TRUE(areas.next({}));
    try {
      areas.next({});
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::data);
      EXPECT_NE(std::string(e.what()).find("disk 2000"), std::string::npos);
    }
  }
}

TEST(ChangedAreas, WhatNoPageSpeaksAboutCountsAsChanged) {
  Pages pages{{{60, 140, {{70, 5}}}}, {}};
  EXPECT_EQ(drain(pages.areas(200)), (std::vector<ByteRange>{{0, 60}, {70, 5}}));
}

RC_GTEST_PROP(ChangedAreas, NeverLoseAnArea, (std::vector<std::uint8_t> lengths)) {
  // Whatever way the server cuts a fully changed disk into pages, all of it arrives.
  const std::uint64_t capacity = 1000;
  std::size_t turn = 0;
  ChangedAreas areas(capacity, "d", [&](std::uint64_t start, std::stop_token) {
    const std::uint64_t length = lengths.empty() ? capacity : lengths[turn++ % lengths.size()] + 1U;
    return ChangedPage{start, length, {{start, length}}};
  });
  RangeSet all;
  while (auto page = areas.next({}))
    for (const ByteRange& area : *page) all.add(area);
  RC_ASSERT(all.ranges().size() == 1U);
  RC_ASSERT(all.ranges()[0] == (ByteRange{0, capacity}));
}

}  // namespace
}  // namespace vmferry::vsphere
