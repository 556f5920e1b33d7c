// The parts of a message that need no network.
#include <fmt/format.h>
#include <openssl/evp.h>
#include <strings.h>

#include <algorithm>

#include "http/http.hpp"

namespace vmferry::http {

std::string Response::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (key.size() == name.size() && ::strncasecmp(key.data(), name.data(), name.size()) == 0) return value;
  return {};
}

std::string base64(std::string_view bytes) {
  // With the zero at the end that EVP_EncodeBlock(3) writes.
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  const auto* from = reinterpret_cast<const unsigned char*>(bytes.data());
  text.resize(static_cast<std::size_t>(
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), from, static_cast<int>(bytes.size()))));
  return text;
}

std::string encode(std::string_view text) {
  std::string out;
  for (const char c : text) {
    // RFC 3986, 2.3: the unreserved characters, whatever the locale says.
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '.' || c == '_' || c == '~';
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace vmferry::http
