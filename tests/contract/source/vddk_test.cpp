// Our nbdkit plugin for VDDK in the real nbdkit, on the lab's stand-in for libvixDiskLib: with a local file, and with
// frozen disks of the lab's vCenter.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/error.hpp"
#include "http/certificate.hpp"
#include "nbd/nbd.hpp"
#include "nbdkit/nbdkit.hpp"
#include "source/vmware/auto_transport.hpp"
#include "source/vmware/vddk_transport.hpp"
#include "support/vsphere_lab.hpp"
#include "test_paths.hpp"
#include "transport_fixture.hpp"

namespace vmferry::source::vmware::test {

namespace {

using Parameters = std::vector<std::pair<std::string, std::string>>;
using Bytes = std::vector<std::byte>;

const std::filesystem::path built = std::filesystem::path(vmferry::test::bin_directory).parent_path();
const std::filesystem::path plugin = built / "lib/vmferry/nbdkit/nbdkit-vddk-plugin.so";
const std::filesystem::path stand_in = built / "lib/lab-vddk";

// Starts nbdkit with the plugin and reads through it, one request at a time.
class Served {
 public:
  Served(const std::filesystem::path& folder, const Parameters& parameters, std::vector<process::PassedFd> fds = {},
         std::vector<std::string> filters = {}) {
    nbdkit::Recipe recipe;
    recipe.plugin = plugin.string();
    recipe.parameters = parameters;
    recipe.fds = std::move(fds);
    recipe.filters = std::move(filters);
    export_.emplace(nbdkit::serve(runner_, recipe, folder, log_, {}));
  }

  std::unique_ptr<nbd::Handle> connect() const { return std::make_unique<nbd::Handle>(export_->uri()); }
  const nbdkit::Export& server() const { return *export_; }

 private:
  process::SystemRunner runner_;
  log::Log log_;
  std::optional<nbdkit::Export> export_;
};

void await(nbd::Handle& handle, const bool& done) {
  for (int i = 0; i < 600 && !done; ++i) handle.poll(std::chrono::milliseconds(100));
  ASSERT_TRUE(done) << "no answer within a minute";
}

// Nothing when the read failed.
std::optional<Bytes> read(nbd::Handle& handle, std::uint64_t offset, std::size_t bytes) {
  Bytes buffer(bytes);
  bool done = false;
  int problem = 0;
  handle.read(buffer, offset, [&](int error) {
    done = true;
    problem = error;
  });
  await(handle, done);
  if (problem != 0) return std::nullopt;
  return buffer;
}

// All extents of a disk: where what reads as zeroes ends and data begins.
std::vector<nbd::Extent> map(nbd::Handle& handle) {
  std::vector<nbd::Extent> all;
  for (std::uint64_t at = 0; at < handle.bytes();) {
    bool done = false;
    const std::uint64_t most = 1ULL << 31;
    handle.extents({at, std::min(most, handle.bytes() - at)}, [&](int error, std::vector<nbd::Extent> extents) {
      done = true;
      ASSERT_EQ(error, 0);
      for (const nbd::Extent& extent : extents) {
        if (!all.empty() && all.back().zero == extent.zero)
          all.back().range.length += extent.range.length;
        else
          all.push_back(extent);
        at = extent.range.offset + extent.range.length;
      }
    });
    await(handle, done);
  }
  return all;
}

Bytes content_of(const std::filesystem::path& file, std::uint64_t offset, std::size_t bytes) {
  std::ifstream in(file, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(offset));
  Bytes content(bytes);
  in.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(bytes));
  return content;
}

std::string failure_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "no Error was thrown";
}

