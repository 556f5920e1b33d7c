// The libcurl transport against a real TLS server: whom it trusts, what it says when it breaks, what it never does.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <fstream>
#include <future>
#include <sstream>
#include <thread>

#include "base/fd.hpp"
#include "http/http.hpp"
#include "support/lab.hpp"
#include "support/tls_server.hpp"

namespace vmferry::http {
namespace {

using namespace std::chrono_literals;
using support::Certificate;
using support::make_certificate;
using support::ok;
using support::Reply;
using support::TlsServer;

Request get(const std::string& url) {
  Request request;
  request.url = url;
  return request;
}

Request post(const std::string& url, const std::string& body) {
  Request request;
  request.method = "POST";
  request.url = url;
  request.body = body;
  return request;
}

Reply hello(const std::string&) { return ok("hello"); }

class CurlTest : public testing::Test {
 protected:
  CurlTest() {
    for (const char* name : {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}) ::unsetenv(name);
  }
  std::filesystem::path file(const std::string& name, const std::string& text) {
    std::ofstream(tmp_.path() / name) << text;
    return tmp_.path() / name;
  }
  Trust trust() const {
    Trust t;
    t.who = "vCenter";
    t.pin_flag = "--vmware-fingerprint";
    t.ca_flag = "--vmware-ca";
    return t;
  }
  std::unique_ptr<Transport> transport(Trust t) {
    CurlOptions options;
    options.trust = std::move(t);
    return curl(std::move(options), log_);
  }
  std::unique_ptr<Transport> pinned(const Certificate& certificate) {
    Trust t = trust();
    t.sha256 = certificate.sha256;
    return transport(t);
  }
  // The error of a request that must fail before anything was sent.
  Error refused(const TlsServer& server, const Trust& t, const std::string& host = "127.0.0.1") {
    try {
      transport(t)->send(post(server.url("/secret-path", host), "secret-body"), {});
    } catch (const Error& e) {
      EXPECT_EQ(server.bytes_received(), 0U) << "bytes were given away";
      return e;
    }
    ADD_FAILURE() << "accepted";
    return Error(Fault::bug, "accepted");
  }
  // The break of a request, with whether it may have acted.
  Broken broken(Transport& t, const Request& request) {
    try {
      t.send(request, {});
    } catch (const Broken& e) {
      return e;
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what();
      return Broken(Fault::bug, "another error", false);
    }
    ADD_FAILURE() << "answered";
    return Broken(Fault::bug, "answered", false);
  }

  support::TemporaryDirectory tmp_;
  log::Log log_;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// ---- trust

TEST_F(CurlTest, ACaFileVouchesForItsServers) {
  const Certificate ca = make_certificate({{}, true});
  TlsServer server({.certificate = make_certificate({}, &ca)}, hello);
  Trust t = trust();
  t.ca_file = file("ca.pem", ca.certificate_pem);
  EXPECT_EQ(transport(t)->send(get(server.url()), {}).body, "hello");
  EXPECT_EQ(transport(t)->send(get(server.url("/", "localhost")), {}).body, "hello");
}

TEST_F(CurlTest, AnUnknownCertificateIsExplained) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self}, hello);
  const Error e = refused(server, trust());
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_EQ(e.what(), "vCenter at 127.0.0.1:" + std::to_string(server.port()) +
                          " shows a certificate nobody here vouches for (self-signed certificate; SHA-256 " +
                          self.sha256 + "). If you have checked it, add --vmware-fingerprint " + self.sha256 +
                          ", or give its CA with --vmware-ca FILE.");
}

TEST_F(CurlTest, AnotherCaDoesNotVouch) {
  const Certificate ca = make_certificate({{}, true}), other = make_certificate({{}, true});
  TlsServer server({.certificate = make_certificate({}, &ca)}, hello);
  Trust t = trust();
  t.ca_file = file("other.pem", other.certificate_pem);
  EXPECT_TRUE(contains(refused(server, t).what(), "unable to get local issuer certificate"));
}

TEST_F(CurlTest, AnExpiredCertificateIsRefused) {
  const Certificate ca = make_certificate({{}, true});
  TlsServer server({.certificate = make_certificate({{"127.0.0.1"}, false, true}, &ca)}, hello);
  Trust t = trust();
  t.ca_file = file("ca.pem", ca.certificate_pem);
  EXPECT_TRUE(contains(refused(server, t).what(), "certificate has expired"));
}

