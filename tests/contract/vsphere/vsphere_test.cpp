// The vSphere client against the lab's vCenter and ESXi host, with what goes wrong in the field.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/finally.hpp"
#include "support/vsphere_lab.hpp"
#include "vsphere/changed_areas.hpp"
#include "vsphere/inventory.hpp"
#include "vsphere/power.hpp"
#include "vsphere/properties.hpp"
#include "vsphere/snapshots.hpp"

namespace vmferry::vsphere {
namespace {

const auto* const labs [[maybe_unused]] = testing::AddGlobalTestEnvironment(new support::VsphereLabs);

class Vsphere : public support::VsphereLabTest {
 protected:
  void SetUp() override {
    VsphereLabTest::SetUp();
    session_ = open();
    vm_ = find(*session_, lab_->get("vcenter.vm_path"), {});
    for (const model::Snapshot& s : snapshots(*session_, vm_, {}).snapshots) remove_snapshot(*session_, vm_, s.id, {});
    control("DELETE", "/calls");
  }
  SnapshotWish wish(const std::string& description = "vmferry job=1") {
    SnapshotWish made;
    made.name = "vmferry";
    made.description = description;
    made.is_it = [description](const model::Snapshot& s) {
      return s.name == "vmferry" && s.description == description;
    };
    return made;
  }
  // Tracking switched on and acting.
  void track() {
    enable_tracking(*session_, vm_, {});
    remove_snapshot(*session_, vm_, create_snapshot(*session_, vm_, wish("stun"), {}), {});
  }
  std::unique_ptr<Session> session_;
  model::VmId vm_;
};

TEST_P(Vsphere, SaysWhoItIs) {
  EXPECT_EQ(session_->content().is_vcenter, is_vcenter());
  EXPECT_FALSE(session_->content().api_version.empty());
  EXPECT_TRUE(session_->cookie(false, {}).reveal().starts_with("vmware_soap_session="));
}

TEST_P(Vsphere, RefusesAWrongPassword) {
  try {
    open("wrong");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::auth);
    EXPECT_EQ(e.name(), "InvalidLogin");
  }
}

TEST_P(Vsphere, FindsTheMachineInEveryWay) {
  const model::Vm vm = describe(*session_, vm_, {});
  EXPECT_EQ(vm.path, lab_->get("vcenter.vm_path"));
  for (const std::string& wanted : {vm.path, vm.path.substr(1), vm.name, vm.id.value, vm.uuid, vm.instance_uuid})
    EXPECT_EQ(find(*session_, wanted, {}), vm_) << wanted;
  // Names that the API escapes, in either spelling.
  const std::vector<ListedVm> all = list(*session_, {});
  const auto slashed =
      std::find_if(all.begin(), all.end(), [](const ListedVm& other) { return other.name == "blue/green"; });
  ASSERT_NE(slashed, all.end());
  EXPECT_TRUE(slashed->path.ends_with("/blue%2fgreen")) << slashed->path;
  for (const std::string& wanted : {std::string("blue/green"), std::string("blue%2fgreen"), slashed->path})
    EXPECT_EQ(find(*session_, wanted, {}), slashed->id) << wanted;
  for (const std::string missing : {"web0", "/DC0/vm/nowhere", "vm-987654", "423c6e10-aaaa-bbbb-cccc-0123456789ab"}) {
    try {
      find(*session_, missing, {});
      ADD_FAILURE() << missing;
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::not_found) << e.what();
      const std::string said = e.what();
      EXPECT_NE(said.find("There are:"), std::string::npos) << said;
      if (missing == "web0") {
        EXPECT_LT(said.find(vm.path), said.find("There are:")) << "it is near: " << said;
      }
    }
  }
}

