// Both transports end to end: nbdkit's curl plugin against an HTTPS server, nbdkit's file plugin against files.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "base/clock.hpp"
#include "http/certificate.hpp"
#include "https_server.hpp"
#include "source/vmware/datastore_path.hpp"
#include "source/vmware/descriptor.hpp"
#include "source/vmware/folder_status.hpp"
#include "source/vmware/transport.hpp"
#include "support/lab.hpp"

namespace vmferry::source::vmware::test {

namespace {

constexpr std::uint64_t capacity = 8 * 1024 * 1024 + 512;
constexpr const char* resource = "/folder/web%2001/web%2001-flat.vmdk?dcPath=folder%2FDC0&dsName=Local%20DS";

std::vector<char> random_content(std::uint64_t bytes) {
  std::mt19937_64 random(7);
  std::vector<char> content(bytes);
  for (std::size_t at = 0; at + 8 <= bytes; at += 8) {
    const std::uint64_t word = random();
    memcpy(content.data() + at, &word, 8);
  }
  return content;
}

FrozenDisk disk(const std::string& file = "[Local DS] web 01/web 01.vmdk", std::uint64_t bytes = capacity) {
  FrozenDisk frozen;
  frozen.key = model::DiskKey{2000};
  frozen.capacity = bytes;
  frozen.file = file;
  return frozen;
}

class FileTarget final : public copy::Target {
 public:
  FileTarget(std::filesystem::path path, std::uint64_t bytes) : path_(std::move(path)), bytes_(bytes) {
    fd_ = Fd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd_ || ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0)
      throw std::runtime_error("cannot make " + path_.string());
  }
  std::string name() const override { return path_.string(); }
  int fd() const override { return fd_.get(); }
  std::uint64_t bytes() const override { return bytes_; }
  std::uint32_t sector() const override { return 512; }
  bool known_zero() const override { return true; }
  void check() const override {}
  std::vector<char> content() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

 private:
  std::filesystem::path path_;
  std::uint64_t bytes_;
  Fd fd_;
};

struct Silent final : copy::Progress {
  void advanced(std::uint64_t, std::uint64_t) noexcept override {}
};

class TransportTest : public ::testing::Test {
 protected:
  std::vector<char> copied(copy::Source& source, copy::Report* report = nullptr) {
    FileTarget target(folder_.path() / "target", source.bytes());
    const ByteRange all{0, source.bytes()};
    const auto work = copy::work(RangeSet(std::span(&all, 1)));
    copy::Tuning tuning;
    tuning.whole_disk = true;
    tuning.request = 256 * 1024;
    tuning.requests_per_connection = 2;
    Silent progress;
    SystemClock clock;
    const copy::Report done = copy::run(source, target, *work, tuning, progress, clock, log_, {});
    if (report != nullptr) *report = done;
    return target.content();
  }
  void write(const std::string& name, const std::string& text) const {
    const auto file = folder_.path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
  }
  Error failure_of(const std::function<void()>& act) const {
    try {
      act();
    } catch (const Error& error) {
      return error;
    }
    ADD_FAILURE() << "no Error was thrown";
    return Error(Fault::bug, "none");
  }