TEST_F(CurlTest, ANameThatDoesNotMatchIsExplained) {
  const Certificate ca = make_certificate({{}, true});
  TlsServer server({.certificate = make_certificate({{"vc.example.com", "10.1.2.3"}}, &ca)}, hello);
  Trust t = trust();
  t.ca_file = file("ca.pem", ca.certificate_pem);
  const Error e = refused(server, t);
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_TRUE(contains(e.what(), "made for vc.example.com, 10.1.2.3 and not for 127.0.0.1")) << e.what();
  EXPECT_TRUE(contains(e.what(), "--vmware-fingerprint")) << e.what();
}

TEST_F(CurlTest, APinIsEnoughHoweverItIsWritten) {
  const Certificate self = make_certificate({{"another.name"}, false, true});
  TlsServer server({.certificate = self}, hello);
  std::string plain;
  for (const char c : self.sha256)
    if (c != ':') plain += static_cast<char>(std::tolower(c));
  for (const std::string& pin : {self.sha256, plain}) {
    Trust t = trust();
    t.sha256 = pin;
    EXPECT_EQ(transport(t)->send(get(server.url()), {}).body, "hello") << pin;
  }
}

TEST_F(CurlTest, AWrongPinStopsInTheHandshake) {
  const Certificate ca = make_certificate({{}, true}), shown = make_certificate({}, &ca),
                    expected = make_certificate({});
  TlsServer server({.certificate = shown}, hello);
  Trust t = trust();
  t.sha256 = expected.sha256;
  t.ca_file = file("ca.pem", ca.certificate_pem);  // would vouch, but the pin comes first
  const Error e = refused(server, t);
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_EQ(e.name(), "certificate_changed");
  EXPECT_TRUE(contains(e.what(), shown.sha256) && contains(e.what(), expected.sha256)) << e.what();
}

TEST_F(CurlTest, APinThatIsNoneIsAConfigurationError) {
  for (const char* pin : {"AA:BB", "zz", "DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09"}) {
    Trust t = trust();
    t.sha256 = pin;
    try {
      transport(t);
      ADD_FAILURE() << pin;
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::config);
      EXPECT_TRUE(contains(e.what(), "--vmware-fingerprint")) << e.what();
    }
  }
}

TEST_F(CurlTest, InsecureAcceptsAnythingAndSaysSo) {
  TlsServer server({.certificate = make_certificate({{"x"}, false, true})}, hello);
  Trust t = trust();
  t.insecure = true;
  log::Log loud(tmp_.path() / "log", nullptr, log::Level::debug, false, log::Level::error);
  CurlOptions options;
  options.trust = t;
  EXPECT_EQ(curl(options, loud)->send(get(server.url()), {}).body, "hello");
  std::stringstream text;
  text << std::ifstream(tmp_.path() / "log").rdbuf();
  EXPECT_TRUE(contains(text.str(), "NOT verified")) << text.str();
}

// A password that was not encoded is what makes a URL none.
TEST_F(CurlTest, AUrlThatIsNoneIsShownWithoutItsPassword) {
  for (const char* url : {"https://user:se/cret@host.example:x/v3", "https://user:se?cret#x@host.example:x/v3"}) {
    try {
      transport(trust())->send(get(url), {});
      ADD_FAILURE() << url;
    } catch (const Error& e) {
      const std::string why = e.what();
      EXPECT_NE(why.find("'https://host.example:x' is not the beginning of a URL"), std::string::npos) << why;
    }
  }
}

TEST_F(CurlTest, AMissingCaFileIsNamed) {
  TlsServer server({.certificate = make_certificate({})}, hello);
  Trust t = trust();
  t.ca_file = tmp_.path() / "no-such-ca.pem";
  const Error e = refused(server, t);
  EXPECT_EQ(e.fault(), Fault::config);
  EXPECT_TRUE(contains(e.what(), "no-such-ca.pem")) << e.what();
}

