// Logging in, staying logged in, finding services and their versions, reading pages and refusals.
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "openstack/discovery.hpp"
#include "openstack/errors.hpp"
#include "openstack/keystone.hpp"
#include "scripted.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using support::has;
using support::thrown;

CloudConfig config_of(const Environment& environment) { return read_config(environment, {}); }

TEST(Keystone, AuthBodies) {
  const json password = json::parse(auth_body(demo_config()));
  EXPECT_EQ(
      password,
      json::parse(
          R"({"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"demo","domain":{"id":"default"},
    "password":"pass-of-demo"}}},"scope":{"project":{"name":"demo","domain":{"id":"default"}}}}})"));
  const json credential = json::parse(auth_body(config_of({{"OS_AUTH_URL", "http://c"},
                                                           {"OS_APPLICATION_CREDENTIAL_ID", "i"},
                                                           {"OS_APPLICATION_CREDENTIAL_SECRET", "s"},
                                                           {"OS_PROJECT_NAME", "p"}})));
  EXPECT_EQ(
      credential,
      json::parse(
          R"({"auth":{"identity":{"methods":["application_credential"],"application_credential":{"id":"i","secret":"s"}}}})"));
  const json by_name = json::parse(auth_body(config_of({{"OS_AUTH_URL", "http://c"},
                                                        {"OS_APPLICATION_CREDENTIAL_NAME", "n"},
                                                        {"OS_USER_ID", "u"},
                                                        {"OS_APPLICATION_CREDENTIAL_SECRET", "s"}})));
  EXPECT_EQ(by_name["auth"]["identity"]["application_credential"],
            json::parse(R"({"name":"n","secret":"s","user":{"id":"u"}})"));
  const json token =
      json::parse(auth_body(config_of({{"OS_AUTH_URL", "http://c"}, {"OS_TOKEN", "t"}, {"OS_PROJECT_ID", "p"}})));
  EXPECT_EQ(
      token,
      json::parse(R"({"auth":{"identity":{"methods":["token"],"token":{"id":"t"}},"scope":{"project":{"id":"p"}}}})"));
}

TEST(Keystone, Urls) {
  EXPECT_EQ(keystone_url("https://h/identity"), "https://h/identity/v3");
  EXPECT_EQ(keystone_url("https://h:5000/v3/"), "https://h:5000/v3");
  EXPECT_EQ(keystone_url("https://h:5000/v2.0"), "https://h:5000/v3");
  EXPECT_EQ(keystone_url("https://h:5000"), "https://h:5000/v3");
}

TEST(Keystone, Endpoints) {
  const std::vector<CatalogEntry> catalog{
      {"volumev3",
       "cinder",
       {{"public", "A", "http://a"}, {"internal", "A", "http://ai"}, {"public", "B", "http://b"}}},
      {"compute", "nova", {{"public", "A", "http://n"}}}};
  const std::vector<std::string> types{"block-storage", "volumev3"};
  EXPECT_EQ(find_endpoint(catalog, "block storage", types, "B", "public"), "http://b");
  EXPECT_EQ(find_endpoint(catalog, "block storage", types, "A", "internal"), "http://ai");
  EXPECT_TRUE(has(thrown([&] { find_endpoint(catalog, "block storage", types, "", "public"); }).what(),
                  "several regions: choose one with OS_REGION_NAME or region_name: A, B"));
  EXPECT_TRUE(has(thrown([&] { find_endpoint(catalog, "block storage", types, "C", "public"); }).what(),
                  "only: public in region A, internal in region A, public in region B"));
  const Error missing = thrown([&] { find_endpoint(catalog, "image (Glance)", {"image"}, "", "public"); });
  EXPECT_EQ(missing.fault(), Fault::config);
  EXPECT_TRUE(has(missing.what(), "no image (Glance) (service type image); it has: compute, volumev3"))
      << missing.what();
}

