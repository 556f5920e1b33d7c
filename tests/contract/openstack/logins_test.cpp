// Who we are to the lab's OpenStack: every way to log in, and tokens that end whenever they like. The same suite runs
// against the stand-in and, in a lab with them, against the real services.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/finally.hpp"
#include "base/id.hpp"
#include "openstack/attachments.hpp"
#include "openstack/cloud.hpp"
#include "openstack/flavors.hpp"
#include "openstack/images.hpp"
#include "openstack/keypairs.hpp"
#include "openstack/networks.hpp"
#include "openstack/ports.hpp"
#include "openstack/servers.hpp"
#include "openstack/volumes.hpp"
#include "openstack_fixture.hpp"
#include "support/fake_clock.hpp"

namespace vmferry::openstack {
namespace {

TEST_F(OpenStack, WrongPassword) {
  const Error e = thrown([&] { open({{"OS_PASSWORD", "not-it-at-all"}}); });
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_TRUE(has(e.what(), "requires authentication")) << e.what();
  EXPECT_TRUE(has(e.what(), "req-")) << e.what();
}

TEST_F(OpenStack, AnotherRegionOrInterfaceIsExplained) {
  const auto cloud = open({{"OS_REGION_NAME", "Atlantis"}});
  const Error e = thrown([&] { cloud->volume({}); });
  EXPECT_EQ(e.fault(), Fault::config);
  EXPECT_TRUE(has(e.what(), "in region Atlantis")) << e.what();
}

TEST_F(OpenStack, AnUnknownCertificateIsRefused) {
  CloudConfig config = load(environment());
  config.ca_file.clear();
  auto carrier = transport(config);
  const Error e = thrown([&] { Cloud::open(std::move(config), std::move(carrier), clock_, log_, {}); });
  EXPECT_EQ(e.fault(), Fault::auth);
  const std::string variable = "add the variable VMFERRY_OPENSTACK_FINGERPRINT with ", said = e.what();
  ASSERT_TRUE(has(said, variable)) << said;
  EXPECT_TRUE(has(said, "OS_CACERT")) << said;
  // Following the advice works.
  const std::string fingerprint = said.substr(said.find(variable) + variable.size(), 95);
  EXPECT_NE(open({{"VMFERRY_OPENSTACK_FINGERPRINT", fingerprint}}), nullptr);
  EXPECT_EQ(thrown([&] {
              open({{"VMFERRY_OPENSTACK_FINGERPRINT", "00" + fingerprint.substr(2)}});
            }).fault(),
            Fault::auth);
}

// A credential and a token made through the lab's own calls.
class Logins : public OpenStack {
 protected:
  http::Response raw(const std::string& method, const std::string& url, const json& body, const std::string& token) {
    CloudConfig config = load(environment());
    http::Request request;
    request.method = method;
    request.url = url;
    request.body = body.is_null() ? "" : body.dump();
    request.headers = {{"Content-Type", "application/json"}};
    if (!token.empty()) request.headers.emplace_back("X-Auth-Token", token);
    return transport(config)->send(request, {});
  }
  std::string auth_url() const { return lab_->get("openstack.auth_url"); }
  std::pair<std::string, json> token() {
    const CloudConfig config = load(environment());
    const json user{{"name", config.user.name},
                    {"domain", {{"id", "default"}}},
                    {"password", std::string(config.password.reveal())}};
    const json project{{"name", config.project.name}, {"domain", {{"id", "default"}}}};
    const http::Response r = raw("POST", auth_url() + "/auth/tokens",
                                 {{"auth",
                                   {{"identity", {{"methods", {"password"}}, {"password", {{"user", user}}}}},
                                    {"scope", {{"project", project}}}}}},
                                 "");
    EXPECT_EQ(r.status, 201) << r.body;
    return {r.header("x-subject-token"), json::parse(r.body)};
  }
  Environment bare(const Environment& more) const {
    Environment all{{"OS_AUTH_URL", auth_url()}, {"OS_CACERT", lab_->get("openstack.ca")}};
    all.insert(more.begin(), more.end());
    return all;
  }
  std::unique_ptr<Cloud> open_bare(const Environment& more) {
    return support::open_cloud(read_config(bare(more), {}), clock_, log_);
  }
};

TEST_F(Logins, ApplicationCredentialByIdAndByName) {
  const auto [id, body] = token();
  const std::string user = body["token"]["user"]["id"];
  const http::Response made =
      raw("POST", auth_url() + "/users/" + user + "/application_credentials",
          {{"application_credential", {{"name", "mover"}, {"secret", "credential-secret"}}}}, id);
  ASSERT_EQ(made.status, 201) << made.body;
  const std::string credential = json::parse(made.body)["application_credential"]["id"];
  const auto by_id = open_bare(
      {{"OS_APPLICATION_CREDENTIAL_ID", credential}, {"OS_APPLICATION_CREDENTIAL_SECRET", "credential-secret"}});
  EXPECT_EQ(volumes::limits(by_id->volume({}), {}).volumes_used, 0);
  const auto by_name = open_bare({{"OS_APPLICATION_CREDENTIAL_NAME", "mover"},
                                  {"OS_APPLICATION_CREDENTIAL_SECRET", "credential-secret"},
                                  {"OS_USER_ID", user}});
  EXPECT_EQ(volumes::limits(by_name->volume({}), {}).volumes_used, 0);
  control("POST", "/tokens/revoke");
  EXPECT_EQ(volumes::limits(by_id->volume({}), {}).volumes_used, 0);
  const auto [fresh, ignored] = token();
  raw("DELETE", auth_url() + "/users/" + user + "/application_credentials/" + credential, nullptr, fresh);
  // Services believe for a while what they have checked.
  std::optional<Error> refused;
  for (int i = 0; i < 120 && !refused; ++i) {
    try {
      volumes::limits(by_id->volume({}), {});
      clock_.sleep(500ms, {});
    } catch (const Error& e) {
      refused = e;
    }
  }
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->fault(), Fault::auth) << refused->what();
}

TEST_F(Logins, AGivenTokenWorksUntilItIsRevoked) {
  const auto [id, body] = token();
  const auto cloud = open_bare({{"OS_TOKEN", id}, {"OS_PROJECT_ID", body["token"]["project"]["id"]}});
  EXPECT_EQ(volumes::limits(cloud->volume({}), {}).volumes_used, 0);
  control("POST", "/tokens/revoke");
  const Error e = thrown([&] { volumes::limits(cloud->volume({}), {}); });
  EXPECT_EQ(e.fault(), Fault::auth);
  EXPECT_TRUE(has(e.what(), "has expired or was revoked")) << e.what();
}

// A cloud in files of its own: what the environment cannot say, and secrets apart.
TEST_F(Logins, EveryWayToSayWhoOneIs) {
  const CloudConfig known = load(environment());
  const std::string password(known.password.reveal()), ca = lab_->get("openstack.ca");
  const json who = token().second["token"];
  const std::string user = who["user"]["id"], project = who["project"]["id"], domain = who["project"]["domain"]["id"],
                    domain_name = who["project"]["domain"]["name"];
  const json by_names{{"username", known.user.name},
                      {"user_domain_name", domain_name},
                      {"project_name", known.project.name},
                      {"project_domain_name", domain_name}};
  const auto with = [&](json auth, const json& more) {
    auth.update(more);
    return auth;
  };
  const json secret{{"password", password}};
  struct Row {
    const char* name;
    json auth;
    json outside = json::object();  // beside auth
    json secure = json::object();   // auth of secure.yaml
    bool verified = true;
  };
  const Row rows[] = {
      {"all by name", with(by_names, secret)},
      {"the password in secure.yaml", by_names, {}, secret},
      {"secure.yaml wins", with(by_names, {{"password", "not-it-at-all"}}), {}, secret},
      {"domains by id", with(secret, {{"username", known.user.name},
                                      {"user_domain_id", domain},
                                      {"project_name", known.project.name},
                                      {"project_domain_id", domain}})},
      {"one domain for both, by name",
       with(secret,
            {{"username", known.user.name}, {"project_name", known.project.name}, {"domain_name", domain_name}})},
      {"one default domain for both, by id",
       with(secret, {{"username", known.user.name}, {"project_name", known.project.name}, {"default_domain", domain}})},
      {"user and project by id", with(secret, {{"user_id", user}, {"project_id", project}})},
      {"a user by name in a project by id",
       with(secret, {{"username", known.user.name}, {"user_domain_name", domain_name}, {"project_id", project}})},
      {"a user by id in a project by name",
       with(secret, {{"user_id", user}, {"project_name", known.project.name}, {"project_domain_id", domain}})},
      {"internal", with(by_names, secret), {{"interface", "internal"}}},
      {"internal, in its old spelling", with(by_names, secret), {{"endpoint_type", "internalURL"}}},
      {"insecure", with(by_names, secret), {{"insecure", true}}, {}, false},
      {"not verified", with(by_names, secret), {{"verify", false}}, {}, false},
  };
  support::TemporaryDirectory folder;
  const std::filesystem::path clouds = folder.path() / "clouds.json", secure = folder.path() / "secure.json";
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    json cloud = row.outside.is_null() ? json::object() : row.outside;
    cloud["auth"] = with(row.auth, {{"auth_url", auth_url()}});
    if (row.verified) cloud["cacert"] = ca;
    std::ofstream(clouds) << json{{"clouds", {{"mine", cloud}}}};
    const json apart = row.secure.is_null() ? json::object() : row.secure;
    std::ofstream(secure) << json{{"clouds", {{"mine", {{"auth", apart}}}}}};
    try {
      const auto opened = support::open_cloud(load({{"OS_CLIENT_CONFIG_FILE", clouds.string()},
                                                    {"OS_CLIENT_SECURE_FILE", secure.string()},
                                                    {"OS_CLOUD", "mine"}}),
                                              clock_, log_);
      EXPECT_EQ(opened->project_id(), project);
      EXPECT_EQ(volumes::limits(opened->volume({}), {}).volumes_used, 0);
    } catch (const Error& e) {
      // A cloud need not have inner endpoints; the sentence says what it has.
      EXPECT_TRUE(has(row.name, "internal") && has(e.what(), "with a internal endpoint, only: ")) << e.what();
    }
  }
  // The same files without the CA are refused, so what "insecure" showed was that.
  json cloud{{"auth", with(with(by_names, secret), {{"auth_url", auth_url()}})}};
  std::ofstream(clouds) << json{{"clouds", {{"mine", cloud}}}};
  EXPECT_EQ(
      thrown([&] {
        support::open_cloud(load({{"OS_CLIENT_CONFIG_FILE", clouds.string()}, {"OS_CLOUD", "mine"}}), clock_, log_);
      }).fault(),
      Fault::auth);
}

