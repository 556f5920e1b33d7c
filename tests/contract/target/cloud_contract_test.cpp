// What every target::Cloud promises, proven of each.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cctype>
#include <thread>

#include "base/error.hpp"
#include "openstack/servers.hpp"
#include "support/thrown.hpp"
#include "worlds.hpp"

namespace vmferry::target {

void OpenstackWorld::give_back(const VolumeId& volume) {
  const auto cloud = client();
  ::vmferry::openstack::servers::remove(cloud->compute({}), taker_, std::chrono::seconds(120), {});
  ::vmferry::openstack::volumes::wait_for(cloud->volume({}), volume, {"available"}, std::chrono::seconds(120), {});
}

namespace {

using support::refusal;

// Small for those who can, a GiB in Cinder whatever is asked for: not whole sectors of 4096, not whole MiB.
constexpr std::uint64_t size = (1 << 20) + 512;

template <class World>
class CloudContract : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = World::unavailable(); !why.empty()) GTEST_SKIP() << "not shown here: " << why;
  }
  static bool says(const std::string& message, const std::string& words) {
    return message.find(words) != std::string::npos;
  }
  static void write(const Device& device, const std::string& text, off_t at) {
    ASSERT_EQ(::pwrite(device.fd(), text.data(), text.size(), at), static_cast<ssize_t>(text.size()));
    ASSERT_EQ(::fsync(device.fd()), 0);
  }
  static std::string read(const Device& device, std::size_t length, off_t at) {
    std::string text(length, '\0');
    EXPECT_EQ(::pread(device.fd(), text.data(), length, at), static_cast<ssize_t>(length));
    return text;
  }

  World world_;
  Scene scene_;
  const std::stop_token stop_;
};

using Worlds = testing::Types<FakeWorld, LocalWorld, OpenstackWorld, BrickWorld>;
TYPED_TEST_SUITE(CloudContract, Worlds);

TYPED_TEST(CloudContract, settings_that_are_right_pass) {
  this->world_.cloud().check_settings(this->stop_);
  EXPECT_FALSE(this->world_.cloud().describe().empty());
}

TYPED_TEST(CloudContract, allocating_twice_gives_the_same_volume_also_to_another_run) {
  Cloud& cloud = this->world_.cloud();
  EXPECT_FALSE(cloud.find(this->scene_.tag(), this->stop_));
  const Volume first = cloud.allocate(this->scene_.wish(size), this->stop_);
  EXPECT_GE(first.bytes, size);
  EXPECT_TRUE(first.fresh);
  const Volume second = cloud.allocate(this->scene_.wish(size), this->stop_);
  EXPECT_EQ(second.id, first.id);
  EXPECT_TRUE(second.fresh);
  Cloud& again = this->world_.reopened();
  EXPECT_EQ(again.allocate(this->scene_.wish(size), this->stop_).id, first.id);
  const auto found = again.find(this->scene_.tag(), this->stop_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->id, first.id);
  EXPECT_EQ(found->bytes, first.bytes);
  EXPECT_EQ(found->memory.at("vmferry_job"), this->scene_.job.value);
}

TYPED_TEST(CloudContract, each_disk_has_its_own_volume) {
  Cloud& cloud = this->world_.cloud();
  const Volume boot = cloud.allocate(this->scene_.wish(size, 0), this->stop_);
  const Volume data = cloud.allocate(this->scene_.wish(size, 1), this->stop_);
  EXPECT_NE(boot.id, data.id);
  EXPECT_EQ(cloud.find(this->scene_.tag(1), this->stop_)->id, data.id);
}

TYPED_TEST(CloudContract, memory_is_merged_and_survives) {
  Cloud& cloud = this->world_.cloud();
  const VolumeId id = cloud.allocate(this->scene_.wish(size), this->stop_).id;
  cloud.remember(id, {{"change_id", "52 1b/7"}, {"vmferry_capacity", "1049088"}}, this->stop_);
  cloud.remember(id, {{"change_id", "52 1b/9"}, {"vmferry_complete", "yes"}, {"vmferry_never_said", ""}}, this->stop_);
  Memory memory = this->world_.reopened().find(this->scene_.tag(), this->stop_)->memory;
  EXPECT_EQ(memory.at("change_id"), "52 1b/9");
  EXPECT_EQ(memory.at("vmferry_capacity"), "1049088");
  EXPECT_EQ(memory.at("vmferry_complete"), "yes");
  EXPECT_FALSE(memory.contains("vmferry_never_said"));
  this->world_.cloud().remember(id, {{"change_id", ""}}, this->stop_);
  memory = this->world_.cloud().find(this->scene_.tag(), this->stop_)->memory;
  EXPECT_FALSE(memory.contains("change_id"));
  EXPECT_EQ(memory.at("vmferry_capacity"), "1049088");
}

