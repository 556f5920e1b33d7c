// A keyed hash, so that the mark says nothing elsewhere.
#include "base/machine.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <fstream>

#include "base/error.hpp"

namespace vmferry {

std::string machine_mark() {
  std::ifstream file("/etc/machine-id");
  std::string id;
  std::getline(file, id);
  const std::string keyed = "vmferry attaches volumes to " + id;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(keyed.data(), keyed.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1)
    throw Error(Fault::bug, "OpenSSL has no SHA-256");
  return fmt::format("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
}

}  // namespace vmferry
