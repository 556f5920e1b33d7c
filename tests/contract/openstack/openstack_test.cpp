// The client against the lab's OpenStack: real TLS, real retries, lost replies, tokens that end in the middle. The same
// suite runs against the stand-in and, in a lab with them, against the real services.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "openstack/attachments.hpp"
#include "openstack/cloud.hpp"
#include "openstack/flavors.hpp"
#include "openstack/instance.hpp"
#include "openstack/networks.hpp"
#include "openstack/ports.hpp"
#include "openstack/servers.hpp"
#include "openstack/volumes.hpp"
#include "support/lab.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

constexpr auto patience = 120s;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

template <class F>
Error thrown(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(Fault::bug, "nothing");
}

// One lab for all tests of the program; each leaves nothing behind.
class OpenStack : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    lab_ = new support::Lab({"--devices", "file", "--writer-rate", "0"});
    if (!lab_->real_openstack())
      lab_->control("openstack", "POST", "/settings",
                    R"({"create_delay_ms":50,"attach_delay_ms":60,"server_delay_ms":100})");
  }
  // A test that has to make the service itself act in a way that only the stand-in can be told to.
  static bool real() { return lab_->real_openstack(); }
  static void TearDownTestSuite() {
    delete lab_;
    lab_ = nullptr;
  }
  void SetUp() override {
    quiet();
    others_ = control("GET", "/state")["volumes"].size();
  }
  void TearDown() override {
    quiet();
    EXPECT_EQ(volumes_made(), 0u) << control("GET", "/state")["volumes"].dump(1);
  }
  // Beside those that were there before, in a lab that is lent.
  std::size_t volumes_made() const { return control("GET", "/state")["volumes"].size() - others_; }

  static json control(const std::string& method, const std::string& path, const json& body = nullptr) {
    const std::string text = lab_->control("openstack", method, path, body.is_null() ? "" : body.dump());
    return text.empty() ? json() : json::parse(text, nullptr, false);
  }
  static void quiet() {
    control("DELETE", "/faults");
    control("DELETE", "/calls");
  }
  static void fault(const json& rule) { control("POST", "/faults", rule); }
  static int calls(const std::string& method, const std::string& part) {
    int n = 0;
    for (const json& call : control("GET", "/calls"))
      if (has(call["method"].get<std::string>(), method) && has(call["path_or_object"].get<std::string>(), part)) ++n;
    return n;
  }

  Environment environment() const {
    return {{"OS_CLIENT_CONFIG_FILE", lab_->get("openstack.clouds_yaml")}, {"OS_CLOUD", lab_->get("openstack.cloud")}};
  }

  std::unique_ptr<http::Transport> transport(const CloudConfig& config) {
    http::CurlOptions options;
    options.trust = trust(config);
    http::RetryPolicy policy;
    policy.first_wait = 20ms;
    return http::retrying(http::curl(std::move(options), log_), policy, clock_, log_);
  }
  std::unique_ptr<Cloud> open(const Environment& more = {}) {
    Environment all = environment();
    for (const auto& [name, value] : more) all[name] = value;
    CloudConfig config = load(all);
    auto carrier = transport(config);
    return Cloud::open(std::move(config), std::move(carrier), clock_, log_, {});
  }

  VolumeWish wish(const std::string& name = "web01-1-2000", const std::string& job = "job-1") {
    VolumeWish w;
    w.name = name;
    w.gib = 1;
    w.type = lab_->get("openstack.volume_type");
    w.metadata = {{"vmferry_job", job}, {"disk", name}, {"odd", "it's \"odd\" ü"}};
    w.tag = {{"vmferry_job", job}, {"disk", name}};
    return w;
  }
  Volume make(Cloud& cloud, const VolumeWish& w) {
    const Volume v = volumes::create(cloud.volume({}), w, {});
    return volumes::wait_for(cloud.volume({}), v.id, {"available"}, patience, {});
  }
  ServerId host() const { return ServerId{lab_->get("openstack.instance_id")}; }

  static support::Lab* lab_;
  std::size_t others_ = 0;
  SystemClock clock_;
  log::Log log_;
};

support::Lab* OpenStack::lab_ = nullptr;