TEST(Session, TokenGoesWithEveryCallAndIsRenewedOnceWhenRefused) {
  Bench bench([&](const http::Request& r) {
    return header_of(r, "X-Auth-Token") == "t2" ? answer(200, R"({"limits":{"absolute":{}}})")
                                                : answer(401, R"({"error":{"message":"expired","code":401}})");
  });
  Service& volume = bench.volume();
  EXPECT_EQ(bench.script->logins, 1);
  volume.get("/limits", "show limits", {});
  EXPECT_EQ(bench.script->logins, 2);
  EXPECT_EQ(bench.script->count("GET", "/limits"), 2u);
}

TEST(Session, APostRefusedFor401IsSentAgainWithItsBody) {
  Bench bench([&](const http::Request& r) {
    return header_of(r, "X-Auth-Token") == "t2" ? answer(202, "{}") : answer(401, "");
  });
  Call call;
  call.method = "POST";
  call.path = "/volumes";
  call.body = "{\"a\":1}";
  call.doing = "try";
  EXPECT_EQ(bench.volume().call(call, {}).status, 202);
  std::vector<std::string> bodies;
  for (const http::Request& r : bench.script->asked)
    if (r.url.find("/volumes") != std::string::npos) bodies.push_back(r.body);
  EXPECT_EQ(bodies, (std::vector<std::string>{"{\"a\":1}", "{\"a\":1}"}));
  for (const http::Request& r : bench.script->asked) {
    int tokens = 0;
    for (const auto& [name, value] : r.headers) tokens += name == "X-Auth-Token" ? 1 : 0;
    EXPECT_LE(tokens, 1);
  }
}

TEST(Session, RefusedWithEachNewTokenIsAnAuthError) {
  Bench bench([&](const http::Request&) {
    return answer(401, R"({"error":{"message":"no","code":401,"title":"Unauthorized"}})");
  });
  const Error e = thrown([&] { bench.volume().get("/limits", "show limits", {}); });
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_EQ(bench.script->logins, 4);
}

TEST(Session, ManyThreadsOneRenewal) {
  std::atomic<int> refused{0};
  constexpr int threads = 8;
  Bench bench([&](const http::Request& r) {
    if (header_of(r, "X-Auth-Token") != "t1") return answer(200, "{}");
    // All have been refused before the first renews.
    ++refused;
    while (refused < threads) std::this_thread::yield();
    return answer(401, "");
  });
  Service& volume = bench.volume();
  {
    std::vector<std::jthread> all;
    for (int i = 0; i < threads; ++i) all.emplace_back([&] { volume.get("/limits", "show limits", {}); });
  }
  EXPECT_EQ(bench.script->logins, 2);
}

TEST(Session, ATokenNearItsEndIsRenewedBeforeTheCall) {
  Bench bench([&](const http::Request&) { return answer(200, "{}"); }, 1000);
  Service& volume = bench.volume();
  bench.clock.sleep(std::chrono::seconds(900), {});
  volume.get("/limits", "show limits", {});
  EXPECT_EQ(bench.script->logins, 1);
  bench.clock.sleep(std::chrono::seconds(41), {});
  volume.get("/limits", "show limits", {});
  EXPECT_EQ(bench.script->logins, 2);
}

TEST(Session, WrongPasswordInKeystonesWords) {
  auto script = std::make_shared<Script>();
  script->act_on_login = true;
  script->act = [](const http::Request&) {
    return answer(
        401,
        R"({"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}})",
        {{"x-openstack-request-id", "req-77"}});
  };
  support::FakeClock clock;
  log::Log log;
  const Error e =
      thrown([&] { Cloud::open(demo_config(), std::make_unique<ScriptedTransport>(script), clock, log, {}); });
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_TRUE(has(e.what(), "as user 'demo' to project 'demo'")) << e.what();
  EXPECT_TRUE(has(e.what(), "The request you have made requires authentication")) << e.what();
  EXPECT_TRUE(has(e.what(), "req-77")) << e.what();
  EXPECT_FALSE(has(e.what(), "pass-of-demo"));
}