TYPED_TEST(CloudContract, an_unknown_volume_is_not_found) {
  const VolumeId nobody{"00000000-0000-4000-8000-000000000000"};
  refusal([&] { this->world_.cloud().remember(nobody, {{"a", "b"}}, this->stop_); }, Fault::not_found);
  refusal([&] { this->world_.cloud().attach({nobody, size, false, {}}, this->stop_); }, Fault::not_found);
}

TYPED_TEST(CloudContract, what_is_written_is_there_when_it_is_attached_again) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  {
    const auto device = cloud.attach(volume, this->stop_);
    EXPECT_GE(device->bytes(), size);
    EXPECT_EQ(this->read(*device, 512, size - 512), std::string(512, '\0'));
    this->write(*device, "the last sector", size - 512);
    device->check();
  }
  cloud.detach(volume.id, this->stop_);
  cloud.detach(volume.id, this->stop_);  // not attached is success
  Cloud& again = this->world_.reopened();
  const auto device = again.attach(*again.find(this->scene_.tag(), this->stop_), this->stop_);
  EXPECT_EQ(this->read(*device, 15, size - 512), "the last sector");
  device->check();
}

TYPED_TEST(CloudContract, only_a_volume_that_nobody_opened_is_known_to_be_zero) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  // The job says so before it attaches: its own word must not cost it the knowledge.
  cloud.remember(volume.id, {{"vmferry_written", "yes"}}, this->stop_);
  // Cinder cannot tell whether a new volume reads as zeroes, so there nothing is assumed.
  constexpr bool tells = !std::is_base_of_v<OpenstackWorld, TypeParam>;
  EXPECT_EQ(cloud.attach(volume, this->stop_)->known_zero(), tells);
  cloud.detach(volume.id, this->stop_);
  // The same object, by now stale, and every later view of it.
  EXPECT_FALSE(cloud.attach(volume, this->stop_)->known_zero());
  cloud.detach(volume.id, this->stop_);
  EXPECT_FALSE(cloud.find(this->scene_.tag(), this->stop_)->fresh);
  EXPECT_FALSE(this->world_.reopened().allocate(this->scene_.wish(size), this->stop_).fresh);
}

TYPED_TEST(CloudContract, opening_alone_ends_the_knowledge) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  cloud.attach(volume, this->stop_).reset();
  cloud.detach(volume.id, this->stop_);
  EXPECT_FALSE(this->world_.reopened().find(this->scene_.tag(), this->stop_)->fresh);
}

TYPED_TEST(CloudContract, a_volume_is_opened_once_at_a_time) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  auto device = cloud.attach(volume, this->stop_);
  const std::string why = refusal([&] { cloud.attach(volume, this->stop_); }, Fault::conflict);
  EXPECT_TRUE(this->says(why, "in use")) << why;
  EXPECT_TRUE(this->says(why, volume.id.value)) << why;
  device->check();
  device.reset();
  cloud.attach(volume, this->stop_)->check();
}

TYPED_TEST(CloudContract, several_disks_are_attached_at_once) {
  Cloud& cloud = this->world_.cloud();
  std::vector<Volume> volumes;
  for (int disk = 0; disk < 3; ++disk) volumes.push_back(cloud.allocate(this->scene_.wish(size, disk), this->stop_));
  std::vector<std::unique_ptr<Device>> devices(volumes.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < volumes.size(); ++i)
      threads.emplace_back([&, i] { devices[i] = cloud.attach(volumes[i], this->stop_); });
  }
  for (std::size_t i = 0; i < devices.size(); ++i) {
    ASSERT_TRUE(devices[i]);
    this->write(*devices[i], fmt::format("disk {}", i), 4096);
  }
  for (std::size_t i = 0; i < devices.size(); ++i)
    EXPECT_EQ(this->read(*devices[i], 6, 4096), fmt::format("disk {}", i));
  devices.clear();
  for (const Volume& volume : volumes) cloud.detach(volume.id, this->stop_);
}

