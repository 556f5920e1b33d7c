// Creating and removing when replies get lost, against a small machine with a memory.
#include "vsphere/snapshots.hpp"

#include <fmt/format.h>

#include <gtest/gtest.h>

#include <algorithm>

#include "fake_server.hpp"
#include "support/fake_clock.hpp"
#include "vsphere/power.hpp"

namespace vmferry::vsphere {
namespace {

// One VM whose tasks end at once.
class Machine {
 public:
  explicit Machine(FakeServer& server) {
    server.on("RetrievePropertiesEx", [this](const http::Request& r) { return retrieve(r.body); });
    server.on("CreateSnapshot_Task", [this](const http::Request& r) { return create(r.body); });
    server.on("RemoveSnapshot_Task", [this](const http::Request& r) { return remove(r.body); });
    server.on("PowerOffVM_Task", [this](const http::Request&) { return power_off(); });
    server.on("CreatePropertyCollector",
              FakeServer::xml(envelope("<R><returnval type=\"PropertyCollector\">pc-1</returnval></R>")));
    server.on("CreateFilter", [this](const http::Request& r) {
      watched_ = between(r.body, "<pathSet>", "</pathSet>");
      return ok("<R><returnval type=\"PropertyFilter\">f</returnval></R>");
    });
    server.on("WaitForUpdatesEx", [this](const http::Request&) {
      const std::string value = watched_ == "info.state" ? task_error_.empty() ? "success" : "error" : power_;
      return ok(fmt::format(
          "<R><returnval><version>1</version><filterSet><objectSet><kind>enter</kind><changeSet><name>{}</name><op>assign</op>"
          "<val>{}</val></changeSet></objectSet></filterSet></returnval></R>",
          watched_, value));
    });
    server.on("DestroyPropertyCollector", FakeServer::xml(envelope("<R/>")));
  }

  std::vector<std::pair<int, std::string>> snapshots;    // number, name
  int lose_create = 0, lose_remove = 0, lose_power = 0;  // replies still to lose, after the act
  int drop_create = 0;                                   // requests still to lose, before the act
  int busy = 0;                                          // TaskInProgress still to answer
  std::string next_error;                                // the next task ends with this fault
  std::string power_ = "poweredOn";

 private:
  static std::string between(const std::string& text, const std::string& a, const std::string& b) {
    const auto from = text.find(a) + a.size();
    return text.substr(from, text.find(b, from) - from);
  }
  static http::Response ok(const std::string& body) { return {200, {}, envelope(body)}; }
  http::Response task() {
    task_error_ = next_error;
    next_error.clear();
    return ok("<R><returnval type=\"Task\">task-1</returnval></R>");
  }
  http::Response create(const std::string& body) {
    if (drop_create > 0 && drop_create-- > 0) throw http::Broken(Fault::unavailable, "broke", true);
    if (busy > 0 && busy-- > 0) return {500, {}, golden("fault-task-in-progress.xml")};
    if (next_error.empty()) snapshots.emplace_back(++number_, between(body, "<name>", "</name>"));
    http::Response reply = task();
    if (lose_create > 0 && lose_create-- > 0) throw http::Broken(Fault::unavailable, "broke", true);
    return reply;
  }
  http::Response remove(const std::string& body) {
    const std::string id = between(body, "snapshot-", "</_this>");
    const auto at =
        std::find_if(snapshots.begin(), snapshots.end(), [&](const auto& s) { return std::to_string(s.first) == id; });
    if (at == snapshots.end()) return {500, {}, golden("fault-gone.xml")};
    snapshots.erase(at);
    http::Response reply = task();
    if (lose_remove > 0 && lose_remove-- > 0) throw http::Broken(Fault::unavailable, "broke", true);
    return reply;
  }
  http::Response power_off() {
    power_ = "poweredOff";
    http::Response reply = task();
    if (lose_power > 0 && lose_power-- > 0) throw http::Broken(Fault::unavailable, "broke", true);
    return reply;
  }
  http::Response retrieve(const std::string& body) {
    const std::string path = between(body, "<pathSet>", "</pathSet>");
    std::string value;
    if (path == "snapshot" && !snapshots.empty()) {
      value = "<val>";
      for (const auto& [n, name] : snapshots)
        value += fmt::format(
            "<rootSnapshotList><snapshot type=\"VirtualMachineSnapshot\">snapshot-{}</snapshot><name>{}</name>"
            "<description/></rootSnapshotList>",
            n, name);
      value += "</val>";
    }
    if (path == "runtime.powerState") value = "<val>" + power_ + "</val>";
    if (path == "info" && task_error_.empty())
      value = fmt::format(
          "<val><state>success</state><result type=\"VirtualMachineSnapshot\">snapshot-{}</result></val>", number_);
    if (path == "info" && !task_error_.empty())
      value = fmt::format(
          "<val><state>error</state><error><fault xsi:type=\"{}\"/><localizedMessage>no.</localizedMessage></error></val>",
          task_error_);
    const std::string property = value.empty() ? "" : "<propSet><name>" + path + "</name>" + value + "</propSet>";
    return ok("<R><returnval><objects><obj type=\"X\">x</obj>" + property + "</objects></returnval></R>");
  }