TEST_F(CurlTest, ShowsItsOwnCertificateWhenAsked) {
  const Certificate ca = make_certificate({{}, true}), mine = make_certificate({{"client"}}, &ca),
                    server_cert = make_certificate({});
  TlsServer server({.certificate = server_cert, .client_ca_pem = ca.certificate_pem}, hello);
  Trust t = trust();
  t.sha256 = server_cert.sha256;
  t.client_flag = "the flag";
  const Error missing = refused(server, t);
  EXPECT_EQ(missing.fault(), Fault::auth);
  EXPECT_TRUE(contains(missing.what(), "wants a client certificate: give one with the flag")) << missing.what();
  const Certificate of_nobody = make_certificate({{"client"}});
  t.client_certificate = file("other.pem", of_nobody.certificate_pem);
  t.client_key = file("other.key", of_nobody.key_pem);
  const Error wrong = refused(server, t);
  EXPECT_TRUE(contains(wrong.what(), "does not accept the client certificate")) << wrong.what();
  t.client_certificate = file("mine.pem", mine.certificate_pem);
  t.client_key = file("mine.key", mine.key_pem);
  EXPECT_EQ(transport(t)->send(get(server.url()), {}).body, "hello");
  t.client_key = tmp_.path() / "absent.key";
  TlsServer another({.certificate = server_cert, .client_ca_pem = ca.certificate_pem}, hello);
  const Error e = refused(another, t);
  EXPECT_EQ(e.fault(), Fault::config);
  EXPECT_TRUE(contains(e.what(), "absent.key")) << e.what();
}

TEST_F(CurlTest, FingerprintsComeFromAnAcceptedConnectionOnly) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self}, hello);
  Trust t = trust();
  EXPECT_THROW(fingerprints(server.url(), t, {}), Error);
  t.sha256 = self.sha256;
  const Fingerprints seen = fingerprints(server.url("/sdk"), t, {});
  EXPECT_EQ(seen.sha256, self.sha256);
  EXPECT_EQ(seen.sha1, self.sha1);
  EXPECT_EQ(server.bytes_received(), 0U);
  TlsServer plain({}, hello);
  EXPECT_THROW(fingerprints(plain.url(), t, {}), Error);
}

// ---- exchanges

TEST_F(CurlTest, SendsWhatItIsToldAndNothingElse) {
  TlsServer server({}, [](const std::string&) { return ok("{}", "X-A: 1 \r\nx-a: 2\r\n"); });
  Request request = post(server.url("/v3/x?y=1"), std::string("a\0b", 3));
  request.headers = {{"Content-Type", "application/json"}, {"X-Empty", ""}};
  const Response response = transport(trust())->send(request, {});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.header("X-A"), "1");
  EXPECT_EQ(response.headers.size(), 3U);
  const std::string seen = server.requests().at(0);
  EXPECT_TRUE(seen.starts_with("POST /v3/x?y=1 HTTP/1.1\r\n")) << seen;
  EXPECT_TRUE(seen.ends_with(std::string("\r\n\r\na\0b", 7))) << seen;
  EXPECT_TRUE(contains(seen, "Content-Type: application/json\r\n")) << seen;
  EXPECT_TRUE(contains(seen, "X-Empty:\r\n")) << seen;
  EXPECT_FALSE(contains(seen, "Expect")) << seen;
  EXPECT_FALSE(contains(seen, "urlencoded")) << seen;
}

TEST_F(CurlTest, EveryMethodGoesAsItsName) {
  TlsServer server({}, [](const std::string& request) {
    return request.starts_with("HEAD") ? Reply{"HTTP/1.1 204 No Content\r\nX-M: h\r\n\r\n", Reply::Then::keep, {}}
                                       : ok("x");
  });
  auto t = transport(trust());
  for (const char* method : {"GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "GET"}) {
    Request request = get(server.url("/m"));
    request.method = method;
    t->send(request, {});
    EXPECT_TRUE(server.requests().back().starts_with(std::string(method) + " /m HTTP/1.1\r\n"))
        << server.requests().back();
  }
  Request with_body = post(server.url(), "payload");
  with_body.method = "DELETE";
  t->send(with_body, {});
  EXPECT_TRUE(server.requests().back().starts_with("DELETE ") && server.requests().back().ends_with("payload"));
}

TEST_F(CurlTest, StatusesAreAnswersAndRedirectsAreNotFollowed) {
  TlsServer server({}, [](const std::string&) {
    return Reply{"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\nno", Reply::Then::keep, {}};
  });
  const Response response = transport(trust())->send(get(server.url()), {});
  EXPECT_EQ(response.status, 302);
  EXPECT_EQ(response.header("Location"), "/elsewhere");
  EXPECT_EQ(response.body, "no");
  EXPECT_EQ(server.requests().size(), 1U);
}

TEST_F(CurlTest, HeadersOfAnInterimAnswerAreForgotten) {
  TlsServer server({}, [](const std::string&) {
    return Reply{"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n" + ok("x").bytes, Reply::Then::keep, {}};
  });
  const Response response = transport(trust())->send(get(server.url()), {});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.header("X-Interim"), "");
}