TEST(Session, AnOutOfDateGivenTokenSaysSo) {
  auto script = std::make_shared<Script>();
  script->act_on_login = true;
  script->act = [](const http::Request& r) {
    EXPECT_EQ(header_of(r, "X-Subject-Token"), "given");
    return answer(401, "");
  };
  support::FakeClock clock;
  log::Log log;
  const Error e = thrown([&] {
    Cloud::open(config_of({{"OS_AUTH_URL", "http://cloud/identity"}, {"OS_TOKEN", "given"}, {"OS_PROJECT_ID", "p1"}}),
                std::make_unique<ScriptedTransport>(script), clock, log, {});
  });
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_TRUE(has(e.what(), "has expired or was revoked")) << e.what();
}

TEST(Session, AGivenTokenOfTheRightProjectIsUsedAsItIs) {
  auto script = std::make_shared<Script>();
  script->act = [](const http::Request& r) {
    if (r.method == "GET" && has(r.url, "/auth/tokens"))
      return answer(200, token_json(), {{"X-Subject-Token", "given"}});
    EXPECT_EQ(header_of(r, "X-Auth-Token"), "given");
    return answer(200, "{}");
  };
  support::FakeClock clock;
  log::Log log;
  const auto cloud =
      Cloud::open(config_of({{"OS_AUTH_URL", "http://cloud/identity"}, {"OS_TOKEN", "given"}, {"OS_PROJECT_ID", "p1"}}),
                  std::make_unique<ScriptedTransport>(script), clock, log, {});
  cloud->volume({}).get("/limits", "show limits", {});
  EXPECT_EQ(script->logins, 0);
  EXPECT_EQ(cloud->describe(), "project demo at http://cloud/identity");
}

TEST(Discovery, UrlsAreTakenApart) {
  const std::pair<const char*, EndpointUrl> table[] = {
      {"http://h:8776/v3/abc", {"http://h:8776", "v3", "abc"}},
      {"http://h/volume/v3/abc/", {"http://h/volume", "v3", "abc"}},
      {"http://h/volume/v3", {"http://h/volume", "v3", ""}},
      {"http://h/volume", {"http://h/volume", "", ""}},
      {"http://h:9696", {"http://h:9696", "", ""}},
      {"http://h:9696/", {"http://h:9696", "", ""}},
      {"http://h/compute/v2.1/", {"http://h/compute", "v2.1", ""}},
      {"http://v3/compute", {"http://v3/compute", "", ""}},
      {"http://v3", {"http://v3", "", ""}},
  };
  for (const auto& [url, wanted] : table) {
    const EndpointUrl split = split_endpoint(url);
    EXPECT_EQ(split, wanted) << url << " -> " << split.base << " " << split.version << " " << split.project;
  }
}

// A cloud with one volume and one compute URL, whose version documents are at the paths given.
Discovered discovered(ServiceKind kind, const std::string& url, const std::map<std::string, http::Response>& documents,
                      const Environment& more = {}) {
  class Documents final : public http::Transport {
   public:
    explicit Documents(std::map<std::string, http::Response> all) : all_(std::move(all)) {}
    http::Response send(const http::Request& r, std::stop_token) override {
      if (has(r.url, "/auth/tokens")) return answer(201, token_json(), {{"X-Subject-Token", "t"}});
      const auto found = all_.find(r.url);
      return found == all_.end() ? answer(404, "") : found->second;
    }
    std::map<std::string, http::Response> all_;
  };
  Environment environment{{"OS_AUTH_URL", "http://cloud/identity"},
                          {"OS_USERNAME", "u"},
                          {"OS_PASSWORD", "p"},
                          {"OS_PROJECT_NAME", "demo"}};
  environment.insert(more.begin(), more.end());
  support::FakeClock clock;
  log::Log log;
  Session session(config_of(environment), std::make_unique<Documents>(documents), clock, log);
  session.log_in({});
  return discover(session, kind, url, {});
}

const char* cinder(const char* highest) {
  static std::string text;
  text = std::string(R"({"versions":[{"id":"v3.0","version":")") + highest +
         R"(","min_version":"3.0","links":[{"rel":"self","href":"http://inner:8776/v3/"}]}]})";
  return text.c_str();
}