TYPED_TEST(CloudContract, what_somebody_else_holds_is_not_touched) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  this->world_.take_away(volume.id);
  const std::string why = refusal([&] { cloud.attach(volume, this->stop_); }, Fault::conflict);
  EXPECT_TRUE(this->says(why, this->world_.taker())) << why;
  refusal([&] { cloud.discard(volume.id, this->scene_.job, this->stop_); }, Fault::conflict);
  EXPECT_TRUE(cloud.find(this->scene_.tag(), this->stop_));
  this->world_.give_back(volume.id);
  cloud.attach(volume, this->stop_)->check();
}

TYPED_TEST(CloudContract, a_volume_grows_with_its_disk_and_keeps_what_it_holds) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  const std::vector<std::byte> written(4096, std::byte{0x5a});
  {
    const auto device = cloud.attach(volume, this->stop_);
    ASSERT_EQ(::pwrite(device->fd(), written.data(), written.size(), 0), static_cast<ssize_t>(written.size()));
    ASSERT_EQ(::fsync(device->fd()), 0);
  }
  // Still attached here, as after a run that died.
  const std::uint64_t larger = volume.bytes + 1;
  const Volume grown = cloud.allocate(this->scene_.wish(larger), this->stop_);
  EXPECT_EQ(grown.id, volume.id);
  EXPECT_GE(grown.bytes, larger);
  EXPECT_FALSE(grown.fresh);
  const auto device = cloud.attach(grown, this->stop_);
  EXPECT_GE(device->bytes(), larger);
  std::vector<std::byte> read(written.size());
  ASSERT_EQ(::pread(device->fd(), read.data(), read.size(), 0), static_cast<ssize_t>(read.size()));
  EXPECT_EQ(read, written);
  // A smaller wish changes nothing.
  EXPECT_EQ(cloud.allocate(this->scene_.wish(size), this->stop_).bytes, grown.bytes);
}

TYPED_TEST(CloudContract, only_a_volume_with_our_tag_is_discarded) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  const std::string why =
      refusal([&] { cloud.discard(volume.id, this->scene_.other_job, this->stop_); }, Fault::conflict);
  EXPECT_TRUE(this->says(why, this->scene_.other_job.value)) << why;
  EXPECT_TRUE(cloud.find(this->scene_.tag(), this->stop_));
  cloud.discard(volume.id, this->scene_.job, this->stop_);
  EXPECT_FALSE(cloud.find(this->scene_.tag(), this->stop_));
  cloud.discard(volume.id, this->scene_.job, this->stop_);  // already gone is success
  EXPECT_TRUE(cloud.allocate(this->scene_.wish(size), this->stop_).fresh);
}

TYPED_TEST(CloudContract, another_job_takes_a_volume_over_with_its_memory_and_without_trusting_it_to_be_empty) {
  Cloud& cloud = this->world_.cloud();
  const Volume volume = cloud.allocate(this->scene_.wish(size), this->stop_);
  cloud.remember(volume.id, {{"change_id", "uuid/3"}}, this->stop_);
  Scene later = this->scene_;
  later.job = this->scene_.other_job;
  const Volume adopted = this->world_.reopened().allocate(later.wish(size), this->stop_);
  EXPECT_EQ(adopted.id, volume.id);
  EXPECT_FALSE(adopted.fresh);
  EXPECT_EQ(adopted.memory.at("change_id"), "uuid/3");
  EXPECT_EQ(adopted.memory.at("vmferry_job"), later.job.value);
  refusal([&] { this->world_.cloud().discard(volume.id, this->scene_.job, this->stop_); }, Fault::conflict);
}

