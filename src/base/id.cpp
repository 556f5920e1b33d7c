// Random identifiers from OpenSSL's generator.
#include "base/id.hpp"

#include <fmt/format.h>
#include <openssl/rand.h>

#include <array>

#include "base/error.hpp"

namespace vmferry {

std::string random_uuid() {
  std::array<unsigned char, 16> b{};
  if (RAND_bytes(b.data(), static_cast<int>(b.size())) != 1)
    throw Error(Fault::bug, "the system's random number generator gave no bytes");
  b[6] = static_cast<unsigned char>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<unsigned char>((b[8] & 0x3f) | 0x80);
  std::string text;
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", b[i]);
  }
  return text;
}

}  // namespace vmferry