class VddkLocal : public ::testing::Test {
 protected:
  VddkLocal() {
    std::filesystem::create_directories(libdir());
    std::filesystem::create_directory_symlink(stand_in / "lib64", libdir() / "lib64");
    std::ofstream(libdir() / "lab-vddk.conf") << "local=yes\n";
  }
  std::filesystem::path libdir() const { return folder_.path() / "vddk"; }
  std::filesystem::path image() const { return folder_.path() / "disk.img"; }
  // Sparse but for what is written at some offsets.
  void make(std::uint64_t bytes, const std::vector<std::uint64_t>& written) const {
    std::ofstream(image()).close();
    std::filesystem::resize_file(image(), bytes);
    std::fstream out(image(), std::ios::binary | std::ios::in | std::ios::out);
    std::mt19937_64 random(3);
    for (const std::uint64_t offset : written) {
      std::string piece(std::min<std::uint64_t>(100'000, bytes - offset), '\0');
      for (char& c : piece) c = static_cast<char>(random());
      out.seekp(static_cast<std::streamoff>(offset));
      out << piece;
    }
  }
  Parameters parameters() const { return {{"libdir", libdir().string()}, {"file", image().string()}}; }

  support::TemporaryDirectory folder_;
};

TEST_F(VddkLocal, BytesOfAnOddDisk) {
  const std::uint64_t bytes = 9 * 1024 * 1024 + 37 * 512;
  make(bytes, {0, 4'000'000, bytes - 700});
  const Served served(folder_.path(), parameters());
  const auto handle = served.connect();
  ASSERT_EQ(handle->bytes(), bytes);
  EXPECT_EQ(handle->minimum_block(), 512U);
  for (const auto& [offset, length] :
       std::vector<std::pair<std::uint64_t, std::size_t>>{{0, 512}, {3 * 512, 1024}, {bytes - 512, 512}, {0, bytes}}) {
    const auto got = read(*handle, offset, length);
    ASSERT_TRUE(got) << offset;
    EXPECT_EQ(*got, content_of(image(), offset, length)) << offset << "+" << length;
  }
}

// libnbd sends nothing that the server does not want. So a filter shifts what it asks for.
TEST_F(VddkLocal, BytesThatAreNoWholeSectors) {
  const std::uint64_t bytes = 5 * 1024 * 1024;
  make(bytes, {0, 4'000'000});
  Parameters shifted = parameters();
  shifted.insert(shifted.end(), {{"offset", "100"}, {"range", std::to_string(bytes - 512)}});
  const Served served(folder_.path(), shifted, {}, {"offset"});
  const auto handle = served.connect();
  for (const std::uint64_t length : {std::uint64_t{512}, std::uint64_t{65536}, bytes - 512}) {
    const auto got = read(*handle, 0, length);
    ASSERT_TRUE(got) << length;
    EXPECT_EQ(*got, content_of(image(), 100, length)) << length;
  }
}

TEST_F(VddkLocal, TheTailThatIsNoWholeChunkCountsAsAllocated) {
  const std::uint64_t chunk = 64 * 1024, bytes = 100 * chunk + 37 * 512;
  make(bytes, {10 * chunk});
  const Served served(folder_.path(), parameters());
  const auto extents = map(*served.connect());
  ASSERT_EQ(extents.size(), 4U);
  EXPECT_EQ(extents[0].range, (ByteRange{0, 10 * chunk}));
  EXPECT_TRUE(extents[0].zero);
  EXPECT_EQ(extents[1].range, (ByteRange{10 * chunk, 2 * chunk}));
  EXPECT_FALSE(extents[1].zero);
  EXPECT_TRUE(extents[2].zero);
  EXPECT_EQ(extents[3].range, (ByteRange{100 * chunk, 37 * 512}));
  EXPECT_FALSE(extents[3].zero);
}

// What the map leaves out is read as zeroes.
TEST_F(VddkLocal, AMapThatIsOutOfOrderCountsAsAllocated) {
  const std::uint64_t chunk = 64 * 1024, bytes = 100 * chunk;
  make(bytes, {10 * chunk, 40 * chunk, 70 * chunk});
  for (const char* order : {"backwards", "overlapping", "beyond"}) {
    std::ofstream(libdir() / "lab-vddk.conf") << "local=yes\nmap=" << order << '\n';
    const Served served(folder_.path(), parameters());
    for (int connection = 0; connection < 2; ++connection) {
      const auto extents = map(*served.connect());
      ASSERT_EQ(extents.size(), 1U) << order;
      EXPECT_FALSE(extents[0].zero) << order;
      EXPECT_EQ(extents[0].range, (ByteRange{0, bytes}));
    }
    // They come by another way than the map.
    for (int i = 0; i < 3000 && served.server().last_words().find("out of order") == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::string words = served.server().last_words();
    const std::size_t said = words.find("out of order");
    ASSERT_NE(said, std::string::npos) << order << ": " << words;
    EXPECT_EQ(words.find("out of order", said + 1), std::string::npos) << words;
  }
}

TEST_F(VddkLocal, ADiskSmallerThanAChunkHasNoMap) {
  make(100 * 512, {0});
  const Served served(folder_.path(), parameters());
  const auto handle = served.connect();
  EXPECT_FALSE(handle->can_extents() && map(*handle).front().zero);
  EXPECT_EQ(*read(*handle, 0, 100 * 512), content_of(image(), 0, 100 * 512));
}

TEST_F(VddkLocal, SaysWhereNoLibraryIs) {
  make(65536, {});
  std::filesystem::remove(libdir() / "lib64");
  const std::string why = failure_of([&] { const Served served(folder_.path(), parameters()); });
  EXPECT_NE(why.find("libvixDiskLib.so.9"), std::string::npos) << why;
  EXPECT_NE(why.find((libdir() / "lib64").string()), std::string::npos) << why;
}

TEST_F(VddkLocal, SaysWhyALibraryCannotBeLoaded) {
  make(65536, {});
  std::filesystem::remove(libdir() / "lib64");
  std::ofstream(libdir() / "libvixDiskLib.so.7") << "no library";
  const std::string why = failure_of([&] { const Served served(folder_.path(), parameters()); });
  EXPECT_NE(why.find("libvixDiskLib.so.7 is there but cannot be loaded"), std::string::npos) << why;
}

// As VDDK does: it comes with libraries that are found by LD_LIBRARY_PATH alone.
TEST_F(VddkLocal, ALibraryThatNeedsOthersOfItsFolderIsLoadedToTellAboutIt) {
  make(65536, {0});
  std::filesystem::remove(libdir() / "lib64");
  std::filesystem::create_directory(libdir() / "lib64");
  std::filesystem::create_symlink(built / "lib/lab-vddk-apart/libvixDiskLib.so.9",
                                  libdir() / "lib64/libvixDiskLib.so.9");
  std::filesystem::create_symlink(stand_in / "lib64/libvixDiskLib.so.8", libdir() / "lib64/libvixDiskLib.so.8");
  process::SystemRunner runner;
  process::Command command;
  command.program = "nbdkit";
  command.args = {plugin.string(), "--dump-plugin", "libdir=" + libdir().string()};
  const process::Output told = process::run(runner, command, std::chrono::seconds(20), {});
  for (const char* line : {"\nvddk_library_version=9\n", "\nvddk_dll=", "\nname=vddk\n"}) {
    const std::size_t at = told.out.find(line);
    ASSERT_NE(at, std::string::npos) << line << told.out << told.err;
    EXPECT_EQ(told.out.find(line, at + 1), std::string::npos) << "said twice: " << told.out;
  }
  const Served served(folder_.path(), parameters());
  EXPECT_TRUE(read(*served.connect(), 0, 65536));
}

TEST_F(VddkLocal, RefusesToWriteOrCreate) {
  make(65536, {});
  Parameters more = parameters();
  more.emplace_back("create", "true");
  const std::string why = failure_of([&] { const Served served(folder_.path(), more); });
  EXPECT_NE(why.find("only reads disks"), std::string::npos) << why;
}

class VddkRemote : public support::VsphereLabTest {
 protected:
  void SetUp() override {
    VsphereLabTest::SetUp();
    settings(0, 52);
    const auto vm = nlohmann::json::parse(control("GET", "/vms/web01"));
    for (const auto& left : vm["snapshots"]) control("DELETE", "/vms/web01/snapshots/" + std::string(left["id"]));
    vm_ = vm["moref"];
    file_ = nlohmann::json::parse(control("GET", "/vms/web01"))["disks"][0]["file"];
    snapshot_ = nlohmann::json::parse(control("POST", "/vms/web01/snapshots", R"({"name":"of a test"})"))["id"];
    http::Trust trust;
    trust.ca_file = lab_->get("vcenter.ca");
    thumbprint_ = http::certificate("https://" + lab_->get("vcenter.endpoint") + "/", trust, {}).thumbprint;
    password_ = lab_->secret("vcenter.password_file");
  }
  void TearDown() override { settings(0, 52); }

  void settings(int open_ms, int connections) const {
    control("POST", "/settings",
            fmt::format(R"({{"vddk_open_ms":{},"vddk_connections":{},"folder_rate_mb_s":0}})", open_ms, connections));
  }
  void fault(const std::string& method, const std::string& rest) const {
    control("POST", "/faults", R"({"service":"vddk","method":")" + method + R"(",)" + rest + "}");
  }
  Parameters parameters() const {
    const std::string endpoint = lab_->get("vcenter.endpoint");
    const auto colon = endpoint.rfind(':');
    return {{"libdir", stand_in.string()},
            {"server", endpoint.substr(0, colon)},
            {"port", endpoint.substr(colon + 1)},
            {"user", lab_->get("vcenter.username")},
            {"thumbprint", thumbprint_},
            {"vm", "moref=" + vm_},
            {"snapshot", snapshot_},
            {"file", file_}};
  }
  std::unique_ptr<Served> serve(Parameters more = {}) {
    nbdkit::LiveSecret password;
    password.set(Secret(std::string(password_)));
    Parameters all = parameters();
    // The last one counts, but a descriptor is read only once.
    if (more.empty() || more.front().first != "password") all.emplace_back("password", "-9");
    all.insert(all.end(), more.begin(), more.end());
    return std::make_unique<Served>(folder_.path(), all, std::vector<process::PassedFd>{{password.fd(), 9}});
  }
  // What nbdkit says when the disk cannot be opened.
  std::string refusal(Served& served) const {
    EXPECT_THROW(served.connect(), Error);
    // They come by another way than the refusal.
    for (int i = 0; i < 3000 && served.server().last_words().find("VDDK error") == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return served.server().last_words();
  }
  std::filesystem::path frozen() {
    for (const auto& set : nlohmann::json::parse(control("GET", "/vms/web01/frozen")))
      if (set["snapshot"] == snapshot_) return std::string(set["disks"][0]["path"]);
    return {};
  }

  support::TemporaryDirectory folder_;
  std::string vm_, file_, snapshot_, thumbprint_, password_;
};

TEST_P(VddkRemote, FrozenBytesOverSeveralConnections) {
  const auto served = serve();
  const auto image = frozen();
  const std::uint64_t bytes = std::filesystem::file_size(image);
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i)
    readers.emplace_back([&, i] {
      const auto handle = served->connect();
      ASSERT_EQ(handle->bytes(), bytes);
      // 5 MiB in one request, which is more than the server gives at once.
      for (std::uint64_t at = static_cast<std::uint64_t>(i) * (5 << 20); at < bytes; at += 4ULL * (5 << 20)) {
        const std::size_t length = std::min<std::uint64_t>(5 << 20, bytes - at);
        const auto got = read(*handle, at, length);
        ASSERT_TRUE(got && *got == content_of(image, at, length)) << at;
      }
    });
  for (std::thread& reader : readers) reader.join();
}

TEST_P(VddkRemote, AMapThatIsRefusedCountsAsAllocated) {
  fault("QueryAllocatedBlocks", R"("kind":"http","status":500,"count":-1,"skip":1)");
  const auto served = serve();
  const auto handle = served->connect();  // the first question is answered, so a map is offered
  const auto extents = map(*handle);
  EXPECT_FALSE(extents.back().zero);
  EXPECT_EQ(extents.back().range.offset + extents.back().range.length, handle->bytes());
  const auto again = served->connect();  // and here it is not
  EXPECT_FALSE(again->can_extents() && map(*again).front().zero);
  EXPECT_TRUE(read(*again, 0, 512));
}

TEST_P(VddkRemote, WhatIsRefusedIsSaid) {
  const auto wrong_thumbprint = serve({{"thumbprint", "00:11:22"}});
  EXPECT_NE(refusal(*wrong_thumbprint).find("Failed to verify SSL certificate"), std::string::npos);
  password_ = "not the password";
  const auto wrong_password = serve();
  EXPECT_NE(refusal(*wrong_password).find("Incorrect user name or password"), std::string::npos);
  password_ = lab_->secret("vcenter.password_file");
  const auto gone = serve({{"snapshot", "snapshot-99999"}});
  EXPECT_NE(refusal(*gone).find("VDDK error 13003"), std::string::npos);
  const auto elsewhere = serve({{"transports", "san:hotadd"}});
  EXPECT_NE(refusal(*elsewhere).find("transport mode"), std::string::npos);
}

TEST_P(VddkRemote, TheDiskOfARunningMachineIsLocked) {
  control("DELETE", "/vms/web01/snapshots/" + snapshot_);
  const std::string endpoint = lab_->get("vcenter.endpoint");
  Parameters without;
  for (const auto& parameter : parameters())
    if (parameter.first != "snapshot") without.push_back(parameter);
  without.emplace_back("password", "+" + lab_->get("vcenter.password_file"));
  Served served(folder_.path(), without);
  EXPECT_NE(refusal(served).find("VDDK error 13"), std::string::npos);
  control("POST", "/vms/web01/power", R"({"state":"off"})");
  EXPECT_TRUE(read(*served.connect(), 0, 4096));
}

TEST_P(VddkRemote, AConnectionThatBreaksFailsItsReadsOnly) {
  const auto served = serve();
  const auto broken = served->connect(), whole = served->connect();
  fault("Read", R"("kind":"reset")");
  EXPECT_FALSE(read(*broken, 0, 8 << 20));
  EXPECT_FALSE(read(*broken, 0, 4096)) << "it stays broken";
  EXPECT_TRUE(read(*whole, 0, 4096));
}

TEST_P(VddkRemote, OpensTakeTurnsAndReadsGoOnMeanwhile) {
  const auto served = serve();
  const auto reading = served->connect();
  settings(3000, 52);
  const auto begun = std::chrono::steady_clock::now();
  std::atomic<int> opened{0};
  std::vector<std::thread> openers;
  for (int i = 0; i < 2; ++i)
    openers.emplace_back([&] {
      EXPECT_TRUE(read(*served->connect(), 0, 512));
      ++opened;
    });
  EXPECT_TRUE(read(*reading, 0, 512));
  EXPECT_EQ(opened, 0) << "the read waited for an open";
  for (std::thread& opener : openers) opener.join();
  EXPECT_GE(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(6000));
}

TEST_P(VddkRemote, AHostHasSoManyConnections) {
  const auto served = serve();
  settings(0, 1);
  {
    const auto only = served->connect();
    EXPECT_NE(refusal(*served).find("VDDK error 14009"), std::string::npos);
  }
  // Given back when it is closed, which takes nbdkit a moment.
  for (int i = 0; i < 600; ++i) {
    try {
      served->connect();
      return;
    } catch (const Error&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  ADD_FAILURE() << "the connection was not given back";
}

TEST_P(VddkRemote, ThePasswordIsInNoCommandLineOrEnvironment) {
  for (const std::string& given : {std::string("-9"), password_}) {
    const auto served = serve({{"password", given}});
    ASSERT_TRUE(read(*served->connect(), 0, 512));
    for (const char* what : {"cmdline", "environ"}) {
      std::ifstream in(fmt::format("/proc/{}/{}", served->server().pid(), what), std::ios::binary);
      const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
      EXPECT_FALSE(text.empty());
      EXPECT_EQ(text.find(password_), std::string::npos) << what;
    }
    EXPECT_EQ(served->server().last_words().find(password_), std::string::npos);
  }
}

// Connections to the machine's host that are allowed, and how many are in use.
class Allowed final : public copy::Permits {
 public:
  explicit Allowed(int most) : most_(most) {}
  std::unique_ptr<copy::Permit> ask(bool) override {
    if (used_ == most_) return nullptr;
    ++used_;
    return std::make_unique<One>(used_);
  }
  std::uint64_t bytes_under_way() const override { return 1 << 20; }
  std::string reason() const override { return "all are in use"; }
  int used() const { return used_; }

 private:
  class One final : public copy::Permit {
   public:
    explicit One(std::atomic<int>& used) : used_(used) {}
    ~One() override { --used_; }
    bool recalled() const override { return false; }

   private:
    std::atomic<int>& used_;
  };
  const int most_;
  std::atomic<int> used_{0};
};

class VddkTransportOnLab : public VddkRemote {
 protected:
  std::unique_ptr<Transport> transport(std::shared_ptr<copy::Permits> permits,
                                       std::chrono::seconds patience = VddkOptions().patience) {
    VddkOptions options;
    options.vddk = {plugin, stand_in};
    options.endpoint = lab_->get("vcenter.endpoint");
    options.user = lab_->get("vcenter.username");
    options.password = Secret(std::string(password_));
    options.trust.ca_file = lab_->get("vcenter.ca");
    options.vm = vm_;
    options.run_directory = folder_.path();
    options.permits = std::move(permits);
    options.patience = patience;
    return vddk_transport(std::move(options), runner_, log_, {});
  }
  FrozenDisk frozen_disk() {
    FrozenDisk frozen_one = disk(file_, std::filesystem::file_size(frozen()));
    point_.snapshot = SnapshotId{snapshot_};
    return frozen_one;
  }

  process::SystemRunner runner_;
  Point point_;
};

TEST_P(VddkTransportOnLab, TheConnectionOfTheFirstLookIsCounted) {
  const auto allowed = std::make_shared<Allowed>(1);
  const auto vddk = transport(allowed);
  const auto first = vddk->serve(point_, frozen_disk(), {});
  EXPECT_EQ(calls("Open"), 1);
  EXPECT_EQ(allowed->used(), 1);
  const auto second = vddk->serve(point_, frozen_disk(), {});
  EXPECT_EQ(calls("Open"), 1) << "opened beyond what is allowed";
  {
    const auto permit = first->permit();
    ASSERT_TRUE(permit);
    EXPECT_FALSE(first->permit());
    EXPECT_EQ(first->connect({})->bytes(), first->bytes());
    EXPECT_EQ(allowed->used(), 1) << "the caller's";
  }
  EXPECT_EQ(allowed->used(), 0);
  EXPECT_EQ(second->connect({})->bytes(), second->bytes()) << "it had no first look";
  const auto third = vddk->serve(point_, frozen_disk(), {});
  third->connect({});
  EXPECT_EQ(allowed->used(), 0) << "who has a permit of his own needs no other";
}

TEST_P(VddkTransportOnLab, AllIsCopiedOverTheOneConnectionThatIsAllowed) {
  const auto allowed = std::make_shared<Allowed>(1);
  AutoOptions options;
  options.candidates.push_back({"vddk", transport(allowed), ""});
  const auto chosen = auto_transport(std::move(options), clock_, log_);
  const auto source = chosen->serve(point_, frozen_disk(), {});
  FileTarget target(folder_.path() / "target", source->bytes());
  const ByteRange all{0, source->bytes()};
  const auto work = copy::work(RangeSet(std::span(&all, 1)));
  copy::Tuning tuning;
  tuning.permits = allowed;
  Silent progress;
  copy::run(*source, target, *work, tuning, progress, clock_, log_, {});
  EXPECT_TRUE(target.content() == bytes_of(frozen()));
  EXPECT_EQ(allowed->used(), 0);
}

// Else a copy that waits for another way to read waits for minutes.
TEST_P(VddkTransportOnLab, AFirstLookThatHangsIsGivenUp) {
  settings(10000, 52);
  const auto vddk = transport(nullptr, std::chrono::seconds(1));
  try {
    vddk->serve(point_, frozen_disk(), {});
    ADD_FAILURE() << "it waited";
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::timeout);
    EXPECT_NE(std::string(error.what()).find("within 1 s"), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Profiles, VddkTransportOnLab, ::testing::Values("vcenter", "esxi"),
                         [](const auto& profile) { return profile.param; });

INSTANTIATE_TEST_SUITE_P(Profiles, VddkRemote, ::testing::Values("vcenter", "esxi"),
                         [](const auto& profile) { return profile.param; });

TEST(Vddk, AServerThatDiesInMidReadFailsTheRead) {
  const support::Lab lab({"--devices", "file", "--writer-rate", "0"});
  const auto vm = nlohmann::json::parse(lab.control("vcenter", "GET", "/vms/web01"));
  const std::string snapshot =
      nlohmann::json::parse(lab.control("vcenter", "POST", "/vms/web01/snapshots", R"({"name":"s"})"))["id"];
  lab.control("vcenter", "POST", "/settings", R"({"folder_rate_mb_s":0.5})");
  http::Trust trust;
  trust.ca_file = lab.get("vcenter.ca");
  const std::string endpoint = lab.get("vcenter.endpoint");
  const support::TemporaryDirectory folder;
  const Served served(folder.path(),
                      {{"libdir", stand_in.string()},
                       {"server", endpoint.substr(0, endpoint.rfind(':'))},
                       {"port", endpoint.substr(endpoint.rfind(':') + 1)},
                       {"user", lab.get("vcenter.username")},
                       {"password", "+" + lab.get("vcenter.password_file")},
                       {"thumbprint", http::certificate("https://" + endpoint + "/", trust, {}).thumbprint},
                       {"vm", "moref=" + std::string(vm["moref"])},
                       {"snapshot", snapshot},
                       {"file", vm["disks"][0]["file"]}});
  const auto handle = served.connect();
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    kill(std::stoi(lab.get("vcenter.pid")), SIGKILL);
  });
  EXPECT_FALSE(read(*handle, 0, 8 << 20));
  killer.join();
  EXPECT_THROW(served.connect(), Error);
  EXPECT_TRUE(served.server().alive());
}

}  // namespace

}  // namespace vmferry::source::vmware::test
