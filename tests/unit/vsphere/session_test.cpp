// One login for many calls: renewed once when it ends, never hammered, never repeated when that could act twice.
#include "vsphere/session.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "fake_server.hpp"
#include "support/fake_clock.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::vsphere {
namespace {

const Moref vm42{"VirtualMachine", "vm-42"};
const std::string ok = envelope("<OkResponse><returnval>fine</returnval></OkResponse>");

class SessionTest : public testing::Test {
 protected:
  std::unique_ptr<Session> open() {
    return std::make_unique<Session>(
        server,
        SessionOptions{"vc.example:443", "user@vsphere.local", Secret(std::string("pa<ss")), std::chrono::seconds(0)},
        clock, log, std::stop_token());
  }
  static std::string header(const http::Request& request, const std::string& name) {
    for (const auto& [key, value] : request.headers)
      if (key == name) return value;
    return "";
  }
  FakeServer server;
  support::FakeClock clock;
  log::Log log;
};

TEST_F(SessionTest, LogsInAndOut) {
  {
    auto session = open();
    EXPECT_TRUE(session->content().is_vcenter);
    EXPECT_EQ(session->content().instance_uuid, "dbed6e0c-bd88-4ef6-b594-21283e1c677f");
    EXPECT_EQ(session->content().api_version, "8.0.2.0");
    EXPECT_EQ(session->cookie(false, {}).reveal(), "vmware_soap_session=\"cookie-1\"");
    server.on("X", FakeServer::xml(ok));
    EXPECT_EQ(session->call(Call("X", vm42), Repeat::freely, {})["returnval"].text(), "fine");
    EXPECT_EQ(header(server.last("X"), "Cookie"), "vmware_soap_session=\"cookie-1\"");
    EXPECT_EQ(header(server.last("X"), "SOAPAction"), "urn:vim25/8.0.2.0");
    EXPECT_EQ(header(server.last("Login"), "Cookie"), "") << "a login inside a session is refused";
    EXPECT_NE(server.last("Login").body.find("<userName>user@vsphere.local</userName><password>pa&lt;ss</password>"),
              std::string::npos);
  }
  EXPECT_EQ(server.count("Logout"), 1);
}

TEST_F(SessionTest, KnowsABareHost) {
  server.on("RetrieveServiceContent", FakeServer::file("service-content-esxi.xml"));
  auto session = open();
  EXPECT_FALSE(session->content().is_vcenter);
  EXPECT_EQ(session->content().instance_uuid, "");
}

TEST_F(SessionTest, AWrongPasswordIsAskedOnce) {
  server.on("Login", FakeServer::file("fault-invalid-login.xml"));
  try {
    open();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::auth);
    EXPECT_EQ(e.name(), "InvalidLogin");
    EXPECT_NE(std::string(e.what()).find("user@vsphere.local"), std::string::npos);
    EXPECT_EQ(std::string(e.what()).find("pa<ss"), std::string::npos);
  }
  EXPECT_EQ(server.count("Login"), 1);
}

TEST_F(SessionTest, SomethingElseAtTheAddressIsSaidInWords) {
  for (auto answer : {FakeServer::xml("<html/>", 404), FakeServer::xml(envelope("<Other/>"))}) {
    server.on("RetrieveServiceContent", answer);
    try {
      open();
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::config) << e.what();
      EXPECT_NE(std::string(e.what()).find("vCenter or an ESXi host"), std::string::npos);
    }
  }
}

TEST_F(SessionTest, RenewsOnceWhenTheSessionEnded) {
  auto session = open();
  server.on("Login", FakeServer::logged_in("cookie-2"));
  server.on("X", FakeServer::file("fault-not-authenticated.xml")).then("X", FakeServer::xml(ok));
  EXPECT_EQ(session->call(Call("X", vm42), Repeat::never, {})["returnval"].text(), "fine");
  EXPECT_EQ(header(server.last("X"), "Cookie"), "vmware_soap_session=\"cookie-2\"");
  EXPECT_EQ(server.count("Login"), 2);
  EXPECT_EQ(session->login(), 2U);
}

TEST_F(SessionTest, GivesUpWhenTheNewSessionIsRefusedToo) {
  auto session = open();
  server.on("X", FakeServer::file("fault-not-authenticated.xml"));
  EXPECT_THROW(session->call(Call("X", vm42), Repeat::freely, {}), FaultError);
  EXPECT_EQ(server.count("X"), 2);
  EXPECT_EQ(server.count("Login"), 2);
}

TEST_F(SessionTest, ARefusedRenewalStandsForAWhile) {
  auto session = open();
  server.on("Login", FakeServer::file("fault-invalid-login.xml"));
  server.on("X", FakeServer::file("fault-not-authenticated.xml"));
  for (int i = 0; i < 5; ++i) EXPECT_THROW(session->call(Call("X", vm42), Repeat::freely, {}), FaultError);
  EXPECT_EQ(server.count("Login"), 2) << "asking again and again locks the account";
  clock.sleep(std::chrono::seconds(61), {});
  EXPECT_THROW(session->call(Call("X", vm42), Repeat::freely, {}), FaultError);
  EXPECT_EQ(server.count("Login"), 3);
}

