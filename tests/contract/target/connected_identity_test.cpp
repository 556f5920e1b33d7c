// What proves a device that os-brick connected: it stays the file, or the device of which the kernel says the same. And
// what is refused before os-brick is asked at all.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cctype>
#include <fstream>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/machine.hpp"
#include "loop_device.hpp"
#include "openstack/volume_attachments.hpp"
#include "support/lab.hpp"
#include "support/thrown.hpp"
#include "target/device.hpp"
#include "target/openstack/brick.hpp"
#include "worlds.hpp"

namespace vmferry::target {
namespace {

namespace fs = std::filesystem;
using support::thrown;

const std::string volume_id = "5f3a1b2c-1234-4abc-9def-0123456789ab";
constexpr std::uint64_t size = 1 << 20;

void write_file(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

bool says(const Error& e, const std::string& words) { return std::string(e.what()).find(words) != std::string::npos; }

class ConnectedIdentity : public testing::Test {
 protected:
  std::unique_ptr<OpenedDevice> open(const fs::path& path, const std::string& wwn = "") {
    Expected expected;
    expected.name = "volume " + volume_id;
    expected.serial = volume_id;
    expected.bytes = size;
    return std::make_unique<OpenedDevice>(path, std::move(expected),
                                          connected_identity(path, volume_id, wwn, directory_.path() / "sys"));
  }
  fs::path file(const std::string& name) {
    const fs::path path = directory_.path() / name;
    write_file(path, "");
    fs::resize_file(path, size);
    return path;
  }
  // What the kernel would say of the loop device.
  void kernel_says(const LoopDevice& loop, const std::string& attribute, const std::string& text) {
    write_file(directory_.path() / "sys/dev/block" / loop.numbers() / attribute, text + "\n");
  }
  void SetUp() override {
    loop_ = LoopDevice::over(file("backing"), why_);
    if (!loop_) GTEST_SKIP() << "not shown here: " << why_;
  }

  support::TemporaryDirectory directory_;
  std::string why_;
  std::unique_ptr<LoopDevice> loop_;
};

TEST_F(ConnectedIdentity, AFileIsNamedAfterTheVolumeAndStaysTheSame) {
  const fs::path path = file("volume-" + volume_id);
  const auto device = open(path);
  device->check();
  // Exchanged for another one of the name, as by a restore on the storage's side.
  fs::rename(path, directory_.path() / "old");
  file("volume-" + volume_id);
  EXPECT_TRUE(says(thrown([&] { device->check(); }), "exchanged"));
  EXPECT_TRUE(says(thrown([&] { open(directory_.path() / "old"); }), "not named after it"));
}

TEST_F(ConnectedIdentity, ADeletedFileIsNotGoneOnWith) {
  const fs::path path = file("volume-" + volume_id);
  const auto identity = connected_identity(path, volume_id, "");
  const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(identity->read(fd.get()), (Identity{volume_id, size}));
  fs::remove(path);
  EXPECT_FALSE(identity->read(fd.get()));
}

TEST_F(ConnectedIdentity, ADeviceStaysWhatTheKernelSays) {
  kernel_says(*loop_, "device/wwid", "naa.600140512345678");
  const auto device = open(loop_->path(), "3600140512345678");
  device->check();
  kernel_says(*loop_, "device/wwid", "naa.600140599999999");  // the LUN was mapped anew
  EXPECT_TRUE(says(thrown([&] { device->check(); }), "nothing is written to it"));
}

TEST_F(ConnectedIdentity, AnotherWwnThanOsBrickSawIsRefused) {
  kernel_says(*loop_, "dm/uuid", "mpath-3600140512345678");
  open(loop_->path(), "3600140512345678")->check();
  EXPECT_TRUE(says(thrown([&] { open(loop_->path(), "3600140500000000"); }), "known to the kernel as"));
  open(loop_->path())->check();  // os-brick did not look
}

TEST_F(ConnectedIdentity, AnRbdImageHasTheVolumesName) {
  kernel_says(*loop_, "device/pool", "volumes");
  kernel_says(*loop_, "device/name", "volume-" + volume_id);
  open(loop_->path())->check();
  kernel_says(*loop_, "device/name", "volume-of-another");
  EXPECT_TRUE(says(thrown([&] { open(loop_->path()); }), "RBD image volumes/volume-of-another"));
}

TEST_F(ConnectedIdentity, ADeviceOfWhichTheKernelSaysNothingIsRefused) {
  const Error e = thrown([&] { open(loop_->path()); });
  EXPECT_EQ(e.fault(), Fault::unsupported);
  kernel_says(*loop_, "device/wwid", "naa.600140512345678");
  kernel_says(*loop_, "partition", "1");
  EXPECT_EQ(thrown([&] { open(loop_->path()); }).fault(), Fault::unsupported);
}

TEST(Brick, WhatCannotBeWrittenAsItIsIsRefusedBeforeOsBrickIsAsked) {
  class Nobody final : public process::Runner {
    std::unique_ptr<process::Child> start(const process::Command&, process::LineSink, process::LineSink) override {
      throw std::runtime_error("os-brick was asked");
    }
  } nobody;
  log::Log log;
  const openstack::Brick brick({}, nobody, log);
  const auto connect = [&](const std::string& info) {
    return thrown([&] { brick.connect(VolumeId{volume_id}, info, {}); });
  };
  EXPECT_TRUE(says(connect(R"({"driver_volume_type":"iscsi","encrypted":true})"), "encrypted"));
  EXPECT_TRUE(says(connect(R"({"driver_volume_type":"iscsi","access_mode":"ro"})"), "read-only"));
  EXPECT_TRUE(says(connect(R"({"driver_volume_type":"nfs","format":"qcow2"})"), "qcow2"));
  EXPECT_EQ(connect(R"({"export":"x"})").fault(), Fault::data);
  EXPECT_EQ(connect("nonsense").fault(), Fault::data);
}

TEST(Brick, ATimeoutNamesTheVolume) {
  if (::geteuid() != 0) GTEST_SKIP() << "not shown here: --attach brick needs root";
  support::TemporaryDirectory directory;
  openstack::BrickOptions options;
  options.python = directory.path() / "python";
  options.mounts = directory.path() / "mounts";
  options.patience = std::chrono::seconds(1);
  write_file(options.python, "#!/bin/sh\nexec sleep 60\n");
  fs::permissions(options.python, fs::perms::owner_all);
  process::SystemRunner runner;
  log::Log log;
  const openstack::Brick brick(options, runner, log);
  const Error e = thrown([&] { brick.connect(VolumeId{volume_id}, R"({"driver_volume_type":"iscsi"})", {}); });
  EXPECT_EQ(e.fault(), Fault::timeout);
  EXPECT_EQ(std::string(e.what()), "cannot connect volume " + volume_id + " (iscsi): os-brick did not end within 1 s");
}

// A volume that this host has by one way, and a command of the other way.
class OtherAttachMode : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = OpenstackWorld::unavailable(); !why.empty()) GTEST_SKIP() << "not shown here: " << why;
    client_ = world_.client();
  }
  ::vmferry::openstack::Service& cinder() { return client_->volume({}); }
  OpenstackWorld world_;
  Scene scene_;
  std::unique_ptr<::vmferry::openstack::Cloud> client_;
};