// Lets each token serve one call: before it is sent a second time all tokens are revoked. So every call but the first
// meets an ended token, and is sent again with a new one.
class OneCallEach {
 public:
  OneCallEach(bool real, std::string keystone, std::function<void()> revoke)
      : real_(real), keystone_(std::move(keystone)), revoke_(std::move(revoke)) {}

  support::Wrap wrap() {
    return [this](std::unique_ptr<http::Transport> below) {
      return std::make_unique<support::Watched>(
          std::move(below), [this](const http::Request& request) { before(request); },
          [this](const http::Request& request, const http::Response& response) { after(request, response); });
    };
  }
  void begin() { on_ = true; }
  // What a real service does with the token of the call that asked for it, after it has answered: Nova attaches,
  // detaches, starts and ends servers with it, Cinder copies an image. Without that token it stops half-way for good
  // ("attaching"), whoever its client is. So the call itself meets a revocation, and those that wait for the end of
  // such work do not, until the test knows of that end.
  void finished() { busy_ = false; }
  // The calls that were refused, their ids taken out: "POST /volume/v3/{id}/volumes".
  std::multiset<std::string> met;
  // Those that were answered with an ended token.
  std::vector<std::string> believed;

 private:
  static std::string token_of(const http::Request& request) {
    for (const auto& [name, value] : request.headers)
      if (name == "X-Auth-Token") return value;
    return "";
  }
  bool is_keystones(const http::Request& request) const { return request.url.rfind(keystone_, 0) == 0; }
  void before(const http::Request& request) {
    if (!on_ || busy_ || is_keystones(request) || !served_.contains(token_of(request))) return;
    revoke_();
    ended_ = true;
  }
  void after(const http::Request& request, const http::Response& response) {
    if (is_keystones(request)) return;
    const std::string path = request.url.substr(request.url.find('/', request.url.find("//") + 2));
    static const std::regex id("[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}");
    const std::string call = request.method + " " + std::regex_replace(path.substr(0, path.find('?')), id, "{id}");
    const bool ended = std::exchange(ended_, false);
    if (response.status == 401) {
      met.insert(call);
      return;
    }
    if (ended) believed.push_back(call);
    served_.insert(token_of(request));
    const bool servers = path.rfind("/compute/", 0) == 0 && has(path, "/servers") && request.method != "GET",
               copies = has(request.body, "imageRef") && path.rfind("/volume/", 0) == 0;
    if (real_ && response.status < 300 && (servers || copies)) busy_ = true;
  }

