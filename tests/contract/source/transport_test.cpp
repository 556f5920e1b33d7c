// Disks over https end to end: nbdkit's curl plugin against an HTTPS server.
#include <gtest/gtest.h>

#include "http/certificate.hpp"
#include "https_server.hpp"
#include "source/vmware/datastore_path.hpp"
#include "source/vmware/descriptor.hpp"
#include "source/vmware/folder_status.hpp"
#include "source/vmware/transport.hpp"
#include "transport_fixture.hpp"

namespace vmferry::source::vmware::test {

namespace {

constexpr const char* resource = "/folder/web%2001/web%2001-flat.vmdk?dcPath=folder%2FDC0&dsName=Local%20DS";

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

  std::vector<char> content_;
  std::unique_ptr<HttpsServer> server_;
  std::string cookie_ = "vmware_soap_session=\"session-0\"";
  std::atomic<int> renewals_{0};
};

}  // namespace

TEST_F(HttpsTransportTest, PinnedSelfSignedCertificate) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  const auto made = transport(pinned(*who), server_->endpoint());
  EXPECT_EQ(made->name(), "https");
  const auto source = made->serve(point_, disk(), {});
  EXPECT_EQ(source->bytes(), capacity);
  EXPECT_TRUE(copied(*source) == content_);
  EXPECT_EQ(server_->cookies_seen(), std::set<std::string>{cookie_});
  EXPECT_EQ(renewals_, 0);
}

TEST_F(HttpsTransportTest, PinnedCertificateOfAnUnknownAuthority) {
  const auto authority = identity("Some CA", "", nullptr, true);
  const auto who = identity("vcenter", "IP:127.0.0.1", authority.get());
  serve(*who);
  const auto source = transport(pinned(*who), server_->endpoint())->serve(point_, disk(), {});
  EXPECT_TRUE(copied(*source) == content_);
}

// ESXi's own certificate, or a vCenter called by its address: the pin says who it is, the name does not matter.
TEST_F(HttpsTransportTest, PinnedCertificateMadeForAnotherName) {
  const auto who = identity("localhost.localdomain", "DNS:localhost.localdomain");
  serve(*who);
  const auto source = transport(pinned(*who), server_->endpoint())->serve(point_, disk(), {});
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
    const auto source = transport(trust, server_->endpoint())->serve(point_, disk(), {});
    const std::string line = command_line("/proc/" + std::to_string(server_pid(folder_.path())));
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
  EXPECT_EQ(thrown([&] { transport(pinned(*other), server_->endpoint())->serve(point_, disk(), {}); }).fault(),
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
  EXPECT_TRUE(copied(*transport(trust, server_->endpoint())->serve(point_, disk(), {})) == content_);
  http::Trust insecure;
  insecure.insecure = true;
  EXPECT_TRUE(copied(*transport(insecure, server_->endpoint())->serve(point_, disk(), {})) == content_);
  EXPECT_EQ(thrown([&] { transport({}, server_->endpoint())->serve(point_, disk(), {}); }).fault(), Fault::auth);
}

TEST_F(HttpsTransportTest, SessionThatExpiresBeforehandIsRenewed) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  server_->accept_cookie("another");
  const auto source = transport(pinned(*who), server_->endpoint())->serve(point_, disk(), {});
  EXPECT_EQ(renewals_, 1);
  EXPECT_TRUE(copied(*source) == content_);
}

TEST_F(HttpsTransportTest, EveryRefusalHasItsSentence) {
  const auto who = identity("vcenter", "IP:127.0.0.1");
  serve(*who);
  const auto made = transport(pinned(*who), server_->endpoint());
  const auto refused = [&](int status, const std::string& body = "") {
    server_->refuse_status = status;
    server_->refuse_body = body;
    return thrown([&] { made->serve(point_, disk(), {}); });
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
  EXPECT_FALSE(made->refuses(disk()));
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