  support::TemporaryDirectory folder_;
  process::SystemRunner runner_;
  log::Log log_;
};

std::string command_line(const std::filesystem::path& process) {
  std::ifstream in(process / "cmdline", std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

class HttpsTransportTest : public TransportTest {
 protected:
  HttpsTransportTest() : content_(random_content(capacity)) {}

  void serve(const Identity& who) {
    server_ = std::make_unique<HttpsServer>(HttpsServer::Settings{&who, resource, content_});
    server_->accept_cookie(cookie_);
  }
  std::unique_ptr<Transport> transport(const http::Trust& trust, const std::string& endpoint) {
    HttpsOptions options;
    options.endpoint = endpoint;
    options.datacenter = "folder/DC0";
    options.trust = trust;
    options.run_directory = folder_.path() / "run";
    options.cookie = [this](bool renew, std::stop_token) {
      if (renew) {
        ++renewals_;
        cookie_ = "vmware_soap_session=\"session-" + std::to_string(renewals_) + "\"";
        server_->accept_cookie(cookie_);
      }
      std::string copy = cookie_;
      return Secret(std::move(copy));
    };
    return https_transport(std::move(options), runner_, log_);
  }
  static http::Trust pinned(const Identity& who) {
    http::Trust trust;
    trust.who = "vCenter";
    trust.sha256 = who.sha256();
    return trust;
  }

  // The nbdkit that was started with this test's folder.
  int server_pid() const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      const std::string line = command_line(entry.path());
      if (line.starts_with("nbdkit ") && line.find(folder_.path().string()) != std::string::npos)
        return std::stoi(name);
    }
    return 0;
  }

  std::vector<char> content_;
  std::unique_ptr<HttpsServer> server_;
  std::string cookie_ = "vmware_soap_session=\"session-0\"";
  std::atomic<int> renewals_{0};
};

// Every process' command line and environment, as everybody on the host can read them.
bool visible_to_others(int pid, const std::string& text) {
  for (const char* what : {"cmdline", "environ"}) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/" + what, std::ios::binary);
    const std::string all{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (all.find(text) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

TEST_F(HttpsTransportTest, PinnedSelfSignedCertificate) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  const auto made = transport(pinned(*who), server_->endpoint());
  EXPECT_EQ(made->name(), "https");
  const auto source = made->serve(disk(), {});
  EXPECT_EQ(source->bytes(), capacity);
  EXPECT_TRUE(copied(*source) == content_);
  EXPECT_EQ(server_->cookies_seen(), std::set<std::string>{cookie_});
  EXPECT_EQ(renewals_, 0);
}

TEST_F(HttpsTransportTest, PinnedCertificateOfAnUnknownAuthority) {
  const auto authority = identity("Some CA", "", nullptr, true);
  const auto who = identity("vcenter", "IP:127.0.0.1", authority.get());
  serve(*who);
  const auto source = transport(pinned(*who), server_->endpoint())->serve(disk(), {});
  EXPECT_TRUE(copied(*source) == content_);
}

// ESXi's own certificate, or a vCenter called by its address: the pin says who it is, the name does not matter.
TEST_F(HttpsTransportTest, PinnedCertificateMadeForAnotherName) {
  const auto who = identity("localhost.localdomain", "DNS:localhost.localdomain");
  serve(*who);
  const auto source = transport(pinned(*who), server_->endpoint())->serve(disk(), {});
  EXPECT_TRUE(copied(*source) == content_);
  EXPECT_NE(server_->last_host().find("localhost.localdomain"), std::string::npos);
}

// Neither a pin nor a CA file leaves room for the system's authorities.
TEST_F(HttpsTransportTest, OnlyTheGivenTrustCounts) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  write("ca.pem", pem_of(who->certificate));
  http::Trust authority;
  authority.ca_file = folder_.path() / "ca.pem";
  for (const http::Trust& trust : {pinned(*who), authority}) {
    const auto source = transport(trust, server_->endpoint())->serve(disk(), {});
    const std::string line = command_line("/proc/" + std::to_string(server_pid()));
    const auto at = line.find(" capath=");
    ASSERT_NE(at, std::string::npos) << line;
    const std::string folder = line.substr(at + 8, line.find(' ', at + 1) - at - 8);
    EXPECT_TRUE(std::filesystem::is_empty(folder)) << folder;
    EXPECT_NE(line.find(" cainfo="), std::string::npos) << line;
    EXPECT_EQ(line.find("sslverify"), std::string::npos) << line;
  }
}

TEST_F(HttpsTransportTest, AnotherCertificateThanThePinnedOneGetsNoCookie) {
  const auto who = identity("vcenter", "IP:127.0.0.1"), other = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  EXPECT_EQ(failure_of([&] { transport(pinned(*other), server_->endpoint())->serve(disk(), {}); }).fault(),
            Fault::auth);
  EXPECT_TRUE(server_->cookies_seen().empty());
}

TEST_F(HttpsTransportTest, CaFileAndInsecure) {
  const auto authority = identity("Some CA", "", nullptr, true);
  const auto who = identity("vcenter", "IP:127.0.0.1", authority.get());
  serve(*who);
  write("ca.pem", pem_of(authority->certificate));
  http::Trust trust;
  trust.ca_file = folder_.path() / "ca.pem";
  EXPECT_TRUE(copied(*transport(trust, server_->endpoint())->serve(disk(), {})) == content_);
  http::Trust insecure;
  insecure.insecure = true;
  EXPECT_TRUE(copied(*transport(insecure, server_->endpoint())->serve(disk(), {})) == content_);
  EXPECT_EQ(failure_of([&] { transport({}, server_->endpoint())->serve(disk(), {}); }).fault(), Fault::auth);
}

TEST_F(HttpsTransportTest, SessionThatExpiresBeforehandIsRenewed) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  server_->accept_cookie("another");
  const auto source = transport(pinned(*who), server_->endpoint())->serve(disk(), {});
  EXPECT_EQ(renewals_, 1);
  EXPECT_TRUE(copied(*source) == content_);
}

TEST_F(HttpsTransportTest, SessionThatExpiresInTheMiddleIsRenewedWithoutLoss) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  const auto source = transport(pinned(*who), server_->endpoint())->serve(disk(), {});
  server_->expire_after = 10;
  copy::Report report;
  EXPECT_TRUE(copied(*source, &report) == content_);
  EXPECT_GE(renewals_, 1);
  EXPECT_GT(report.retries, 0u);
}