  const bool real_;
  const std::string keystone_;
  const std::function<void()> revoke_;
  bool on_ = false;
  bool busy_ = false;
  bool ended_ = false;  // the token of the call on its way
  std::set<std::string> served_;
};

class FewBytes final : public http::Upload {
 public:
  std::uint64_t bytes() const override { return 1 << 20; }
  std::size_t read(std::uint64_t, char* into, std::size_t size) override {
    std::fill_n(into, size, 'x');
    return size;
  }
};

TEST_F(OpenStack, TheTokenEndsBetweenAnyTwoCalls) {
  OneCallEach tokens(real(), lab_->get("openstack.auth_url"), [] { control("POST", "/tokens/revoke"); });
  const auto cloud = open({}, tokens.wrap());
  Service &volume = cloud->volume({}), &compute = cloud->compute({}), &network = cloud->network({}),
          &image = cloud->image({});
  tokens.begin();

  // A volume's life.
  const auto used = volumes::limits(volume, {}).volumes_used;
  const Volume boot = make(*cloud, wish());
  volumes::update_metadata(volume, boot.id, {{"change_id", "52 aa/17"}}, {});
  volumes::remove_metadata(volume, boot.id, "odd", {});
  volumes::set_bootable(volume, boot.id, true, {});
  volumes::set_image_metadata(volume, boot.id, {{"os_type", "linux"}}, {});
  volumes::extend(volume, boot.id, 2, {});
  attachments::attach(compute, volume, host(), boot.id, patience, {});
  tokens.finished();
  attachments::detach(compute, volume, host(), boot.id, patience, {});
  tokens.finished();
  EXPECT_EQ(volumes::find(volume, {{"change_id", "52 aa/17"}}, {}).size(), 1u);

  // What a plan asks for.
  const auto sizes = flavors::list_with_specs(compute, {});
  EXPECT_FALSE(sizes.empty());
  EXPECT_EQ(servers::limits(compute, {}).lacking(1, 1), std::nullopt);
  EXPECT_EQ(volumes::limits(volume, {}).volumes_used, used + 1);
  volumes::type_limits(volume, cloud->project_id(), lab_->get("openstack.volume_type"), {});
  networks::room(network, cloud->project_id(), "port", {});
  EXPECT_EQ(networks::find(network, lab_->get("openstack.network_id"), {}).id, lab_->get("openstack.network_id"));

  // A server of it.
  const std::string key = "key-" + random_uuid();
  keypairs::ensure(compute, key,
                   "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqkLbYyQmTLGs4kqFdGtdPRzx7pFkOVTHbE0WfqkVKD test", {});
  const PortWish port_wish{.name = "web01-nic0",
                           .description = "vmferry job-1",
                           .network = lab_->get("openstack.network_id"),
                           .mac = "00:50:56:AA:BB:04",
                           .fixed_ips = {{lab_->get("openstack.subnet_id"), ""}},
                           .security_groups = {}};
  const MadePort port = ports::ensure(network, port_wish, {});
  EXPECT_TRUE(port.created);
  ServerWish w;
  w.name = "web01";
  w.flavor_id = lab_->get("openstack.flavor_id");
  w.volumes = {boot.id};
  w.ports = {port.port.id};
  w.key_name = key;
  w.metadata = w.tag = {{"vmferry_job", "job-1"}};
  const Server made = servers::create(compute, w, {});
  EXPECT_EQ(servers::wait_for_active(compute, made.id, patience, {}).status, "ACTIVE");
  tokens.finished();
  EXPECT_EQ(servers::find(compute, w.tag, {}).size(), 1u);

  // A volume of an image.
  ImageWish image_wish;
  image_wish.name = "disk " + random_uuid();
  image_wish.disk_format = "raw";
  image_wish.min_disk_gib = 1;
  image_wish.properties = image_wish.tag = {{"vmferry_job", random_uuid()}};
  const ImageId filled{images::create(image, image_wish, {}).id};
  FewBytes data;
  images::put_data(image, filled, data, {});
  EXPECT_EQ(images::wait_until_active(image, filled, patience, {}).bytes, 1 << 20);
  VolumeWish copy = wish("of-an-image");
  copy.image = filled;
  const VolumeId copied = make(*cloud, copy).id;
  tokens.finished();

  // All of it goes.
  servers::remove(compute, made.id, patience, {});
  tokens.finished();
  ports::remove(network, port.port.id, {});
  keypairs::remove(compute, key, {});
  volumes::wait_for(volume, boot.id, {"available"}, patience, {});
  volumes::remove(volume, boot.id, {});
  volumes::remove(volume, copied, {});
  images::remove(image, filled, {});
  EXPECT_EQ(volumes::look_up(volume, boot.id, {}), std::nullopt);
  EXPECT_FALSE(images::look_up(image, filled, {}));

  RecordProperty("refused", static_cast<int>(tokens.met.size()));
  EXPECT_TRUE(tokens.believed.empty()) << "answered with an ended token: " << json(tokens.believed).dump(1);
  const std::string v = "/volume/v3/{id}", one = v + "/volumes/{id}", nova = "/compute/v2.1",
                    attached = nova + "/servers/{id}/os-volume_attachments";
  for (const std::string& call : {"POST " + v + "/volumes",
                                  "GET " + one,
                                  "POST " + one + "/metadata",
                                  "DELETE " + one + "/metadata/odd",
                                  "POST " + one + "/action",
                                  "DELETE " + one,
                                  "GET " + v + "/limits",
                                  "POST " + attached,
                                  "DELETE " + attached + "/{id}",
                                  "POST " + nova + "/os-keypairs",
                                  "DELETE " + nova + "/os-keypairs/key-{id}",
                                  "GET " + nova + "/flavors/detail",
                                  "GET " + nova + "/limits",
                                  "POST " + nova + "/servers",
                                  "DELETE " + nova + "/servers/{id}",
                                  std::string("POST /network/v2.0/ports"),
                                  std::string("DELETE /network/v2.0/ports/{id}"),
                                  std::string("POST /image/v2/images"),
                                  std::string("PUT /image/v2/images/{id}/file"),
                                  std::string("DELETE /image/v2/images/{id}")})
    EXPECT_TRUE(tokens.met.contains(call))
        << call << " met no ended token; those that did: " << json(tokens.met).dump(1);
}

