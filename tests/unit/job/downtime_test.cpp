// The parts of a cutover's downtime add up to the whole, whatever was repeated on the way.
#include "job/downtime.hpp"

#include <gtest/gtest.h>

namespace vmferry::job {

namespace {

Fact copied(std::int64_t at) { return {at, DiskCopied{}}; }

}  // namespace

TEST(Downtime, IsTheSumOfItsParts) {
  const std::vector<Fact> facts = {copied(500),
                                   {1000, ShutdownBegan{1000}},
                                   {3000, PoweredOff{}},
                                   copied(4000),
                                   copied(4500),
                                   {9500, GuestConverted{5, 1}},
                                   {9600, HandedOver{}},
                                   {11000, ServerLaunched{}},
                                   {11000, CutoverDone{11000, 10}}};
  const auto found = downtime_of(facts);
  ASSERT_TRUE(found);
  EXPECT_DOUBLE_EQ(found->shutdown, 2);
  EXPECT_DOUBLE_EQ(found->copy, 1.5);
  EXPECT_DOUBLE_EQ(found->conversion, 5);
  EXPECT_DOUBLE_EQ(found->server, 1.5);
  EXPECT_DOUBLE_EQ(found->whole(), 10);
}

TEST(Downtime, OfDisksThatCameAsImages) {
  const std::vector<Fact> facts = {{1000, ShutdownBegan{1000}}, {2000, PoweredOff{}},        copied(3000),
                                   {7000, VolumeDelivered{}},   {8000, VolumeDelivered{}},   {8500, HandedOver{}},
                                   {9000, ServerLaunched{}},    {9000, CutoverDone{9000, 8}}};
  EXPECT_DOUBLE_EQ(downtime_of(facts)->delivery, 5);
  EXPECT_DOUBLE_EQ(downtime_of(facts)->server, 1);
  EXPECT_DOUBLE_EQ(downtime_of(facts)->whole(), 8);
}

TEST(Downtime, WithoutAConversion) {
  const std::vector<Fact> facts = {
      {1000, ShutdownBegan{1000}}, {2000, PoweredOff{}}, copied(3000), {5000, CutoverDone{5000, 4}}};
  EXPECT_DOUBLE_EQ(downtime_of(facts)->conversion, 0);
  EXPECT_DOUBLE_EQ(downtime_of(facts)->server, 2);
}

TEST(Downtime, OfACutoverThatWasRepeatedCountsFromTheFirstShutdown) {
  const std::vector<Fact> facts = {{1000, ShutdownBegan{1000}}, {2000, PoweredOff{}}, copied(3000),
                                   {60000, FinalCopyDoubted{}}, copied(61000),        {62000, CutoverDone{62000, 61}}};
  EXPECT_DOUBLE_EQ(downtime_of(facts)->copy, 59);
  EXPECT_DOUBLE_EQ(downtime_of(facts)->whole(), 61);
}

TEST(Downtime, BeginsAnewWhenTheMachineRanAgain) {
  const std::vector<Fact> facts = {{1000, ShutdownBegan{1000}},   {2000, PoweredOff{}},  {9000, PoweredOnAgain{}},
                                   {20000, ShutdownBegan{20000}}, {21000, PoweredOff{}}, copied(22000),
                                   {23000, CutoverDone{23000, 3}}};
  EXPECT_DOUBLE_EQ(downtime_of(facts)->whole(), 3);
  EXPECT_DOUBLE_EQ(downtime_of(facts)->shutdown, 1);
}

TEST(Downtime, IsNotKnownBeforeTheEnd) {
  EXPECT_FALSE(downtime_of(std::vector<Fact>{{1000, ShutdownBegan{1000}}, {2000, PoweredOff{}}}));
}

}  // namespace vmferry::job