TEST_F(HttpsTransportTest, CookieIsOnNoCommandLineAndInNoEnvironment) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  server_->delay_ms = 1;
  const auto source = transport(pinned(*who), server_->endpoint())->serve(disk(), {});
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    ++seen;
    EXPECT_FALSE(visible_to_others(std::stoi(name), "session-0")) << name;
  }
  EXPECT_GT(seen, 2);
  // What lies in the run folder is for us alone, or in a folder that is.
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path() / "run"))
    EXPECT_EQ(entry.status().permissions() & (std::filesystem::perms::group_all | std::filesystem::perms::others_all),
              std::filesystem::perms::none)
        << entry.path();
}

TEST_F(HttpsTransportTest, ServerKilledAndStartedAgain) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  server_->delay_ms = 20;
  const auto source = transport(pinned(*who), server_->endpoint())->serve(disk(), {});
  const int pid = server_pid();
  ASSERT_GT(pid, 0);
  std::thread killer([pid, this] {
    while (server_->reads < 5) usleep(1000);
    kill(pid, SIGKILL);
  });
  copy::Report report;
  EXPECT_TRUE(copied(*source, &report) == content_);
  killer.join();
  EXPECT_GT(report.retries, 0u);
}

TEST_F(HttpsTransportTest, EveryRefusalHasItsSentence) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  const auto made = transport(pinned(*who), server_->endpoint());
  const auto refused = [&](int status, const std::string& body = "") {
    server_->refuse_status = status;
    server_->refuse_body = body;
    return failure_of([&] { made->serve(disk(), {}); });
  };
  EXPECT_EQ(refused(401).fault(), Fault::auth);
  EXPECT_EQ(refused(403).fault(), Fault::auth);
  EXPECT_EQ(refused(404).fault(), Fault::not_found);
  EXPECT_EQ(refused(503).fault(), Fault::unavailable);
  const Error locked = refused(500, "500 Internal Server Error: Failed to lock the file");
  EXPECT_EQ(locked.fault(), Fault::conflict);
  EXPECT_EQ(locked.name(), "locked");
  EXPECT_NE(std::string(locked.what()).find("[Local DS] web 01/web 01-flat.vmdk"), std::string::npos) << locked.what();
  server_->refuse_status = 0;
  EXPECT_EQ(failure_of([&] { made->serve(disk("[Local DS] web 01/web 01.vmdk", capacity * 2), {}); }).fault(),
            Fault::data);
  FrozenDisk layer = disk("[Local DS] web 01/web 01-000001.vmdk");
  layer.has_parent = true;
  ASSERT_TRUE(made->refuses(layer));
  EXPECT_NE(made->refuses(layer)->find("consolidate"), std::string::npos);
  EXPECT_EQ(failure_of([&] { made->serve(layer, {}); }).fault(), Fault::unsupported);
  EXPECT_FALSE(made->refuses(disk()));
}

TEST_F(TransportTest, FileTransportFindsFlatAndRawDisks) {
  const std::vector<char> content = random_content(1024 * 1024);
  const std::string bytes(content.begin(), content.end());
  const std::string head =
      "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n# Extent description\n";
  write("web01/web01.vmdk", head + "RW 2048 VMFS \"web01-flat.vmdk\"\n");
  write("web01/web01-flat.vmdk", bytes);
  write("alone-flat.vmdk", bytes);                                    // without its descriptor
  write("side.vmdk", head + "RW 2048 FLAT \"other-f001.vmdk\" 0\n");  // beside the others, by its descriptor's word
  write("other-f001.vmdk", bytes);
  write("disk.img", bytes);
  const auto made = file_transport(folder_.path(), runner_, folder_.path() / "run", log_);
  EXPECT_EQ(made->name(), "file");
  for (const char* file :
       {"[ds1] web01/web01.vmdk", "[ds1] vm/alone.vmdk", "[ds1] vm/side.vmdk", "disk.img", "web01/web01-flat.vmdk"}) {
    const FrozenDisk frozen = disk(file, content.size());
    ASSERT_FALSE(made->refuses(frozen)) << *made->refuses(frozen);
    EXPECT_TRUE(copied(*made->serve(frozen, {})) == content) << file;
  }
}

