// The converter with real qemu-img and qemu-nbd, and a small program in virt-v2v-in-place's place: what it wrote is
// found, read and nothing else; the base is never touched; a failure tells its words and leaves nothing.
#include "convert/virt_v2v.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/error.hpp"
#include "support/lab.hpp"

namespace vmferry::convert {
namespace {

constexpr std::uint64_t size = (3 << 20) + 512;  // not a whole number of qcow2's clusters

class VirtV2vTest : public testing::Test {
 protected:
  VirtV2vTest() {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>('a' + i / 4096 % 26);
    std::ofstream(base(), std::ios::binary) << bytes;
    before_ = bytes;
    program("exit 0");
    const char* path = std::getenv("PATH");
    path_ = path ? path : "";
    ::setenv("PATH", fmt::format("{}:{}", folder_.path().string(), path_).c_str(), 1);
    options_.directory = folder_.path() / "convert" / "job";
    options_.run_directory = folder_.path();
    vm_.name = "web01";
    vm_.memory = 1 << 30;
    vm_.guest_id = "debian12_64Guest";
  }
  ~VirtV2vTest() override { ::setenv("PATH", path_.c_str(), 1); }

  std::filesystem::path base() { return folder_.path() / "base.img"; }
  // A shell script as virt-v2v-in-place; $disk is the first overlay.
  void program(const std::string& script) {
    const auto file = folder_.path() / "virt-v2v-in-place";
    std::ofstream(file) << "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n"
                           "disk=$(sed -n 's/.*source file=\"\\([^\"]*\\)\".*/\\1/p' \"$3\" | head -1)\n"
                        << script << "\n";
    std::filesystem::permissions(file, std::filesystem::perms::owner_all);
  }
  std::unique_ptr<Conversion> convert(std::stop_token stop = {}) {
    converter_ = virt_v2v(options_, runner_, log_);
    return converter_->convert(
        vm_, {{model::DiskKey{2000}, base(), size}}, [&](std::string_view what) { said_.emplace_back(what); }, stop);
  }
  std::string content() {
    std::ifstream file(base(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static std::string read(copy::Source& source, ByteRange range) {
    const auto handle = source.connect({});
    std::string bytes(range.length, '?');
    int left = 1;
    handle->read(std::as_writable_bytes(std::span(bytes)), range.offset, [&](int error) {
      EXPECT_EQ(error, 0);
      --left;
    });
    while (left > 0) handle->poll(std::chrono::seconds(5));
    return bytes;
  }

  support::TemporaryDirectory folder_;
  std::string path_, before_;
  VirtV2vOptions options_;
  process::SystemRunner runner_;
  log::Log log_;
  model::Vm vm_;
  std::unique_ptr<Converter> converter_;
  std::vector<std::string> said_;
};

TEST_F(VirtV2vTest, WhatItChangedIsFoundAndTheBaseIsNotTouched) {
  program(
      "echo '[   1.0] Converting a bit'; qemu-io -f qcow2 -c 'write -q -P 0x41 1000000 5000' -c 'write -q -z 2M 64k' \"$disk\"");
  const auto conversion = convert();
  EXPECT_EQ(content(), before_);
  EXPECT_EQ(said_, std::vector<std::string>{"Converting a bit"});
  const RangeSet changed = conversion->changed(model::DiskKey{2000});
  EXPECT_TRUE(changed.contains({1000000, 5000}));
  EXPECT_TRUE(changed.contains({2 << 20, 64 << 10})) << "zeroes are a change too";
  EXPECT_LE(changed.bytes(), 3U * 65536);
  const auto source = conversion->open(model::DiskKey{2000}, {});
  EXPECT_EQ(source->bytes(), size);
  EXPECT_EQ(read(*source, {999424, 8192}),
            before_.substr(999424, 576) + std::string(5000, 'A') + before_.substr(1005000, 2616));
  EXPECT_EQ(read(*source, {2 << 20, 4096}), std::string(4096, '\0'));
  EXPECT_EQ(read(*source, {size - 512, 512}), before_.substr(size - 512));
}

TEST_F(VirtV2vTest, OurOwnLockOnTheImageDoesNotStandInTheWay) {
  // What target::OpenedDevice does to an image file.
  const int held = ::open(base().c_str(), O_RDWR | O_CLOEXEC);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  ASSERT_EQ(::fcntl(held, F_OFD_SETLK, &lock), 0);
  program("qemu-io -f qcow2 -c 'write -q -P 0x41 0 64k' \"$disk\"");
  const auto conversion = convert();
  const auto source = conversion->open(model::DiskKey{2000}, {});
  EXPECT_EQ(read(*source, {65536, 4096}), before_.substr(65536, 4096));
  ::close(held);
}

TEST_F(VirtV2vTest, TheOverlaysGoWithTheConversion) {
  auto conversion = convert();
  EXPECT_TRUE(conversion->changed(model::DiskKey{2000}).empty());
  EXPECT_TRUE(std::filesystem::exists(options_.directory));
  conversion.reset();
  EXPECT_FALSE(std::filesystem::exists(options_.directory));
}

TEST_F(VirtV2vTest, AFailureTellsItsLastWordsAndLeavesNothing) {
  program("echo 'virt-v2v-in-place: error: no root device found in this operating system image.' >&2; exit 1");
  try {
    convert();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::tool);
    EXPECT_NE(std::string(e.what()).find("no root device found"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("web01"), std::string::npos) << e.what();
  }
  EXPECT_EQ(content(), before_);
  EXPECT_FALSE(std::filesystem::exists(options_.directory));
}

TEST_F(VirtV2vTest, AStoppedConversionEnds) {
  program("sleep 60");
  std::stop_source stop;
  std::jthread interrupter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    stop.request_stop();
  });
  EXPECT_THROW(convert(stop.get_token()), Cancelled);
  EXPECT_FALSE(std::filesystem::exists(options_.directory));
}

TEST_F(VirtV2vTest, LeftoversOfARunThatDiedAreCleared) {
  std::filesystem::create_directories(options_.directory / "deep");
  std::ofstream(options_.directory / "2000.qcow2") << "half an overlay";
  convert().reset();
  std::filesystem::create_directories(options_.directory);
  converter_->clear();
  EXPECT_FALSE(std::filesystem::exists(options_.directory));
}

TEST_F(VirtV2vTest, WindowsNeedsItsDriversBeforehand) {
  vm_.guest_id = "windows2019srv_64Guest";
  options_.environment["VIRTIO_WIN"] = "/nonexistent/virtio-win.iso";
  try {
    virt_v2v(options_, runner_, log_)->check(vm_, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::tool);
    EXPECT_NE(std::string(e.what()).find("VIRTIO_WIN"), std::string::npos) << e.what();
  }
  options_.environment["VIRTIO_WIN"] = folder_.path().string();
  EXPECT_NO_THROW(virt_v2v(options_, runner_, log_)->check(vm_, {}));
}

TEST_F(VirtV2vTest, AMissingProgramIsNamed) {
  std::filesystem::remove(folder_.path() / "virt-v2v-in-place");
  ::setenv("PATH", folder_.path().c_str(), 1);
  try {
    virt_v2v(options_, runner_, log_)->check(vm_, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::tool);
    EXPECT_NE(std::string(e.what()).find("virt-v2v"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace vmferry::convert