  int number_ = 0;
  std::string watched_;
  std::string task_error_;
};

class SnapshotsTest : public testing::Test {
 protected:
  SnapshotWish wish() {
    SnapshotWish made;
    made.name = "vmferry";
    made.description = "d";
    made.is_it = [](const model::Snapshot& s) { return s.name == "vmferry"; };
    return made;
  }
  FakeServer server;
  Machine machine{server};
  support::FakeClock clock;
  log::Log log;
  Session session{
      server, {"vc.example:443", "u", Secret(std::string("secret")), std::chrono::seconds(0)}, clock, log, {}};
  const model::VmId vm{"vm-42"};
};

TEST_F(SnapshotsTest, AreMadeAndRemoved) {
  machine.snapshots.emplace_back(99, "somebody else's");
  const SnapshotId id = create_snapshot(session, vm, wish(), {});
  EXPECT_EQ(id.value, "snapshot-1");
  const std::string body = server.last("CreateSnapshot_Task").body;
  EXPECT_NE(body.find("<name>vmferry</name><description>d</description><memory>false</memory><quiesce>false</quiesce>"),
            std::string::npos);
  remove_snapshot(session, vm, id, {});
  EXPECT_EQ(machine.snapshots.size(), 1U);
  EXPECT_NE(server.last("RemoveSnapshot_Task")
                .body.find("<removeChildren>false</removeChildren><consolidate>true</consolidate>"),
            std::string::npos);
}

TEST_F(SnapshotsTest, TheOneThatIsThereIsTaken) {
  machine.snapshots.emplace_back(7, "vmferry");
  EXPECT_EQ(create_snapshot(session, vm, wish(), {}).value, "snapshot-7");
  EXPECT_EQ(server.count("CreateSnapshot_Task"), 0);
}

TEST_F(SnapshotsTest, ALostReplyLeavesExactlyOne) {
  machine.lose_create = 1;
  EXPECT_EQ(create_snapshot(session, vm, wish(), {}).value, "snapshot-1");
  EXPECT_EQ(machine.snapshots.size(), 1U);
  EXPECT_EQ(server.count("CreateSnapshot_Task"), 1);
}

TEST_F(SnapshotsTest, ALostRequestIsRepeatedOnceItIsClearThatNothingHappened) {
  machine.drop_create = 1;
  EXPECT_EQ(create_snapshot(session, vm, wish(), {}).value, "snapshot-1");
  EXPECT_EQ(machine.snapshots.size(), 1U);
  EXPECT_EQ(server.count("CreateSnapshot_Task"), 2);
  EXPECT_FALSE(clock.sleeps().empty()) << "it was given time to arrive";
}

TEST_F(SnapshotsTest, AConnectionThatAlwaysBreaksEndsInAnError) {
  machine.drop_create = 1000;
  EXPECT_THROW(create_snapshot(session, vm, wish(), {}), http::Broken);
  EXPECT_LT(server.count("CreateSnapshot_Task"), 10);
}

TEST_F(SnapshotsTest, ABusyMachineIsWaitedFor) {
  machine.busy = 3;
  EXPECT_EQ(create_snapshot(session, vm, wish(), {}).value, "snapshot-1");
  EXPECT_EQ(server.count("CreateSnapshot_Task"), 4);
}

TEST_F(SnapshotsTest, ButNotForEver) {
  machine.busy = 100000;
  try {
    create_snapshot(session, vm, wish(), {});
    FAIL();
  } catch (const FaultError& e) {
    EXPECT_EQ(e.name(), "TaskInProgress");
  }
}

TEST_F(SnapshotsTest, ATaskThatFailsIsAnErrorWithItsFaultsName) {
  machine.next_error = "ApplicationQuiesceFault";
  try {
    create_snapshot(session, vm, wish(), {});
    FAIL();
  } catch (const FaultError& e) {
    EXPECT_EQ(e.name(), "ApplicationQuiesceFault");
    EXPECT_NE(std::string(e.what()).find("CreateSnapshot_Task on vm-42"), std::string::npos);
  }
}

TEST_F(SnapshotsTest, RemovalSurvivesALostReplyAndAMissingSnapshot) {
  const SnapshotId id = create_snapshot(session, vm, wish(), {});
  machine.lose_remove = 1;
  remove_snapshot(session, vm, id, {});
  EXPECT_TRUE(machine.snapshots.empty());
  EXPECT_EQ(server.count("RemoveSnapshot_Task"), 1);
  remove_snapshot(session, vm, id, {});
  EXPECT_EQ(server.count("RemoveSnapshot_Task"), 1);
}

TEST_F(SnapshotsTest, PowerOffLooksAtTheStateAfterALostReply) {
  machine.lose_power = 1;
  power_off(session, vm, {});
  EXPECT_EQ(machine.power_, "poweredOff");
  EXPECT_EQ(server.count("PowerOffVM_Task"), 1);
  power_off(session, vm, {});
  EXPECT_EQ(server.count("PowerOffVM_Task"), 1) << "off already";
}

}  // namespace
}  // namespace vmferry::vsphere