TEST(Discovery, Cinder) {
  const auto at = [](const std::string& url, const char* highest) {
    return std::map<std::string, http::Response>{{url, answer(200, cinder(highest))}};
  };
  // With and without version and project, behind a prefix; never on the host of the links.
  EXPECT_EQ(discovered(ServiceKind::volume, "http://h/volume/v3/p1", at("http://h/volume/v3/", "3.70")).endpoint,
            "http://h/volume/v3/p1");
  EXPECT_EQ(discovered(ServiceKind::volume, "http://h/volume/v3", at("http://h/volume/v3/", "3.70")).endpoint,
            "http://h/volume/v3");
  EXPECT_EQ(discovered(ServiceKind::volume, "http://h/volume/v3", at("http://h/volume/v3/", "3.59")).endpoint,
            "http://h/volume/v3/p1");
  EXPECT_EQ(discovered(ServiceKind::volume, "http://h:8776", at("http://h:8776/v3/", "3.59")).endpoint,
            "http://h:8776/v3/p1");
  EXPECT_EQ(
      discovered(ServiceKind::volume, "http://h:8776", {{"http://h:8776/", answer(300, cinder("3.59"))}}).microversion,
      (Microversion{3, 59}));
  EXPECT_EQ(discovered(ServiceKind::volume, "http://h/v3/p1", at("http://h/v3/", "3.71")).microversion,
            (Microversion{3, 70}));
  EXPECT_EQ(discovered(ServiceKind::volume, "http://h/v3/p1", at("http://h/v3/", "3.27")).microversion,
            (Microversion{3, 27}));
  EXPECT_EQ(
      discovered(ServiceKind::volume, "http://h/v3/p1", at("http://h/v3/", "3.70"), {{"OS_VOLUME_API_VERSION", "3.42"}})
          .microversion,
      (Microversion{3, 42}));
  EXPECT_EQ(
      discovered(ServiceKind::volume, "http://h/v3/p1", at("http://h/v3/", "3.70"), {{"OS_VOLUME_API_VERSION", "3"}})
          .microversion,
      (Microversion{3, 70}));
}

TEST(Discovery, Nova) {
  const auto both = answer(
      200,
      R"({"versions":[{"id":"v2.0","version":"","min_version":""},{"id":"v2.1","version":"2.93","min_version":"2.1"}]})");
  const auto one = answer(200, R"({"version":{"id":"v2.1","version":"2.60","min_version":"2.1"}})");
  EXPECT_EQ(discovered(ServiceKind::compute, "http://h/compute", {{"http://h/compute/", both}}).endpoint,
            "http://h/compute/v2.1");
  EXPECT_EQ(discovered(ServiceKind::compute, "http://h/compute/v2/p1", {{"http://h/compute/", both}}).endpoint,
            "http://h/compute/v2.1/p1");
  EXPECT_EQ(discovered(ServiceKind::compute, "http://h/compute/v2.1", {{"http://h/compute/v2.1/", one}}).microversion,
            (Microversion{2, 60}));
  const auto young = answer(200, R"({"version":{"id":"v2.1","version":"2.99","min_version":"2.95"}})");
  const Error e = thrown([&] { discovered(ServiceKind::compute, "http://h/v2.1", {{"http://h/v2.1/", young}}); });
  EXPECT_EQ(e.fault(), Fault::unsupported);
  EXPECT_TRUE(has(e.what(), "needs at least microversion 2.95")) << e.what();
}

TEST(Discovery, NeutronAndWhatIsNotThere) {
  const auto root = answer(200, R"({"versions":[{"id":"v2.0","status":"CURRENT"}]})");
  EXPECT_EQ(discovered(ServiceKind::network, "http://h:9696", {{"http://h:9696/", root}}).endpoint,
            "http://h:9696/v2.0");
  EXPECT_EQ(discovered(ServiceKind::network, "http://h/net/v2.0", {}).endpoint, "http://h/net/v2.0");
  EXPECT_EQ(thrown([] { discovered(ServiceKind::volume, "http://h/volume", {}); }).fault(), Fault::config);
  EXPECT_EQ(thrown([] { discovered(ServiceKind::volume, "http://h/volume/v2/p1", {}); }).fault(), Fault::config);
  // A version document that may not be read leaves the lowest common ground.
  EXPECT_EQ(discovered(ServiceKind::volume, "http://h/v3/p1", {{"http://h/v3/", answer(403, "")}}).microversion,
            Microversion{});
}

