// OpenStack as a target, on the lab's cloud or the real one, with what is found there beside vmferry's own.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "base/id.hpp"
#include "openstack/volumes.hpp"
#include "worlds.hpp"

namespace vmferry::target {

namespace client = ::vmferry::openstack;

class OpenstackTarget : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = OpenstackWorld::unavailable(); !why.empty()) GTEST_SKIP() << "not shown here: " << why;
  }
  void TearDown() override {
    if (!IsSkipped()) OpenstackWorld::lab().control("openstack", "DELETE", "/faults");
  }
  static bool says(const std::string& message, const std::string& words) {
    return message.find(words) != std::string::npos;
  }
  // A volume as migratekit leaves it.
  VolumeId migratekit_volume(const Tag& tag, const client::Metadata& more, const std::string& name = "",
                             const std::string& disk = "") {
    const auto cloud = world_.client();
    client::VolumeWish wish;
    wish.name = name.empty() ? tag.volume_name : name;
    wish.gib = 1;
    wish.metadata = {
        {"migrate_kit", "true"}, {"vm", tag.vm.value}, {"disk", disk.empty() ? to_string(tag.disk) : disk}};
    wish.metadata.insert(more.begin(), more.end());
    wish.tag = wish.metadata;
    wish.metadata["made"] = random_uuid();
    const VolumeId id = client::volumes::create(cloud->volume({}), wish, {}).id;
    client::volumes::wait_for(cloud->volume({}), id, {"available"}, std::chrono::seconds(120), {});
    return id;
  }
  nlohmann::json volume_in_lab(const VolumeId& id) {
    const nlohmann::json state = world_.state_of_lab();
    for (const auto& volume : state.at("volumes"))
      if (volume.at("id") == id.value) return volume;
    return nullptr;
  }
  std::size_t volumes_in_lab(const Tag& tag) {
    std::size_t count = 0;
    const nlohmann::json state = world_.state_of_lab();
    for (const auto& volume : state.at("volumes"))
      if (volume.at("name") == tag.volume_name) ++count;
    return count;
  }
  std::string address_of(const PortId& id) {
    const nlohmann::json state = world_.state_of_lab();
    for (const auto& port : state.at("ports"))
      if (port.at("id") == id.value) return port.at("fixed_ips").at(0).at("ip_address");
    throw std::runtime_error("the lab has no such port");
  }
  void fault(const std::string& rule) { OpenstackWorld::lab().control("openstack", "POST", "/faults", rule); }

  OpenstackWorld world_;
  Scene scene_;
};

}  // namespace vmferry::target