TEST_F(OtherAttachMode, NovaDoesNotSayThatBricksIsDetached) {
  namespace attachments = ::vmferry::openstack::volume_attachments;
  const Volume volume = world_.cloud().allocate(scene_.wish(1 << 20), {});
  const auto patience = std::chrono::seconds(60);
  const std::string connector = R"({"host":"ferry1","ip":"127.0.0.1"})";
  const std::string here = "ferry1/" + machine_mark();
  const auto made = attachments::claim(cinder(), volume.id, here, connector, patience, {});
  // On its way (Nova could only wait), and settled.
  const Error early = thrown([&] { world_.cloud().detach(volume.id, {}); });
  EXPECT_TRUE(says(early, "--attach brick") && says(early, here)) << early.what();
  EXPECT_TRUE(says(thrown([&] { world_.cloud().allocate(scene_.wish(1 << 20), {}); }), "--attach brick"));
  attachments::complete(cinder(), made, patience, {});
  const Error e = thrown([&] { world_.cloud().detach(volume.id, {}); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_TRUE(says(e, "--attach brick") && says(e, made.id)) << e.what();
  attachments::release(cinder(), volume.id, here, [](const auto*) {}, patience, {});
  // What another machine has stays, and is success.
  attachments::complete(cinder(), attachments::claim(cinder(), volume.id, "ferry2/deadbeef", connector, patience, {}),
                        patience, {});
  world_.cloud().detach(volume.id, {});
  attachments::release(cinder(), volume.id, "ferry2/deadbeef", [](const auto*) {}, patience, {});
}

TEST_F(OtherAttachMode, BrickDoesNotSayThatNovasIsDetached) {
  const Volume volume = world_.cloud().allocate(scene_.wish(1 << 20), {});
  world_.cloud().attach(volume, {});
  const std::string here = OpenstackWorld::lab().get("openstack.instance_id");
  const Error e = thrown([&] { openstack::refuse_novas(cinder(), volume.id, here, "/nonexistent", {}); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_TRUE(says(e, "--attach nova") && says(e, here)) << e.what();
  // By the firmware, which writes it in capitals; and a server that is not this host.
  support::TemporaryDirectory firmware;
  std::string uuid = here;
  for (char& c : uuid) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  write_file(firmware.path() / "product_uuid", uuid + "\n");
  EXPECT_TRUE(says(thrown([&] { openstack::refuse_novas(cinder(), volume.id, "", firmware.path(), {}); }), here));
  openstack::refuse_novas(cinder(), volume.id, "another", firmware.path(), {});
  world_.cloud().detach(volume.id, {});
}

}  // namespace
}  // namespace vmferry::target
