// A keyed hash, so that the mark says nothing elsewhere.
#include "base/machine.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>

#include "base/error.hpp"

namespace vmferry {

namespace {

std::string first_line(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string hashed(const std::string& text) {
  const std::string keyed = "vmferry attaches volumes to " + text;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(keyed.data(), keyed.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1)
    throw Error(Fault::bug, "OpenSSL has no SHA-256");
  return fmt::format("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
}

}  // namespace

std::optional<std::string> look_up_machine_mark(const MachineFiles& files) {
  const std::string id = first_line(files.id);
  if (id.empty() || id == "uninitialized") return std::nullopt;
  std::string uuid = first_line(files.hardware);
  // Kernels before 4.20 and some firmware write it in upper case.
  std::transform(uuid.begin(), uuid.end(), uuid.begin(), [](unsigned char c) { return std::tolower(c); });
  return hashed(id) + (uuid.empty() ? "" : "-" + hashed(id + " on " + uuid));
}

std::string machine_mark(const MachineFiles& files) {
  if (auto mark = look_up_machine_mark(files)) return *std::move(mark);
  throw Error(Fault::config,
              fmt::format("{} holds no machine id, so this host cannot be told from others that may have a volume: run "
                          "systemd-machine-id-setup (in a container give it the host's file)",
                          files.id.string()));
}

bool same_machine_mark(const std::string& one, const std::string& other) {
  const std::string shorter = one.size() < other.size() ? one : other;
  const std::string longer = one.size() < other.size() ? other : one;
  return !shorter.empty() && (shorter == longer || longer.starts_with(shorter + "-"));
}

}  // namespace vmferry
