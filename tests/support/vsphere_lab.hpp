// A lab for tests that talk to its vSphere: one for each profile and test program, its scripts cleared before each
// test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "base/clock.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "support/lab.hpp"
#include "vsphere/session.hpp"

namespace vmferry::support {

// Ends the labs when the program does.
class VsphereLabs final : public testing::Environment {
 public:
  // "vcenter", "esxi", or "ways": a vCenter whose machine writes nothing by itself, with two proxies in whose guests
  // disks appear as devices.
  static Lab& get(const std::string& profile) {
    std::unique_ptr<Lab>& lab = labs()[profile];
    if (!lab) {
      std::vector<std::string> args{"--devices", "file", "--writer-rate", "2", "--disks", "48M,33M+1s"};
      if (profile == "esxi") args.emplace_back("--esxi");
      if (profile == "ways") {
        args = {"--proxies", "2", "--writer-rate", "0", "--disks", "16M"};
        // As the lab decides by itself.
        if (geteuid() != 0 || access("/dev/loop-control", R_OK | W_OK) != 0)
          std::cerr << "attached disks are plain files, not devices: no loop devices here ("
                    << (geteuid() != 0 ? "not root" : "/dev/loop-control cannot be opened") << ")\n";
      }
      lab = std::make_unique<Lab>(args);
    }
    return *lab;
  }
  void TearDown() override { labs().clear(); }

 private:
  static std::map<std::string, std::unique_ptr<Lab>>& labs() {
    static std::map<std::string, std::unique_ptr<Lab>> all;
    return all;
  }
};

// A test on one profile, with a session of its own.
class VsphereLabTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    lab_ = &VsphereLabs::get(GetParam());
    control("DELETE", "/faults");
    control(
        "POST", "/settings",
        R"({"task_delay_ms":0,"page_areas":100,"idle_timeout_s":0,"quiesce_fails":false,"tools":"running","export_timeout_s":300})");
    control("POST", "/vms/web01/power", R"({"state":"on"})");
    control("POST", "/vms/web01/wrong-answers", R"({"mode":"off"})");
    control("DELETE", "/calls");
    http::CurlOptions options;
    options.trust.who = "vCenter";
    options.trust.pin_flag = "--vmware-fingerprint";
    options.trust.ca_file = lab_->get("vcenter.ca");
    transport_ = http::curl(options, log_);
  }

  std::string control(const std::string& method, const std::string& path, const std::string& json = "") const {
    return lab_->control("vcenter", method, path, json);
  }
  void fault(const std::string& method, const std::string& rest) const {
    control("POST", "/faults", R"({"service":"vsphere","method":")" + method + R"(",)" + rest + "}");
  }
  std::unique_ptr<vsphere::Session> open(const std::string& password = "") {
    const std::string right = lab_->secret("vcenter.password_file");
    vsphere::SessionOptions options{lab_->get("vcenter.endpoint"), lab_->get("vcenter.username"),
                                    Secret(password.empty() ? std::string(right) : std::string(password)),
                                    std::chrono::seconds(0)};
    return std::make_unique<vsphere::Session>(*transport_, std::move(options), clock_, log_, std::stop_token());
  }
  bool is_vcenter() const { return GetParam() == "vcenter"; }
  // How often the lab was asked for a method since the test began.
  int calls(const std::string& method) const {
    const std::string all = control("GET", "/calls");
    int found = 0;
    for (const std::string& wanted : {"\"method\":\"" + method + "\"", "\"method\": \"" + method + "\""})
      for (auto at = all.find(wanted); at != std::string::npos; at = all.find(wanted, at + 1)) ++found;
    return found;
  }

  Lab* lab_ = nullptr;
  SystemClock clock_;
  log::Log log_;
  std::unique_ptr<http::Transport> transport_;
};

}  // namespace vmferry::support
