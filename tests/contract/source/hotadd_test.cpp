// Which attached disks a run takes away, and which it leaves to others: two runs on one machine of the lab, as of two
// hosts, with two proxies.
#include "source/vmware/hotadd_transport.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/fd.hpp"
#include "base/finally.hpp"
#include "source/vmware/hotadd_marks.hpp"
#include "source/vmware/hotadd_writes.hpp"
#include "source/vmware/machine.hpp"
#include "support/thrown.hpp"
#include "support/vsphere_lab.hpp"
#include "vsphere/inventory.hpp"

namespace vmferry::source::vmware::test {

namespace {

using namespace std::chrono_literals;
using support::has;
using support::thrown;

// The lab's vCenter, but for what a test answers in its place.
class Intercepted final : public http::Transport {
 public:
  explicit Intercepted(http::Transport& inner) : inner_(inner) {}
  http::Response send(const http::Request& request, std::stop_token stop) override {
    if (instead)
      if (auto answer = instead(request.body)) return *std::move(answer);
    return inner_.send(request, std::move(stop));
  }
  std::function<std::optional<http::Response>(const std::string& call)> instead;

 private:
  http::Transport& inner_;
};

std::string envelope(const std::string& body) {
  return R"(<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" )"
         R"(xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>)" +
         body + "</soapenv:Body></soapenv:Envelope>";
}

http::Response gone(const model::VmId& vm) {
  return {
      500,
      {},
      envelope(fmt::format("<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>The object "
                           "'vim.VirtualMachine:{0}' has already been deleted</faultstring><detail>"
                           R"(<ManagedObjectNotFoundFault xmlns="urn:vim25" xsi:type="ManagedObjectNotFound"><obj )"
                           R"(type="VirtualMachine">{0}</obj></ManagedObjectNotFoundFault></detail></soapenv:Fault>)",
                           vm.value))};
}

// A run: what it reads by, and one disk of its own snapshot attached.
struct Reader {
  Transport* transport = nullptr;
  std::unique_ptr<Machine> machine;
  JobId job;
  Point point;
  std::unique_ptr<copy::Source> source;
};

class Hotadd : public ::testing::Test {
 protected:
  void SetUp() override {
    lab_ = &support::VsphereLabs::get("ways");
    control("DELETE", "/faults");
    clear();
    log_ = std::make_unique<log::Log>(folder_.path() / "log", std::make_shared<log::Redactor>(), log::Level::debug,
                                      false, log::Level::error);
    http::CurlOptions curl;
    curl.trust.who = "vCenter";
    curl.trust.ca_file = lab_->get("vcenter.ca");
    http_ = http::curl(curl, *log_);
    intercepted_ = std::make_unique<Intercepted>(*http_);
    session_ = session(*intercepted_);
    vm_ = vsphere::find(*session_, lab_->get("vcenter.vm_path"), {});
    for (const char* name : {"proxy01", "proxy02"}) proxies_.push_back({view(name)["moref"]});
  }
  void TearDown() override {
    if (lab_ != nullptr) clear();
  }