TEST_F(CurlTest, AHeaderCannotSmuggleAnother) {
  TlsServer server({}, hello);
  Request request = get(server.url());
  request.headers = {{"X", "a\r\nCookie: b"}};
  EXPECT_THROW(transport(trust())->send(request, {}), Error);
  EXPECT_TRUE(server.requests().empty());
}

TEST_F(CurlTest, ConnectionsAreKept) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self}, hello);
  auto t = pinned(self);
  Request request = post(server.url(), "x");
  request.idempotent = true;
  for (int i = 0; i < 5; ++i) t->send(request, {});
  EXPECT_EQ(server.connections(), 1);
  EXPECT_EQ(server.requests().size(), 5U);
}

TEST_F(CurlTest, ManyThreadsShareOneTransport) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self},
                   [](const std::string& request) { return ok(request.substr(request.find("\r\n\r\n") + 4)); });
  auto t = pinned(self);
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int n = 0; n < 6; ++n)
      threads.emplace_back([&, n] {
        for (int i = 0; i < 10; ++i) {
          Request request = post(server.url(), std::to_string(n) + "/" + std::to_string(i));
          request.idempotent = true;
          if (t->send(request, {}).body == request.body) ++good;
        }
      });
  }
  EXPECT_EQ(good, 60);
  EXPECT_LE(server.connections(), 6);
}

TEST_F(CurlTest, AUnixSocketTakesThePlaceOfTheHost) {
  TlsServer server({.unix_socket = tmp_.path() / "control.sock"}, hello);
  CurlOptions options;
  options.unix_socket = tmp_.path() / "control.sock";
  EXPECT_EQ(curl(options, log_)->send(get("http://lab/faults"), {}).body, "hello");
  EXPECT_TRUE(contains(server.requests().at(0), "Host: lab\r\n"));
  options.unix_socket = tmp_.path() / "absent.sock";
  auto t = curl(options, log_);
  EXPECT_TRUE(contains(broken(*t, get("http://lab/")).what(), "absent.sock"));
}

TEST_F(CurlTest, AProxyIsUsedAndItsRefusalIsNoAct) {
  TlsServer proxy({}, [](const std::string& request) {
    return request.starts_with("CONNECT")
               ? Reply{"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", Reply::Then::close, {}}
               : ok("by proxy");
  });
  CurlOptions options;
  options.trust = trust();
  options.proxy = proxy.url();
  auto t = curl(options, log_);
  EXPECT_EQ(t->send(get("http://vc.invalid/sdk"), {}).body, "by proxy");
  EXPECT_TRUE(proxy.requests().at(0).starts_with("GET http://vc.invalid/sdk HTTP/1.1")) << proxy.requests().at(0);
  const Broken e = broken(*t, post("https://vc.invalid/sdk", "x"));
  EXPECT_TRUE(proxy.requests().at(1).starts_with("CONNECT vc.invalid:443")) << proxy.requests().at(1);
  EXPECT_FALSE(e.may_have_acted());
}

// ---- breaks

TEST_F(CurlTest, AClosedPortIsNamedAndNothingActed) {
  // Bound, so that nobody else is given it, and nobody listens.
  const Fd bound(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(bound.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::getsockname(bound.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  const int port = ntohs(address.sin_port);
  auto t = transport(trust());
  const Broken e = broken(*t, post("https://127.0.0.1:" + std::to_string(port) + "/sdk", "x"));
  EXPECT_EQ(e.fault(), Fault::unavailable);
  EXPECT_FALSE(e.may_have_acted());
  EXPECT_TRUE(contains(e.what(), "vCenter at 127.0.0.1:" + std::to_string(port))) << e.what();
  EXPECT_TRUE(contains(e.what(), "check that it runs")) << e.what();
}

TEST_F(CurlTest, AnUnknownHostIsNamedAndNothingActed) {
  auto t = transport(trust());
  const Broken e = broken(*t, post("https://user:hunter2@no-such-host.invalid/sdk", "x"));
  EXPECT_FALSE(e.may_have_acted());
  EXPECT_TRUE(contains(e.what(), "no-such-host.invalid:443")) << e.what();
  EXPECT_FALSE(contains(e.what(), "hunter2")) << e.what();
}

TEST_F(CurlTest, ThingsThatAreNoWebAddressesAreRefused) {
  auto t = transport(trust());
  for (const char* url : {"", "vc.example.com/sdk", "ftp://h/", "file:///etc/passwd", "https://h:99999/"}) {
    try {
      t->send(get(url), {});
      ADD_FAILURE() << url;
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::config) << url << ": " << e.what();
    }
  }
}

TEST_F(CurlTest, AResetBeforeTheRequestActedNot) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self, .resets_at_once = true}, hello);
  const Broken e = broken(*pinned(self), post(server.url(), "x"));
  EXPECT_FALSE(e.may_have_acted()) << e.what();
  EXPECT_EQ(e.fault(), Fault::unavailable);
}