TEST(Service, MicroversionHeaders) {
  Bench bench([](const http::Request& r) {
    if (has(r.url, "/compute/")) {
      EXPECT_EQ(header_of(r, "OpenStack-API-Version"), "compute 2.79");
      EXPECT_EQ(header_of(r, "X-OpenStack-Nova-API-Version"), "2.79");
    } else if (has(r.url, "/volume/")) {
      EXPECT_EQ(header_of(r, "OpenStack-API-Version"), "volume 3.70");
    } else {
      EXPECT_EQ(header_of(r, "OpenStack-API-Version"), "");
    }
    return answer(200, "{}");
  });
  for (Service* service : {&bench.compute(), &bench.volume(), &bench.network()}) service->get("/limits", "look", {});
}

TEST(Service, PagesAreFollowedOnOurOwnHost) {
  Bench bench([](const http::Request& r) {
    EXPECT_EQ(r.url.rfind("http://cloud/volume/v3/p1/volumes/detail?", 0), 0u) << r.url;
    if (has(r.url, "marker=2")) return answer(200, R"({"volumes":[{"id":"3"}]})");
    if (has(r.url, "marker=1"))
      return answer(
          200,
          R"({"volumes":[{"id":"2"}],"volumes_links":[{"rel":"next","href":"http://inner/v3/p1/volumes/detail?a=b&marker=2"}]})");
    return answer(
        200,
        R"({"volumes":[{"id":"1"}],"volumes_links":[{"rel":"next","href":"http://inner/v3/p1/volumes/detail?a=b&marker=1"}]})");
  });
  const auto items = bench.volume().list("/volumes/detail?a=b", "volumes", "list", {});
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[2].text("id"), "3");
}

TEST(Service, PagesInACircleAreNoticed) {
  Bench bench([](const http::Request&) {
    return answer(200, R"({"volumes":[],"volumes_links":[{"rel":"next","href":"http://h/?marker=1"}]})");
  });
  EXPECT_EQ(thrown([&] { bench.volume().list("/volumes", "volumes", "list", {}); }).fault(), Fault::data);
}

TEST(Service, AnswersThatAreNoJson) {
  Bench bench([](const http::Request&) { return answer(200, "<html>Welcome to the login page</html>"); });
  const Error e = thrown([&] { bench.volume().get("/limits", "show limits", {}); });
  EXPECT_EQ(e.fault(), Fault::data);
  EXPECT_TRUE(has(e.what(), "is there a proxy in between?")) << e.what();
}

struct Row {
  int status;
  const char* body;
  Fault fault;
  const char* name;
  const char* says;
};

TEST(Errors, Table) {
  const Row table[] = {
      {400, R"({"badRequest":{"code":400,"message":"Invalid input for field/attribute size."}})", Fault::config,
       "badRequest", "Invalid input for field/attribute size"},
      {401,
       R"({"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}})",
       Fault::auth, "Unauthorized", "requires authentication"},
      {403, R"({"forbidden":{"code":403,"message":"Policy doesn't allow volume:create to be performed."}})",
       Fault::auth, "forbidden", "Policy doesn't allow volume:create"},
      {403,
       R"({"forbidden":{"code":403,"message":"Quota exceeded for cores: Requested 8, but already used 16 of 20 cores"}})",
       Fault::quota, "forbidden", "already used 16 of 20 cores"},
      {404, R"({"itemNotFound":{"code":404,"message":"Volume x could not be found."}})", Fault::not_found,
       "itemNotFound", "Volume x could not be found"},
      {409,
       R"({"conflictingRequest":{"code":409,"message":"Cannot 'attach_volume' instance x while it is in vm_state building"}})",
       Fault::conflict, "conflictingRequest", "vm_state building"},
      {409, R"({"NeutronError":{"type":"OverQuota","message":"Quota exceeded for resources: ['port'].","detail":""}})",
       Fault::quota, "OverQuota", "['port']"},
      {409,
       R"({"NeutronError":{"type":"MacAddressInUse","message":"Unable to complete operation for network x. The mac address y is in use.","detail":""}})",
       Fault::conflict, "MacAddressInUse", "is in use"},
      {413,
       R"({"overLimit":{"code":413,"message":"VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota 'volumes'."}})",
       Fault::quota, "overLimit", "allowed (10)"},
      {429, "", Fault::unavailable, "", "limits the rate"},
      {400, R"({"badRequest":{"code":400,"message":"Invalid volume: Volume status must be available or error"}})",
       Fault::conflict, "badRequest", "status must be available"},
      {500, R"({"computeFault":{"code":500,"message":"Unexpected API Error."}})", Fault::unavailable, "computeFault",
       "Unexpected API Error"},
      {503, "<html><body><h1>503 Service Unavailable</h1>\nNo server is available.</body></html>", Fault::unavailable,
       "", "503 Service Unavailable No server is available"},
      {502, "", Fault::unavailable, "", "no reason given (HTTP status 502)"},
      {404,
       R"({"message": "The resource could not be found.<br /><br />\n\n\n", "code": "404 Not Found", "title": "Not Found"})",
       Fault::not_found, "", "could not be found"},
      {406,
       R"({"errors":[{"status":406,"title":"Not Acceptable","detail":"Version 3.99 is not supported","code":"microversion"}]})",
       Fault::unsupported, "microversion", "Version 3.99"},
  };
  for (const Row& row : table) {
    const Refused e = refusal("Cinder", "do it", answer(row.status, row.body, {{"x-openstack-request-id", "req-1"}}));
    EXPECT_EQ(e.fault(), row.fault) << row.body;
    EXPECT_EQ(e.name(), row.name) << row.body;
    EXPECT_TRUE(has(e.what(), row.says)) << e.what();
    EXPECT_TRUE(has(e.what(), "req-1")) << e.what();
    EXPECT_EQ(e.status(), row.status);
  }
}