TEST_F(SessionTest, ManyThreadsMakeOneNewLogin) {
  auto session = open();
  std::atomic<bool> renewed{false};
  server.on("Login", [&](const http::Request& request) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    renewed = true;
    return FakeServer::logged_in("cookie-2")(request);
  });
  server.on("X", [&](const http::Request& request) {
    const bool fresh = header(request, "Cookie").find("cookie-2") != std::string::npos;
    return fresh ? http::Response{200, {}, ok} : http::Response{500, {}, golden("fault-not-authenticated.xml")};
  });
  std::atomic<int> fine{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back(
          [&] { fine += session->call(Call("X", vm42), Repeat::freely, {})["returnval"].text() == "fine"; });
  }
  EXPECT_EQ(fine, 8);
  EXPECT_TRUE(renewed);
  EXPECT_EQ(server.count("Login"), 2);
}

TEST_F(SessionTest, FaultsAreNotRepeated) {
  auto session = open();
  server.on("X", FakeServer::file("fault-no-permission.xml"));
  EXPECT_THROW(session->call(Call("X", vm42), Repeat::freely, {}), FaultError);
  EXPECT_EQ(server.count("X"), 1) << "a SOAP fault comes as HTTP 500";
}

TEST_F(SessionTest, LostRepliesAreRepeatedOnlyWhenHarmless) {
  auto session = open();
  server.on("X", FakeServer::lost(true)).then("X", FakeServer::xml(ok));
  EXPECT_EQ(session->call(Call("X", vm42), Repeat::freely, {})["returnval"].text(), "fine");
  EXPECT_EQ(server.count("X"), 2);
  server.on("Y", FakeServer::lost(true));
  try {
    session->call(Call("Y", vm42), Repeat::never, {});
    FAIL();
  } catch (const http::Broken& e) {
    EXPECT_TRUE(e.may_have_acted());
  }
  EXPECT_EQ(server.count("Y"), 1);
  server.on("Z", FakeServer::lost(false)).then("Z", FakeServer::xml(ok));
  EXPECT_EQ(session->call(Call("Z", vm42), Repeat::never, {})["returnval"].text(), "fine")
      << "it surely was not acted on";
}

TEST_F(SessionTest, AGatewayThatFailsAfterTheActCountsAsLost) {
  auto session = open();
  for (auto answer : {FakeServer::xml("<html>bad gateway</html>", 502), FakeServer::xml("garbage", 200),
                      FakeServer::xml("oops", 500)}) {
    server.on("X", answer);
    try {
      session->call(Call("X", vm42), Repeat::never, {});
      FAIL();
    } catch (const http::Broken& e) {
      EXPECT_TRUE(e.may_have_acted());
    }
  }
  EXPECT_EQ(server.count("X"), 3);
}

TEST_F(SessionTest, AnOverloadedServerIsAskedAgain) {
  auto session = open();
  server.on("X", FakeServer::xml("busy", 503)).then("X", FakeServer::xml(ok));
  EXPECT_EQ(session->call(Call("X", vm42), Repeat::never, {})["returnval"].text(), "fine");
}

TEST_F(SessionTest, CallsBoundToALoginDoNotSurviveIt) {
  auto session = open();
  const std::uint64_t login = session->login();
  server.on("X", FakeServer::file("fault-not-authenticated.xml")).then("X", FakeServer::xml(ok));
  EXPECT_THROW(session->call_bound(Call("X", vm42), login, {}), SessionRenewed);
  EXPECT_THROW(session->call_bound(Call("X", vm42), login, {}), SessionRenewed) << "not even sent";
  EXPECT_EQ(server.count("X"), 1);
  EXPECT_EQ(session->call_bound(Call("X", vm42), session->login(), {})["returnval"].text(), "fine");
}

TEST_F(SessionTest, ARefusedCookieIsCheckedBeforeItIsReplaced) {
  auto session = open();
  server.on("RetrievePropertiesEx", FakeServer::file("machine.xml"));
  EXPECT_EQ(session->cookie(true, {}).reveal(), "vmware_soap_session=\"cookie-1\"");
  EXPECT_EQ(server.count("Login"), 1);
  server.on("Login", FakeServer::logged_in("cookie-2"));
  server.on("RetrievePropertiesEx", FakeServer::file("fault-not-authenticated.xml"))
      .then("RetrievePropertiesEx", FakeServer::file("machine.xml"));
  EXPECT_EQ(session->cookie(true, {}).reveal(), "vmware_soap_session=\"cookie-2\"");
}

TEST_F(SessionTest, PagesBeginAgainWhenTheLoginEndsBetweenThem) {
  auto session = open();
  server.on("CreateContainerView",
            FakeServer::xml(envelope("<R><returnval type=\"ContainerView\">view-1</returnval></R>")));
  server.on("RetrievePropertiesEx", FakeServer::file("listing-1.xml"));
  server.on("ContinueRetrievePropertiesEx", FakeServer::file("fault-not-authenticated.xml"))
      .then("ContinueRetrievePropertiesEx", FakeServer::file("listing-2.xml"));
  server.on("DestroyView", FakeServer::xml(ok));
  const auto objects = read_inventory(*session, {{"VirtualMachine", {"name"}}}, 2, {});
  EXPECT_EQ(objects.size(), 7U) << "no object twice, none missing";
  EXPECT_EQ(server.count("CreateContainerView"), 2) << "the old view went with its login";
}

}  // namespace
}  // namespace vmferry::vsphere
