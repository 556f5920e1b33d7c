// One lab's OpenStack for all tests of a suite, and the client as the program opens it. The suite is in several files.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "openstack/cloud.hpp"
#include "openstack/volumes.hpp"
#include "support/lab.hpp"
#include "support/openstack_lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {

using nlohmann::json;
using namespace std::chrono_literals;
using support::has;
using support::thrown;

inline constexpr auto patience = std::chrono::seconds(120);

// One lab for all tests of the suite; each leaves nothing behind.
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
    return support::openstack_transport(config, clock_, log_);
  }
  std::unique_ptr<Cloud> open(const Environment& more = {}, const support::Wrap& wrap = {}) {
    Environment all = environment();
    for (const auto& [name, value] : more) all[name] = value;
    return support::open_cloud(load(all), clock_, log_, wrap);
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

  static inline support::Lab* lab_ = nullptr;
  std::size_t others_ = 0;
  SystemClock clock_;
  log::Log log_;
};

}  // namespace vmferry::openstack