TEST(Fields, AbsentIsEmptyAndAnotherKindIsNamed) {
  const Fields f =
      Fields::parse(R"({"a":null,"n":5,"s":"7","b":true,"o":{"x":1},"l":[{"y":"z"}],"t":["p"]})", "the answer");
  EXPECT_FALSE(f.has("a"));
  EXPECT_EQ(f.text("a"), "");
  EXPECT_EQ(f.text("n"), "5");
  EXPECT_EQ(f.number("s"), 7);
  EXPECT_EQ(f.number("missing", -1), -1);
  EXPECT_TRUE(f.flag("b"));
  EXPECT_EQ(f.at("o").number("x"), 1);
  EXPECT_EQ(f.at("nothing").at("deeper").text("x"), "");
  EXPECT_EQ(f.each("l").at(0).text("y"), "z");
  EXPECT_EQ(f.texts("t"), (std::vector<std::string>{"p"}));
  for (const auto& wrong : std::vector<std::function<void()>>{
           [&] { f.text("o"); }, [&] { f.number("b"); }, [&] { f.at("l"); }, [&] { f.each("o"); }, [&] { f.each("t"); },
           [&] { f.texts("l"); }, [&] { f.map("l"); }, [&] { f.map("n"); }})
    EXPECT_EQ(thrown(wrong).fault(), Fault::data);
}

// As many addresses as subnets of IPv6 have: a /64, a /48.
TEST(Fields, ANumberTooLargeIsTheLargestThereIs) {
  const Fields f = Fields::parse(
      R"({"max":9223372036854775807,"64":18446744073709551614,"48":1208925819614629174706174,"min":-5,"part":1.5})",
      "the answer");
  for (const char* key : {"max", "64", "48"}) EXPECT_EQ(f.number(key), std::numeric_limits<std::int64_t>::max()) << key;
  EXPECT_EQ(f.number("min"), -5);
  EXPECT_EQ(thrown([&] { f.number("part"); }).fault(), Fault::data);
}

}  // namespace
}  // namespace vmferry::openstack
