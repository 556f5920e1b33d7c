// Where a disk goes, and what is asked of vSphere for it.
#include "vsphere/attached_disks.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "fake_server.hpp"
#include "support/fake_clock.hpp"
#include "support/lab.hpp"
#include "vsphere/tasks.hpp"

namespace vmferry::vsphere {
namespace {

constexpr bool pvscsi = true;

Configuration with(std::map<int, ScsiController> controllers, std::set<ScsiSlot> taken) {
  Configuration configuration;
  configuration.version = "2026-11-28T12:00:00Z";
  configuration.scsi_controllers = std::move(controllers);
  configuration.taken = std::move(taken);
  return configuration;
}

std::set<ScsiSlot> full(std::initializer_list<int> buses) {
  std::set<ScsiSlot> taken;
  for (const int bus : buses)
    for (int unit = 0; unit < 16; ++unit) taken.insert({bus, unit});
  return taken;
}

TEST(FreeSlot, IsTheLowestOfTheControllersThatAreThere) {
  struct Case {
    const char* what;
    Configuration configuration;
    std::optional<ScsiSlot> slot;
  };
  const Case cases[] = {
      {"an empty controller", with({{0, {1000}}}, {{0, 7}}), ScsiSlot{0, 0}},
      {"the boot disk is at 0:0", with({{0, {1000}}}, {{0, 0}, {0, 7}}), ScsiSlot{0, 1}},
      {"unit 7 is the controller's, also where nobody says so",
       with({{0, {1000}}}, {{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}, {0, 6}}), ScsiSlot{0, 8}},
      {"the second controller before a new one", with({{0, {1000}}, {3, {1003}}}, full({0})), ScsiSlot{3, 0}},
      {"a new controller", with({{0, {1000}}}, full({0})), ScsiSlot{1, 0}},
      {"pvscsi before another kind", with({{0, {1000, !pvscsi}}, {2, {1002}}}, {}), ScsiSlot{2, 0}},
      {"a new controller before another kind", with({{0, {1000, !pvscsi}}}, {}), ScsiSlot{1, 0}},
      {"another kind when there can be no more",
       with({{0, {1000, !pvscsi}}, {1, {1001}}, {2, {1002}}, {3, {1003}}}, full({1, 2, 3})), ScsiSlot{0, 0}},
      {"not one that other machines share", with({{0, {1000, pvscsi, false, true}}}, {}), ScsiSlot{1, 0}},
      {"nor at last", with({{0, {1000, pvscsi, false, true}}, {1, {1001}}, {2, {1002}}, {3, {1003}}}, full({1, 2, 3})),
       std::nullopt},
      {"no SCSI controller at all", with({}, {}), ScsiSlot{0, 0}},
      {"all four are full", with({{0, {1000}}, {1, {1001}}, {2, {1002}}, {3, {1003}}}, full({0, 1, 2, 3})),
       std::nullopt},
  };
  for (const Case& c : cases) EXPECT_EQ(free_slot(c.configuration), c.slot) << c.what;
  EXPECT_EQ(free_slot(with({{0, {1000}}}, {{0, 0}}), {{0, 1}, {0, 2}}), (ScsiSlot{0, 3}));
}

RC_GTEST_PROP(FreeSlot, IsFreeAndThereAreSixtyOfThem, ()) {
  Configuration configuration;
  const auto buses = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 4));
  for (const int bus : buses) configuration.scsi_controllers[bus] = {1000 + bus};
  const auto taken = *rc::gen::container<std::vector<std::pair<int, int>>>(
      rc::gen::pair(rc::gen::inRange(0, 4), rc::gen::inRange(0, 16)));
  for (const auto& [bus, unit] : taken)
    if (unit != 7) configuration.taken.insert({bus, unit});
  const std::size_t before = configuration.taken.size();
  std::size_t placed = 0;
  while (const auto slot = free_slot(configuration)) {
    RC_ASSERT(slot->unit != 7);
    RC_ASSERT(configuration.taken.insert(*slot).second);
    configuration.scsi_controllers[slot->bus] = {1000 + slot->bus};
    ++placed;
  }
  RC_ASSERT(before + placed == 60U);
}

