// The bytes of one disk on their way into an image: a file or device, hashed as it is read, told of as it goes. Knows
// no cloud.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "base/clock.hpp"
#include "http/http.hpp"
#include "target/cloud.hpp"

namespace vmferry::target::image {

// A digest by its name in OpenStack ("sha512", "md5", "sha3_512"), of bytes that come in order.
class Hasher {
 public:
  // Nothing when OpenSSL has no such digest.
  static std::optional<Hasher> of(const std::string& algorithm);
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  ~Hasher();
  void add(const char* bytes, std::size_t size);
  std::string finish();  // hexadecimal, lower case; once

 private:
  struct State;
  explicit Hasher(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Of the first `bytes` of what is open there; nothing when there is no such digest. Blocks. Throws Cancelled,
// Error(data).
std::optional<std::string> hash_of(int fd, std::uint64_t bytes, const std::string& algorithm, std::stop_token stop);

// `fd` is open for reading; it, and what else is given, outlives it. read() waits as `how.throttle` says, and throws
// Cancelled when told to stop.
class Payload final : public http::Upload {
 public:
  Payload(int fd, std::uint64_t bytes, const Sending& how, Clock& clock, std::stop_token stop);
  std::uint64_t bytes() const override { return bytes_; }
  std::size_t read(std::uint64_t offset, char* into, std::size_t size) override;
  // All of it was read since it was last begun.
  bool spent() const noexcept { return hashed_ == bytes_; }
  // SHA-512 of what was read; nothing unless spent(). Once.
  std::optional<std::string> sha512();

 private:
  void wait_for_turn();

  int fd_;
  std::uint64_t bytes_;
  Sending how_;
  Clock& clock_;
  std::stop_token stop_;
  std::uint64_t hashed_ = 0;
  std::optional<Hasher> hasher_;
};

}  // namespace vmferry::target::image
