// A template that Heat reads as it was meant, whatever the machine is called.
#include "report/heat.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <yaml-cpp/yaml.h>

#include "base/error.hpp"

namespace vmferry::report {
namespace {

using model::DiskKey;

std::vector<job::Fact> copied(const std::string& name = "web01", const std::string& target = "OpenStack project lab") {
  job::JobCreated created;
  created.job = JobId{"c4ec75c2-1"};
  created.vm_name = name;
  created.vm_path = "/DC0/vm/" + name;
  created.target = target;
  job::VolumeAllocated first, second;
  first.disk = DiskKey{2000};
  first.volume = VolumeId{"volume-a"};
  second.disk = DiskKey{2001};
  second.volume = VolumeId{"volume-b"};
  first.label = "Hard disk 1";
  first.file = "[ds] web01/web01.vmdk";
  return {{1, created}, {2, second}, {3, first}};
}

std::vector<job::Fact> moved(std::vector<job::Fact> facts = copied()) {
  facts.push_back({4, job::PortEnsured{"00:50:56:9a:00:02", PortId{"port-b"}, true}});
  facts.push_back({5, job::PortEnsured{"00:50:56:9a:00:01", PortId{"port-a"}, false}});
  facts.push_back({6, job::ServerLaunched{ServerId{"server-1"}, "ACTIVE"}});
  facts.push_back({7, job::CutoverDone{7, 4.5}});
  return facts;
}

TEST(HeatTemplate, NamesWhatWasMoved) {
  EXPECT_EQ(heat_template(moved()),
            R"(heat_template_version: 2016-10-14
description: "web01 (/DC0/vm/web01), moved from VMware by vmferry, job c4ec75c2-1. All of it was there before the stack: Heat refers to it and never deletes it."
resources:
  server:
    type: OS::Nova::Server
    description: "web01"
    external_id: "server-1"
  port_1:
    type: OS::Neutron::Port
    description: "network adapter 00:50:56:9a:00:01"
    external_id: "port-a"
  port_2:
    type: OS::Neutron::Port
    description: "network adapter 00:50:56:9a:00:02"
    external_id: "port-b"
  volume_1:
    type: OS::Cinder::Volume
    description: "Hard disk 1 (2000), [ds] web01/web01.vmdk"
    external_id: "volume-a"
  volume_2:
    type: OS::Cinder::Volume
    description: "disk 2001"
    external_id: "volume-b"
outputs:
  server_id:
    value: { get_resource: server }
  addresses:
    description: "of the server, by network"
    value: { get_attr: [server, addresses] }
)");
}

TEST(HeatTemplate, NamesTheVolumeThatTheCloudMadeOfAnImage) {
  std::vector<job::Fact> facts = copied();
  facts.push_back({4, job::VolumeDelivered{DiskKey{2000}, VolumeId{"delivered"}, ImageId{"image"}, ""}});
  const YAML::Node told = YAML::Load(heat_template(moved(facts)));
  EXPECT_EQ(told["resources"]["volume_1"]["external_id"].as<std::string>(), "delivered");
}

TEST(HeatTemplate, APortThatWasGivenUpIsNotIn) {
  std::vector<job::Fact> facts = moved();
  facts.push_back({8, job::PortDiscarded{PortId{"port-a"}}});
  const YAML::Node told = YAML::Load(heat_template(facts));
  EXPECT_EQ(told["resources"]["port_1"]["external_id"].as<std::string>(), "port-b");
  EXPECT_FALSE(told["resources"]["port_2"]);
}

TEST(HeatTemplate, OnlyOfAMachineThatIsInOpenStack) {
  EXPECT_THROW(heat_template(copied()), Error);
  std::vector<job::Fact> aborted = moved();
  aborted.push_back({9, job::Aborted{}});
  EXPECT_THROW(heat_template(aborted), Error);
  EXPECT_THROW(heat_template(moved(copied("web01", "folder /srv/images"))), Error);
}

TEST(HeatTemplate, HostileNames) {
  for (const std::string name :
       {"a: b", "- x", "\"'`", "{ get_file: /etc/shadow }", "two\nlines", "\\", "\\ud83d", "#", "t\xc3\xa4st",
        "\xf0\x9f\x98\x80", "\x7f\xc2\x85\xe2\x80\xa8", "%AppData%", "!!python/object:x"}) {
    const YAML::Node told = YAML::Load(heat_template(moved(copied(name))));
    EXPECT_EQ(told["resources"]["server"]["description"].as<std::string>(), name);
    EXPECT_EQ(told["resources"].size(), 5u);
  }
}

// What is no UTF-8 must not break the document.
TEST(HeatTemplate, BrokenNames) {
  const YAML::Node told = YAML::Load(heat_template(moved(copied("a\xff\xc3"))));
  EXPECT_EQ(told["resources"]["server"]["external_id"].as<std::string>(), "server-1");
}

RC_GTEST_PROP(QuotedYaml, ComesBackAsItWas, ()) {
  std::string text;
  for (const auto point : *rc::gen::container<std::vector<std::uint32_t>>(rc::gen::suchThat(
           rc::gen::inRange<std::uint32_t>(1, 0x110000), [](std::uint32_t p) { return p < 0xD800 || p > 0xDFFF; }))) {
    if (point < 0x80) {
      text += static_cast<char>(point);
    } else if (point < 0x800) {
      text += {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 63))};
    } else if (point < 0x10000) {
      text += {static_cast<char>(0xE0 | point >> 12), static_cast<char>(0x80 | (point >> 6 & 63)),
               static_cast<char>(0x80 | (point & 63))};
    } else {
      text += {static_cast<char>(0xF0 | point >> 18), static_cast<char>(0x80 | (point >> 12 & 63)),
               static_cast<char>(0x80 | (point >> 6 & 63)), static_cast<char>(0x80 | (point & 63))};
    }
  }
  const std::string quoted = quoted_yaml(text);
  for (const char c : quoted) RC_ASSERT(c >= ' ' && c < 0x7f);
  RC_ASSERT(YAML::Load(quoted).as<std::string>() == text);
}

}  // namespace
}  // namespace vmferry::report