TYPED_TEST(CloudContract, a_port_is_made_once_and_only_its_job_discards_it) {
  Cloud& cloud = this->world_.cloud();
  model::Nic nic = this->scene_.vm.nics.front();
  const Port first = cloud.ensure_port(this->scene_.job, nic, this->world_.choice(nic.mac), this->stop_);
  EXPECT_TRUE(first.created);
  EXPECT_EQ(first.mac, nic.mac);
  const std::string plain = nic.mac;
  for (char& c : nic.mac) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const Port second =
      this->world_.reopened().ensure_port(this->scene_.job, nic, this->world_.choice(plain), this->stop_);
  EXPECT_EQ(second.id, first.id);
  EXPECT_EQ(second.mac, plain);
  EXPECT_TRUE(second.created);
  Cloud& again = this->world_.cloud();
  EXPECT_EQ(again.ports_of(this->scene_.job, this->stop_), std::vector<PortId>{first.id});
  EXPECT_TRUE(again.ports_of(this->scene_.other_job, this->stop_).empty());
  EXPECT_FALSE(again.ensure_port(this->scene_.other_job, nic, this->world_.choice(plain), this->stop_).created);
  refusal([&] { again.discard_port(first.id, this->scene_.other_job, this->stop_); }, Fault::conflict);
  again.discard_port(first.id, this->scene_.job, this->stop_);
  again.discard_port(first.id, this->scene_.job, this->stop_);  // already gone is success
  EXPECT_TRUE(again.ports_of(this->scene_.job, this->stop_).empty());
  EXPECT_TRUE(again.ensure_port(this->scene_.other_job, nic, this->world_.choice(plain), this->stop_).created);
}

TYPED_TEST(CloudContract, launching_twice_gives_the_same_server_also_to_another_run) {
  Cloud& cloud = this->world_.cloud();
  LaunchWish wish;
  wish.job = this->scene_.job;
  wish.vm = this->scene_.vm;
  wish.flavor = this->world_.flavor();
  for (int disk = 0; disk < 2; ++disk)
    wish.volumes.push_back(cloud.allocate(this->scene_.wish(size, disk), this->stop_).id);
  const model::Nic& nic = this->scene_.vm.nics.front();
  wish.ports.push_back(cloud.ensure_port(this->scene_.job, nic, this->world_.choice(nic.mac), this->stop_).id);
  int told = 0;
  wish.before_asking = [&] {
    EXPECT_FALSE(cloud.find_server(wish.job, this->stop_));
    cloud.remember(wish.volumes.front(), {{"vmferry_moved", wish.job.value}}, this->stop_);
    ++told;
  };
  const Launched first = cloud.launch(wish, this->stop_);
  EXPECT_EQ(first.state, this->world_.state());
  const Launched second = cloud.launch(wish, this->stop_);
  EXPECT_EQ(second.id, first.id);
  EXPECT_EQ(told, 1);
  wish.before_asking = {};
  EXPECT_EQ(this->world_.reopened().launch(wish, this->stop_).id, first.id);
  // A port that the job's own server has got is still the job's port.
  EXPECT_EQ(this->world_.cloud().ensure_port(this->scene_.job, nic, this->world_.choice(nic.mac), this->stop_).id,
            wish.ports.front());
}

TYPED_TEST(CloudContract, a_server_is_its_jobs_whatever_its_machine_is_called_by_now) {
  Cloud& cloud = this->world_.cloud();
  LaunchWish wish;
  wish.job = this->scene_.job;
  wish.vm = this->scene_.vm;
  wish.flavor = this->world_.flavor();
  EXPECT_FALSE(cloud.find_server(wish.job, this->stop_));
  wish.volumes = {cloud.allocate(this->scene_.wish(size), this->stop_).id};
  const ServerId server = cloud.launch(wish, this->stop_).id;
  wish.vm.name += "-old";
  Cloud& again = this->world_.reopened();
  EXPECT_EQ(again.find_server(wish.job, this->stop_), server);
  EXPECT_FALSE(again.find_server(this->scene_.other_job, this->stop_));
  // A run that died before it wrote the server down makes no second one.
  EXPECT_EQ(again.launch(wish, this->stop_).id, server);
}

TYPED_TEST(CloudContract, a_stopped_run_stops) {
  std::stop_source source;
  const Volume volume = this->world_.cloud().allocate(this->scene_.wish(size), this->stop_);
  source.request_stop();
  // Either it was quick enough or it says that it was cancelled; never another failure, never a hang.
  try {
    this->world_.cloud().attach(volume, source.get_token());
  } catch (const Cancelled&) {
  }
  this->world_.cloud().detach(volume.id, this->stop_);
  EXPECT_TRUE(this->world_.cloud().find(this->scene_.tag(), this->stop_));
}

}  // namespace
}  // namespace vmferry::target
