// Any text as clouds.yaml, secure.yaml and OS_* variables: it is read or refused as Error(config), and what is read is
// whole. Input: the cloud's name on the first line, then the file; "%%secure" and "%%env" lines begin the other parts.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.hpp"
#include "openstack/cloud_config.hpp"

namespace {

// The text up to `mark`; `rest` becomes what follows it (empty when it is absent).
std::string cut(std::string& rest, const std::string& mark) {
  const std::size_t at = rest.find(mark);
  const std::string part = rest.substr(0, at);
  rest = at == std::string::npos ? std::string() : rest.substr(at + mark.size());
  return part;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace vmferry;
  std::string rest(reinterpret_cast<const char*>(data), size);
  const std::string cloud = cut(rest, "\n");
  std::string body = cut(rest, "%%env\n");
  openstack::Environment environment;
  while (!rest.empty()) {
    std::string line = cut(rest, "\n");
    const std::string name = cut(line, "=");
    environment[name] = line;
  }
  openstack::CloudFiles files;
  files.clouds = openstack::TextFile{"clouds.yaml", cut(body, "%%secure\n")};
  if (!body.empty()) files.secure = openstack::TextFile{"secure.yaml", body};
  try {
    const openstack::CloudConfig config = openstack::read_config(environment, files, cloud);
    const bool has_secret = !config.password.empty() || !config.application_secret.empty() || !config.token.empty();
    if (config.auth_url.empty() || !has_secret || config.interface.empty()) abort();
  } catch (const Error& e) {
    if (e.fault() != Fault::config || e.what()[0] == '\0') abort();
  }
  return 0;
}
