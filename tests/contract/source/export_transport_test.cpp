// Disks by vSphere's export of a snapshot, against the lab's vCenter and ESXi host: whole disks as streamOptimized
// VMDKs, leases that end, downloads that break off, runs that die.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "support/vsphere_lab.hpp"
#include "transport_fixture.hpp"
#include "vsphere/export.hpp"
#include "vsphere/inventory.hpp"
#include "vsphere/snapshots.hpp"

namespace vmferry::source::vmware::test {

namespace {

struct Told final : copy::Progress {
  void advanced(std::uint64_t, std::uint64_t) noexcept override {}
  void waiting(const std::string& reason) noexcept override {
    said += reason + "\n";
    if (hook) hook(reason);
  }
  std::string said;
  std::function<void(const std::string&)> hook;
};

class ExportTransportTest : public support::VsphereLabTest {
 protected:
  void SetUp() override {
    VsphereLabTest::SetUp();
    session_ = open();
    vm_ = vsphere::find(*session_, lab_->get("vcenter.vm_path"), {});
    for (const model::Snapshot& s : vsphere::snapshots(*session_, vm_, {}).snapshots)
      vsphere::remove_snapshot(*session_, vm_, s.id, {});
    control("POST", "/vms/web01/power", R"({"state":"off"})");
    point_ = frozen();
    kept_log_ = std::make_unique<log::Log>(folder_.path() / "log", std::make_shared<log::Redactor>(), log::Level::debug,
                                           false, log::Level::error);
    transport_ = make();
  }
  void TearDown() override {
    rate(0);
    transport_->let_go({});
    vsphere::remove_snapshot(*session_, vm_, point_.snapshot, {});
  }

  void rate(double megabytes_a_second) const {
    control("POST", "/settings", fmt::format(R"({{"folder_rate_mb_s":{}}})", megabytes_a_second));
  }
  // For two minutes, after which the test's own checks say what did not happen.
  static void await(const std::function<bool()>& happened) {
    for (int i = 0; i < 2400 && !happened(); ++i) usleep(50000);
  }
  Point frozen() {
    vsphere::SnapshotWish wish;
    wish.name = "vmferry";
    wish.is_it = [](const model::Snapshot&) { return false; };
    Point point;
    point.snapshot = vsphere::create_snapshot(*session_, vm_, wish, {});
    point.consistency = Consistency::powered_off;
    const auto disks = vsphere::frozen_disks(*session_, point.snapshot, {});
    for (const model::Disk& disk : disks.value())
      point.disks.push_back({disk.key, disk.capacity, disk.change_id, disk.file, disk.has_parent});
    return point;
  }
  std::unique_ptr<Transport> make(const std::string& endpoint = "", const std::string& sha256 = "") {
    http::Trust trust;
    if (sha256.empty())
      trust.ca_file = lab_->get("vcenter.ca");
    else
      trust.sha256 = sha256;
    return export_transport({session_.get(), vm_, endpoint.empty() ? lab_->get("vcenter.endpoint") : endpoint, trust,
                             folder_.path() / "spool", folder_.path() / "run"},
                            runner_, *kept_log_);
  }
  std::vector<char> truth(model::DiskKey key) {
    for (const auto& frozen : nlohmann::json::parse(control("GET", "/vms/web01/frozen")))
      if (frozen["snapshot"] == point_.snapshot.value)
        for (const auto& disk : frozen["disks"])
          if (disk["key"] == key.value) return bytes_of(disk["path"].get<std::string>());
    throw std::runtime_error("the lab kept no frozen disk");
  }
  std::vector<char> copied(copy::Source& source) {
    std::filesystem::remove(folder_.path() / "target");
    FileTarget target(folder_.path() / "target", source.bytes());
    const ByteRange all{0, source.bytes()};
    const auto work = copy::work(RangeSet(std::span(&all, 1)));
    copy::Tuning tuning;
    tuning.whole_disk = true;
    tuning.attempts = 2;
    copy::run(source, target, *work, tuning, told_, clock_, *kept_log_, {});
    return target.content();
  }
  void expect_right(const FrozenDisk& disk) {
    EXPECT_TRUE(copied(*transport_->serve(point_, disk, {})) == truth(disk.key)) << told_.said;
  }
  std::filesystem::path record() {
    const std::string& uuid = session_->content().instance_uuid;
    return folder_.path() / "spool" / fmt::format("lease-{}-{}", uuid.empty() ? session_->server() : uuid, vm_.value);
  }
  bool machine_is_free() {
    try {
      control("POST", "/vms/web01/power", R"({"state":"off"})");
      return nlohmann::json::parse(control("GET", "/vms/web01")).at("power") == "off";
    } catch (const std::exception&) {
      return false;
    }
  }