TEST(ScsiSlot, AsText) {
  EXPECT_EQ(to_string(ScsiSlot{1, 3}), "scsi1:3");
  EXPECT_EQ(parse_scsi_slot("scsi3:15"), (ScsiSlot{3, 15}));
  for (const char* other :
       {"", "scsi", "scsi1", "scsi4:0", "scsi1:", "scsi:1", "ide0:0", "scsi1:3.ctkEnabled", "scsi-1:2"})
    EXPECT_FALSE(parse_scsi_slot(other)) << other;
}

TEST(Configuration, KnowsDisksSlotsAndSettings) {
  const Node config = decode_reply(R"(<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><R xmlns="urn:vim25"><devices>
    <device xsi:type="ParaVirtualSCSIController"><key>1000</key><busNumber>0</busNumber>
      <scsiCtlrUnitNumber>7</scsiCtlrUnitNumber></device>
    <device xsi:type="VirtualLsiLogicSASController"><key>1001</key><busNumber>1</busNumber>
      <sharedBus>physicalSharing</sharedBus></device>
    <device xsi:type="VirtualLsiLogicController"><key>1002</key><busNumber>2</busNumber>
      <sharedBus>noSharing</sharedBus></device>
    <device xsi:type="VirtualIDEController"><key>200</key><busNumber>0</busNumber></device>
    <device xsi:type="VirtualCdrom"><key>16000</key><controllerKey>1000</controllerKey><unitNumber>4</unitNumber></device>
    <device xsi:type="VirtualDisk"><key>2001</key><backing xsi:type="VirtualDiskFlatVer2BackingInfo">
      <fileName>[ds] web01/web01-000002.vmdk</fileName><uuid>6000C29a-0f37</uuid>
      <parent><fileName>[ds] web01/web01.vmdk</fileName></parent></backing>
      <controllerKey>1000</controllerKey><unitNumber>1</unitNumber><capacityInKB>1024</capacityInKB></device>
    <device xsi:type="VirtualDisk"><key>3000</key><controllerKey>200</controllerKey><unitNumber>0</unitNumber></device>
    </devices><extra><o><key>disk.EnableUUID</key><value>TRUE</value></o></extra></R></soapenv:Body></soapenv:Envelope>)")
                          .value;
  const Configuration found = parse_configuration(config["devices"].children(), config["extra"].children());
  EXPECT_EQ(found.scsi_controllers, (std::map<int, ScsiController>{{0, {1000, pvscsi, false, false}},
                                                                   {1, {1001, !pvscsi, true, true}},
                                                                   {2, {1002, !pvscsi, false, false}}}));
  EXPECT_EQ(found.taken, (std::set<ScsiSlot>{{0, 1}, {0, 4}, {0, 7}, {1, 7}, {2, 7}}));
  ASSERT_EQ(found.disks.size(), 2U);
  EXPECT_EQ(found.disks[0].slot, (ScsiSlot{0, 1}));
  EXPECT_EQ(found.disks[0].files, (std::vector<std::string>{"[ds] web01/web01-000002.vmdk", "[ds] web01/web01.vmdk"}));
  EXPECT_EQ(found.disks[0].capacity, 1024U * 1024U);
  EXPECT_FALSE(found.disks[1].slot);
  EXPECT_EQ(found.settings.at("disk.EnableUUID"), "TRUE");
}

TEST(Reconfiguration, NeverNamesAFileOperation) {
  AttachedDisk old;
  old.key = 2005;
  Change change;
  change.attach = Attachment{{1, 3}, "[ds] web & co/web.vmdk", 3 << 20};
  change.detach = {old};
  change.settings["vmferry.hotadd.scsi1:3"] = "mark";
  for (const bool there : {true, false}) {
    const Configuration read =
        with(there ? std::map<int, ScsiController>{{1, {1001}}} : std::map<int, ScsiController>{}, {});
    const std::string xml = reconfiguration({"vm-7"}, read, change).envelope();
    EXPECT_EQ(xml.find("fileOperation"), std::string::npos) << xml;
    EXPECT_NE(xml.find("<changeVersion>2026-11-28T12:00:00Z</changeVersion>"), std::string::npos) << xml;
    EXPECT_NE(xml.find("<fileName>[ds] web &amp; co/web.vmdk</fileName><diskMode>independent_nonpersistent</diskMode>"),
              std::string::npos)
        << xml;
    EXPECT_NE(xml.find(there ? "<controllerKey>1001</controllerKey><unitNumber>3</unitNumber>"
                             : "<controllerKey>-101</controllerKey><unitNumber>3</unitNumber>"),
              std::string::npos)
        << xml;
    EXPECT_EQ(xml.find("ParaVirtualSCSIController") == std::string::npos, there) << xml;
  }
}