TEST_F(OpenStack, ATokenThatExpiresInTheMiddleOfEachKindOfCall) {
  const auto cloud = open();
  cloud->volume({});
  cloud->compute({});
  fault({{"service", "volume"}, {"method", "POST"}, {"path_regex", "/volumes$"}, {"count", 1}, {"kind", "expire"}});
  const Volume v = make(*cloud, wish());
  EXPECT_EQ(volumes_made(), 1u);
  fault({{"service", "compute"},
         {"method", "POST"},
         {"path_regex", "os-volume_attachments"},
         {"count", 1},
         {"kind", "expire"}});
  attachments::attach(cloud->compute({}), cloud->volume({}), host(), v.id, patience, {});
  fault({{"service", "compute"},
         {"method", "DELETE"},
         {"path_regex", "os-volume_attachments"},
         {"count", 1},
         {"kind", "expire"}});
  attachments::detach(cloud->compute({}), cloud->volume({}), host(), v.id, patience, {});
  volumes::remove(cloud->volume({}), v.id, {});
}

TEST_F(OpenStack, ACallOutlivesRevocationsInARow) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  const json refusal{{"service", "volume"}, {"method", "GET"}, {"path_regex", "limits"}, {"kind", "expire"}};
  const auto refused = [&](int times) {
    json rule = refusal;
    rule["count"] = times;
    return rule;
  };
  fault(refused(3));
  EXPECT_EQ(volumes::limits(volume, {}).volumes_used, 0);
  // Not for ever: a service that believes no token at all is said.
  fault(refused(100));
  EXPECT_EQ(thrown([&] { volumes::limits(volume, {}); }).fault(), Fault::auth);
}