  support::TemporaryDirectory folder_;
  process::SystemRunner runner_;
  std::unique_ptr<log::Log> kept_log_;
  std::unique_ptr<vsphere::Session> session_;
  model::VmId vm_;
  Point point_;
  std::unique_ptr<Transport> transport_;
  Told told_;
};

INSTANTIATE_TEST_SUITE_P(Profiles, ExportTransportTest, ::testing::Values("vcenter", "esxi"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace

TEST_P(ExportTransportTest, EveryDiskAsTheSnapshotFrozeIt) {
  EXPECT_EQ(transport_->name(), "export");
  // What the machine writes after the snapshot is in no export of it.
  control("POST", "/vms/web01/power", R"({"state":"on"})");
  usleep(300000);
  control("POST", "/vms/web01/power", R"({"state":"off"})");
  ASSERT_GE(point_.disks.size(), 2U);
  for (const FrozenDisk& disk : point_.disks) expect_right(disk);
  EXPECT_EQ(calls("HttpNfcLeaseComplete"), static_cast<int>(point_.disks.size()));
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path() / "spool"));
}

// None is done before each has begun.
TEST_P(ExportTransportTest, OneLeaseForDisksAtATime) {
  rate(0.2);
  std::vector<std::jthread> threads;
  std::atomic<int> right{0};
  std::atomic<std::size_t> under_way{0};  // each tells after some seconds how much has come
  for (const FrozenDisk& disk : point_.disks)
    threads.emplace_back([&, disk] {
      const auto source = transport_->serve(point_, disk, {});
      Told told;
      told.hook = [&](const std::string& reason) { under_way += reason.find("is downloaded") != std::string::npos; };
      source->prepare(told, {});
      if (source->connect({})->bytes() == disk.capacity) ++right;
    });
  await([&] { return under_way >= point_.disks.size(); });
  rate(0);
  threads.clear();
  EXPECT_EQ(right, static_cast<int>(point_.disks.size()));
  EXPECT_EQ(calls("ExportSnapshot"), 1);
  EXPECT_EQ(calls("HttpNfcLeaseComplete"), 1);
}

TEST_P(ExportTransportTest, ALeaseIsKeptAlive) {
  // At 0, 3 and 6 s it is heard of, and at 9 s it would be over.
  control("POST", "/settings", R"({"export_timeout_s":9})");
  rate(0.1);
  const std::jthread quick([&] {
    await([&] { return calls("HttpNfcLeaseProgress") >= 4; });
    rate(0);
  });
  expect_right(point_.disks.back());
  EXPECT_GE(calls("HttpNfcLeaseProgress"), 4);
  EXPECT_EQ(calls("ExportSnapshot"), 1);
}

TEST_P(ExportTransportTest, ADownloadThatBreaksOffBeginsAgain) {
  control("POST", "/faults", R"({"service":"nfc","method":"cut","kind":"reset","skip":8})");
  expect_right(point_.disks.front());
  EXPECT_NE(told_.said.find("begins again from its start"), std::string::npos) << told_.said;
  EXPECT_EQ(calls("HttpNfcLeaseAbort"), 1);
  EXPECT_EQ(calls("HttpNfcLeaseComplete"), 1);
}

TEST_P(ExportTransportTest, ALeaseThatEndsBeginsAgain) {
  rate(0.1);
  told_.hook = [&](const std::string& reason) {
    if (reason.find("begins again") != std::string::npos) rate(0);
  };
  fault("HttpNfcLeaseProgress", R"("kind":"fault","fault":"ManagedObjectNotFound","skip":0,"count":1)");
  expect_right(point_.disks.back());
  EXPECT_NE(told_.said.find("begins again from its start"), std::string::npos) << told_.said;
  EXPECT_EQ(calls("ExportSnapshot"), 2);
}

TEST_P(ExportTransportTest, TheLeaseOfARunThatDiedIsEnded) {
  const std::string orphan = vsphere::begin_export(*session_, point_.snapshot, {});
  vsphere::await_export(*session_, orphan, {});
  std::filesystem::create_directories(folder_.path() / "spool");
  std::ofstream(record()) << orphan << '\n';
  expect_right(point_.disks.front());  // a second lease beside it would be refused
  EXPECT_EQ(calls("HttpNfcLeaseAbort"), 1);
  const std::string other = vsphere::begin_export(*session_, point_.snapshot, {});
  std::ofstream(record()) << other << '\n';
  make()->let_go({});
  EXPECT_TRUE(machine_is_free());
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path() / "spool"));
}