TEST(RequiredInstanceUuid, NamesTheMachineThatHasNone) {
  Configuration configuration;
  configuration.name = "proxy01";
  try {
    require_instance_uuid(configuration);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("no instance UUID of proxy01"), std::string::npos) << e.what();
  }
  configuration.instance_uuid = "5010";
  require_instance_uuid(configuration);
}

// A machine whose configuration has a version and perhaps one more disk. Its tasks end when `takes` is over.
class BringAboutTest : public testing::Test {
 protected:
  BringAboutTest() {
    server.on("RetrievePropertiesEx", [this](const http::Request& r) { return retrieve(r.body); });
    server.on("ReconfigVM_Task", [this](const http::Request& r) { return reconfigure(r.body); });
    server.on("CreatePropertyCollector",
              FakeServer::xml(envelope("<R><returnval type=\"PropertyCollector\">pc-1</returnval></R>")));
    server.on("CreateFilter", FakeServer::xml(envelope("<R><returnval type=\"PropertyFilter\">f</returnval></R>")));
    server.on("WaitForUpdatesEx", [this](const http::Request&) { return updates(); });
    server.on("DestroyPropertyCollector", FakeServer::xml(envelope("<R/>")));
  }

  Configuration attach() {
    return bring_about(session, {"vm-7"},
                       [](const Configuration& now) -> std::optional<Change> {
                         if (!now.disks.empty()) return std::nullopt;
                         Change change;
                         change.attach = Attachment{*free_slot(now), "[ds] web01/web01.vmdk", 1 << 20};
                         return change;
                       },
                       "attaching a disk", {});
  }
  Configuration mark() {
    return bring_about(session, {"vm-7"},
                       [](const Configuration& now) -> std::optional<Change> {
                         if (now.settings.contains("key")) return std::nullopt;
                         Change change;
                         change.settings["key"] = "value";
                         return change;
                       },
                       "marking a machine", {});
  }
  // What the error of `act` says.
  template <class Act>
  std::string refusal(Act act) {
    try {
      act();
    } catch (const Error& e) {
      return e.what();
    }
    ADD_FAILURE() << "nothing was refused";
    return "";
  }
  std::string logged() const {
    std::ifstream in(folder.path() / "log");
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  int words() const {
    int found = 0;
    const std::string text = logged();
    for (auto at = text.find("still waiting"); at != std::string::npos; at = text.find("still waiting", at + 1))
      ++found;
    return found;
  }

  int disks = 0, version = 1;
  bool shown = true;    // what was attached
  int lost = 0;         // replies still to lose, after the act
  int dropped = 0;      // requests still to lose, before the act
  int competitors = 0;  // that change the configuration after such a one
  std::chrono::minutes takes{0};

  support::TemporaryDirectory folder;
  FakeServer server;
  support::FakeClock clock;
  log::Log log{folder.path() / "log", std::make_shared<log::Redactor>(), log::Level::debug, false, log::Level::debug};
  Session session{
      server, {"vc.example:443", "u", Secret(std::string("secret")), std::chrono::seconds(0)}, clock, log, {}};

 private:
  static http::Response ok(const std::string& body) { return {200, {}, envelope(body)}; }
  http::Response reconfigure(const std::string& body) {
    if (dropped > 0) {
      --dropped;
      if (competitors > 0) --competitors, ++version;
      throw http::Broken(Fault::unavailable, "broke", true);
    }
    if (body.find(fmt::format("<changeVersion>{}<", version)) == std::string::npos) ADD_FAILURE() << body;
    ++version;
    disks += body.find("VirtualDisk") != std::string::npos;
    begun_ = clock.mono();
    if (lost > 0 && lost-- > 0) throw http::Broken(Fault::unavailable, "broke", true);
    return ok("<R><returnval type=\"Task\">task-9</returnval></R>");
  }
  http::Response updates() {
    const bool over = clock.mono() - begun_ >= takes;
    if (!over) clock.sleep(std::chrono::seconds(30), {});  // as long as vSphere holds the call
    return ok(fmt::format(
        "<R><returnval><version>1</version><filterSet><objectSet><kind>enter</kind><changeSet><name>info.state</name>"
        "<op>assign</op><val>{}</val></changeSet></objectSet></filterSet></returnval></R>",
        over ? "success" : "running"));
  }
  http::Response retrieve(const std::string& body) {
    const auto property = [](const std::string& name, const std::string& value) {
      return fmt::format("<propSet><name>{}</name><val>{}</val></propSet>", name, value);
    };
    std::string found;
    if (body.find("<pathSet>info</pathSet>") != std::string::npos)
      found = property("info", "<state>success</state>");
    else if (body.find("<pathSet>info.progress</pathSet>") != std::string::npos)
      found = property("info.state", "running") + property("info.progress", "37");
    else if (body.find("config.hardware.device") != std::string::npos) {
      std::string devices = "<VirtualDevice xsi:type=\"ParaVirtualSCSIController\"><key>1000</key></VirtualDevice>";
      if (shown && disks > 0)
        devices +=
            "<VirtualDevice xsi:type=\"VirtualDisk\"><key>2000</key><controllerKey>1000</controllerKey>"
            "<unitNumber>0</unitNumber></VirtualDevice>";
      found = property("name", "proxy01") + property("config.changeVersion", std::to_string(version)) +
              property("config.hardware.device", devices);
    }
    return ok("<R><returnval><objects><obj type=\"X\">x</obj>" + found + "</objects></returnval></R>");
  }

  std::chrono::steady_clock::time_point begun_;
};

TEST_F(BringAboutTest, AttachesOnce) {
  EXPECT_EQ(attach().disks.size(), 1U);
  EXPECT_EQ(disks, 1);
}

TEST_F(BringAboutTest, ADiskThatIsNotShownIsNotAttachedAgain) {
  shown = false;
  EXPECT_NE(refusal([&] { attach(); }).find("does not show it"), std::string::npos);
  EXPECT_EQ(disks, 1);
}

TEST_F(BringAboutTest, NorWhenTheReplyWasLostToo) {
  shown = false;
  lost = 1;
  EXPECT_NE(refusal([&] { attach(); }).find("is not known"), std::string::npos);
  EXPECT_EQ(disks, 1);
}

TEST_F(BringAboutTest, ALostReplyLeavesOneDisk) {
  lost = 1;
  EXPECT_EQ(attach().disks.size(), 1U);
  EXPECT_EQ(disks, 1);
}

TEST_F(BringAboutTest, ALostRequestIsRepeatedWhenTheConfigurationIsStillTheOneItNamed) {
  dropped = 3;
  EXPECT_EQ(attach().disks.size(), 1U);
  EXPECT_EQ(disks, 1);
  EXPECT_EQ(server.count("ReconfigVM_Task"), 4);
}

TEST_F(BringAboutTest, ButNotWhenItMayHaveChangedTheConfiguration) {
  dropped = 1;
  competitors = 1;
  EXPECT_NE(refusal([&] { attach(); }).find("run the same command again"), std::string::npos);
  EXPECT_EQ(server.count("ReconfigVM_Task"), 1);
}

TEST_F(BringAboutTest, ASettingIsMadeSomeTimesBeforeItIsGivenUp) {
  EXPECT_NE(refusal([&] { mark(); }).find("5 times"), std::string::npos);
}

TEST_F(BringAboutTest, ATaskThatHangsIsNotWaitedForForEver) {
  takes = std::chrono::hours(24);
  const std::string says = refusal([&] { attach(); });
  for (const char* part : {"ReconfigVM_Task (attaching a disk) on proxy01", "15 minutes", "task-9", "cancel it there"})
    EXPECT_NE(says.find(part), std::string::npos) << says;
  EXPECT_EQ(disks, 1);
  EXPECT_EQ(words(), 2) << logged();
  EXPECT_NE(logged().find("37"), std::string::npos) << logged();
}

TEST_F(BringAboutTest, ASlowOneIs) {
  takes = std::chrono::minutes(12);
  EXPECT_EQ(attach().disks.size(), 1U);
}

TEST_F(BringAboutTest, OtherTasksAreWaitedForAsLongAsTheyTake) {
  takes = std::chrono::hours(3);
  await(session, {"Task", "task-9"}, "RemoveSnapshot_Task on web01", std::nullopt, {});
  EXPECT_GE(words(), 35) << logged();
  EXPECT_NE(logged().find("RemoveSnapshot_Task on web01"), std::string::npos);
}

}  // namespace
}  // namespace vmferry::vsphere
