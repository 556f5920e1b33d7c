// A sample, damage, and a repair that may not hold: what was found damaged is read again, whatever else the sample
// chooses, until it was found right.
#include "support/thrown.hpp"
#include "world.hpp"

namespace vmferry::job {
namespace {

class VerifyRepair : public testing::Test {
 protected:
  VerifyRepair() { world_.run(false); }

  void verify(double sample, bool repair, bool changed = false) {
    const std::vector<Fact> facts = world_.journal->facts();
    drive(job::verify(world_.parts(), fold(facts), {}, {sample, repair, changed}), *world_.journal, world_.observer,
          {});
  }
  void release() { job::release(world_.parts(), *world_.journal, world_.observer, std::chrono::seconds(10)); }
  Fault fault_of_verify(double sample, bool repair) {
    const Error error = support::thrown([&] { verify(sample, repair); });
    EXPECT_NE(std::string(error.what()).find("65536 bytes at offset 0"), std::string::npos) << error.what();
    release();
    return error.fault();
  }
  void damage() { world_.cloud.scribble(world_.volume(disk_)); }
  // Whatever is written there is lost.
  void lose_writes() {
    world_.journal->refuse = [this](const Body& body) {
      if (is_copy(body)) damage();
    };
  }
  void keep_writes() {
    world_.journal->refuse = [](const Body&) {};
  }
  bool is_copy(const Body& body) const {
    const auto* copied = std::get_if<DiskCopied>(&body);
    return copied && copied->disk == disk_;
  }
  // What the last verification of the disk read.
  std::uint64_t last_read() const {
    std::uint64_t read = 0;
    for (const Fact& fact : world_.journal->facts())
      if (const auto* verified = std::get_if<DiskVerified>(&fact.body); verified && verified->disk == disk_)
        read = verified->read;
    return read;
  }
  // Lets time pass until half a sample has the damaged part in it, or not. Of these small disks it has all or nothing.
  void wait_for_a_sample(bool with_the_disk) {
    for (int i = 0; i < 200; ++i) {
      world_.clock.sleep(std::chrono::seconds(1), {});
      verify(0.5, false);
      if ((last_read() > 0) == with_the_disk) return;
    }
    FAIL() << "no sample is like that";
  }

  World world_;
  const model::DiskKey disk_ = world_.machine.keys().front();
};

// Both passes of one run: the first one's sample has the damage in it, the second one's has not.
TEST_F(VerifyRepair, ARepairThatDoesNotHoldIsFoundByAnotherSample) {
  wait_for_a_sample(false);
  const auto without = world_.clock.wall();
  wait_for_a_sample(true);
  damage();
  bool lost = false;
  world_.journal->refuse = [&](const Body& body) {
    if (!is_copy(body)) return;
    lost = true;
    damage();
    world_.clock.sleep(without - world_.clock.wall(), {});
  };
  EXPECT_EQ(fault_of_verify(0.5, true), Fault::data);
  EXPECT_TRUE(lost);
}

TEST_F(VerifyRepair, ARepairThatHoldsEndsWell) {
  damage();
  EXPECT_EQ(fault_of_verify(1, false), Fault::data);
  EXPECT_EQ(fault_of_verify(0, false), Fault::data) << "known, and not mended";
  verify(0, true);
  EXPECT_EQ(last_read(), 65536U);
  world_.expect_equal_to_last_snapshot();
  verify(0, false);
  EXPECT_EQ(last_read(), 0U) << "it was found right: no more than the sample";
  world_.expect_nothing_left();
}

// Died after the copy and before it was read again: only the journal knows what to look at.
TEST_F(VerifyRepair, WhatWasMendedByARunThatDiedIsReadByTheNextOne) {
  for (const bool holds : {true, false}) {
    SCOPED_TRACE(holds);
    damage();
    if (!holds) lose_writes();
    world_.journal->around = [&](const std::string& call, bool acted) {
      if (call == "fact CycleEnded" && acted) throw Died();
    };
    EXPECT_THROW(verify(1, true), Died);
    world_.journal->around = [](const std::string&, bool) {};
    keep_writes();
    release();
    if (holds) {
      verify(0, false);
      EXPECT_EQ(last_read(), 65536U);
    } else {
      EXPECT_EQ(fault_of_verify(0, false), Fault::data);
    }
  }
}

TEST_F(VerifyRepair, StorageThatLosesWritesIsNeverSaidToBeMended) {
  damage();
  lose_writes();
  EXPECT_EQ(fault_of_verify(1, true), Fault::data);
  for (int again = 0; again < 2; ++again) EXPECT_EQ(fault_of_verify(0, true), Fault::data);
  keep_writes();
  verify(0, true);
  world_.expect_equal_to_last_snapshot();
}

}  // namespace
}  // namespace vmferry::job