TEST_F(OpenStack, PasswordFindsEveryService) {
  const auto cloud = open();
  EXPECT_FALSE(cloud->project_id().empty());
  EXPECT_EQ(volumes::limits(cloud->volume({}), {}).volumes_used, 0);
  EXPECT_GE(flavors::list(cloud->compute({}), {}).size(), 1u);
  EXPECT_EQ(networks::find(cloud->network({}), lab_->get("openstack.network_id"), {}).id,
            lab_->get("openstack.network_id"));
  EXPECT_GT(cloud->compute({}).microversion(), (Microversion{2, 1}));
  EXPECT_GT(cloud->volume({}).microversion(), (Microversion{3, 0}));
  EXPECT_EQ(flavors::find(cloud->compute({}), lab_->get("openstack.flavor_id"), {}).id,
            lab_->get("openstack.flavor_id"));
  EXPECT_EQ(volumes::find_type(cloud->volume({}), lab_->get("openstack.volume_type"), {}).name,
            lab_->get("openstack.volume_type"));
  EXPECT_TRUE(
      has(thrown([&] { volumes::check_availability_zone(cloud->volume({}), "mars", {}); }).what(), "there are: "));
  EXPECT_TRUE(
      has(thrown([&] { servers::check_availability_zone(cloud->compute({}), "mars", {}); }).what(), "there are: "));
}

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
    CloudConfig config = read_config(bare(more), {});
    auto carrier = transport(config);
    return Cloud::open(std::move(config), std::move(carrier), clock_, log_, {});
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
  for (int i = 0; i < 20 && !refused; ++i) {
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

TEST_F(OpenStack, TheTokenEndsBetweenAnyTwoCalls) {
  const auto cloud = open();
  const auto revoke = [&] { control("POST", "/tokens/revoke"); };
  revoke();
  const Volume v = volumes::create(cloud->volume({}), wish(), {});
  revoke();
  volumes::wait_for(cloud->volume({}), v.id, {"available"}, patience, {});
  revoke();
  volumes::update_metadata(cloud->volume({}), v.id, {{"change_id", "52 aa/17"}}, {});
  revoke();
  attachments::attach(cloud->compute({}), cloud->volume({}), host(), v.id, patience, {});
  revoke();
  attachments::detach(cloud->compute({}), cloud->volume({}), host(), v.id, patience, {});
  revoke();
  EXPECT_EQ(volumes::find(cloud->volume({}), {{"change_id", "52 aa/17"}}, {}).size(), 1u);
  revoke();
  volumes::remove(cloud->volume({}), v.id, {});
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

TEST_F(OpenStack, ShortLivedTokensAreRenewedBeforeTheyEnd) {
  if (real()) GTEST_SKIP() << "how long tokens live is a setting of the stand-in";
  control("POST", "/settings", {{"token_ttl_s", 2}});
  const auto cloud = open();
  Service& volume = cloud->volume({});
  for (int i = 0; i < 8; ++i) {
    volumes::limits(volume, {});
    clock_.sleep(500ms, {});
  }
  control("POST", "/settings", {{"token_ttl_s", 3600}});
  int refused = 0;
  for (const json& call : control("GET", "/calls")) refused += call["status"] == 401 ? 1 : 0;
  const int renewals = calls("POST", "/auth/tokens") - 1;
  EXPECT_GE(renewals, 1);
  EXPECT_LT(refused, renewals) << "renewed only after it was refused";
}

TEST_F(OpenStack, ManyThreadsSurviveARevocation) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  std::vector<std::jthread> threads;
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) volumes::limits(volume, {});
    });
  for (int i = 0; i < 3; ++i) control("POST", "/tokens/revoke");
}

TEST_F(OpenStack, OverloadIsWaitedOut) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  fault({{"service", "volume"},
         {"method", "GET"},
         {"path_regex", "limits"},
         {"count", 1},
         {"kind", "http"},
         {"status", 429},
         {"retry_after", 1}});
  const auto before = clock_.mono();
  volumes::limits(volume, {});
  EXPECT_GE(clock_.mono() - before, 1s);
  fault({{"service", "volume"},
         {"method", "GET"},
         {"path_regex", "limits"},
         {"count", 3},
         {"kind", "http"},
         {"status", 503}});
  volumes::limits(volume, {});
  // A creation that was refused for overload was not done, so it may be repeated.
  fault({{"service", "volume"},
         {"method", "POST"},
         {"path_regex", "/volumes$"},
         {"count", 1},
         {"kind", "http"},
         {"status", 429},
         {"retry_after", 1}});
  const Volume v = make(*cloud, wish());
  EXPECT_EQ(volumes_made(), 1u);
  volumes::remove(volume, v.id, {});
}

