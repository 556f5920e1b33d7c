// A keyed hash, so that the mark says nothing elsewhere.
#include "base/machine.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <fstream>

#include "base/error.hpp"

namespace vmferry {

std::optional<std::string> look_up_machine_mark(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string id;
  std::getline(in, id);
  if (id.empty() || id == "uninitialized") return std::nullopt;
  const std::string keyed = "vmferry attaches volumes to " + id;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(keyed.data(), keyed.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1)
    throw Error(Fault::bug, "OpenSSL has no SHA-256");
  return fmt::format("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
}

std::string machine_mark(const std::filesystem::path& file) {
  if (auto mark = look_up_machine_mark(file)) return *std::move(mark);
  throw Error(Fault::config,
              fmt::format("{} holds no machine id, so this host cannot be told from others that may have a volume: run "
                          "systemd-machine-id-setup (in a container give it the host's file)",
                          file.string()));
}

}  // namespace vmferry
