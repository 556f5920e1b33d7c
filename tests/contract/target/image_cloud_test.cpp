// Disks by way of images, against the lab's OpenStack: proven, made into volumes once, and never taken for another
// disk.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/error.hpp"
#include "process/process.hpp"
#include "target/image/image_cloud.hpp"
#include "worlds.hpp"

namespace vmferry::target {
namespace {

constexpr std::uint64_t size = 3 << 20;

class Quiet final : public copy::Progress {
 public:
  void advanced(std::uint64_t done, std::uint64_t) noexcept override { sent = done; }
  std::uint64_t sent = 0;
};

class ImageTarget : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = OpenstackWorld::unavailable(); !why.empty()) GTEST_SKIP() << "not shown here: " << why;
    control("DELETE", "/faults");
  }
  void TearDown() override {
    if (IsSkipped()) return;
    control("DELETE", "/faults");
    if (cloud_) cloud_->delivery()->sweep(scene_.job, {}, {});
    EXPECT_EQ(images(), 0U);
  }
  static std::string control(const std::string& method, const std::string& path, const std::string& body = "") {
    return OpenstackWorld::lab().control("openstack", method, path, body);
  }
  static bool real() { return OpenstackWorld::lab().real_openstack(); }
  Cloud& open(const std::string& format, image::Method method) {
    image::Options options;
    options.directory = folder_.path();
    options.format = format;
    options.method = method;
    options.openstack.volume_type = OpenstackWorld::lab().get("openstack.volume_type");
    cloud_ = image::image_cloud(std::move(options), world_.client(), runner_, clock_, world_.log());
    return *cloud_;
  }
  // Images of this scene's job that are there.
  std::size_t images() {
    std::size_t count = 0;
    const nlohmann::json state = world_.state_of_lab();
    for (const auto& image : state.at("images"))
      if (image.value("vmferry_job", "") == scene_.job.value) ++count;
    return count;
  }
  nlohmann::json volume_in_lab(const VolumeId& id) {
    const nlohmann::json state = world_.state_of_lab();
    for (const auto& volume : state.at("volumes"))
      if (volume.at("id") == id.value) return volume;
    return nullptr;
  }
  // A disk in the folder that holds something.
  std::unique_ptr<Device> disk(const VolumeWish& wish, char fill = 'd') {
    const Volume volume = cloud_->allocate(wish, {});
    std::unique_ptr<Device> device = cloud_->attach(volume, {});
    const std::string text(1 << 20, fill);
    EXPECT_EQ(::pwrite(device->fd(), text.data(), text.size(), 1 << 20), 1 << 20);
    return device;
  }
  void expect_bytes(const VolumeId& volume, const Device& device) {
    std::string ours(size, ' '), theirs(size, ' ');
    EXPECT_EQ(::pread(device.fd(), ours.data(), size, 0), static_cast<ssize_t>(size));
    std::ifstream file(volume_in_lab(volume).at("file").get<std::string>(), std::ios::binary);
    file.read(theirs.data(), static_cast<std::streamsize>(size));
    EXPECT_TRUE(ours == theirs) << "other bytes";
  }

  OpenstackWorld world_;
  Scene scene_;
  support::TemporaryDirectory folder_;
  process::SystemRunner runner_;
  SystemClock clock_;
  Quiet progress_;
  std::unique_ptr<Cloud> cloud_;
};

TEST_F(ImageTarget, every_byte_arrives_in_every_way) {
  for (const char* format : {"qcow2", "raw"})
    for (const image::Method method : {image::Method::direct, image::Method::import}) {
      Cloud& cloud = open(format, method);
      cloud.check_settings({});
      const VolumeWish wish = scene_.wish(size);
      const auto device = disk(wish);
      const SentImage sent = cloud.delivery()->send(wish, *device, "content", {progress_}, {});
      EXPECT_EQ(sent.format, format);
      EXPECT_EQ(sent.algorithm, "sha512");
      EXPECT_EQ(progress_.sent, sent.bytes);
      const VolumeId volume = cloud.delivery()->order(wish, sent.id, {});
      EXPECT_EQ(cloud.delivery()->order(wish, sent.id, {}), volume) << "ordered twice";
      cloud.delivery()->await(wish, volume, {});
      expect_bytes(volume, *device);
      const nlohmann::json made = volume_in_lab(volume);
      EXPECT_EQ(made.at("name"), wish.tag.volume_name);
      EXPECT_EQ(made.at("metadata").at("vmferry_job"), scene_.job.value);
      EXPECT_EQ(made.at("image_metadata").at("hw_firmware_type"), "uefi");
      // Or an image that somebody makes of this volume would be taken for ours, and deleted.
      EXPECT_EQ(made.at("image_metadata").dump().find("vmferry_"), std::string::npos) << made.at("image_metadata");
      const auto swept = cloud.delivery()->sweep(scene_.job, {}, {});
      EXPECT_EQ(swept.deleted.size(), 2U);
      EXPECT_TRUE(swept.stuck.empty());
      EXPECT_TRUE(volume_in_lab(volume).is_null());
    }
}