TEST_F(OpenStack, OverloadThatStaysIsUnavailableWithTheRequestId) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  fault({{"service", "volume"},
         {"method", "GET"},
         {"path_regex", "limits"},
         {"count", 100},
         {"kind", "http"},
         {"status", 503}});
  const Error e = thrown([&] { volumes::limits(volume, {}); });
  EXPECT_EQ(e.fault(), Fault::unavailable);
  EXPECT_TRUE(has(e.what(), "HTTP 503")) << e.what();
  EXPECT_TRUE(has(e.what(), "req-")) << e.what();
}

TEST_F(OpenStack, LostReplyOfAVolumeCreation) {
  const auto cloud = open();
  cloud->volume({});
  for (const char* kind : {"lost-reply", "reset"}) {
    fault({{"service", "volume"}, {"method", "POST"}, {"path_regex", "/volumes$"}, {"count", 1}, {"kind", kind}});
    const Volume v = make(*cloud, wish());
    ASSERT_EQ(volumes_made(), 1u) << kind;
    EXPECT_EQ(volumes::get(cloud->volume({}), v.id, {}).metadata.at("odd"), "it's \"odd\" ü");
    volumes::remove(cloud->volume({}), v.id, {});
  }
}

TEST_F(OpenStack, AFailedCreationIsSeenAtOnce) {
  const auto cloud = open();
  cloud->volume({});
  VolumeWish hopeless = wish();
  hopeless.type = "nowhere";  // no back end has it
  const Volume v = volumes::create(cloud->volume({}), hopeless, {});
  const auto before = clock_.mono();
  const Error e = thrown([&] { volumes::wait_for(cloud->volume({}), v.id, {"available"}, 60s, {}); });
  EXPECT_LT(clock_.mono() - before, 20s);
  EXPECT_EQ(e.name(), "error");
  volumes::remove(cloud->volume({}), v.id, {});
}

TEST_F(OpenStack, QuotaInWords) {
  const auto cloud = open();
  control("POST", "/quota", {{"gigabytes", 2}});
  const Volume v = make(*cloud, wish());
  VolumeWish large = wish("web01-1-2001");
  large.gib = 5;
  const Error e = thrown([&] { volumes::create(cloud->volume({}), large, {}); });
  EXPECT_EQ(e.fault(), Fault::quota);
  EXPECT_TRUE(has(e.what(), "may have 2 GiB in volumes and 1 GiB are used, so 5 GiB more do not fit")) << e.what();
  EXPECT_EQ(thrown([&] { volumes::extend(cloud->volume({}), v.id, 4, {}); }).fault(), Fault::quota);
  control("POST", "/quota", {{"gigabytes", 1000}});
  volumes::extend(cloud->volume({}), v.id, 3, {});
  EXPECT_EQ(volumes::get(cloud->volume({}), v.id, {}).gib, 3u);
  volumes::extend(cloud->volume({}), v.id, 3, {});
  volumes::remove(cloud->volume({}), v.id, {});
}

TEST_F(OpenStack, MetadataAndImageProperties) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  const Volume v = make(*cloud, wish());
  volumes::update_metadata(volume, v.id, {{"change_id", "52 de/9"}, {"disk", "changed"}}, {});
  volumes::set_bootable(volume, v.id, true, {});
  volumes::set_image_metadata(volume, v.id, {{"hw_firmware_type", "uefi"}, {"os_type", "linux"}}, {});
  const Volume now = volumes::get(volume, v.id, {});
  EXPECT_EQ(
      now.metadata,
      (Metadata{{"vmferry_job", "job-1"}, {"disk", "changed"}, {"odd", "it's \"odd\" ü"}, {"change_id", "52 de/9"}}));
  EXPECT_TRUE(now.bootable);
  EXPECT_EQ(now.image_metadata.at("hw_firmware_type"), "uefi");
  volumes::remove_metadata(volume, v.id, "change_id", {});
  volumes::remove_metadata(volume, v.id, "change_id", {});
  EXPECT_EQ(volumes::get(volume, v.id, {}).metadata.count("change_id"), 0u);
  EXPECT_EQ(thrown([&] {
              volumes::remove_metadata(volume, VolumeId{"00000000-0000-4000-8000-000000000000"}, "x", {});
            }).fault(),
            Fault::not_found);
  EXPECT_EQ(volumes::find(volume, {{"odd", "it's \"odd\" ü"}}, {}).size(), 1u);
  EXPECT_EQ(volumes::find(volume, {{"odd", "it's"}}, {}).size(), 0u);
  EXPECT_EQ(volumes::find_by_name(volume, v.name, {}).size(), 1u);
  volumes::remove(volume, v.id, {});
  EXPECT_EQ(volumes::look_up(volume, v.id, {}), std::nullopt);
}

