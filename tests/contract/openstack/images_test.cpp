// Images with bytes, and volumes made of them, against the lab's OpenStack: the stand-in and, in a lab with them, the
// real services.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/id.hpp"
#include "openstack/cloud.hpp"
#include "openstack/images.hpp"
#include "openstack/volumes.hpp"
#include "support/lab.hpp"
#include "support/openstack_lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;
using support::thrown;

constexpr auto patience = 120s;

class Bytes final : public http::Upload {
 public:
  explicit Bytes(std::string text) : text_(std::move(text)) {}
  std::uint64_t bytes() const override { return text_.size(); }
  std::size_t read(std::uint64_t offset, char* into, std::size_t size) override {
    if (breaks_at > 0 && offset >= breaks_at) throw Error(Fault::data, "unreadable");
    most = std::max(most, size);
    return text_.copy(into, size, offset);
  }
  std::size_t most = 0;         // ever asked for at once
  std::uint64_t breaks_at = 0;  // 0: nowhere

 private:
  std::string text_;
};

// One lab for all tests of the suite; each leaves nothing behind.
class Images : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    lab_ = new support::Lab({"--devices", "file", "--writer-rate", "0"});
    if (!lab_->real_openstack()) lab_->control("openstack", "POST", "/settings", R"({"create_delay_ms":50})");
  }
  static void TearDownTestSuite() {
    delete lab_;
    lab_ = nullptr;
  }
  void SetUp() override {
    control("DELETE", "/faults");
    before_ = counts();
    cloud_ = support::open_cloud(*lab_, clock_, log_);
  }
  void TearDown() override {
    control("DELETE", "/faults");
    EXPECT_EQ(counts(), before_);
  }
  static json control(const std::string& method, const std::string& path, const json& body = nullptr) {
    const std::string text = lab_->control("openstack", method, path, body.is_null() ? "" : body.dump());
    return text.empty() ? json() : json::parse(text, nullptr, false);
  }
  static std::pair<std::size_t, std::size_t> counts() {
    const json state = control("GET", "/state");
    return {state["images"].size(), state["volumes"].size()};
  }
  static void fault(const std::string& method, const std::string& path, const std::string& kind) {
    control("POST", "/faults",
            {{"service", "image"}, {"method", method}, {"path_regex", path}, {"count", 1}, {"kind", kind}});
  }
  Service& glance() { return cloud_->image({}); }
  Image make(const std::string& format = "raw") {
    ImageWish wish;
    wish.name = "disk " + random_uuid();
    wish.disk_format = format;
    wish.min_disk_gib = 1;
    wish.properties = {{"vmferry_job", random_uuid()}, {"vmferry_disk", "1-2000"}, {"hw_firmware_type", "uefi"}};
    wish.tag = {{"vmferry_job", wish.properties["vmferry_job"]}};
    return images::create(glance(), wish, {});
  }
  static std::string some(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 + i / 253);
    return text;
  }

  static support::Lab* lab_;
  SystemClock clock_;
  log::Log log_;
  std::unique_ptr<Cloud> cloud_;
  std::pair<std::size_t, std::size_t> before_;
};

support::Lab* Images::lab_ = nullptr;

TEST_F(Images, AreMadeOnceAndFoundByTheirProperties) {
  fault("POST", "/images$", "lost-reply");
  const Image made = make();
  EXPECT_EQ(made.status, "queued");
  EXPECT_EQ(made.bytes, -1);
  const auto found = images::find_tagged(glance(), {{"vmferry_job", made.properties.at("vmferry_job")}}, {});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found.front().id, made.id);
  EXPECT_EQ(found.front().properties.at("vmferry_disk"), "1-2000");
  EXPECT_TRUE(images::find_tagged(glance(), {{"vmferry_job", random_uuid()}}, {}).empty());
  fault("DELETE", "/images/", "lost-reply");
  images::remove(glance(), ImageId{made.id}, {});
  EXPECT_FALSE(images::look_up(glance(), ImageId{made.id}, {}));
  images::remove(glance(), ImageId{made.id}, {});
}

TEST_F(Images, TakeBytesPieceByPiece) {
  const ImageId id{make().id};
  Bytes data(some((5 << 20) + 12345));
  images::put_data(glance(), id, data, {});
  const Image active = images::wait_until_active(glance(), id, patience, {});
  EXPECT_EQ(active.bytes, (5 << 20) + 12345);
  EXPECT_EQ(active.hash_algorithm, "sha512");
  EXPECT_EQ(active.hash.size(), 128U);
  EXPECT_LE(data.most, 4U << 20);
  // No second time.
  const Error again = thrown([&] { images::put_data(glance(), id, data, {}); });
  EXPECT_EQ(again.fault(), Fault::conflict) << again.what();
  images::remove(glance(), id, {});
}