TEST_F(ImageTarget, only_the_boot_disk_is_bootable) {
  Cloud& cloud = open("raw", image::Method::automatic);
  const VolumeWish wish = scene_.wish(size, 1);
  const auto device = disk(wish);
  const SentImage sent = cloud.delivery()->send(wish, *device, "", {progress_}, {});
  const VolumeId volume = cloud.delivery()->order(wish, sent.id, {});
  cloud.delivery()->await(wish, volume, {});
  EXPECT_EQ(volume_in_lab(volume).at("bootable").dump().find("true"), std::string::npos);
}

TEST_F(ImageTarget, replies_that_get_lost_double_nothing) {
  for (const image::Method method : {image::Method::direct, image::Method::import}) {
    Cloud& cloud = open("raw", method);
    for (const char* rule :
         {R"("method":"POST","path_regex":"/images$")", R"("method":"PUT","path_regex":"/(file|stage)$")",
          R"("service":"volume","method":"POST","path_regex":"/volumes$")"})
      control("POST", "/faults", std::string("{") + rule + R"(,"count":1,"kind":"lost-reply"})");
    const VolumeWish wish = scene_.wish(size);
    const auto device = disk(wish);
    const SentImage sent = cloud.delivery()->send(wish, *device, "", {progress_}, {});
    EXPECT_EQ(images(), 1U);
    const VolumeId volume = cloud.delivery()->order(wish, sent.id, {});
    cloud.delivery()->await(wish, volume, {});
    expect_bytes(volume, *device);
    EXPECT_EQ(cloud.delivery()->sweep(scene_.job, {}, {}).deleted.size(), 2U) << "something was doubled";
  }
}

// The end of an upload is not answered, or by a gateway that gave up, and Glance is not there for a while after it.
TEST_F(ImageTarget, what_has_arrived_is_not_sent_again) {
  for (const image::Method method : {image::Method::direct, image::Method::import})
    for (const char* reply : {R"("status":504)", R"("status":502)", R"("status":0)"}) {
      SCOPED_TRACE(fmt::format("{} {}", method == image::Method::direct ? "direct" : "import", reply));
      control("DELETE", "/faults");
      Cloud& cloud = open("raw", method);
      const VolumeWish wish = scene_.wish(size);
      const auto device = disk(wish);
      control("DELETE", "/calls");
      control(
          "POST", "/faults",
          fmt::format(R"({{"method":"PUT","path_regex":"/(file|stage)$","count":1,"kind":"lost-reply",{}}})", reply));
      // More often than the transport asks.
      control(
          "POST", "/faults",
          R"({"service":"image","method":"GET","path_regex":"/images/[-0-9a-f]+$","count":6,"kind":"http","status":503})");
      const SentImage sent = cloud.delivery()->send(wish, *device, "", {progress_}, {});
      EXPECT_EQ(sent.algorithm, "sha512");
      const auto calls = nlohmann::json::parse(control("GET", "/calls"));
      EXPECT_EQ(std::count_if(calls.begin(), calls.end(), [](const auto& call) { return call["method"] == "PUT"; }), 1)
          << "sent again";
      cloud.delivery()->sweep(scene_.job, {}, {});
    }
}