  std::string control(const std::string& method, const std::string& path, const std::string& json = "") const {
    return lab_->control("vcenter", method, path, json);
  }
  nlohmann::json view(const std::string& vm) const { return nlohmann::json::parse(control("GET", "/vms/" + vm)); }
  nlohmann::json list(const std::string& vm, const std::string& what) const { return view(vm)[what]; }
  std::unique_ptr<vsphere::Session> session(http::Transport& http) const {
    return std::make_unique<vsphere::Session>(
        http,
        vsphere::SessionOptions{lab_->get("vcenter.endpoint"), lab_->get("vcenter.username"),
                                Secret(lab_->secret("vcenter.password_file")), std::chrono::seconds(0)},
        clock_, *log_, std::stop_token());
  }
  // Nothing is attached, marked or frozen.
  void clear() {
    for (const std::string name : {"proxy01", "proxy02"})
      for (const auto& disk : list(name, "disks"))
        if (disk["attached"]) control("DELETE", "/vms/" + name + "/disks/" + disk["key"].dump());
    for (const auto& snapshot : list("web01", "snapshots"))
      control("DELETE", "/vms/web01/snapshots/" + snapshot["id"].get<std::string>());
    if (!session_) return;
    intercepted_->instead = nullptr;
    for (const model::VmId& vm : {vm_, proxies_[0], proxies_[1]})
      for (const auto& [key, value] : vsphere::configuration(*session_, vm, {}).settings)
        if (key.starts_with("vmferry.")) set_mark(*session_, vm, key, "", {});
  }
  int attached(const std::string& proxy) const {
    int found = 0;
    for (const auto& disk : list(proxy, "disks")) found += disk["attached"].get<bool>() ? 1 : 0;
    return found;
  }
  int marks(const std::string& vm) const {
    int found = 0;
    const auto settings = view(vm)["extra_config"];
    for (const auto& [key, value] : settings.items()) found += key.starts_with("vmferry.") ? 1 : 0;
    return found;
  }
  HotaddOptions options(const JobId& job, const std::string& host, std::size_t proxy = 0) const {
    HotaddOptions options;
    options.vm = vm_;
    options.root = lab_->get(fmt::format("vcenter.proxies.{}.root", proxy));
    options.host = host;
    options.jobs = {job};
    options.run_directory = folder_.path() / "run";
    return options;
  }
  std::unique_ptr<Transport> transport(HotaddOptions options, vsphere::Session* through = nullptr) {
    return hotadd_transport(std::move(options), through == nullptr ? *session_ : *through, runner_, *log_);
  }
  Reader reading(HotaddOptions options, vsphere::Session* through = nullptr) {
    vsphere::Session& session = through == nullptr ? *session_ : *through;
    Reader run;
    run.job = options.jobs.front();
    auto made = transport(std::move(options), &session);
    run.transport = made.get();
    run.machine = machine(session, {vm_, ""}, std::move(made), *log_, {});
    run.point = run.machine->freeze({run.job, 1}, Quiesce::never, {});
    return run;
  }
  static void serve(Reader& run) { run.source = run.machine->serve(run.point, model::DiskKey{2000}, {}); }
  static bool devices() { return geteuid() == 0 && access("/dev/loop-control", R_OK | W_OK) == 0; }  // else plain files
  // The device of a disk that is attached to the first proxy; "" when there is none.
  std::string device() const {
    const auto links = std::filesystem::path(lab_->get("vcenter.proxies.0.root")) / "dev/disk/by-path";
    for (const auto& link : std::filesystem::directory_iterator(links)) return std::filesystem::canonical(link);
    return {};
  }
  // As the proxy's kernel might, but with the bytes that are there. Not waited for: readers get them all the same.
  static void write(const std::string& device) {
    const Fd fd(open(device.c_str(), O_RDWR | O_CLOEXEC));
    std::array<char, 4096> page{};
    ASSERT_TRUE(fd) << device;
    ASSERT_EQ(pread(fd.get(), page.data(), page.size(), 0), static_cast<ssize_t>(page.size()));
    ASSERT_EQ(pwrite(fd.get(), page.data(), page.size(), 0), static_cast<ssize_t>(page.size()));
  }
  std::string logged() const {
    std::ifstream in(folder_.path() / "log");
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  const JobId one_{"0f3c2a1e-1111-4222-8333-444455556666"}, other_{"77777777-1111-4222-8333-444455556666"};
  support::Lab* lab_ = nullptr;
  support::TemporaryDirectory folder_;
  mutable SystemClock clock_;
  process::SystemRunner runner_;
  std::unique_ptr<log::Log> log_;
  std::unique_ptr<http::Transport> http_;
  std::unique_ptr<Intercepted> intercepted_;
  std::unique_ptr<vsphere::Session> session_;
  model::VmId vm_;
  std::vector<model::VmId> proxies_;
};

// The first run reads on while the second attaches, detaches and must keep its snapshot.
TEST_F(Hotadd, LeavesDisksThatAnotherHostsRunMayBeReading) {
  Reader first = reading(options(one_, "here"));
  serve(first);
  const HotaddOptions there = options(other_, "there");
  const Error early = thrown([&] { refuse_attached_by_others(there, *session_, {}); });
  EXPECT_EQ(early.fault(), Fault::conflict);
  for (const char* words : {"web01", "proxy01", "scsi0:1", "on here", one_.value.c_str(), "vmferry abort"})
    EXPECT_TRUE(has(early.what(), words)) << early.what();
  Reader second = reading(there);
  serve(second);
  EXPECT_EQ(attached("proxy01"), 2);
  const Error late = thrown([&] { second.machine->thaw(second.point.snapshot, other_, false, {}); });
  EXPECT_EQ(std::string(late.what()), early.what());
  EXPECT_EQ(list("web01", "snapshots").size(), 2U);
  EXPECT_EQ(attached("proxy01"), 1) << "its own is detached";
  EXPECT_EQ(marks("proxy01"), 1);
  EXPECT_EQ(marks("web01"), 1);
  EXPECT_NO_THROW(first.source->check({}));
  EXPECT_NO_THROW(first.source->connect({}));
  first.source.reset();
  first.machine->thaw(first.point.snapshot, one_, false, {});
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_EQ(marks("web01"), 0);
  second.machine->thaw(second.point.snapshot, other_, false, {});
  EXPECT_TRUE(list("web01", "snapshots").empty());
}

TEST_F(Hotadd, DetachesWhatItsOwnJobHasLeft) {
  Reader died = reading(options(one_, "here"));
  serve(died);
  HotaddOptions again = options(JobId{"of-another-target"}, "here");
  again.jobs.push_back(one_);  // of the same state folder: whoever has its lock knows that the run is dead
  EXPECT_NO_THROW(refuse_attached_by_others(again, *session_, {}));
  transport(again)->let_go({});
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_EQ(marks("proxy01") + marks("web01"), 0);
}

TEST_F(Hotadd, DetachesWhatHasNoSnapshotAnyMore) {
  Reader died = reading(options(one_, "here"));
  serve(died);
  EXPECT_THROW(control("DELETE", "/vms/web01/snapshots/" + died.point.snapshot.value), std::runtime_error) << "locked";
  EXPECT_NO_THROW(refuse_attached_by_others(options(other_, "there"), *session_, {}));
  Reader next = reading(options(other_, "there"));
  serve(next);
  EXPECT_EQ(attached("proxy01"), 1) << "its own alone";
  next.transport->let_go({});
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_EQ(marks("proxy01") + marks("web01"), 0);
}

TEST_F(Hotadd, AbortDetachesWhatAnyRunHasAttached) {
  Reader died = reading(options(one_, "here"));
  serve(died);
  HotaddOptions abort = options(other_, "there");
  abort.everything = true;
  transport(abort)->let_go({});
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_EQ(marks("proxy01") + marks("web01"), 0);
}

// The other run has seen the machine's mark, and attaches just before this one takes it away.
TEST_F(Hotadd, AMachineWhoseDiskIsAttachedKeepsItsMark) {
  set_mark(*session_, vm_, proxy_mark_key(vsphere::configuration(*session_, proxies_[0], {}).instance_uuid),
           proxy_mark(proxies_[0], "proxy01", "here"), {});
  const auto theirs = session(*http_);
  Reader first = reading(options(one_, "here"), theirs.get());
  intercepted_->instead = [&](const std::string& call) {
    if (has(call, "ReconfigVM_Task") && has(call, ">" + vm_.value + "<") && !first.source) serve(first);
    return std::nullopt;
  };
  const Error error = thrown([&] { transport(options(other_, "there"))->let_go({}); });
  EXPECT_TRUE(has(error.what(), "scsi0:1")) << error.what();
  EXPECT_EQ(attached("proxy01"), 1);
  EXPECT_EQ(marks("web01"), 1);
}

// The server still acts for a run that was killed: the mark, and then the disk, come after we look for them first.
TEST_F(Hotadd, WaitsForWhatARunThatDiedHasAskedFor) {
  const Reader died = reading(options(one_, "here"));
  const FrozenDisk& disk = died.point.disks.front();
  control("POST", "/settings", R"({"task_delay_ms":1000})");
  const Finally quick([&] { control("POST", "/settings", R"({"task_delay_ms":0})"); });
  const vsphere::Configuration source = vsphere::configuration(*session_, vm_, {});
  const vsphere::Configuration proxy = vsphere::configuration(*session_, proxies_[0], {});
  vsphere::Change marking, attaching;
  marking.settings[proxy_mark_key(proxy.instance_uuid)] = proxy_mark(proxies_[0], "proxy01", "here");
  attaching.attach = vsphere::Attachment{{0, 1}, disk.file, disk.capacity};
  attaching.settings[disk_mark_key({0, 1})] = to_string(DiskMark{source.instance_uuid, "run", "here", disk.file, one_});
  const auto next = transport(options(one_, "here"));
  session_->call(vsphere::reconfiguration(vm_, source, marking), vsphere::Repeat::never, {});
  next->let_go({});
  vsphere::bring_about(*session_, vm_, [](const auto&) { return std::nullopt; }, "waiting for that", {});
  EXPECT_EQ(marks("web01"), 0);
  set_mark(*session_, vm_, proxy_mark_key(proxy.instance_uuid), proxy_mark(proxies_[0], "proxy01", "here"), {});
  session_->call(vsphere::reconfiguration(proxies_[0], proxy, attaching), vsphere::Repeat::never, {});
  next->let_go({});
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_EQ(marks("web01") + marks("proxy01"), 0);
}

// Its places are the proxy's own: what leaves one proxy is waited for, whichever comes first.
TEST_F(Hotadd, WaitsForDevicesOfEachProxy) {
  for (const std::size_t mine : {0U, 1U}) {
    Reader own = reading(options(one_, "here", mine));
    serve(own);
    Reader elsewhere = reading(options(one_, "here", 1 - mine));
    serve(elsewhere);
    const std::filesystem::path links =
        std::filesystem::path(lab_->get(fmt::format("vcenter.proxies.{}.root", mine))) / "dev/disk/by-path";
    const auto link = std::filesystem::directory_iterator(links)->path();
    std::filesystem::remove(link);
    std::filesystem::create_symlink("/dev/null", link);  // which the lab does not take away
    std::atomic<bool> removed = false;
    const std::jthread late([&] {
      std::this_thread::sleep_for(2s);
      removed = true;
      std::filesystem::remove(link);
    });
    own.transport->let_go({});
    EXPECT_TRUE(removed) << "proxy " << mine;
    clear();
  }
}

// Somebody has taken the machine's mark away, or another host's run has, before ours attached.
TEST_F(Hotadd, DetachesItsOwnDisksWhateverTheMachinesMarkSays) {
  Reader own = reading(options(one_, "here"));
  serve(own);
  set_mark(*session_, vm_, proxy_mark_key(vsphere::configuration(*session_, proxies_[0], {}).instance_uuid), "", {});
  EXPECT_EQ(own.machine->thaw(own.point.snapshot, one_, false, {}), "");
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_EQ(marks("proxy01"), 0);
  EXPECT_TRUE(list("web01", "snapshots").empty());
}

// vSphere has detached the disk, and the kernel keeps its device.
TEST_F(Hotadd, ADeviceThatLingersKeepsNoSnapshot) {
  HotaddOptions impatient = options(one_, "here");
  impatient.disappearance = 1s;
  Reader own = reading(impatient);
  serve(own);
  const auto links = std::filesystem::path(lab_->get("vcenter.proxies.0.root")) / "dev/disk/by-path";
  const auto link = std::filesystem::directory_iterator(links)->path();
  std::filesystem::remove(link);
  std::filesystem::create_symlink("/dev/null", link);  // which the lab does not take away
  const Finally gone([&] { std::filesystem::remove(link); });
  EXPECT_EQ(own.machine->thaw(own.point.snapshot, one_, false, {}), "");
  EXPECT_TRUE(list("web01", "snapshots").empty());
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_TRUE(has(logged(), "has not vanished")) << logged();
  Reader next = reading(impatient);
  serve(next);
  EXPECT_EQ(attached("proxy01"), 1);
  next.machine->thaw(next.point.snapshot, one_, false, {});
}

// A proxy that goes between two questions has nothing attached; its fault says nothing of the snapshot.
TEST_F(Hotadd, AProxyThatGoesMeanwhileHoldsNothing) {
  Reader died = reading(options(one_, "here"));
  serve(died);
  int asked = 0;
  intercepted_->instead = [&](const std::string& call) -> std::optional<http::Response> {
    if (has(call, "<FindAllByUuid "))
      return http::Response{200, {}, envelope("<FindAllByUuidResponse xmlns=\"urn:vim25\"/>")};
    if (!has(call, ">" + proxies_[0].value + "<") || ++asked == 1) return std::nullopt;
    return gone(proxies_[0]);
  };
  const auto next = transport(options(one_, "here"));
  EXPECT_NO_THROW(next->let_go({}));
  EXPECT_GT(asked, 1);
  intercepted_->instead = nullptr;
  EXPECT_EQ(marks("web01"), 0);
}

// Its marks went with it: the run that attached still knows where.
TEST_F(Hotadd, DetachesTheDisksOfAMachineThatWasDeleted) {
  Reader own = reading(options(one_, "here"));
  serve(own);
  intercepted_->instead = [&](const std::string& call) -> std::optional<http::Response> {
    if (!has(call, ">" + vm_.value + "<")) return std::nullopt;
    return gone(vm_);
  };
  EXPECT_EQ(own.machine->thaw(own.point.snapshot, one_, false, {}), "");
  EXPECT_EQ(attached("proxy01"), 0);
  EXPECT_EQ(marks("proxy01"), 0);
}

TEST_F(Hotadd, TellsOfDisksWhoseMachineIsGone) {
  Reader first = reading(options(one_, "here"));
  const std::string file = first.point.disks.front().file;
  vsphere::bring_about(
      *session_, proxies_[0],
      [&](const vsphere::Configuration& now) -> std::optional<vsphere::Change> {
        if (now.settings.contains(disk_mark_key({0, 5}))) return std::nullopt;
        vsphere::Change change;
        change.attach = vsphere::Attachment{{0, 5}, file, first.point.disks.front().capacity};
        change.settings[disk_mark_key({0, 5})] = to_string(DiskMark{"5010-deleted", "run", "there", file, {"a-job"}});
        return change;
      },
      "attaching", {});
  serve(first);
  EXPECT_TRUE(has(logged(), "not in the inventory any more")) << logged();
  EXPECT_TRUE(has(logged(), "scsi0:5"));
  EXPECT_TRUE(has(logged(), "5010-deleted"));
  first.transport->let_go({});
  EXPECT_EQ(attached("proxy01"), 1) << "it may be of a machine that this user may not see";
}

// What a transport does not find is not the snapshot.
TEST_F(Hotadd, WhatLettingGoDoesNotFindKeepsTheSnapshot) {
  Reader own = reading(options(one_, "here"));
  serve(own);
  // Gone whenever its tasks are asked for (of this run's own disks, then of all that is marked), and there again when
  // it is looked for after that.
  int missed = 0;
  bool back = false;
  intercepted_->instead = [&](const std::string& call) -> std::optional<http::Response> {
    if (!has(call, ">" + proxies_[0].value + "<") || back) return std::nullopt;
    back = missed == 2 && has(call, "config.instanceUuid");
    if (!has(call, "recentTask")) return std::nullopt;
    ++missed;
    return gone(proxies_[0]);
  };
  EXPECT_EQ(thrown([&] { own.machine->thaw(own.point.snapshot, one_, false, {}); }).fault(), Fault::not_found);
  intercepted_->instead = nullptr;
  EXPECT_TRUE(back);
  EXPECT_EQ(list("web01", "snapshots").size(), 1U);
  EXPECT_EQ(attached("proxy01"), 1);
}

// Whoever holds it may have written, or may yet: RAID, LVM, a mount.
TEST_F(Hotadd, ADeviceThatIsHeldIsNotRead) {
  if (!devices()) GTEST_SKIP() << "no loop devices here: nobody holds plain files";
  Reader own = reading(options(one_, "here"));
  Fd held;
  intercepted_->instead = [&](const std::string&) {
    if (const std::string found = device(); !held && !found.empty())
      held = Fd(open(found.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    return std::nullopt;
  };
  const Error error = thrown([&] { serve(own); });
  EXPECT_EQ(error.fault(), Fault::conflict);
  for (const char* words : {"is held on this host", "scsi0:1", "proxy01"})
    EXPECT_TRUE(has(error.what(), words)) << error.what();
  intercepted_->instead = nullptr;
  held = Fd();
  serve(own);
  EXPECT_NO_THROW(own.source->check({}));
}

TEST_F(Hotadd, WhatTheProxyWroteMeanwhileIsNoPartOfTheDisk) {
  if (!devices()) GTEST_SKIP() << "no loop devices here: no kernel counts what is written to plain files";
  Reader own = reading(options(one_, "here"));
  serve(own);
  EXPECT_NO_THROW(own.source->connect({}));
  EXPECT_NO_THROW(own.source->check({})) << "nothing but reading so far";
  EXPECT_NO_THROW(own.source->check({})) << "nor has asking counted";
  write(device());
  EXPECT_THROW(own.source->check({}), copy::BytesInDoubt);
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_THROW(own.source->check(stopped.get_token()), copy::BytesInDoubt) << "what was copied until then counts, too";
  // The next attachment has nothing of it.
  own.source.reset();
  serve(own);
  EXPECT_NO_THROW(own.source->check({}));
}

// Nothing says that its bytes were wrong then, but nothing that they were right: it is an error, and no doubt.
TEST_F(Hotadd, ADiskThatWasDetachedMeanwhileIsNotVouchedFor) {
  if (!devices()) GTEST_SKIP() << "no loop devices here: plain files stay";
  Reader own = reading(options(one_, "here"));
  serve(own);
  const auto fault_of = [](const auto& act) -> std::optional<Fault> {
    try {
      act();
    } catch (const copy::BytesInDoubt& doubt) {
      ADD_FAILURE() << doubt.what();
    } catch (const Error& error) {
      return error.fault();
    }
    return std::nullopt;
  };
  // Another one has the device's name by now.
  ProxyWrites writes(std::nullopt, runner_);
  EXPECT_EQ(fault_of([&] { writes.check(device(), {"kept 1", 0}); }), Fault::conflict);
  for (const auto& disk : list("proxy01", "disks"))
    if (disk["attached"]) control("DELETE", "/vms/proxy01/disks/" + disk["key"].dump());
  const std::optional<Fault> fault = fault_of([&] { own.source->check({}); });
  // None has the name, unless a test that runs beside this one was given it.
  EXPECT_TRUE(fault == Fault::tool || fault == Fault::conflict);
}

}  // namespace

}  // namespace vmferry::source::vmware::test