// Machines of two vCenters may have the same id, and are then moved from the same conversion host.
TEST_P(ExportTransportTest, TheLeaseOfAnotherVcenterIsLeftAlone) {
  std::filesystem::create_directories(folder_.path() / "spool");
  const std::vector<std::string> names{"lease-" + vm_.value, "lease-11111111-2222-3333-4444-555555555555-" + vm_.value};
  for (const std::string& name : names) std::ofstream(folder_.path() / "spool" / name) << "lease-of-another\n";
  transport_->let_go({});
  expect_right(point_.disks.front());
  EXPECT_EQ(calls("HttpNfcLeaseAbort"), 0);
  for (const std::string& name : names) EXPECT_TRUE(std::filesystem::exists(folder_.path() / "spool" / name)) << name;
}

// Nobody knows the lease that it begun; it ends by its timeout.
TEST_P(ExportTransportTest, AReplyThatGotLostCostsNoMoreThanItsLeaseLives) {
  control("POST", "/settings", R"({"export_timeout_s":18})");
  fault("ExportSnapshot", R"("kind":"lost-reply","count":1)");
  expect_right(point_.disks.back());
  control("POST", "/settings", R"({"export_timeout_s":300})");
  EXPECT_NE(told_.said.find("is busy with the machine"), std::string::npos) << told_.said;
}

TEST_P(ExportTransportTest, OnlyOfMachinesThatAreOff) {
  for (const Consistency consistency : {Consistency::crash, Consistency::application}) {
    Point running = point_;
    running.consistency = consistency;
    try {
      transport_->serve(running, running.disks.front(), {});
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::unsupported);
      EXPECT_NE(std::string(e.what()).find("shut it down first"), std::string::npos);
    }
  }
  EXPECT_EQ(calls("ExportSnapshot"), 0);
}

TEST_P(ExportTransportTest, NothingToReadIsNotDownloaded) {
  const FrozenDisk& disk = point_.disks.front();
  const auto source = transport_->serve(point_, disk, {});
  FileTarget target(folder_.path() / "target", disk.capacity);
  const auto work = copy::work(RangeSet());
  copy::run(*source, target, *work, {}, told_, clock_, *kept_log_, {});
  EXPECT_EQ(calls("ExportSnapshot"), 0);
}

// The lab's certificate is for 127.0.0.1 and localhost; asked by another name, its URLs lead to what counts as another
// host, known by the fingerprint that vSphere gives.
TEST_P(ExportTransportTest, APinIsForTheEndpointAlone) {
  const std::string endpoint = lab_->get("vcenter.endpoint");
  transport_ = make("localhost" + endpoint.substr(endpoint.rfind(':')), lab_->get("vcenter.sha256"));
  expect_right(point_.disks.front());
}

TEST_P(ExportTransportTest, ADiskThatIsNotOffered) {
  FrozenDisk other = point_.disks.front();
  other.key = model::DiskKey{2015};
  const auto source = transport_->serve(point_, other, {});
  try {
    source->prepare(told_, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::unsupported);
    EXPECT_NE(std::string(e.what()).find("ParaVirtualSCSIController0:1"), std::string::npos) << e.what();
  }
  EXPECT_TRUE(machine_is_free());
}

TEST(ExportKeys, AreByControllerBusAndUnit) {
  model::Disk disk;
  disk.controller = "lsilogic";
  disk.bus = 1;
  disk.unit = 12;
  const auto is = [&](const char* key) { return vsphere::is_export_of({key, "", "", 0}, disk); };
  EXPECT_TRUE(is("/vm-42/VirtualLsiLogicController1:12"));
  EXPECT_FALSE(is("/vm-42/VirtualLsiLogicController1:2"));
  EXPECT_FALSE(is("/vm-42/VirtualLsiLogicController0:12"));
  EXPECT_FALSE(is("/vm-42/VirtualLsiLogicSASController1:12"));
  EXPECT_FALSE(is("/vm-42/nvram"));
  EXPECT_FALSE(is(""));
}

}  // namespace vmferry::source::vmware::test
