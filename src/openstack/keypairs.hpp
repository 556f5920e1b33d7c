// Nova key pairs: public keys that a new server lets in, found by name, imported once even if a reply is lost. They
// belong to a user, not to a project, and carry no metadata. Private keys never come here.
#pragma once

#include <optional>
#include <stop_token>
#include <string>

#include "openstack/service.hpp"

namespace vmferry::openstack {

struct KeyPair {
  std::string name;
  std::string public_key;   // "ssh-ed25519 AAAA... comment"
  std::string fingerprint;  // Nova's: the MD5 of the key, "aa:bb:..."
};

namespace keypairs {

std::optional<KeyPair> look_up(Service& compute, const std::string& name, std::stop_token stop);
// Error(config) naming those there are.
KeyPair get(Service& compute, const std::string& name, std::stop_token stop);
// The key pair of that name with that key, or a new one. Error(conflict) when the name has another key.
KeyPair ensure(Service& compute, const std::string& name, const std::string& public_key, std::stop_token stop);
// Already gone is success.
void remove(Service& compute, const std::string& name, std::stop_token stop);

// Pure. Whether two lines are the same key; the comment does not count.
bool same_key(const std::string& a, const std::string& b);
// Pure. As Nova computes it, "aa:bb:..."; empty for what is no public key.
std::string fingerprint_of(const std::string& public_key);

}  // namespace keypairs
}  // namespace vmferry::openstack