TEST_F(TransportTest, FileTransportRefusesWhatIsNotFlat) {
  const std::string head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\n";
  write("flat-flat.vmdk", std::string(1024, 'x'));
  write("sparse.vmdk", "KDMV" + std::string(1020, '\0'));
  write("redo.vmdk", "COWD" + std::string(1020, '\0'));
  write("se.vmdk", head + "parentCID=ffffffff\ncreateType=\"seSparse\"\nRW 2 SESPARSE \"se-sesparse.vmdk\"\n");
  write("child.vmdk", head + "parentCID=12345678\ncreateType=\"vmfs\"\nRW 2 VMFS \"flat-flat.vmdk\"\n");
  write("two.vmdk",
        head + "parentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\nRW 1 FLAT \"a\" 0\nRW 1 FLAT \"b\" 0\n");
  write("shifted.vmdk", head + "parentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2 FLAT \"flat-flat.vmdk\" 128\n");
  write("escape.vmdk", head + "parentCID=ffffffff\ncreateType=\"vmfs\"\nRW 2 VMFS \"../../etc/passwd\"\n");
  write("text.vmdk", "hello");
  write("small-flat.vmdk", "x");
  const auto made = file_transport(folder_.path(), runner_, folder_.path() / "run", log_);
  const std::vector<std::pair<const char*, const char*>> cases{{"sparse.vmdk", "sparse VMDK"},
                                                               {"redo.vmdk", "redo layer"},
                                                               {"se.vmdk", "redo layer"},
                                                               {"child.vmdk", "parentCID"},
                                                               {"two.vmdk", "2 extents"},
                                                               {"shifted.vmdk", "sector 128"},
                                                               {"escape.vmdk", "same folder"},
                                                               {"text.vmdk", "neither"},
                                                               {"small.vmdk", "has 1 bytes"},
                                                               {"missing.vmdk", "was not found"},
                                                               {"../flat-flat.vmdk", "below a datastore"},
                                                               {"", "below a datastore"}};
  for (const auto& [file, words] : cases) {
    const auto reason = made->refuses(disk(std::string("[ds] ") + file, 1024));
    ASSERT_TRUE(reason) << file;
    EXPECT_NE(reason->find(words), std::string::npos) << file << ": " << *reason;
    EXPECT_EQ(failure_of([&] { made->serve(disk(std::string("[ds] ") + file, 1024), {}); }).fault(),
              Fault::unsupported);
  }
  FrozenDisk layer = disk("[ds] flat.vmdk", 1024);
  EXPECT_FALSE(made->refuses(layer));
  layer.has_parent = true;
  EXPECT_TRUE(made->refuses(layer));
}

TEST(DatastorePathTest, Spellings) {
  EXPECT_EQ(parse_datastore_path("[ds 1] a/b.vmdk"), (DatastorePath{"ds 1", "a/b.vmdk"}));
  EXPECT_EQ(parse_datastore_path("a/b.vmdk"), (DatastorePath{"", "a/b.vmdk"}));
  EXPECT_EQ(parse_datastore_path("[ds]"), (DatastorePath{"ds", ""}));
  EXPECT_EQ(flat_file("a/b.vmdk"), "a/b-flat.vmdk");
  EXPECT_EQ(flat_file("a/b-flat.vmdk"), "a/b-flat.vmdk");
  EXPECT_EQ(flat_file("b.img"), "b.img");
}

TEST(CertificateTest, LeafOfAChainAndItsNames) {
  const auto who = identity("*.example", "DNS:*.example,IP:127.0.0.1");
  HttpsServer server({who.get(), "/", {'x'}});
  http::Trust trust;
  trust.sha256 = who->sha256();
  const http::Certificate certificate = http::certificate("https://" + server.endpoint() + "/", trust, {});
  EXPECT_EQ(certificate.pem, pem_of(who->certificate));
  EXPECT_TRUE(certificate.names_host);
  EXPECT_EQ(certificate.names.front(), "*.example");
  EXPECT_THROW(http::certificate("http://127.0.0.1:1/", trust, {}), Error);
}

}  // namespace vmferry::source::vmware::test