TEST_F(CurlTest, AServerWithoutTlsIsExplained) {
  TlsServer server({}, hello);
  auto t = transport(trust());
  const Broken e = broken(*t, post("https://127.0.0.1:" + std::to_string(server.port()) + "/", "secret"));
  EXPECT_FALSE(e.may_have_acted());
  EXPECT_TRUE(contains(e.what(), "speaks TLS")) << e.what();
  for (const std::string& seen : server.requests()) EXPECT_FALSE(contains(seen, "secret"));
}

struct LostReply {
  const char* name;
  Reply reply;
};
class LostReplies : public CurlTest, public testing::WithParamInterface<LostReply> {};

TEST_P(LostReplies, MayHaveActed) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self}, [](const std::string&) { return GetParam().reply; });
  const Broken e = broken(*pinned(self), post(server.url(), "x"));
  EXPECT_TRUE(e.may_have_acted()) << e.what();
  EXPECT_EQ(server.requests().size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(
    All, LostReplies,
    testing::Values(
        LostReply{"reset", {"", Reply::Then::reset, {}}}, LostReply{"closed", {"", Reply::Then::close, {}}},
        LostReply{"half a header", {"HTTP/1.1 200 OK\r\nConte", Reply::Then::reset, {}}},
        LostReply{"half a body", {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Reply::Then::close, {}}},
        LostReply{"reset in the body", {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Reply::Then::reset, {}}},
        LostReply{"no HTTP", {"SSH-2.0-OpenSSH\r\n\r\n", Reply::Then::close, {}}}),
    [](const auto& param) {
      std::string name = param.param.name;
      std::replace(name.begin(), name.end(), ' ', '_');
      return name;
    });

// libcurl alone would send the second POST again on a new connection: a volume would be made twice.
TEST_F(CurlTest, ALostReplyOnAKeptConnectionIsNotRepeatedBehindOurBack) {
  for (const bool tls : {false, true}) {
    for (const Reply::Then then : {Reply::Then::reset, Reply::Then::close}) {
      const Certificate self = make_certificate({});
      std::atomic<int> count = 0;
      TlsServer server({.certificate = tls ? std::optional(self) : std::nullopt}, [&](const std::string&) {
        return ++count == 2 ? Reply{"", then, {}} : ok("hello");
      });
      auto t = pinned(self);
      t->send(get(server.url()), {});  // leaves a connection to be reused
      const Broken e = broken(*t, post(server.url(), "second"));
      EXPECT_TRUE(e.may_have_acted()) << e.what();
      EXPECT_EQ(server.requests().size(), 2U);
      EXPECT_TRUE(contains(e.what(), "broke before its answer")) << e.what();
      EXPECT_EQ(t->send(post(server.url(), "third"), {}).body, "hello") << "the transport recovers";
    }
  }
}

TEST_F(CurlTest, AnIdleConnectionThatTheServerClosedCostsNothing) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self}, [](const std::string&) {
    Reply reply = ok("hello");
    reply.then = Reply::Then::close;
    return reply;
  });
  auto t = pinned(self);
  for (int i = 0; i < 6; ++i) {
    Request request = post(server.url(), "x");
    request.idempotent = i % 2 == 0;
    EXPECT_EQ(t->send(request, {}).body, "hello");
    for (int tries = 0; tries < 6000 && server.open_connections() > 0; ++tries) std::this_thread::sleep_for(10ms);
    std::this_thread::sleep_for(50ms);  // it was closed; that arrives
  }
  EXPECT_EQ(server.requests().size(), 6U);
}

