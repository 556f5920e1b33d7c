// The folder as a cloud: what lies where, and what a crash between any two writes leaves.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "base/error.hpp"
#include "support/fake_clock.hpp"
#include "support/lab.hpp"
#include "support/thrown.hpp"
#include "target/local/local_cloud.hpp"
#include "target/local/record.hpp"

namespace vmferry::target::local {
namespace {

using support::refusal;

namespace fs = std::filesystem;

constexpr std::uint64_t size = 3 * (1 << 20) + 100;
constexpr std::uint64_t rounded = 3 * (1 << 20) + 512;

std::string slurp(const fs::path& file) {
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

class LocalTarget : public testing::Test {
 protected:
  VolumeWish wish() const {
    VolumeWish wish;
    wish.tag = {JobId{"job-1"}, model::VmId{"vm-42"}, "web01", model::DiskKey{2000}, "web01-2000"};
    wish.bytes = size;
    return wish;
  }
  std::unique_ptr<Cloud> open() { return local_cloud({root_, "virtio", "kvm"}, clock_, log_); }
  static unsigned mode(const fs::path& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 0777 : 0;
  }

  support::TemporaryDirectory directory_;
  support::FakeClock clock_;
  log::Log log_;
  const fs::path root_ = directory_.path() / "machines";
  const fs::path folder_ = root_ / "web01";
  const fs::path image_ = folder_ / "web01-2000.img";
  const fs::path making_ = folder_ / "web01-2000.img.making";
  const fs::path record_ = folder_ / "web01-2000.json";
};

TEST_F(LocalTarget, images_are_sparse_private_and_rounded_to_sectors) {
  const Volume volume = open()->allocate(wish(), {});
  EXPECT_EQ(volume.id.value, "web01/web01-2000");
  EXPECT_EQ(volume.bytes, rounded);
  struct stat status {};
  ASSERT_EQ(::stat(image_.c_str(), &status), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(status.st_size), rounded);
  EXPECT_LT(status.st_blocks * 512, 65536);
  EXPECT_EQ(mode(image_), 0600u);
  EXPECT_EQ(mode(record_), 0600u);
  EXPECT_EQ(mode(root_), 0700u);
  EXPECT_FALSE(fs::exists(making_));
}

TEST_F(LocalTarget, a_crash_before_the_record_begins_anew) {
  open()->allocate(wish(), {});
  fs::rename(image_, making_);
  fs::remove(record_);
  EXPECT_FALSE(open()->find(wish().tag, {}));
  const Volume volume = open()->allocate(wish(), {});
  EXPECT_TRUE(volume.fresh);
  EXPECT_TRUE(fs::exists(image_));
  EXPECT_FALSE(fs::exists(making_));
  open()->attach(volume, {})->check();
}

TEST_F(LocalTarget, a_crash_between_the_record_and_the_name_is_finished) {
  open()->allocate(wish(), {});
  fs::rename(image_, making_);
  EXPECT_FALSE(open()->find(wish().tag, {}));
  const Volume volume = open()->allocate(wish(), {});
  EXPECT_TRUE(fs::exists(image_));
  EXPECT_FALSE(fs::exists(making_));
  open()->attach(volume, {})->check();
}

TEST_F(LocalTarget, an_image_that_vmferry_did_not_make_is_not_touched) {
  fs::create_directories(folder_);
  std::ofstream(image_) << "precious";
  const std::string why = refusal([&] { open()->allocate(wish(), {}); }, Fault::conflict);
  EXPECT_NE(why.find(image_.string()), std::string::npos) << why;
  refusal([&] { open()->discard(VolumeId{"web01/web01-2000"}, JobId{"job-1"}, {}); }, Fault::conflict);
  EXPECT_EQ(slurp(image_), "precious");
}

TEST_F(LocalTarget, a_missing_image_is_never_silently_replaced) {
  const Volume volume = open()->allocate(wish(), {});
  fs::remove(image_);
  refusal([&] { open()->find(wish().tag, {}); }, Fault::conflict);
  refusal([&] { open()->allocate(wish(), {}); }, Fault::conflict);
  open()->discard(volume.id, JobId{"job-1"}, {});  // nothing left to delete but the record
  EXPECT_FALSE(fs::exists(record_));
  EXPECT_TRUE(open()->allocate(wish(), {}).fresh);
}

TEST_F(LocalTarget, a_copy_in_the_images_place_is_refused) {
  const Volume volume = open()->allocate(wish(), {});
  fs::copy_file(image_, folder_ / "copy");
  fs::rename(folder_ / "copy", image_);
  refusal([&] { open()->attach(volume, {}); }, Fault::conflict);
  refusal([&] { open()->discard(volume.id, JobId{"job-1"}, {}); }, Fault::conflict);
  EXPECT_TRUE(fs::exists(image_));
}

TEST_F(LocalTarget, an_image_that_shrank_is_refused) {
  const Volume volume = open()->allocate(wish(), {});
  const auto cloud = open();
  const auto device = cloud->attach(volume, {});
  fs::resize_file(image_, rounded - 512);
  refusal([&] { device->check(); }, Fault::conflict);
}

TEST_F(LocalTarget, two_machines_of_one_name_are_told_apart) {
  open()->allocate(wish(), {});
  VolumeWish other = wish();
  other.tag.vm = model::VmId{"vm-77"};
  const std::string why = refusal([&] { open()->allocate(other, {}); }, Fault::conflict);
  EXPECT_NE(why.find("vm-42"), std::string::npos) << why;
  EXPECT_NE(why.find("vm-77"), std::string::npos) << why;
}

TEST_F(LocalTarget, ids_lead_nowhere_else) {
  std::ofstream(directory_.path() / "victim.img") << "precious";
  for (const char* id : {"../victim", "web01/../../victim", "web01/", "/etc/passwd", "web01"})
    refusal([&] { open()->discard(VolumeId{id}, JobId{"job-1"}, {}); }, Fault::not_found);
  EXPECT_TRUE(fs::exists(directory_.path() / "victim.img"));
  refusal([&] { open()->discard_port(PortId{"../../victim"}, JobId{"job-1"}, {}); }, Fault::not_found);
}

TEST_F(LocalTarget, a_damaged_or_newer_record_is_an_error_in_words) {
  open()->allocate(wish(), {});
  const std::string good = slurp(record_);
  std::ofstream(record_) << "{";
  EXPECT_NE(refusal([&] { open()->find(wish().tag, {}); }, Fault::data).find(record_.string()), std::string::npos);
  std::ofstream(record_) << R"({"vmferry":1})";
  refusal([&] { open()->find(wish().tag, {}); }, Fault::data);
  std::ofstream(record_) << R"({"vmferry":99})";
  EXPECT_NE(refusal([&] { open()->find(wish().tag, {}); }, Fault::unsupported).find("newer"), std::string::npos);
  std::ofstream(record_) << good;
  EXPECT_TRUE(open()->find(wish().tag, {}));
}

TEST_F(LocalTarget, names_that_are_no_utf8_are_kept_out_of_trouble) {
  VolumeWish odd = wish();
  odd.tag.vm_name = "caf\xe9/..";
  const Volume volume = open()->allocate(odd, {});
  EXPECT_EQ(open()->allocate(odd, {}).id, volume.id);
}

TEST_F(LocalTarget, settings_name_what_is_wrong) {
  open()->check_settings({});
  EXPECT_FALSE(fs::exists(root_)) << "checking changes nothing";
  std::ofstream(directory_.path() / "file") << "";
  refusal(
      [&] {
        local_cloud({directory_.path() / "file", "virtio", "kvm"}, clock_, log_)->check_settings({});
      },
      Fault::config);
  const std::string why = refusal(
      [&] {
        local_cloud({directory_.path() / "none" / "deeper", "virtio", "kvm"}, clock_, log_)->check_settings({});
      },
      Fault::config);
  EXPECT_NE(why.find("deeper"), std::string::npos) << why;
  refusal([&] { local_cloud({root_, "ide", "kvm"}, clock_, log_)->check_settings({}); }, Fault::config);
}

TEST_F(LocalTarget, another_run_that_holds_the_folder_is_waited_for_and_then_named) {
  const auto cloud = open();
  cloud->allocate(wish(), {});
  const int held = ::open((root_ / ".vmferry.lock").c_str(), O_RDWR | O_CLOEXEC);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  ASSERT_EQ(::fcntl(held, F_OFD_SETLK, &lock), 0);
  const VolumeId id{"web01/web01-2000"};
  refusal([&] { cloud->remember(id, {{"a", "b"}}, {}); }, Fault::conflict);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(cloud->remember(id, {{"a", "b"}}, stop.get_token()), Cancelled);
  ::close(held);
  cloud->remember(id, {{"a", "b"}}, {});
  EXPECT_EQ(cloud->find(wish().tag, {})->memory.at("a"), "b");
}

TEST_F(LocalTarget, launching_writes_a_domain_and_never_over_somebody_elses) {
  const auto cloud = open();
  LaunchWish launch;
  launch.job = JobId{"job-1"};
  launch.vm.name = "web01";
  launch.vm.memory = 1 << 30;
  launch.volumes = {cloud->allocate(wish(), {}).id};
  model::Nic nic;
  nic.mac = "00:50:56:AA:BB:CC";
  launch.ports = {cloud->ensure_port(launch.job, nic, {nic.mac, "lan", "", {}, {}, {}}, {}).id};
  EXPECT_EQ(launch.ports.front().value, "00:50:56:aa:bb:cc");
  const Launched launched = cloud->launch(launch, {});
  const fs::path file = folder_ / "web01.xml";
  EXPECT_EQ(launched.id.value, file.string());
  EXPECT_EQ(launched.state, "defined");
  EXPECT_EQ(mode(file), 0600u);
  const std::string text = slurp(file);
  EXPECT_NE(text.find(image_.string()), std::string::npos) << text;
  EXPECT_NE(text.find("network=\"lan\""), std::string::npos) << text;
  launch.job = JobId{"job-2"};
  refusal([&] { cloud->launch(launch, {}); }, Fault::conflict);
  EXPECT_EQ(slurp(file), text);
  launch.volumes.push_back(VolumeId{"web01/none"});
  refusal([&] { cloud->launch(launch, {}); }, Fault::not_found);
}

TEST_F(LocalTarget, the_domain_of_a_renamed_machine_lies_beside_its_images_and_keeps_its_name) {
  const auto cloud = open();
  LaunchWish launch;
  launch.job = JobId{"job-1"};
  launch.vm.name = "web01-new";
  launch.volumes = {cloud->allocate(wish(), {}).id};
  const std::string file = (folder_ / "web01-new.xml").string();
  EXPECT_EQ(cloud->launch(launch, {}).id.value, file);
  EXPECT_NE(slurp(file).find("<name>web01-new</name>"), std::string::npos) << slurp(file);
  launch.vm.name = "web01-old";
  EXPECT_EQ(cloud->launch(launch, {}).id.value, file);
  EXPECT_NE(slurp(file).find("<name>web01-new</name>"), std::string::npos) << slurp(file);
  EXPECT_FALSE(fs::exists(root_ / "web01-old"));
}

TEST_F(LocalTarget, what_others_keep_in_the_folder_is_no_server_of_a_job) {
  const auto cloud = open();
  EXPECT_FALSE(cloud->find_server(JobId{"job-1"}, {}));  // the folder is not there yet
  cloud->allocate(wish(), {});
  std::ofstream(root_ / "note.xml") << "<domain/>";
  std::ofstream(folder_ / "theirs.xml") << "<domain/>";
  fs::create_directory(folder_ / "folder.xml");
  EXPECT_FALSE(cloud->find_server(JobId{"job-1"}, {}));
  EXPECT_FALSE(cloud->find_server(JobId{}, {}));
}

TEST_F(LocalTarget, the_last_volume_takes_its_folder_along) {
  const auto cloud = open();
  const VolumeId id = cloud->allocate(wish(), {}).id;
  cloud->discard(id, JobId{"job-1"}, {});
  EXPECT_FALSE(fs::exists(folder_));
  EXPECT_TRUE(fs::exists(root_));
}

TEST_F(LocalTarget, room_is_asked_for_what_a_disk_grew_by) {
  const auto cloud = open();
  Arrival arrival;
  arrival.volumes = {wish()};
  cloud->allocate(wish(), {});
  EXPECT_TRUE(cloud->examine(arrival, {}).empty());
  arrival.volumes.front().bytes = 1ull << 60;
  const auto found = cloud->examine(arrival, {});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found.front().fact.find("can need 1073741824.0 GiB more"), std::string::npos) << found.front().fact;
}

TEST_F(LocalTarget, a_size_that_no_file_can_have_leaves_nothing_behind) {
  VolumeWish huge = wish();
  huge.bytes = 1ull << 62;
  const std::string why = refusal([&] { open()->allocate(huge, {}); }, Fault::unsupported);
  EXPECT_NE(why.find(making_.string()), std::string::npos) << why;
  EXPECT_FALSE(fs::exists(making_));
  EXPECT_FALSE(fs::exists(record_));
  EXPECT_FALSE(fs::exists(image_));
}

}  // namespace
}  // namespace vmferry::target::local
