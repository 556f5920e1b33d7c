// A request that is sent again begins at offset 0, and so does its hash.
#include "target/image/payload.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "copy/throttle.hpp"

namespace vmferry::target::image {

struct Hasher::State {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

Hasher::Hasher(std::unique_ptr<State> state) : state_(std::move(state)) {}
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

std::optional<Hasher> Hasher::of(const std::string& algorithm) {
  // Glance's names are those of Python's hashlib (os_hash_algo, docs.openstack.org/api-ref/image/v2/).
  std::string name = algorithm == "blake2b" ? "blake2b512" : algorithm == "blake2s" ? "blake2s256" : algorithm;
  std::replace(name.begin(), name.end(), '_', '-');
  const EVP_MD* digest = EVP_get_digestbyname(name.c_str());
  if (digest == nullptr) return std::nullopt;
  auto state = std::make_unique<State>();
  if (!state->context || EVP_DigestInit_ex(state->context.get(), digest, nullptr) != 1) return std::nullopt;
  return Hasher(std::move(state));
}

void Hasher::add(const char* bytes, std::size_t size) {
  if (EVP_DigestUpdate(state_->context.get(), bytes, size) != 1) throw Error(Fault::bug, "OpenSSL cannot hash");
}

std::string Hasher::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
  unsigned size = 0;
  if (EVP_DigestFinal_ex(state_->context.get(), raw.data(), &size) != 1) throw Error(Fault::bug, "OpenSSL cannot hash");
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", raw[i]);
  return text;
}

namespace {

std::size_t read_at(int fd, char* into, std::size_t size, std::uint64_t offset) {
  for (;;) {
    const ssize_t got = ::pread(fd, into, size, static_cast<off_t>(offset));
    if (got > 0) return static_cast<std::size_t>(got);
    if (got < 0 && errno == EINTR) continue;
    throw Error(Fault::data, fmt::format("what was to be sent cannot be read at offset {}: {}", offset,
                                         got == 0 ? "it ends there" : std::strerror(errno)));
  }
}

}  // namespace

std::optional<std::string> hash_of(int fd, std::uint64_t bytes, const std::string& algorithm, std::stop_token stop) {
  auto hasher = Hasher::of(algorithm);
  if (!hasher) return std::nullopt;
  std::vector<char> buffer(1 << 20);
  for (std::uint64_t at = 0; at < bytes;) {
    if (stop.stop_requested()) throw Cancelled();
    const std::size_t got = read_at(fd, buffer.data(), std::min<std::uint64_t>(buffer.size(), bytes - at), at);
    hasher->add(buffer.data(), got);
    at += got;
  }
  return hasher->finish();
}

Payload::Payload(int fd, std::uint64_t bytes, const Sending& how, Clock& clock, std::stop_token stop)
    : fd_(fd), bytes_(bytes), how_(how), clock_(clock), stop_(std::move(stop)) {
  hasher_ = Hasher::of("sha512");
}

// In short sleeps: the rate may be changed meanwhile.
void Payload::wait_for_turn() {
  constexpr std::chrono::nanoseconds longest = std::chrono::milliseconds(250);
  for (;;) {
    const auto now = clock_.mono();
    const std::chrono::nanoseconds left = how_.throttle->open_at(now) - now;
    if (left <= std::chrono::nanoseconds(0)) return;
    sleep_or_cancel(clock_, std::min(left, longest), stop_);
  }
}

std::size_t Payload::read(std::uint64_t offset, char* into, std::size_t size) {
  if (offset == 0) {
    hasher_ = Hasher::of("sha512");
    hashed_ = 0;
  }
  if (how_.throttle) wait_for_turn();
  const std::uint64_t wanted = std::min<std::uint64_t>(size, offset < bytes_ ? bytes_ - offset : 0);
  const std::size_t got = wanted == 0 ? 0 : read_at(fd_, into, wanted, offset);
  if (how_.throttle) how_.throttle->take(got, clock_.mono());
  if (offset == hashed_ && hasher_) {
    hasher_->add(into, got);
    hashed_ += got;
  }
  how_.progress.advanced(offset + got, bytes_);
  return got;
}

std::optional<std::string> Payload::sha512() {
  if (!spent() || !hasher_) return std::nullopt;
  std::string text = hasher_->finish();
  hasher_.reset();
  return text;
}

}  // namespace vmferry::target::image
