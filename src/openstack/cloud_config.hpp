// Which cloud, as whom: the OS_* environment and clouds.yaml become one CloudConfig. A pure function of texts, so that
// it can be tested as a table and fuzzed; only load() touches files. Knows nothing of HTTP calls.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/secret.hpp"
#include "http/http.hpp"

namespace vmferry::openstack {

using Environment = std::map<std::string, std::string>;

// A thing named by id or by name, the name within a domain (itself by id or name). Empty = not given.
struct Named {
  std::string id;
  std::string name;
  std::string domain_id;
  std::string domain_name;
  bool empty() const noexcept { return id.empty() && name.empty(); }
};

enum class AuthMethod { password, application_credential, token };

struct CloudConfig {
  std::string cloud;   // its name in clouds.yaml; empty = the environment alone
  std::string origin;  // where it was read, for messages: "cloud 'lab' of /etc/openstack/clouds.yaml"
  std::string auth_url;
  AuthMethod method = AuthMethod::password;
  Named user;
  Named project;                 // the scope; not sent with an application credential, which has its own
  Named application_credential;  // by id, or by name with `user`
  Secret password;               // of method password
  Secret application_secret;
  Secret token;
  std::string region;                               // empty = the only one the catalogue has
  std::string interface = "public";                 // public, internal, admin
  std::map<std::string, std::string> endpoints;     // *_endpoint_override, by canonical service name ("volume")
  std::map<std::string, std::string> api_versions;  // *_api_version, by canonical service name
  bool insecure = false;                            // verify: false
  std::string fingerprint;  // VMFERRY_OPENSTACK_FINGERPRINT: SHA-256 of the one certificate of all endpoints
  std::filesystem::path ca_file;
  std::filesystem::path client_certificate;
  std::filesystem::path client_key;
};

struct TextFile {
  std::filesystem::path path;
  std::string text;
};

// What was found on disk.
struct CloudFiles {
  std::optional<TextFile> clouds;  // clouds.yaml
  std::optional<TextFile> secure;  // secure.yaml, laid over it
};

// `cloud` (--os-cloud) picks the cloud, else OS_CLOUD, else the OS_* variables alone when they have OS_AUTH_URL, else
// the only cloud of the file. Variables win over the file, as with the openstack command. Throws Error(config).
CloudConfig read_config(const Environment& environment, const CloudFiles& files, const std::string& cloud = "");

// The first clouds.yaml (or .yml, .json) of: OS_CLIENT_CONFIG_FILE, the current folder, ~/.config/openstack,
// /etc/openstack; secure.yaml likewise with OS_CLIENT_SECURE_FILE. A file that a variable names must be readable.
CloudFiles find_files(const Environment& environment);

// find_files() and read_config().
CloudConfig load(const Environment& environment, const std::string& cloud = "");
// The variables of this process that read_config() and find_files() look at.
Environment process_environment();

// How the services' certificates are judged.
http::Trust trust(const CloudConfig& config);

}  // namespace vmferry::openstack
