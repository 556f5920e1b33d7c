// What an image that the cloud stored proves, and the hash of a disk on its way.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/fd.hpp"
#include "copy/throttle.hpp"
#include "support/fake_clock.hpp"
#include "target/image/image_cloud.hpp"
#include "target/image/payload.hpp"
#include "target/image/qcow2.hpp"

namespace vmferry::target::image {
namespace {

::vmferry::openstack::Image stored(const char* format, std::int64_t bytes, const char* algorithm, const char* hash,
                                   const char* md5 = "") {
  ::vmferry::openstack::Image image;
  image.disk_format = format;
  image.bytes = bytes;
  image.hash_algorithm = algorithm;
  image.hash = hash;
  image.md5 = md5;
  return image;
}

TEST(ProofOfAnImage, TheHashOfWhatWasSent) {
  EXPECT_EQ(proof_of(stored("qcow2", 10, "sha512", "ab"), "qcow2", 10, 99), Proof::hash);
  EXPECT_EQ(proof_of(stored("qcow2", -1, "sha3_512", "ab"), "qcow2", 10, 99), Proof::hash);
}

TEST(ProofOfAnImage, HalfAnUploadIsSeenByItsSize) {
  EXPECT_EQ(proof_of(stored("qcow2", 9, "sha512", "ab"), "qcow2", 10, 99), Proof::different);
}

TEST(ProofOfAnImage, OlderCloudsHaveAnMd5) {
  EXPECT_EQ(proof_of(stored("raw", 10, "", "", "cd"), "raw", 10, 10), Proof::md5);
  EXPECT_EQ(proof_of(stored("raw", 10, "of tomorrow", "ab", "cd"), "raw", 10, 10), Proof::md5);
}

TEST(ProofOfAnImage, WhatTheCloudMadeRawIsComparedWithTheDisk) {
  EXPECT_EQ(proof_of(stored("raw", 99, "sha512", "ab"), "qcow2", 10, 99), Proof::raw_hash);
  EXPECT_EQ(proof_of(stored("raw", 98, "sha512", "ab"), "qcow2", 10, 99), Proof::different);
}

TEST(ProofOfAnImage, NoneIsNotTakenForOne) {
  EXPECT_EQ(proof_of(stored("vmdk", 10, "sha512", "ab"), "qcow2", 10, 99), Proof::none);
  EXPECT_EQ(proof_of(stored("qcow2", 10, "", ""), "qcow2", 10, 99), Proof::none);
}

class Silent final : public copy::Progress {
 public:
  void advanced(std::uint64_t done, std::uint64_t) noexcept override { last = done; }
  std::uint64_t last = 0;
};

class PayloadTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/vmferry-payload-XXXXXX";
    fd_ = Fd(::mkstemp(name));
    ::unlink(name);
    ASSERT_EQ(::write(fd_.get(), "abc", 3), 3);
  }
  Fd fd_;
  Silent progress_;
  support::FakeClock clock_;
};

// FIPS 180-2, appendix C.1.
constexpr const char* sha512_of_abc =
    "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a"
    "9ac94fa54ca49f";

TEST_F(PayloadTest, IsHashedAsItIsReadAlsoTheSecondTime) {
  Payload payload(fd_.get(), 3, {progress_}, clock_, {});
  char buffer[8];
  EXPECT_EQ(payload.read(0, buffer, 2), 2U);
  EXPECT_FALSE(payload.spent());
  EXPECT_EQ(payload.sha512(), std::nullopt);
  EXPECT_EQ(payload.read(0, buffer, 1), 1U);  // sent again
  EXPECT_EQ(payload.read(1, buffer, 8), 2U);
  EXPECT_EQ(payload.read(3, buffer, 8), 0U);
  EXPECT_EQ(payload.sha512(), sha512_of_abc);
  EXPECT_EQ(progress_.last, 3U);
}

TEST_F(PayloadTest, AFileThatIsTooShortIsAnError) {
  Payload payload(fd_.get(), 5, {progress_}, clock_, {});
  char buffer[8];
  EXPECT_EQ(payload.read(0, buffer, 8), 3U);
  EXPECT_THROW(payload.read(3, buffer, 8), Error);
}

TEST_F(PayloadTest, ALimitHoldsAndChangesAtOnce) {
  const auto meter = std::make_shared<copy::Meter>();
  meter->set_rate(1);
  Payload payload(fd_.get(), 3, {progress_, std::make_shared<copy::Throttle>(std::vector{meter})}, clock_, {});
  char buffer[8];
  const auto began = clock_.mono();
  EXPECT_EQ(payload.read(0, buffer, 1), 1U);
  EXPECT_EQ(payload.read(1, buffer, 1), 1U);
  EXPECT_EQ(payload.read(2, buffer, 1), 1U);
  EXPECT_GE(clock_.mono() - began, std::chrono::milliseconds(1800)) << "three bytes, one a second";
  meter->take(300, clock_.mono());  // five minutes, were it not lifted
  meter->set_rate(0);
  const auto lifted = clock_.mono();
  EXPECT_EQ(payload.read(0, buffer, 3), 3U);
  EXPECT_LT(clock_.mono() - lifted, std::chrono::minutes(2));
}

TEST_F(PayloadTest, WhoWaitsForItsTurnIsStoppedAtOnce) {
  const auto meter = std::make_shared<copy::Meter>();
  meter->set_rate(1);
  std::stop_source stop;
  Payload payload(fd_.get(), 3, {progress_, std::make_shared<copy::Throttle>(std::vector{meter})}, clock_,
                  stop.get_token());
  char buffer[8];
  EXPECT_EQ(payload.read(0, buffer, 3), 3U);
  stop.request_stop();
  EXPECT_THROW(payload.read(0, buffer, 3), Cancelled);
}

TEST(RoomForImages, WhatDoesNotFitBesideOthersWaitsForThem) {
  std::atomic<std::uint64_t> free = 100;
  Room room("/somewhere", [&] { return free.load(); });
  EXPECT_THROW(room.take(101, {}), Error);
  Room::Share first = room.take(60, {});
  Room::Share second = room.take(40, {});
  free = 30;  // they are being written
  std::atomic<bool> got = false;
  std::jthread third([&] {
    const Room::Share share = room.take(50, {});
    got = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(got);
  second = {};
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(got) << "60 and 50 are more than 100";
  free = 100;
  first = {};
  third.join();
  EXPECT_TRUE(got);
  std::stop_source stop;
  const Room::Share all = room.take(100, {});
  stop.request_stop();
  EXPECT_THROW(room.take(1, stop.get_token()), Cancelled);
}

TEST_F(PayloadTest, OtherDigestsByGlancesNames) {
  EXPECT_EQ(hash_of(fd_.get(), 3, "sha512", {}), sha512_of_abc);
  EXPECT_EQ(hash_of(fd_.get(), 3, "md5", {}), "900150983cd24fb0d6963f7d28e17f72");  // RFC 1321, A.5
  EXPECT_TRUE(hash_of(fd_.get(), 3, "sha3_512", {}));
  EXPECT_TRUE(hash_of(fd_.get(), 3, "blake2b", {}));
  EXPECT_EQ(hash_of(fd_.get(), 3, "of tomorrow", {}), std::nullopt);
}

}  // namespace
}  // namespace vmferry::target::image
