// Secrets live in one heap block that is cleansed when its last owner goes.
#include "base/secret.hpp"

#include <openssl/crypto.h>

namespace vmferry {

struct Secret::Bytes {
  std::string text;
  explicit Bytes(std::string&& t) : text(t) { wipe(t); }
  ~Bytes() { wipe(text); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
};

void wipe(std::string& text) noexcept {
  OPENSSL_cleanse(text.data(), text.size());
  text.clear();
}

Secret::Secret(std::string&& plain) : bytes_(std::make_shared<const Bytes>(std::move(plain))) {}

Secret Secret::share() const {
  Secret other;
  other.bytes_ = bytes_;
  return other;
}

bool Secret::empty() const noexcept { return !bytes_ || bytes_->text.empty(); }

std::string_view Secret::reveal() const noexcept {
  return bytes_ ? std::string_view(bytes_->text) : std::string_view();
}

}  // namespace vmferry
