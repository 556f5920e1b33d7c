// source::Machine on the lab's vSphere: whatever happens, our snapshots are found again, others' are left alone, and no
// changed byte is missing from the changed ranges.
#include "source/machine.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/ranges.hpp"
#include "source/vmware/machine.hpp"
#include "support/vsphere_lab.hpp"
#include "vsphere/inventory.hpp"
#include "vsphere/snapshots.hpp"

namespace vmferry::source {
namespace {

const auto* const labs [[maybe_unused]] = testing::AddGlobalTestEnvironment(new support::VsphereLabs);

// These tests ask about snapshots; bytes are read in the transports' own tests.
class NoTransport final : public vmware::Transport {
 public:
  std::string name() const override { return "none"; }
  std::optional<std::string> refuses(const FrozenDisk&) const override { return "nothing can be read this way"; }
  std::unique_ptr<copy::Source> serve(const Point&, const FrozenDisk& disk, std::stop_token) override {
    throw Error(Fault::unsupported, *refuses(disk));
  }
};

// Something that was opened elsewhere is missing.
class Missing final : public vmware::Transport {
 public:
  std::string name() const override { return "missing"; }
  std::optional<std::string> refuses(const FrozenDisk&) const override { return std::nullopt; }
  std::unique_ptr<copy::Source> serve(const Point&, const FrozenDisk&, std::stop_token) override { return nullptr; }
  void let_go(std::stop_token) override {
    if (told_) return;
    told_ = true;
    vsphere::SoapFault gone;
    gone.name = "ManagedObjectNotFound";
    throw vsphere::FaultError(Fault::not_found, "the proxy is not there any more", gone);
  }