TEST_P(Vsphere, AnAmbiguousNameListsItsPaths) {
  if (!is_vcenter()) GTEST_SKIP() << "names are unique on a bare host";
  try {
    find(*session_, "app01", {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
    for (const char* path : {"/DC0/vm/Production/app01", "/DC0/vm/Test/app01"})
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
  }
}

TEST_P(Vsphere, DescribesTheMachine) {
  const model::Vm vm = describe(*session_, vm_, {});
  const auto truth = nlohmann::json::parse(control("GET", "/vms/web01"));
  EXPECT_EQ(vm.name, "web01");
  EXPECT_EQ(vm.id.value, truth["moref"]);
  EXPECT_EQ(vm.power, model::Power::on);
  EXPECT_TRUE(vm.tools_running);
  EXPECT_TRUE(vm.tracking_supported);
  EXPECT_FALSE(vm.host.empty());
  EXPECT_FALSE(vm.instance_uuid.empty());
  EXPECT_FALSE(vm.nics.empty());
  ASSERT_EQ(vm.disks.size(), truth["disks"].size());
  for (std::size_t i = 0; i < vm.disks.size(); ++i) {
    EXPECT_EQ(vm.disks[i].key.value, truth["disks"][i]["key"]);
    EXPECT_EQ(vm.disks[i].capacity, truth["disks"][i]["bytes"]) << "odd sizes to the byte";
    EXPECT_EQ(vm.disks[i].file, truth["disks"][i]["file"]);
  }
  EXPECT_EQ(datacenter_of(*session_, vm_, {}).path, is_vcenter() ? "DC0" : "ha-datacenter");
}

TEST_P(Vsphere, ListsTheInventoryWhateverThePageSize) {
  const std::vector<ListedVm> all = list(*session_, {});
  ASSERT_FALSE(all.empty());
  const auto web = std::find_if(all.begin(), all.end(), [&](const ListedVm& vm) { return vm.id == vm_; });
  ASSERT_NE(web, all.end());
  EXPECT_EQ(web->path, lab_->get("vcenter.vm_path"));
  EXPECT_EQ(web->disks, 2);
  EXPECT_GT(web->bytes, 0U);
  const std::vector<Selection> selections{{"VirtualMachine", {"name"}}, {"Folder", {"name"}}, {"Datacenter", {"name"}}};
  const std::size_t whole = read_inventory(*session_, selections, 1000, {}).size();
  EXPECT_EQ(read_inventory(*session_, selections, 1, {}).size(), whole);
  EXPECT_GT(calls("ContinueRetrievePropertiesEx"), 0);
}

TEST_P(Vsphere, SurvivesTheEndOfTheSessionInTheMiddleOfAnyCall) {
  const auto expire = [&](const std::string& method) { fault(method, R"("kind":"expire")"); };
  track();
  const std::uint64_t before = session_->login();
  expire("RetrievePropertiesEx");
  EXPECT_EQ(describe(*session_, vm_, {}).name, "web01");
  expire("CreateContainerView");
  EXPECT_FALSE(list(*session_, {}).empty());
  fault("ContinueRetrievePropertiesEx", R"("kind":"expire","skip":1)");
  const std::vector<Selection> selections{{"VirtualMachine", {"name"}}, {"Folder", {"name"}}, {"Datacenter", {"name"}}};
  EXPECT_EQ(read_inventory(*session_, selections, 1, {}).size(),
            read_inventory(*session_, selections, 1000, {}).size());
  expire("FindByInventoryPath");
  EXPECT_EQ(find(*session_, lab_->get("vcenter.vm_path"), {}), vm_);
  expire("ReconfigVM_Task");
  enable_tracking(*session_, vm_, {});
  expire("CreateSnapshot_Task");
  const SnapshotId id = create_snapshot(*session_, vm_, wish(), {});
  const auto disks = frozen_disks(*session_, id, {});
  ASSERT_TRUE(disks);
  expire("QueryChangedDiskAreas");
  EXPECT_GT(query_changed_areas(*session_, vm_, id, disks->at(0).key, 0, "*", {}).length, 0U);
  expire("RemoveSnapshot_Task");
  remove_snapshot(*session_, vm_, id, {});
  for (const char* method :
       {"CreatePropertyCollector", "CreateFilter", "WaitForUpdatesEx", "DestroyPropertyCollector"}) {
    expire(method);
    EXPECT_TRUE(wait_until(*session_, vm_ref(vm_), {"name"},
                           [](const ObjectProperties& p) { return p["name"].text() == "web01"; }, std::nullopt, {}))
        << method;
  }
  expire("ShutdownGuest");
  shut_down_guest(*session_, vm_, {});
  EXPECT_TRUE(wait_until_off(*session_, vm_, std::chrono::seconds(120), {}));
  EXPECT_GE(session_->login(), before + 9);
  EXPECT_EQ(nlohmann::json::parse(control("GET", "/vms/web01"))["snapshots"].size(), 0U);
}

TEST_P(Vsphere, RenewsARefusedCookie) {
  const std::string before(session_->cookie(false, {}).reveal());
  EXPECT_EQ(session_->cookie(true, {}).reveal(), before) << "it still stands";
  control("POST", "/sessions/expire");
  EXPECT_NE(session_->cookie(true, {}).reveal(), before);
}

TEST_P(Vsphere, AWaitGoesOnWhenTheSessionEndsDuringIt) {
  control("POST", "/settings", R"({"task_delay_ms":1500})");
  std::jthread ending([&] {
    for (int i = 0; i < 3000 && calls("CreateSnapshot_Task") == 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    control("POST", "/sessions/expire");
  });
  const SnapshotId id = create_snapshot(*session_, vm_, wish(), {});
  ending.join();
  EXPECT_TRUE(snapshots(*session_, vm_, {}).find(id));
  EXPECT_EQ(calls("CreateSnapshot_Task"), 1);
}

TEST_P(Vsphere, AWaitCanBeStopped) {
  std::stop_source stop;
  std::jthread stopping([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    stop.request_stop();
  });
  const auto began = std::chrono::steady_clock::now();
  EXPECT_THROW(wait_until(
                   *session_, vm_ref(vm_), {"runtime.powerState"}, [](const ObjectProperties&) { return false; },
                   std::nullopt, stop.get_token()),
               Cancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(60));
}

TEST_P(Vsphere, AWaitHasAnEnd) { EXPECT_FALSE(wait_until_off(*session_, vm_, std::chrono::seconds(1), {})); }

TEST_P(Vsphere, SnapshotsTakeTheirTime) {
  control("POST", "/settings", R"({"task_delay_ms":400})");
  const SnapshotId id = create_snapshot(*session_, vm_, wish(), {});
  const SnapshotTree tree = snapshots(*session_, vm_, {});
  ASSERT_TRUE(tree.find(id));
  EXPECT_EQ(tree.find(id)->description, "vmferry job=1");
  const auto disks = frozen_disks(*session_, id, {});
  ASSERT_TRUE(disks);
  EXPECT_EQ(disks->size(), 2U);
  remove_snapshot(*session_, vm_, id, {});
  EXPECT_FALSE(snapshots(*session_, vm_, {}).find(id));
  EXPECT_FALSE(frozen_disks(*session_, id, {}));
  remove_snapshot(*session_, vm_, id, {});  // gone is fine
}

TEST_P(Vsphere, ALostReplyLeavesExactlyOneSnapshot) {
  for (const int delay : {0, 800}) {
    // Waits for the task that removed the snapshot before: the machine would be busy with its last steps.
    control("POST", "/vms/web01/power", R"({"state":"on"})");
    control("POST", "/settings", fmt::format(R"({{"task_delay_ms":{}}})", delay));
    fault("CreateSnapshot_Task", R"("kind":"lost-reply")");
    const SnapshotId id = create_snapshot(*session_, vm_, wish(), {});
    EXPECT_EQ(snapshots(*session_, vm_, {}).snapshots.size(), 1U);
    EXPECT_TRUE(snapshots(*session_, vm_, {}).find(id));
    fault("RemoveSnapshot_Task", R"("kind":"lost-reply")");
    remove_snapshot(*session_, vm_, id, {});
    EXPECT_TRUE(snapshots(*session_, vm_, {}).snapshots.empty());
  }
  EXPECT_EQ(calls("CreateSnapshot_Task"), 2);
}

TEST_P(Vsphere, ALostRequestIsSentAgain) {
  fault("CreateSnapshot_Task", R"("kind":"reset")");
  create_snapshot(*session_, vm_, wish(), {});
  EXPECT_EQ(snapshots(*session_, vm_, {}).snapshots.size(), 1U);
}

TEST_P(Vsphere, HarmlessCallsSurviveBrokenConnections) {
  for (const char* kind : {"reset", "lost-reply"}) {
    fault("RetrievePropertiesEx", fmt::format(R"("kind":"{}","count":2)", kind));
    EXPECT_EQ(describe(*session_, vm_, {}).name, "web01") << kind;
  }
  fault("RetrievePropertiesEx", R"("kind":"http","status":503,"retry_after":1)");
  EXPECT_EQ(describe(*session_, vm_, {}).name, "web01");
}

TEST_P(Vsphere, TurnsFaultsIntoErrors) {
  const std::vector<std::pair<const char*, Fault>> rows{
      {"RestrictedVersion", Fault::unsupported}, {"NoPermission", Fault::auth},
      {"InvalidState", Fault::conflict},         {"NotEnoughLicenses", Fault::unsupported},
      {"HostCommunication", Fault::unavailable}, {"TooManySnapshotLevels", Fault::quota},
      {"SystemError", Fault::unavailable},       {"ToolsUnavailable", Fault::conflict}};
  for (const auto& [name, kind] : rows) {
    fault("CreateSnapshot_Task", fmt::format(R"("kind":"fault","fault":"{}")", name));
    try {
      create_snapshot(*session_, vm_, wish(), {});
      ADD_FAILURE() << name;
    } catch (const FaultError& e) {
      EXPECT_EQ(e.name(), name) << e.what();
      EXPECT_EQ(e.fault(), kind) << e.what();
    }
    control("DELETE", "/faults");
  }
  EXPECT_TRUE(snapshots(*session_, vm_, {}).snapshots.empty());
}

TEST_P(Vsphere, ABusyMachineIsWaitedFor) {
  fault("CreateSnapshot_Task", R"("kind":"fault","fault":"TaskInProgress")");
  create_snapshot(*session_, vm_, wish(), {});
  EXPECT_EQ(snapshots(*session_, vm_, {}).snapshots.size(), 1U);
}

TEST_P(Vsphere, ChangedAreasAreTheSameHoweverTheyArePaged) {
  // The guest's own writer may be slow, or fill what lies between two places: only what is told to is written.
  control("POST", "/vms/web01/writer", R"({"running":false})");
  const Finally restore([&] { control("POST", "/vms/web01/writer", R"({"running":true})"); });
  track();
  const SnapshotId first = create_snapshot(*session_, vm_, wish("a"), {});
  const auto base = frozen_disks(*session_, first, {});
  ASSERT_TRUE(base && base->at(0).change_id);
  for (int place = 0; place < 10; ++place)
    control("POST", "/vms/web01/write",
            fmt::format(R"({{"disk":{},"offset":{},"bytes":512,"value":90}})", base->at(0).key.value,
                        (3 * place + 1) << 20));
  const SnapshotId second = create_snapshot(*session_, vm_, wish("b"), {});
  const auto now = frozen_disks(*session_, second, {});
  ASSERT_TRUE(now && now->at(0).change_id);
  EXPECT_EQ(base->at(0).change_id->uuid, now->at(0).change_id->uuid);
  const auto collect = [&](const std::string& since) {
    ChangedAreas areas(now->at(0).capacity, "disk", [&](std::uint64_t start, std::stop_token stop) {
      return query_changed_areas(*session_, vm_, second, now->at(0).key, start, since, stop);
    });
    RangeSet all;
    while (auto page = areas.next({}))
      for (const ByteRange& area : *page) all.add(area);
    return all;
  };
  const std::string since = base->at(0).change_id->text();
  control("POST", "/settings", R"({"page_areas":100000})");
  const RangeSet whole = collect(since);
  ASSERT_GE(whole.ranges().size(), 10U);
  control("POST", "/settings", R"({"page_areas":3})");
  control("DELETE", "/calls");
  EXPECT_EQ(collect(since), whole);
  EXPECT_GT(calls("QueryChangedDiskAreas"), 1);
  control("POST", "/vms/web01/wrong-answers", R"({"mode":"empty-first-page"})");
  EXPECT_EQ(collect(since), whole) << "an empty page is not the end";
  EXPECT_GE(collect("*").bytes(), whole.bytes());
}

TEST_P(Vsphere, PowersOff) {
  fault("PowerOffVM_Task", R"("kind":"lost-reply")");
  power_off(*session_, vm_, {});
  EXPECT_EQ(power_state(*session_, vm_, {}), model::Power::off);
  power_off(*session_, vm_, {});
  EXPECT_EQ(calls("PowerOffVM_Task"), 1);
}

TEST_P(Vsphere, AShutdownNeedsTools) {
  control("POST", "/settings", R"({"tools":"notRunning"})");
  try {
    shut_down_guest(*session_, vm_, {});
    FAIL();
  } catch (const FaultError& e) {
    EXPECT_EQ(e.name(), "ToolsUnavailable");
  }
}

TEST_P(Vsphere, AMachineThatIsGoneIsNotFound) {
  for (const auto& act : std::vector<std::function<void()>>{[&] { describe(*session_, {"vm-987654"}, {}); },
                                                            [&] { datacenter_of(*session_, {"vm-987654"}, {}); }}) {
    try {
      act();
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::not_found);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Lab, Vsphere, testing::Values("vcenter", "esxi"), [](const auto& row) { return row.param; });

}  // namespace
}  // namespace vmferry::vsphere
