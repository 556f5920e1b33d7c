// A folder on a file system that is really full.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/finally.hpp"
#include "support/lab.hpp"
#include "target/local/local_cloud.hpp"

namespace vmferry::target::local {
namespace {

namespace fs = std::filesystem;

void fill(const fs::path& file) {
  const Fd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const std::string block(4096, 'x');
  while (::write(fd.get(), block.data(), block.size()) > 0) {
  }
}

TEST(FullDisk, is_said_with_the_path_and_loses_nothing) {
  const support::TemporaryDirectory directory;
  const fs::path& mount = directory.path();
  if (::mount("vmferry-test", mount.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=700") != 0)
    GTEST_SKIP() << "not shown here: cannot mount a small file system: " << std::strerror(errno);
  const Finally unmount([&] { ::umount2(mount.c_str(), MNT_DETACH); });
  SystemClock clock;
  log::Log log;
  const auto cloud = local_cloud({mount, "virtio", "kvm"}, clock, log);
  VolumeWish wish;
  wish.tag = {JobId{"job-1"}, model::VmId{"vm-1"}, "web01", model::DiskKey{2000}, "web01-2000"};
  wish.bytes = 1 << 20;
  const Volume volume = cloud->allocate(wish, {});
  cloud->remember(volume.id, {{"change_id", "a/1"}}, {});
  fill(mount / "ballast");
  const auto refused = [&](auto&& act) {
    try {
      act();
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::quota) << e.what();
      EXPECT_NE(std::string(e.what()).find(mount.string()), std::string::npos) << e.what();
      return;
    }
    ADD_FAILURE() << "was not refused";
  };
  refused([&] { cloud->remember(volume.id, {{"change_id", "a/2"}}, {}); });
  refused([&] { cloud->check_settings({}); });
  VolumeWish second = wish;
  second.tag.disk = model::DiskKey{2001};
  second.tag.volume_name = "web01-2001";
  refused([&] { cloud->allocate(second, {}); });
  // What was said before still holds, and goes on when there is room again.
  EXPECT_EQ(cloud->find(wish.tag, {})->memory.at("change_id"), "a/1");
  fs::remove(mount / "ballast");
  cloud->remember(volume.id, {{"change_id", "a/2"}}, {});
  EXPECT_EQ(cloud->find(wish.tag, {})->memory.at("change_id"), "a/2");
  EXPECT_TRUE(cloud->allocate(second, {}).fresh);
}

}  // namespace
}  // namespace vmferry::target::local