 private:
  bool told_ = false;
};

class MachineTest : public support::VsphereLabTest {
 protected:
  void SetUp() override {
    VsphereLabTest::SetUp();
    session_ = open();
    vm_ = vsphere::find(*session_, lab_->get("vcenter.vm_path"), {});
    for (const model::Snapshot& s : vsphere::snapshots(*session_, vm_, {}).snapshots)
      vsphere::remove_snapshot(*session_, vm_, s.id, {});
    machine_ = make();
    control("DELETE", "/calls");
  }
  std::unique_ptr<Machine> make(const std::string& instance_uuid = "") {
    return vmware::machine(*session_, {vm_, instance_uuid}, std::make_unique<NoTransport>(), log_, {});
  }
  nlohmann::json truth() { return nlohmann::json::parse(control("GET", "/vms/web01")); }
  std::string foreign() {
    return nlohmann::json::parse(control("POST", "/vms/web01/snapshots", R"({"name":"backup"})"))["id"];
  }
  // Returns when it has written so much that some of it differs from what was there.
  void guest_writes_on() {
    const auto written = [&] { return truth()["writer"]["bytes"].get<std::uint64_t>(); };
    const std::uint64_t enough = written() + (2 << 20);
    for (int i = 0; i < 3000 && written() < enough; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_GE(written(), enough) << "in a minute";
  }
  // Stops a run as soon as the lab has been asked for something.
  std::jthread when_called(const std::string& method, std::stop_source& run) {
    return std::jthread([this, method, &run](std::stop_token over) {
      while (!over.stop_requested() && calls(method) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      run.request_stop();
    });
  }
  static RangeSet drain(copy::Work& work) {
    RangeSet all;
    while (auto piece = work.next({}))
      for (const ByteRange& range : *piece) all.add(range);
    return all;
  }
  // The lab's own copies of what was frozen: the bytes that differ between two snapshots.
  RangeSet differences(const SnapshotId& a, const SnapshotId& b, std::int32_t key) {
    const auto file = [&](const SnapshotId& id) -> std::string {
      for (const auto& frozen : nlohmann::json::parse(control("GET", "/vms/web01/frozen")))
        if (frozen["snapshot"] == id.value)
          for (const auto& disk : frozen["disks"])
            if (disk["key"] == key) return disk["path"];
      throw std::runtime_error("the lab kept no frozen disk");
    };
    std::ifstream one(file(a), std::ios::binary), two(file(b), std::ios::binary);
    std::vector<char> x(4096), y(4096);
    RangeSet differ;
    for (std::uint64_t offset = 0;; offset += x.size()) {
      one.read(x.data(), static_cast<std::streamsize>(x.size()));
      two.read(y.data(), static_cast<std::streamsize>(y.size()));
      const auto got = static_cast<std::uint64_t>(two.gcount());
      if (got == 0) return differ;
      if (x != y) differ.add({offset, got});
    }
  }
  const Tag tag_{JobId{"0f3c2a1e-1111-4222-8333-444455556666"}, 1};
  std::unique_ptr<vsphere::Session> session_;
  model::VmId vm_;
  std::unique_ptr<Machine> machine_;
};

TEST_P(MachineTest, TheTagIsReadBackAndNothingElseIs) {
  const auto back = vmware::parse_tag("vmferry", vmware::tag_description(tag_));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->job, tag_.job);
  EXPECT_EQ(back->cycle, 1);
  EXPECT_FALSE(vmware::parse_tag("backup", vmware::tag_description(tag_)));
  for (const char* description : {"", "vmferry", "vmferry job=", "vmferry job= cycle=1", "vmferry job=x",
                                  "vmferry job=x cycle=", "vmferry job=x cycle=1y"})
    EXPECT_FALSE(vmware::parse_tag("vmferry", description)) << description;
}

TEST_P(MachineTest, AMorefOfAnotherMachineIsRefused) {
  EXPECT_NO_THROW(make(machine_->describe({}).instance_uuid));
  try {
    make("503c6e10-aaaa-bbbb-cccc-0123456789ab");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
  }
}

TEST_P(MachineTest, SwitchesTrackingOnAndLeavesNoSnapshot) {
  EXPECT_TRUE(machine_->ensure_tracking(tag_, {}));
  EXPECT_TRUE(truth()["cbt_active"].get<bool>());
  EXPECT_TRUE(truth()["snapshots"].empty());
  control("DELETE", "/calls");
  EXPECT_TRUE(machine_->ensure_tracking(tag_, {}));
  EXPECT_EQ(calls("CreateSnapshot_Task"), 0) << "it acts already";
  EXPECT_EQ(calls("ReconfigVM_Task"), 0);
}

TEST_P(MachineTest, CleansUpAfterATrackingRunThatDied) {
  fault("RemoveSnapshot_Task", R"("kind":"fault","fault":"HostCommunication","count":-1)");
  control("POST", "/vms/web01/config", R"({"version":"vmx-19"})");
  // Force a fresh activation: tracking that does not act yet.
  vsphere::SnapshotWish wish;
  wish.name = "vmferry";
  wish.description =
      fmt::format("vmferry job={} cycle=1 purpose=tracking consistency=crash host=h pid=1", tag_.job.value);
  wish.is_it = [](const model::Snapshot&) { return false; };
  vsphere::create_snapshot(*session_, vm_, wish, {});
  EXPECT_THROW(machine_->ensure_tracking(tag_, {}), Error);
  control("DELETE", "/faults");
  EXPECT_TRUE(machine_->ensure_tracking(tag_, {}));
  EXPECT_TRUE(truth()["snapshots"].empty());
}

TEST_P(MachineTest, WhatATransportDoesNotFindIsNotTheSnapshot) {
  machine_ = vmware::machine(*session_, {vm_, ""}, std::make_unique<Missing>(), log_, {});
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  try {
    machine_->thaw(point.snapshot, tag_.job, false, {});
    ADD_FAILURE() << "the snapshot is said to be gone";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "the proxy is not there any more");
  }
  EXPECT_EQ(truth()["snapshots"].size(), 1U);
  EXPECT_EQ(machine_->thaw(point.snapshot, tag_.job, false, {}), "");
  EXPECT_TRUE(truth()["snapshots"].empty());
}

TEST_P(MachineTest, AnOldHardwareVersionCannotTrack) {
  const std::string before = machine_->describe({}).hardware_version;
  control("POST", "/vms/web01/config", R"({"version":"vmx-04"})");
  EXPECT_FALSE(machine_->ensure_tracking(tag_, {}));
  control("POST", "/vms/web01/config", fmt::format(R"({{"version":"{}"}})", before));
  EXPECT_EQ(calls("ReconfigVM_Task"), 0);
}

TEST_P(MachineTest, FreezesAllDisksOnceAndThawsThem) {
  machine_->ensure_tracking(tag_, {});
  const Point point = machine_->freeze(tag_, Quiesce::automatic, {});
  EXPECT_EQ(point.consistency, Consistency::application);
  EXPECT_EQ(point.remark, "");
  ASSERT_EQ(point.disks.size(), 2U);
  for (const FrozenDisk& disk : point.disks) {
    EXPECT_TRUE(disk.change_id);
    EXPECT_FALSE(disk.has_parent) << "the base is frozen below the snapshot";
    EXPECT_GT(disk.capacity, 0U);
    EXPECT_EQ(disk.uuid.size(), 36U);
    EXPECT_EQ(disk.content_id.size(), 32U);
  }
  const Point again = machine_->freeze(tag_, Quiesce::automatic, {});
  EXPECT_EQ(again.snapshot, point.snapshot) << "the same moment, found by its tag";
  EXPECT_EQ(again.consistency, Consistency::application);
  EXPECT_EQ(make()->recall(point.snapshot, {})->disks, point.disks);
  EXPECT_EQ(machine_->snapshots_of(tag_.job, {}), std::vector<SnapshotId>{point.snapshot});
  EXPECT_TRUE(machine_->snapshots_of(JobId{"another"}, {}).empty());
  try {
    machine_->thaw(point.snapshot, JobId{"another"}, false, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
  }
  machine_->thaw(point.snapshot, tag_.job, false, {});
  machine_->thaw(point.snapshot, tag_.job, false, {});
  EXPECT_FALSE(machine_->recall(point.snapshot, {}));
  EXPECT_TRUE(truth()["snapshots"].empty());
}

TEST_P(MachineTest, ALostReplyLeavesOneSnapshot) {
  fault("CreateSnapshot_Task", R"("kind":"lost-reply")");
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  EXPECT_EQ(truth()["snapshots"].size(), 1U);
  EXPECT_EQ(machine_->snapshots_of(tag_.job, {}), std::vector<SnapshotId>{point.snapshot});
  fault("RemoveSnapshot_Task", R"("kind":"lost-reply")");
  machine_->thaw(point.snapshot, tag_.job, false, {});
  EXPECT_TRUE(truth()["snapshots"].empty());
}

TEST_P(MachineTest, ARunStoppedWhileItsSnapshotIsBeingMadeFindsIt) {
  control("POST", "/settings", R"({"task_delay_ms":6000})");
  std::stop_source stop;
  {
    const std::jthread interrupter = when_called("CreateSnapshot_Task", stop);
    EXPECT_THROW(machine_->freeze(tag_, Quiesce::never, stop.get_token()), Cancelled);
  }
  EXPECT_TRUE(truth()["snapshots"].empty()) << "it was to be stopped before the snapshot is there";
  const std::vector<SnapshotId> left = machine_->snapshots_of(tag_.job, {});
  control("POST", "/settings", R"({"task_delay_ms":0})");
  ASSERT_EQ(left.size(), 1U);
  machine_->thaw(left[0], tag_.job, false, {});
  EXPECT_TRUE(truth()["snapshots"].empty());
}

TEST_P(MachineTest, ARemovalWithoutConsolidationIsConsolidated) {
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  fault("consolidate:RemoveSnapshot_Task", R"("kind":"fault","fault":"FileFault")");
  machine_->thaw(point.snapshot, tag_.job, false, {});
  EXPECT_TRUE(truth()["snapshots"].empty());
  EXPECT_EQ(calls("ConsolidateVMDisks_Task"), 1);
  EXPECT_FALSE(truth()["consolidation_needed"].get<bool>());
}

// The snapshot is gone, its files are not, and the run ends in between: the next one still knows whose they are.
TEST_P(MachineTest, AConsolidationThatIsStoppedIsMadeByTheNextRun) {
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  fault("consolidate:RemoveSnapshot_Task", R"("kind":"fault","fault":"FileFault")");
  fault("ConsolidateVMDisks_Task", R"("kind":"fault","fault":"TaskInProgress","count":-1)");  // a backup goes on
  std::stop_source stop;
  {
    const std::jthread interrupter = when_called("ConsolidateVMDisks_Task", stop);
    EXPECT_THROW(machine_->thaw(point.snapshot, tag_.job, false, stop.get_token()), Cancelled);
  }
  EXPECT_TRUE(truth()["snapshots"].empty());
  EXPECT_TRUE(truth()["consolidation_needed"].get<bool>());
  control("DELETE", "/faults");
  EXPECT_EQ(make()->thaw(point.snapshot, tag_.job, false, {}), "");
  EXPECT_FALSE(truth()["consolidation_needed"].get<bool>());
  control("DELETE", "/calls");
  EXPECT_EQ(make()->thaw(point.snapshot, tag_.job, false, {}), "");
  EXPECT_EQ(calls("ConsolidateVMDisks_Task"), 0) << "once";
}

TEST_P(MachineTest, AConsolidationThatWasStoppedAndThenFailsIsNamed) {
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  fault("consolidate:RemoveSnapshot_Task", R"("kind":"fault","fault":"FileFault")");
  fault("ConsolidateVMDisks_Task", R"("kind":"fault","fault":"FileFault")");
  EXPECT_NE(machine_->thaw(point.snapshot, tag_.job, false, {}), "");  // and its fact is never written
  fault("ConsolidateVMDisks_Task", R"("kind":"fault","fault":"FileFault")");
  const std::string left = make()->thaw(point.snapshot, tag_.job, false, {});
  EXPECT_NE(left.find("consolidate its disks in vSphere"), std::string::npos) << left;
  EXPECT_EQ(left.find("needed before"), std::string::npos) << left;
}

// Somebody removed ours, or we did and wrote no fact of it.
TEST_P(MachineTest, WhatWasToBeMergedBeforeASnapshotOfOursIsLeftWhenThatIsGone) {
  const Point first = machine_->freeze(tag_, Quiesce::never, {});
  fault("consolidate:RemoveSnapshot_Task", R"("kind":"fault","fault":"FileFault","count":-1)");
  fault("ConsolidateVMDisks_Task", R"("kind":"fault","fault":"FileFault")");
  machine_->thaw(first.snapshot, tag_.job, false, {});
  ASSERT_TRUE(truth()["consolidation_needed"].get<bool>());
  control("DELETE", "/calls");
  const Point second = machine_->freeze({tag_.job, 2}, Quiesce::never, {});
  EXPECT_TRUE(second.unmerged_before);
  // Once while it is there and the machine can be asked, then by another run that finds it gone.
  for (const bool known : {false, true}) {
    const std::string left = make()->thaw(second.snapshot, tag_.job, known && second.unmerged_before, {});
    EXPECT_NE(left.find("needed before"), std::string::npos) << left;
  }
  EXPECT_EQ(calls("ConsolidateVMDisks_Task"), 0);
}

TEST_P(MachineTest, AConsolidationThatFailsOrIsNotOursEndsNoRun) {
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  fault("consolidate:RemoveSnapshot_Task", R"("kind":"fault","fault":"FileFault")");
  fault("ConsolidateVMDisks_Task", R"("kind":"fault","fault":"FileFault")");
  machine_->thaw(point.snapshot, tag_.job, false, {});
  EXPECT_TRUE(truth()["consolidation_needed"].get<bool>());
  control("DELETE", "/faults");
  // The next snapshot finds the need: it is the operator's from now on.
  const Point next = machine_->freeze({tag_.job, 2}, Quiesce::never, {});
  control("DELETE", "/calls");
  machine_->thaw(next.snapshot, tag_.job, false, {});
  EXPECT_EQ(calls("ConsolidateVMDisks_Task"), 0);
}

TEST_P(MachineTest, ForeignSnapshotsAreLeftAlone) {
  const std::string theirs = foreign();
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  try {
    machine_->thaw(SnapshotId{theirs}, tag_.job, false, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
  }
  machine_->thaw(point.snapshot, tag_.job, false, {});
  ASSERT_EQ(truth()["snapshots"].size(), 1U);
  EXPECT_EQ(truth()["snapshots"][0]["id"], theirs);
}

TEST_P(MachineTest, QuiescingFallsBackOnlyWhenItMay) {
  control("POST", "/settings", R"({"quiesce_fails":true})");
  EXPECT_THROW(machine_->freeze(tag_, Quiesce::always, {}), Error);
  EXPECT_TRUE(truth()["snapshots"].empty());
  const Point point = machine_->freeze(tag_, Quiesce::automatic, {});
  EXPECT_EQ(point.consistency, Consistency::crash);
  EXPECT_NE(point.remark.find("quiescing failed"), std::string::npos) << point.remark;
  EXPECT_EQ(machine_->recall(point.snapshot, {})->remark, point.remark);
  machine_->thaw(point.snapshot, tag_.job, false, {});

  control("POST", "/settings", R"({"quiesce_fails":false,"tools":"notRunning"})");
  try {
    machine_->freeze(tag_, Quiesce::always, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
    EXPECT_NE(std::string(e.what()).find("--quiesce"), std::string::npos);
  }
  EXPECT_EQ(machine_->freeze(tag_, Quiesce::automatic, {}).consistency, Consistency::crash);
}

TEST_P(MachineTest, AMachineThatIsOffIsFrozenAsItIs) {
  control("POST", "/vms/web01/power", R"({"state":"off"})");
  EXPECT_TRUE(machine_->ensure_tracking(tag_, {}));
  const Point point = machine_->freeze(tag_, Quiesce::always, {});
  EXPECT_EQ(point.consistency, Consistency::powered_off);
  EXPECT_EQ(machine_->recall(point.snapshot, {})->consistency, Consistency::powered_off);
}

TEST_P(MachineTest, NoChangedByteIsMissing) {
  machine_->ensure_tracking(tag_, {});
  const Point first = machine_->freeze(tag_, Quiesce::never, {});
  guest_writes_on();
  const Point second = machine_->freeze({tag_.job, 2}, Quiesce::never, {});
  control("POST", "/settings", R"({"page_areas":3})");
  bool any = false;
  for (const FrozenDisk& disk : second.disks) {
    RangeSet missing = differences(first.snapshot, second.snapshot, disk.key.value);
    any = any || !missing.empty();
    auto work = machine_->changed(second, disk.key, first.find(disk.key)->change_id, {});
    EXPECT_FALSE(work->total());
    const RangeSet changed = drain(*work);
    missing.subtract(changed);
    EXPECT_TRUE(missing.empty()) << missing.bytes() << " bytes of disk " << disk.key.value;
    for (const ByteRange& range : changed.ranges()) EXPECT_LE(range.end(), disk.capacity);
    const RangeSet allocated = drain(*machine_->changed(second, disk.key, std::nullopt, {}));
    for (const ByteRange& range : changed.ranges()) EXPECT_TRUE(allocated.contains(range));
    // Not the whole disk, which is what the client falls back to: the guest's disks have holes.
    EXPECT_LT(allocated.bytes(), disk.capacity);
  }
  EXPECT_TRUE(any) << "the writer did not write: nothing was shown";
}

TEST_P(MachineTest, ALostHistoryIsSaid) {
  machine_->ensure_tracking(tag_, {});
  const Point first = machine_->freeze(tag_, Quiesce::never, {});
  machine_->thaw(first.snapshot, tag_.job, false, {});
  const auto since = first.disks.at(0).change_id;
  control("POST", "/vms/web01/cbt-reset", "{}");
  const Point second = machine_->freeze({tag_.job, 2}, Quiesce::never, {});
  EXPECT_THROW(machine_->changed(second, second.disks.at(0).key, since, {}), HistoryLost);
  // The same UUID, but a server that does not know the number, or cannot read its tracking file.
  const auto now = second.disks.at(0).change_id;
  ASSERT_TRUE(now);
  for (const char* name : {"InvalidArgument", "FileFault"}) {
    fault("QueryChangedDiskAreas", fmt::format(R"("kind":"fault","fault":"{}")", name));
    EXPECT_THROW(drain(*machine_->changed(second, second.disks.at(0).key, now, {})), HistoryLost) << name;
    control("DELETE", "/faults");
  }
  fault("QueryChangedDiskAreas", R"("kind":"fault","fault":"NoPermission")");
  try {
    drain(*machine_->changed(second, second.disks.at(0).key, now, {}));
    FAIL();
  } catch (const HistoryLost&) {
    FAIL() << "a missing privilege is no lost history";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::auth);
  }
}

TEST_P(MachineTest, WhatIsWrittenAfterTheLastPointOfAMachineThatIsOffIsNoticed) {
  machine_->ensure_tracking(tag_, {});
  machine_->power_off(Stop::power, std::chrono::seconds(60), {});
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  const model::Vm vm = machine_->describe({});
  for (const model::Disk& disk : vm.disks)
    EXPECT_FALSE(machine_->written_since(disk, *point.find(disk.key)->change_id, {})) << disk.label;
  control("POST", "/vms/web01/power", R"({"state":"on"})");
  const model::Disk& first = vm.disks.front();
  const model::ChangeId then = *point.find(first.key)->change_id;
  EXPECT_THROW(machine_->written_since(first, then, {}), HistoryLost) << "of a machine that runs nobody can say";
  guest_writes_on();
  control("POST", "/vms/web01/power", R"({"state":"off"})");
  EXPECT_TRUE(std::any_of(vm.disks.begin(), vm.disks.end(), [&](const model::Disk& disk) {
    return machine_->written_since(disk, *point.find(disk.key)->change_id, {});
  }));
  EXPECT_THROW(machine_->written_since(first, {"52 aa", "3"}, {}), HistoryLost);
  fault("QueryChangedDiskAreas", R"("kind":"fault","fault":"NotSupported")");
  EXPECT_THROW(machine_->written_since(first, then, {}), HistoryLost);
  fault("QueryChangedDiskAreas", R"("kind":"fault","fault":"NoPermission")");
  EXPECT_THROW(machine_->written_since(first, then, {}), Error);
}

TEST_P(MachineTest, AllocatedAreasFallBackToTheWholeDisk) {
  machine_->ensure_tracking(tag_, {});
  const Point point = machine_->freeze(tag_, Quiesce::never, {});
  const FrozenDisk& disk = point.disks.at(0);
  fault("QueryChangedDiskAreas", R"("kind":"fault","fault":"FileFault")");
  EXPECT_EQ(drain(*machine_->changed(point, disk.key, std::nullopt, {})).bytes(), disk.capacity);
  FrozenDisk untracked = disk;
  untracked.change_id.reset();
  Point bare = point;
  bare.disks = {untracked};
  EXPECT_EQ(drain(*machine_->changed(bare, disk.key, std::nullopt, {})).bytes(), disk.capacity);
  EXPECT_THROW(machine_->changed(bare, disk.key, disk.change_id, {}), HistoryLost);
  EXPECT_THROW(machine_->changed(bare, model::DiskKey{2999}, std::nullopt, {}), Error);
}

TEST_P(MachineTest, AsksTheGuestToShutDown) {
  machine_->power_off(Stop::guest, std::chrono::seconds(60), {});
  EXPECT_EQ(truth()["power"], "off");
  EXPECT_EQ(calls("PowerOffVM_Task"), 0);
  machine_->power_off(Stop::guest, std::chrono::seconds(60), {});
  EXPECT_EQ(calls("ShutdownGuest"), 1);
}

TEST_P(MachineTest, SwitchesOffHardOnlyWhenAllowed) {
  control("POST", "/settings", R"({"tools":"notRunning"})");
  try {
    machine_->power_off(Stop::guest, std::chrono::seconds(2), {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
  }
  EXPECT_EQ(truth()["power"], "on");
  machine_->power_off(Stop::guest_then_power, std::chrono::seconds(2), {});
  EXPECT_EQ(truth()["power"], "off");
}

TEST_P(MachineTest, AGuestThatIgnoresTheRequestRunsOutOfPatience) {
  control("POST", "/settings", R"({"shutdown_delay_ms":6000})");
  try {
    machine_->power_off(Stop::guest, std::chrono::seconds(1), {});
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::timeout);
  }
  machine_->power_off(Stop::guest_then_power, std::chrono::seconds(1), {});
  EXPECT_EQ(truth()["power"], "off");
  control("POST", "/settings", R"({"shutdown_delay_ms":0})");
  std::this_thread::sleep_for(std::chrono::seconds(6));  // the ignored request must not strike the next test's machine
}

INSTANTIATE_TEST_SUITE_P(Lab, MachineTest, testing::Values("vcenter", "esxi"),
                         [](const auto& row) { return row.param; });

}  // namespace
}  // namespace vmferry::source
