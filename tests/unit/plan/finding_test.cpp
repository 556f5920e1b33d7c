// Rules for what can be wrong with a machine, as far as the way to read its disks decides them.
#include "plan/finding.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace vmferry::plan {
namespace {

bool has_problem(const std::vector<Finding>& found, const std::string& words) {
  return std::any_of(found.begin(), found.end(), [&](const Finding& finding) {
    return finding.level == Level::problem && finding.fact.find(words) != std::string::npos;
  });
}

model::Vm machine() {
  model::Vm vm;
  vm.name = "web01";
  vm.tools_running = true;
  model::Disk disk;
  disk.key = model::DiskKey{2000};
  disk.label = "Hard disk 1";
  disk.capacity = 1 << 20;
  disk.has_parent = true;
  vm.disks.push_back(disk);
  return vm;
}

TEST(Findings, AnExportReadsAboveSnapshotsButNoMachineThatRuns) {
  model::Vm vm = machine();
  Wish flat, exported;
  exported.exports = true;
  exported.reads_flat_files = false;
  EXPECT_TRUE(has_problem(judge_machine(vm, flat), "snapshot"));
  EXPECT_FALSE(has_problem(judge_machine(vm, flat), "--transport export"));
  EXPECT_TRUE(has_problem(judge_machine(vm, exported), "--transport export"));
  vm.power = model::Power::off;
  EXPECT_FALSE(has_problem(judge_machine(vm, exported), ""));
}

TEST(Findings, SnapshotsThatTheNextRunRemovesStandInNobodysWay) {
  model::Vm vm = machine();
  vm.snapshots.push_back({SnapshotId{"snapshot-1"}, "vmferry", "", {}});
  Wish wish;
  EXPECT_TRUE(has_problem(judge_machine(vm, wish), "above somebody's snapshot"));
  wish.leaving = {SnapshotId{"snapshot-1"}};
  EXPECT_FALSE(has_problem(judge_machine(vm, wish), ""));
  vm.snapshots.push_back({SnapshotId{"snapshot-2"}, "backup", "", SnapshotId{"snapshot-1"}});
  EXPECT_TRUE(has_problem(judge_machine(vm, wish), "above somebody's snapshot"));
  vm.snapshots.clear();
  EXPECT_TRUE(has_problem(judge_machine(vm, wish), "above somebody's snapshot")) << "a layer that was not merged";
}

TEST(Findings, ADatastoreThatTheMachineDoesNotUseIsSaidAndStopsNothing) {
  model::Vm vm = machine();
  vm.disks.front().file = "[LocalDS_0] web01/disk1.vmdk";
  EXPECT_TRUE(judge_datastores(vm, "--volume-type-mapping", {"LocalDS_0"}).empty());
  const std::vector<Finding> found = judge_datastores(vm, "--volume-type-mapping", {"LocalDS_0", "nosuchds"});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found.front().level, Level::warning);
  EXPECT_EQ(found.front().object, "--volume-type-mapping nosuchds");
  EXPECT_EQ(found.front().fact, "web01 has no disk on 'nosuchds' (it has LocalDS_0)");
}

TEST(Findings, AnExportNeedsItsPrivilege) {
  Wish wish;
  const auto exports = [&] {
    const auto list = privileges(wish).on_machine;
    return std::count(list.begin(), list.end(), "VApp.Export");
  };
  EXPECT_EQ(exports(), 0);
  wish.exports = true;
  EXPECT_EQ(exports(), 1);
}

TEST(Findings, EachWayNeedsItsOwnPrivileges) {
  Wish wish;
  wish.hotadd = true;
  EXPECT_FALSE(privileges(wish).on_datacenter.empty()) << "https may be taken where hotadd fails";
  EXPECT_FALSE(privileges(wish).on_proxy.empty());
  wish.https = false;
  EXPECT_TRUE(privileges(wish).on_datacenter.empty());
  wish.hotadd = false;
  EXPECT_TRUE(privileges(wish).on_proxy.empty());
}

}  // namespace
}  // namespace vmferry::plan