TEST_F(OpenStack, PagesAreFollowedToTheEnd) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  std::vector<VolumeId> made;
  for (int i = 0; i < 5; ++i) made.push_back(volumes::create(volume, wish("page-" + std::to_string(i)), {}).id);
  std::set<std::string> seen;
  const auto items = volume.list("/volumes/detail?limit=2", "volumes", "list volumes", {});
  for (const Fields& item : items) seen.insert(item.text("id"));
  EXPECT_EQ(items.size(), 5u);
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_GE(calls("GET", "/volumes/detail"), 3);
  const auto one_by_one = cloud->compute({}).list("/flavors/detail?limit=1", "flavors", "list flavors", {});
  EXPECT_EQ(one_by_one.size(), flavors::list(cloud->compute({}), {}).size());
  for (const VolumeId& id : made) {
    volumes::wait_for(volume, id, {"available"}, patience, {});
    volumes::remove(volume, id, {});
  }
}

TEST_F(OpenStack, AttachAndDetach) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  Service& compute = cloud->compute({});
  const Volume v = make(*cloud, wish());
  const std::size_t before = attachments::list(compute, host(), {}).size();
  attachments::attach(compute, volume, host(), v.id, patience, {});
  EXPECT_TRUE(std::filesystem::exists(std::filesystem::path(lab_->get("openstack.by_id")) /
                                      ("virtio-" + v.id.value.substr(0, 20))));
  attachments::attach(compute, volume, host(), v.id, patience, {});
  EXPECT_EQ(calls("POST", "os-volume_attachments"), 1);
  EXPECT_EQ(attachments::list(compute, host(), {}).size(), before + 1);
  EXPECT_EQ(thrown([&] { volumes::remove(volume, v.id, {}); }).fault(), Fault::conflict);
  attachments::detach(compute, volume, host(), v.id, patience, {});
  attachments::detach(compute, volume, host(), v.id, patience, {});
  EXPECT_EQ(volumes::get(volume, v.id, {}).status, "available");
  volumes::remove(volume, v.id, {});
  attachments::detach(compute, volume, host(), v.id, patience, {});
}

TEST_F(OpenStack, AttachAndDetachWithRepliesLostAndConflicts) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  Service& compute = cloud->compute({});
  const Volume v = make(*cloud, wish());
  const json rules[] = {{{"kind", "lost-reply"}},
                        {{"kind", "reset"}},
                        {{"kind", "http"},
                         {"status", 409},
                         {"message", "Cannot 'attach_volume' instance while it is in task_state rebooting"}}};
  for (json rule : rules) {
    rule.update({{"service", "compute"}, {"path_regex", "os-volume_attachments"}, {"count", 1}, {"method", "POST"}});
    fault(rule);
    attachments::attach(compute, volume, host(), v.id, patience, {});
    EXPECT_EQ(volumes::get(volume, v.id, {}).status, "in-use");
    rule["method"] = "DELETE";
    fault(rule);
    attachments::detach(compute, volume, host(), v.id, patience, {});
    EXPECT_EQ(volumes::get(volume, v.id, {}).status, "available");
  }
  volumes::remove(volume, v.id, {});
}