TEST_F(OpenStack, ShortLivedTokensAreRenewedBeforeTheyEnd) {
  if (real()) GTEST_SKIP() << "how long tokens live is a setting of the stand-in";
  // For the client alone time passes: no machine is so slow that the lab's end of a token comes before it.
  control("POST", "/settings", {{"token_ttl_s", 1000}});
  const Finally restore([] { control("POST", "/settings", {{"token_ttl_s", 3600}}); });
  support::FakeClock clock;
  const auto cloud = support::open_cloud(load(environment()), clock, log_);
  Service& volume = cloud->volume({});
  const auto logins = [] { return calls("POST", "/auth/tokens"); };
  ASSERT_EQ(logins(), 1);
  for (int renewed = 1; renewed < 4; ++renewed) {
    // A minute before its end, and not much sooner.
    clock.sleep(930s, {});
    volumes::limits(volume, {});
    EXPECT_EQ(logins(), renewed);
    clock.sleep(20s, {});
    volumes::limits(volume, {});
    EXPECT_EQ(logins(), renewed + 1);
  }
  for (const json& call : control("GET", "/calls")) EXPECT_NE(call["status"], 401) << call;
}

TEST_F(OpenStack, ManyThreadsSurviveARevocation) {
  // Before requests of their midst, however the threads take turns; as often as a call renews its token, since at worst
  // one call meets them all.
  std::atomic<bool> on = false;
  std::atomic<int> sent = 0;
  const auto cloud = open({}, [&](std::unique_ptr<http::Transport> below) {
    return std::make_unique<support::Watched>(
        std::move(below),
        [&](const http::Request&) {
          if (!on) return;
          if (const int now = ++sent; now == 10 || now == 20 || now == 30) control("POST", "/tokens/revoke");
        },
        support::Watched::After());
  });
  Service& volume = cloud->volume({});
  const int before = calls("POST", "/auth/tokens");
  on = true;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 6; ++t)
      threads.emplace_back([&] {
        try {
          for (int i = 0; i < 10; ++i) volumes::limits(volume, {});
        } catch (const Error& e) {
          ADD_FAILURE() << e.what();
        }
      });
  }
  EXPECT_GT(calls("POST", "/auth/tokens"), before);
}

}  // namespace
}  // namespace vmferry::openstack