TEST_F(CurlTest, ASlowServerTimesOutAfterTheAct) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self}, [](const std::string&) {
    Reply reply = ok("late");
    reply.delay = 30s;
    return reply;
  });
  Request request = post(server.url(), "x");
  request.timeout = 3s;  // with the handshake
  const Broken e = broken(*pinned(self), request);
  EXPECT_EQ(e.fault(), Fault::timeout);
  EXPECT_TRUE(e.may_have_acted());
  EXPECT_TRUE(contains(e.what(), "did not answer within 3.0 s")) << e.what();
}

TEST_F(CurlTest, AHandshakeThatHangsTimesOutBeforeTheAct) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self, .never_answers_the_handshake = true}, hello);
  CurlOptions options;
  options.trust.sha256 = self.sha256;
  options.connect_timeout = 300ms;
  auto t = curl(options, log_);
  const auto before = std::chrono::steady_clock::now();
  const Broken e = broken(*t, post(server.url(), "x"));
  EXPECT_LT(std::chrono::steady_clock::now() - before, 30s) << "the server hangs for a minute";
  EXPECT_EQ(e.fault(), Fault::unavailable);
  EXPECT_FALSE(e.may_have_acted());
}

TEST_F(CurlTest, CancellingEndsTheWaitAtOnce) {
  const Certificate self = make_certificate({});
  for (const bool in_handshake : {false, true}) {
    TlsServer server({.certificate = self, .never_answers_the_handshake = in_handshake}, [](const std::string&) {
      Reply reply = ok("late");
      reply.delay = 30s;
      return reply;
    });
    auto best = std::chrono::steady_clock::duration::max();  // of several: the machine may be busy
    for (int i = 0; i < 20 && best >= 600ms; ++i) {
      auto t = pinned(self);
      std::stop_source stop;
      auto sending = std::async(std::launch::async, [&] { return t->send(get(server.url()), stop.get_token()); });
      EXPECT_EQ(sending.wait_for(150ms), std::future_status::timeout);
      const auto before = std::chrono::steady_clock::now();
      stop.request_stop();
      ASSERT_EQ(sending.wait_for(60s), std::future_status::ready);
      best = std::min(best, std::chrono::steady_clock::now() - before);
      EXPECT_THROW(sending.get(), Cancelled);
      EXPECT_THROW(t->send(get(server.url()), stop.get_token()), Cancelled);
    }
    EXPECT_LT(best, 600ms) << "sooner than libcurl's own second";
  }
}

TEST_F(CurlTest, AServerThatHangsUpDoesNotKillUsByASignal) {
  ::signal(SIGPIPE, SIG_DFL);
  TlsServer server({}, [](const std::string&) { return Reply{"", Reply::Then::reset, {}}; });
  auto t = transport(trust());
  for (int i = 0; i < 10; ++i) broken(*t, post(server.url(), std::string(4 << 20, 'x')));
  sigset_t pending;
  ::sigpending(&pending);
  EXPECT_EQ(::sigismember(&pending, SIGPIPE), 0);
}

TEST_F(CurlTest, NothingSecretIsLogged) {
  const Certificate self = make_certificate({});
  TlsServer server({.certificate = self}, [](const std::string&) {
    return ok("r3sponse-body", "Set-Cookie: s3ssion=1\r\nX-Subject-Token: t0ken\r\n");
  });
  log::Log log(tmp_.path() / "log", nullptr, log::Level::debug, false, log::Level::error);
  CurlOptions options;
  options.trust.sha256 = self.sha256;
  Request request = post(server.url("/sdk?auth=qu3ry"), "r3quest-body");
  request.headers = {{"Authorization", "Basic c3ecret"}, {"X-Auth-Token", "h3ader"}};
  curl(options, log)->send(request, {});
  std::stringstream text;
  text << std::ifstream(tmp_.path() / "log").rdbuf();
  EXPECT_TRUE(contains(text.str(), "path=/sdk")) << text.str();
  for (const char* secret : {"r3sponse", "s3ssion", "t0ken", "qu3ry", "r3quest", "c3ecret", "h3ader"})
    EXPECT_FALSE(contains(text.str(), secret)) << text.str();
}

}  // namespace
}  // namespace vmferry::http