TEST_F(ImageTarget, a_sweep_keeps_what_it_is_told_to_and_touches_no_other_job) {
  Cloud& cloud = open("raw", image::Method::direct);
  const VolumeWish wish = scene_.wish(size);
  const auto device = disk(wish);
  const SentImage sent = cloud.delivery()->send(wish, *device, "content", {progress_}, {});
  const VolumeId volume = cloud.delivery()->order(wish, sent.id, {});
  cloud.delivery()->await(wish, volume, {});
  EXPECT_TRUE(cloud.delivery()->sweep(scene_.other_job, {}, {}).deleted.empty());
  const auto kept = cloud.delivery()->sweep(scene_.job, {{sent.id}, {volume}, {}, false}, {});
  EXPECT_EQ(kept.images, std::set<ImageId>{sent.id});
  EXPECT_EQ(kept.volumes, std::set<VolumeId>{volume});
  EXPECT_TRUE(kept.deleted.empty());
  const auto without_images = cloud.delivery()->sweep(scene_.job, {{}, {}, {}, true}, {});
  EXPECT_EQ(without_images.deleted.size(), 1U);
  EXPECT_FALSE(volume_in_lab(volume).is_null());
}

TEST_F(ImageTarget, room_for_the_disks_in_the_folder_is_asked_whatever_the_machine_is_called_by_now) {
  Cloud& cloud = open("raw", image::Method::direct);
  const VolumeWish wish = scene_.wish(size);
  disk(wish);
  Arrival arrival;
  arrival.job = scene_.job;
  arrival.vm = scene_.vm;
  arrival.vm.name = "renamed";
  arrival.server = true;
  arrival.copied = {wish};
  const auto says_room = [&] {
    const std::vector<plan::Finding> found = cloud.examine(arrival, {});
    return std::any_of(found.begin(), found.end(), [](const plan::Finding& finding) {
      return finding.fault == Fault::quota && finding.fact.find("GiB") != std::string::npos;
    });
  };
  EXPECT_FALSE(says_room());
  // Cinder takes no limit below what is used.
  control("POST", "/quota",
          fmt::format(R"({{"gigabytes":{}}})",
                      ::vmferry::openstack::volumes::limits(world_.client()->volume({}), {}).gib_used));
  const bool said = says_room();
  control("POST", "/quota", R"({"gigabytes":-1})");
  EXPECT_TRUE(said);
}

TEST_F(ImageTarget, no_sweep_deletes_what_a_server_was_given) {
  Cloud& cloud = open("raw", image::Method::direct);
  const VolumeWish wish = scene_.wish(size);
  const auto device = disk(wish);
  const SentImage sent = cloud.delivery()->send(wish, *device, "content", {progress_}, {});
  const VolumeId volume = cloud.delivery()->order(wish, sent.id, {});
  cloud.delivery()->await(wish, volume, {});
  cloud.delivery()->hand_over(volume, {});
  cloud.delivery()->hand_over(volume, {});
  EXPECT_EQ(cloud.delivery()->sweep(scene_.job, {}, {}).deleted.size(), 1U) << "the image alone";
  EXPECT_FALSE(volume_in_lab(volume).is_null());
  EXPECT_THROW(cloud.delivery()->discard(volume, scene_.other_job, {}), Error);
  cloud.delivery()->discard(volume, scene_.job, {});
  cloud.delivery()->discard(volume, scene_.job, {});
  EXPECT_TRUE(volume_in_lab(volume).is_null());
}

TEST_F(ImageTarget, a_refused_token_in_the_upload_is_renewed) {
  Cloud& cloud = open("qcow2", image::Method::direct);
  control("POST", "/faults",
          std::string(R"({"service":"image","method":"PUT","path_regex":"/file$","count":1,)") +
              (real() ? R"("kind":"http","status":401})" : R"("kind":"expire"})"));
  const VolumeWish wish = scene_.wish(size);
  const auto device = disk(wish);
  EXPECT_FALSE(cloud.delivery()->send(wish, *device, "", {progress_}, {}).hash.empty());
  EXPECT_EQ(images(), 1U);
}

TEST_F(ImageTarget, a_broken_upload_is_begun_anew) {
  Cloud& cloud = open("raw", image::Method::direct);
  control("POST", "/faults", R"({"service":"image","method":"PUT","path_regex":"/file$","count":1,"kind":"reset"})");
  const VolumeWish wish = scene_.wish(size);
  const auto device = disk(wish);
  EXPECT_FALSE(cloud.delivery()->send(wish, *device, "", {progress_}, {}).hash.empty());
  EXPECT_EQ(images(), 1U);
}

}  // namespace
}  // namespace vmferry::target