TEST_F(Images, AreStagedAndImported) {
  ASSERT_TRUE(images::may_import(glance(), {}));
  const ImageId id{make().id};
  Bytes data(some(3 << 20));
  images::stage_data(glance(), id, data, {});
  fault("POST", "/import$", "lost-reply");
  images::import_staged(glance(), id, {});
  EXPECT_EQ(images::wait_until_active(glance(), id, patience, {}).bytes, 3 << 20);
  images::remove(glance(), id, {});
}

TEST_F(Images, ATokenThatIsRefusedIsRenewedAndAllIsSentAgain) {
  const ImageId id{make().id};
  Bytes data(some(3 << 20));
  if (lab_->real_openstack())
    control("POST", "/faults",
            {{"service", "image"},
             {"method", "PUT"},
             {"path_regex", "/file$"},
             {"count", 1},
             {"kind", "http"},
             {"status", 401}});
  else
    fault("PUT", "/file$", "expire");
  images::put_data(glance(), id, data, {});
  EXPECT_EQ(images::wait_until_active(glance(), id, patience, {}).bytes, 3 << 20);
  images::remove(glance(), id, {});
}

TEST_F(Images, WhatBreaksOffIsToldAndCanBeDeleted) {
  const ImageId id{make().id};
  Bytes data(some(8 << 20));
  data.breaks_at = 4 << 20;
  const Error e = thrown([&] { images::put_data(glance(), id, data, {}); });
  EXPECT_STREQ(e.what(), "unreadable") << "the upload's own words";
  // Whatever the cloud makes of half an image: it is never taken for a whole one, and goes.
  const auto half = images::look_up(glance(), id, {});
  ASSERT_TRUE(half);
  EXPECT_LT(half->bytes, 8 << 20);
  std::cerr << "half an image is " << half->status << " with " << half->bytes << " bytes\n";
  images::remove(glance(), id, {});
}

TEST_F(Images, AnUploadIsCancelledAtOnce) {
  const ImageId id{make().id};
  class Slow final : public http::Upload {
   public:
    explicit Slow(std::stop_source& stop) : stop_(stop) {}
    std::uint64_t bytes() const override { return 1ULL << 40; }
    std::size_t read(std::uint64_t offset, char* into, std::size_t size) override {
      if (offset > (2 << 20)) stop_.request_stop();
      std::fill_n(into, size, 'x');
      return size;
    }

   private:
    std::stop_source& stop_;
  };
  std::stop_source stop;
  Slow slow(stop);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_THROW(images::put_data(glance(), id, slow, stop.get_token()), Cancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - began, 60s);
  images::remove(glance(), id, {});
}

TEST_F(Images, BecomeVolumes) {
  const Image made = make();
  const ImageId id{made.id};
  const std::string bytes = some(2 << 20);
  Bytes data(bytes);
  images::put_data(glance(), id, data, {});
  images::wait_until_active(glance(), id, patience, {});
  VolumeWish wish;
  wish.name = "of an image";
  wish.gib = 1;
  wish.image = id;
  wish.metadata = wish.tag = {{"test", random_uuid()}};
  const VolumeId volume = volumes::create(cloud_->volume({}), wish, {}).id;
  const Volume ready = volumes::wait_for(cloud_->volume({}), volume, {"available"}, patience, {});
  EXPECT_TRUE(ready.bootable) << "as every volume from an image";
  EXPECT_EQ(ready.image_metadata.at("hw_firmware_type"), "uefi");
  EXPECT_EQ(ready.image_metadata.at("image_id"), made.id);
  const json state = control("GET", "/state");
  for (const auto& shown : state.at("volumes"))
    if (shown.at("id") == volume.value) {
      std::ifstream file(shown.at("file").get<std::string>(), std::ios::binary);
      std::string held(bytes.size(), ' ');
      file.read(held.data(), static_cast<std::streamsize>(held.size()));
      EXPECT_TRUE(held == bytes);
    }
  volumes::remove(cloud_->volume({}), volume, {});
  images::remove(glance(), id, {});
}

TEST_F(Images, AVolumeThatIsTooSmallForItsImageIsRefused) {
  const Image made = make();
  Bytes data(some(1 << 20));
  images::put_data(glance(), ImageId{made.id}, data, {});
  ImageWish large;
  large.name = "wants two GiB";
  large.disk_format = "raw";
  large.min_disk_gib = 2;
  large.properties = large.tag = {{"vmferry_job", random_uuid()}};
  const ImageId id{images::create(glance(), large, {}).id};
  Bytes more(some(1 << 20));
  images::put_data(glance(), id, more, {});
  images::wait_until_active(glance(), id, patience, {});
  VolumeWish wish;
  wish.name = "too small";
  wish.gib = 1;
  wish.image = id;
  wish.metadata = wish.tag = {{"test", random_uuid()}};
  const Error e = thrown([&] { volumes::create(cloud_->volume({}), wish, {}); });
  EXPECT_NE(std::string(e.what()).find("minDisk"), std::string::npos) << e.what();
  images::remove(glance(), id, {});
  images::remove(glance(), ImageId{made.id}, {});
}

}  // namespace
}  // namespace vmferry::openstack