TEST_F(OpenStack, ServerFromVolumesAndPortsOnceDespiteALostReply) {
  const auto cloud = open();
  Service& volume = cloud->volume({});
  Service& compute = cloud->compute({});
  Service& network = cloud->network({});
  const Volume boot = make(*cloud, wish("web01-1-2000")), data = make(*cloud, wish("web01-1-2001"));
  volumes::set_bootable(volume, boot.id, true, {});
  const PortWish port_wish{.name = "web01-nic0",
                           .description = "vmferry job-1",
                           .network = lab_->get("openstack.network_id"),
                           .mac = "00:50:56:AA:BB:02",
                           .fixed_ips = {{lab_->get("openstack.subnet_id"), ""}},
                           .security_groups = {}};
  fault({{"service", "network"}, {"method", "POST"}, {"path_regex", "/ports$"}, {"count", 1}, {"kind", "lost-reply"}});
  const MadePort port = ports::ensure(network, port_wish, {});
  EXPECT_TRUE(port.created);
  const MadePort again = ports::ensure(network, port_wish, {});
  EXPECT_EQ(again.port.id, port.port.id);
  EXPECT_FALSE(again.created);

  ServerWish w;
  w.name = "web01";
  w.flavor_id = lab_->get("openstack.flavor_id");
  w.volumes = {boot.id, data.id};
  w.ports = {port.port.id};
  w.metadata = {{"vmferry_job", "job-1"}, {"vm", "vm-42"}};
  w.tag = {{"vmferry_job", "job-1"}};
  fault(
      {{"service", "compute"}, {"method", "POST"}, {"path_regex", "/servers$"}, {"count", 1}, {"kind", "lost-reply"}});
  const Server made = servers::create(compute, w, {});
  const Server active = servers::wait_for_active(compute, made.id, patience, {});
  EXPECT_EQ(active.metadata.at("vm"), "vm-42");
  const std::vector<Server> ours = servers::find(compute, w.tag, {});
  ASSERT_EQ(ours.size(), 1u);
  const json state = control("GET", "/state");
  for (const json& server : state.at("servers")) {
    if (server["id"] != made.id.value) continue;
    EXPECT_EQ(server["volumes"], (json{boot.id.value, data.id.value}));
    EXPECT_EQ(server["ports"], (json{port.port.id.value}));
  }
  EXPECT_EQ(ports::look_up(network, port.port.id, {})->device_id, made.id.value);
  servers::remove(compute, made.id, patience, {});
  servers::remove(compute, made.id, patience, {});
  for (const VolumeId& id : w.volumes) {
    volumes::wait_for(volume, id, {"available"}, patience, {});
    volumes::remove(volume, id, {});
  }
  ports::remove(network, port.port.id, {});
  ports::remove(network, port.port.id, {});
  EXPECT_EQ(ports::look_up(network, port.port.id, {}), std::nullopt);
}

TEST_F(OpenStack, AFailedServerTellsWhy) {
  const auto cloud = open();
  const Volume boot = make(*cloud, wish());
  volumes::set_bootable(cloud->volume({}), boot.id, true, {});
  ServerWish w;
  w.name = "web01";
  w.flavor_id = flavors::find(cloud->compute({}), "nowhere", {}).id;  // no host can have it
  w.volumes = {boot.id};
  w.metadata = w.tag = {{"vmferry_job", "job-2"}};
  const Server made = servers::create(cloud->compute({}), w, {});
  const Error e = thrown([&] { servers::wait_for_active(cloud->compute({}), made.id, patience, {}); });
  EXPECT_TRUE(has(e.what(), "No valid host was found")) << e.what();
  servers::remove(cloud->compute({}), made.id, patience, {});
  volumes::wait_for(cloud->volume({}), boot.id, {"available"}, patience, {});
  volumes::remove(cloud->volume({}), boot.id, {});
}

TEST_F(OpenStack, PortsThatCannotBe) {
  const auto cloud = open();
  Service& network = cloud->network({});
  PortWish w{.name = "n",
             .description = "vmferry job-1",
             .network = lab_->get("openstack.network_id"),
             .mac = "00:50:56:aa:bb:03",
             .fixed_ips = {{lab_->get("openstack.subnet_id"), "203.0.113.9"}},
             .security_groups = {}};
  const Error e = thrown([&] { ports::ensure(network, w, {}); });
  EXPECT_TRUE(has(e.what(), "203.0.113.9")) << e.what();
  EXPECT_TRUE(has(thrown([&] { networks::find(network, "nowhere", {}); }).what(), "there are: "));
}

TEST_F(OpenStack, ThisHostsInstance) {
  http::CurlOptions options;
  const auto plain = http::curl(std::move(options), log_);
  InstanceSources sources = {lab_->get("openstack.metadata_url"), "/nowhere/config-2", "/nowhere/dmi"};
  EXPECT_EQ(this_instance(*plain, sources, {}), host());
  sources.metadata_url = "http://127.0.0.1:1/openstack/latest/meta_data.json";
  const Error e = thrown([&] { this_instance(*plain, sources, {}); });
  EXPECT_TRUE(has(e.what(), "--instance-id")) << e.what();
}

TEST_F(OpenStack, StoppingEndsAWait) {
  const auto cloud = open();
  const Volume v = make(*cloud, wish());
  std::stop_source source;
  std::jthread stopper([&] {
    clock_.sleep(300ms, {});
    source.request_stop();
  });
  const auto before = clock_.mono();
  EXPECT_THROW(volumes::wait_for(cloud->volume({}), v.id, {"in-use"}, 60s, source.get_token()), Cancelled);
  EXPECT_LT(clock_.mono() - before, 10s);
  volumes::remove(cloud->volume({}), v.id, {});
}

}  // namespace
}  // namespace vmferry::openstack
