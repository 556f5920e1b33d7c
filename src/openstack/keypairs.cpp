// Nova's os-keypairs, docs.openstack.org/api-ref/compute/#keypairs-keypairs.
#include "openstack/keypairs.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/evp.h>

#include <array>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>
#include <vector>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::keypairs {

namespace {

using nlohmann::json;

std::string path_of(const std::string& name) {
  if (name.empty()) throw Error(Fault::bug, "a key pair without a name was asked for");
  return "/os-keypairs/" + http::encode(name);
}

KeyPair read(const Fields& f) {
  KeyPair pair{f.text("name"), f.text("public_key"), f.text("fingerprint")};
  if (pair.name.empty()) throw Error(Fault::data, "Nova showed a key pair without a name");
  return pair;
}

// Type and key of "ssh-ed25519 AAAA... comment".
std::pair<std::string, std::string> words_of(const std::string& public_key) {
  std::istringstream in(public_key);
  std::string type, key;
  in >> type >> key;
  return {type, key};
}

KeyPair checked(KeyPair pair, const std::string& public_key) {
  if (same_key(pair.public_key, public_key)) return pair;
  throw Error(
      Fault::conflict,
      fmt::format("the key pair '{}' is there already with another key (fingerprint {}): give another name with "
                  "--key-pair, or leave out --public-key to use it as it is",
                  pair.name, pair.fingerprint));
}

KeyPair post(Service& compute, const std::string& name, const std::string& public_key, const std::string& doing,
             std::stop_token stop) {
  Call call;
  call.method = "POST";
  call.path = "/os-keypairs";
  call.body = json{{"keypair", {{"name", name}, {"public_key", public_key}}}}.dump(-1, ' ', false,
                                                                                   json::error_handler_t::replace);
  call.doing = doing;
  return read(Fields::parse(compute.call(call, stop).body, "Nova's answer").at("keypair"));
}

}  // namespace

bool same_key(const std::string& a, const std::string& b) {
  return !words_of(a).second.empty() && words_of(a) == words_of(b);
}

std::string fingerprint_of(const std::string& public_key) {
  const std::string text = words_of(public_key).second;
  if (text.empty() || text.size() % 4 != 0) return {};
  std::vector<unsigned char> bytes(text.size());
  const int size =
      EVP_DecodeBlock(bytes.data(), reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return {};
  // DecodeBlock counts what the padding stands for.
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  // A host in FIPS mode has no MD5: then there is no fingerprint.
  if (EVP_Digest(bytes.data(), static_cast<std::size_t>(size) - padding, digest.data(), &length, EVP_md5(), nullptr) !=
      1)
    return {};
  std::string out;
  for (unsigned int i = 0; i < length; ++i) out += fmt::format("{}{:02x}", i == 0 ? "" : ":", digest[i]);
  return out;
}

std::optional<KeyPair> look_up(Service& compute, const std::string& name, std::stop_token stop) {
  Call call;
  call.path = path_of(name);
  call.doing = fmt::format("show key pair '{}'", name);
  call.accept = {404};
  const http::Response response = compute.call(call, stop);
  if (response.status == 404) return std::nullopt;
  return read(Fields::parse(response.body, "Nova's answer").at("keypair"));
}

KeyPair get(Service& compute, const std::string& name, std::stop_token stop) {
  if (auto pair = look_up(compute, name, stop)) return *std::move(pair);
  std::vector<std::string> names;
  for (const Fields& item : compute.list("/os-keypairs", "keypairs", "list key pairs", stop))
    names.push_back(item.at("keypair").text("name"));
  throw Error(Fault::config,
              fmt::format("this user has no key pair '{}'{}; key pairs belong to one user each: import the key with "
                          "`openstack keypair create --public-key FILE {}`",
                          name, names.empty() ? "" : fmt::format(", but has: {}", fmt::join(names, ", ")), name));
}

KeyPair ensure(Service& compute, const std::string& name, const std::string& public_key, std::stop_token stop) {
  if (auto pair = look_up(compute, name, stop)) return checked(*std::move(pair), public_key);
  const std::string doing = fmt::format("import key pair '{}'", name);
  const auto look = [&]() -> std::optional<KeyPair> {
    auto pair = look_up(compute, name, stop);
    if (!pair) return std::nullopt;
    return checked(*std::move(pair), public_key);
  };
  try {
    return make_once<KeyPair>(
        compute, doing, [&] { return post(compute, name, public_key, doing, stop); }, look, stop);
  } catch (const Refused& refused) {
    if (refused.status() != 409) throw;
    // Somebody was quicker, or it was us and a retry beneath did not know.
    if (auto pair = look()) return *std::move(pair);
    throw;
  }
}

void remove(Service& compute, const std::string& name, std::stop_token stop) {
  Call call;
  call.method = "DELETE";
  call.path = path_of(name);
  call.doing = fmt::format("delete key pair '{}'", name);
  call.idempotent = true;
  call.accept = {404};
  compute.call(call, stop);
}

}  // namespace vmferry::openstack::keypairs
