// Settings of the file, with the environment's over them, become one checked CloudConfig.
#include "openstack/cloud_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <set>
#include <sstream>

#include "base/error.hpp"
#include "openstack/clouds_yaml.hpp"

extern char** environ;

namespace vmferry::openstack {

namespace {

constexpr const char* fingerprint_variable = "VMFERRY_OPENSTACK_FINGERPRINT";

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string variable(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found == environment.end() ? std::string() : found->second;
}

// Settings that are one choice: when the environment makes it, what the file said of it is forgotten, so that
// OS_PROJECT_NAME is not overruled by the file's project_id.
const std::vector<std::set<std::string>>& choices() {
  static const std::vector<std::set<std::string>> groups{
      {"auth.project_id", "auth.project_name", "auth.tenant_id", "auth.tenant_name"},
      {"auth.user_id", "auth.username"},
      {"auth.user_domain_id", "auth.user_domain_name"},
      {"auth.project_domain_id", "auth.project_domain_name"},
      {"auth.domain_id", "auth.domain_name"},
      {"auth.default_domain_id", "auth.default_domain_name", "auth.default_domain"},
      {"auth.application_credential_id", "auth.application_credential_name"},
      {"interface", "endpoint_type"},
      {"verify", "insecure"},
      {"region_name", "regions"},
  };
  return groups;
}

// Which variables are settings of ours, and where they go. OS_TENANT_* and OS_AUTH_TOKEN are old names still in use.
std::optional<std::string> setting_of(const std::string& name) {
  static const std::set<std::string> in_auth{"auth_url",
                                             "username",
                                             "user_id",
                                             "password",
                                             "user_domain_id",
                                             "user_domain_name",
                                             "project_id",
                                             "project_name",
                                             "tenant_id",
                                             "tenant_name",
                                             "project_domain_id",
                                             "project_domain_name",
                                             "domain_id",
                                             "domain_name",
                                             "default_domain",
                                             "default_domain_id",
                                             "default_domain_name",
                                             "application_credential_id",
                                             "application_credential_name",
                                             "application_credential_secret",
                                             "token",
                                             "auth_token",
                                             "system_scope",
                                             "trust_id"};
  static const std::set<std::string> outside{"auth_type", "region_name", "interface", "endpoint_type", "cacert",
                                             "cert",      "key",         "insecure",  "verify"};
  if (name.rfind("OS_", 0) != 0) return std::nullopt;
  const std::string key = lower(name.substr(3));
  if (in_auth.count(key) > 0) return "auth." + key;
  const auto ends_with = [&](std::string_view tail) {
    return key.size() > tail.size() && key.compare(key.size() - tail.size(), tail.size(), tail) == 0;
  };
  if (outside.count(key) > 0 || ends_with("_api_version") || ends_with("_endpoint_override")) return key;
  return std::nullopt;
}

void lay_over(Settings& below, const Settings& above) {
  for (const auto& [key, value] : above.values())
    for (const std::set<std::string>& group : choices())
      if (group.count(key) > 0)
        for (const std::string& other : group) below.erase(other);
  for (const auto& [key, value] : above.values()) below.set(key, value);
}

Settings environment_settings(const Environment& environment) {
  Settings settings;
  for (const auto& [name, value] : environment)
    if (const auto key = setting_of(name); key && !value.empty()) settings.set(*key, value);
  return settings;
}

bool is_true(const Settings& settings, const char* key, bool otherwise) {
  const std::string value = lower(settings.get({key}));
  if (value.empty()) return otherwise;
  for (const char* yes : {"true", "yes", "on", "1", "y"})
    if (value == yes) return true;
  for (const char* no : {"false", "no", "off", "0", "n"})
    if (value == no) return false;
  throw Error(Fault::config, fmt::format("the setting '{}' of the cloud must be true or false", key));
}

std::filesystem::path expanded(const std::string& path, const Environment& environment) {
  const std::string home = variable(environment, "HOME");
  if (path == "~" && !home.empty()) return home;
  if (path.rfind("~/", 0) == 0 && !home.empty()) return std::filesystem::path(home) / path.substr(2);
  return path;
}

// The service a *_endpoint_override or *_api_version is for; other services' settings are of no interest.
std::string canonical_service(const std::string& name) {
  if (name == "block_storage" || name == "block_store" || name == "volume" || name == "volumev3" || name == "volume_v3")
    return "volume";
  for (const char* known : {"compute", "network", "image", "identity"})
    if (name == known) return known;
  return {};
}

void read_services(const Settings& settings, CloudConfig& config) {
  const auto read = [&](std::string_view tail, std::map<std::string, std::string>& into) {
    for (const auto& [key, value] : settings.values()) {
      if (key.size() <= tail.size() || key.compare(key.size() - tail.size(), tail.size(), tail) != 0) continue;
      const std::string service = canonical_service(key.substr(0, key.size() - tail.size()));
      if (!service.empty() && !value.empty()) into[service] = value;
    }
  };
  read("_endpoint_override", config.endpoints);
  read("_api_version", config.api_versions);
}

AuthMethod method_of(const Settings& settings, const CloudConfig& config) {
  const std::string type = lower(settings.get({"auth_type"}));
  if (type == "password" || type == "v3password") return AuthMethod::password;
  if (type == "v3applicationcredential") return AuthMethod::application_credential;
  if (type == "token" || type == "v3token") return AuthMethod::token;
  if (!type.empty())
    throw Error(Fault::config, fmt::format("{} has auth_type '{}', which is not supported: use password, v3password, "
                                           "v3applicationcredential, token or v3token (an application credential works "
                                           "where users log in through an identity provider)",
                                           config.origin, type));
  if (!config.application_credential.empty()) return AuthMethod::application_credential;
  if (config.password.empty() && !config.token.empty()) return AuthMethod::token;
  return AuthMethod::password;
}

Named named(const Settings& s, std::initializer_list<const char*> ids, std::initializer_list<const char*> names,
            const char* domain_id, const char* domain_name) {
  Named thing;
  thing.id = s.get(ids);
  thing.name = s.get(names);
  thing.domain_id = s.get({domain_id});
  thing.domain_name = s.get({domain_name});
  if (thing.domain_id.empty() && thing.domain_name.empty()) {
    thing.domain_id = s.get({"auth.domain_id", "auth.default_domain_id", "auth.default_domain"});
    thing.domain_name = s.get({"auth.domain_name", "auth.default_domain_name"});
  }
  // The openstack command's own default.
  if (thing.domain_id.empty() && thing.domain_name.empty()) thing.domain_id = "default";
  return thing;
}

void require(bool there, const CloudConfig& config, const std::string& what) {
  if (!there) throw Error(Fault::config, fmt::format("{} has no {}", config.origin, what));
}

void check(const CloudConfig& config, const Settings& settings) {
  require(!config.auth_url.empty(), config, "auth_url (OS_AUTH_URL), the address of Keystone");
  if (config.auth_url.rfind("http://", 0) != 0 && config.auth_url.rfind("https://", 0) != 0)
    throw Error(Fault::config, fmt::format("the auth_url '{}' of {} must begin with https:// or http://",
                                           config.auth_url, config.origin));
  if (!settings.get({"auth.system_scope"}).empty() && config.project.empty())
    throw Error(
        Fault::config,
        fmt::format("{} asks for system scope; volumes and servers need a project: give project_name", config.origin));
  if (const auto version = config.api_versions.find("identity");
      version != config.api_versions.end() && version->second.rfind('2', 0) == 0)
    throw Error(Fault::config, fmt::format("{} asks for identity_api_version {}; only version 3 exists today",
                                           config.origin, version->second));
  switch (config.method) {
    case AuthMethod::password:
      require(!config.user.empty(), config, "username (OS_USERNAME)");
      require(!config.password.empty(), config, "password (OS_PASSWORD)");
      require(!config.project.empty(), config, "project (project_name or project_id, OS_PROJECT_NAME)");
      break;
    case AuthMethod::application_credential:
      require(!config.application_credential.empty(), config,
              "application_credential_id (OS_APPLICATION_CREDENTIAL_ID)");
      require(!config.application_secret.empty(), config,
              "application_credential_secret (OS_APPLICATION_CREDENTIAL_SECRET)");
      if (config.application_credential.id.empty())
        require(
            !config.user.empty(), config,
            "username or user_id, which an application credential given by name needs (or give application_credential_id)");
      break;
    case AuthMethod::token:
      require(!config.token.empty(), config, "token (OS_TOKEN)");
      break;
  }
}

std::string interface_of(const Settings& settings, const CloudConfig& config) {
  std::string value = lower(settings.get({"interface", "endpoint_type"}));
  // "publicURL" is the old spelling.
  if (value.size() > 3 && value.compare(value.size() - 3, 3, "url") == 0) value.resize(value.size() - 3);
  if (value.empty()) return "public";
  if (value != "public" && value != "internal" && value != "admin")
    throw Error(Fault::config,
                fmt::format("{} has interface '{}': it must be public, internal or admin", config.origin, value));
  return value;
}

CloudConfig from_settings(const Settings& settings, const Environment& environment, std::string cloud,
                          std::string origin) {
  CloudConfig config;
  config.cloud = std::move(cloud);
  config.origin = std::move(origin);
  for (const char* key : {"profile", "cloud"})
    if (!settings.get({key}).empty())
      throw Error(Fault::config,
                  fmt::format("{} refers to a vendor by '{}: {}', which is not supported: write auth_url, region_name "
                              "and the like into the cloud itself",
                              config.origin, key, settings.get({key})));
  config.auth_url = settings.get({"auth.auth_url"});
  while (!config.auth_url.empty() && config.auth_url.back() == '/') config.auth_url.pop_back();
  config.user = named(settings, {"auth.user_id"}, {"auth.username", "auth.user_name"}, "auth.user_domain_id",
                      "auth.user_domain_name");
  config.project = named(settings, {"auth.project_id", "auth.tenant_id"}, {"auth.project_name", "auth.tenant_name"},
                         "auth.project_domain_id", "auth.project_domain_name");
  config.application_credential.id = settings.get({"auth.application_credential_id"});
  config.application_credential.name = settings.get({"auth.application_credential_name"});
  config.password = Secret(settings.get({"auth.password"}));
  config.application_secret = Secret(settings.get({"auth.application_credential_secret"}));
  config.token = Secret(settings.get({"auth.token", "auth.auth_token"}));
  config.region = settings.get({"region_name", "regions"});
  config.interface = interface_of(settings, config);
  config.insecure = !is_true(settings, "verify", true) || is_true(settings, "insecure", false);
  config.fingerprint = variable(environment, fingerprint_variable);
  config.ca_file = expanded(settings.get({"cacert"}), environment);
  config.client_certificate = expanded(settings.get({"cert"}), environment);
  config.client_key = expanded(settings.get({"key"}), environment);
  read_services(settings, config);
  config.method = method_of(settings, config);
  check(config, settings);
  return config;
}

std::string list_of(const std::vector<std::string>& names) {
  return names.empty() ? std::string("no cloud at all") : fmt::format("{}", fmt::join(names, ", "));
}

// The cloud to be used; empty = the environment alone.
std::string chosen(const Environment& environment, const CloudFiles& files, const std::string& cloud) {
  std::string name = !cloud.empty() ? cloud : variable(environment, "OS_CLOUD");
  // The openstack command's name for the environment's own cloud.
  if (name == "envvars") return {};
  if (!name.empty()) return name;
  if (!variable(environment, "OS_AUTH_URL").empty()) return {};
  const std::vector<std::string> names = files.clouds ? cloud_names(*files.clouds) : std::vector<std::string>{};
  if (names.size() == 1) return names.front();
  if (names.empty())
    throw Error(
        Fault::config,
        "no OpenStack cloud is configured: set the OS_* variables (source an openrc file), or put a clouds.yaml "
        "into ~/.config/openstack and name the cloud with OS_CLOUD");
  throw Error(Fault::config, fmt::format("{} has several clouds: choose one with --os-cloud or OS_CLOUD: {}",
                                         files.clouds->path.string(), list_of(names)));
}

std::optional<TextFile> read_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw Error(Fault::config, fmt::format("cannot read {}: check its permissions", path.string()));
  return TextFile{path, text.str()};
}

std::optional<TextFile> find_file(const Environment& environment, const char* named_by, const std::string& stem) {
  if (const std::string path = variable(environment, named_by); !path.empty()) {
    auto file = read_file(expanded(path, environment));
    if (!file) throw Error(Fault::config, fmt::format("{} names {}, which is not a file", named_by, path));
    return file;
  }
  std::vector<std::filesystem::path> folders{"."};
  if (const std::string xdg = variable(environment, "XDG_CONFIG_HOME"); !xdg.empty())
    folders.push_back(std::filesystem::path(xdg) / "openstack");
  else if (const std::string home = variable(environment, "HOME"); !home.empty())
    folders.push_back(std::filesystem::path(home) / ".config" / "openstack");
  folders.push_back("/etc/openstack");
  for (const std::filesystem::path& folder : folders)
    for (const char* ending : {".yaml", ".yml", ".json"})
      if (auto file = read_file(folder / (stem + ending))) return file;
  return std::nullopt;
}

}  // namespace

CloudConfig read_config(const Environment& environment, const CloudFiles& files, const std::string& cloud) {
  const std::string name = chosen(environment, files, cloud);
  const Settings variables = environment_settings(environment);
  if (name.empty()) return from_settings(variables, environment, "", "the environment (OS_* variables)");

  if (!files.clouds)
    throw Error(
        Fault::config,
        fmt::format("cloud '{}' is wanted, but there is no clouds.yaml: not by OS_CLIENT_CONFIG_FILE, in this folder, "
                    "in ~/.config/openstack or in /etc/openstack",
                    name));
  auto settings = cloud_settings(*files.clouds, name);
  if (!settings)
    throw Error(Fault::config, fmt::format("{} has no cloud '{}'; it has: {}", files.clouds->path.string(), name,
                                           list_of(cloud_names(*files.clouds))));
  if (files.secure)
    if (const auto secrets = cloud_settings(*files.secure, name)) lay_over(*settings, *secrets);
  lay_over(*settings, variables);
  return from_settings(*settings, environment, name,
                       fmt::format("cloud '{}' of {}", name, files.clouds->path.string()));
}

CloudFiles find_files(const Environment& environment) {
  return {find_file(environment, "OS_CLIENT_CONFIG_FILE", "clouds"),
          find_file(environment, "OS_CLIENT_SECURE_FILE", "secure")};
}

CloudConfig load(const Environment& environment, const std::string& cloud) {
  return read_config(environment, find_files(environment), cloud);
}

Environment process_environment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string name(text.substr(0, equals));
    if (name.rfind("OS_", 0) == 0 || name == "HOME" || name == "XDG_CONFIG_HOME" || name == fingerprint_variable)
      environment[name] = std::string(text.substr(equals + 1));
  }
  return environment;
}

http::Trust trust(const CloudConfig& config) {
  http::Trust trust;
  trust.who = "OpenStack";
  trust.pin_flag = fmt::format("the variable {} with", fingerprint_variable);
  trust.ca_flag = "OS_CACERT or cacert in clouds.yaml:";
  trust.client_flag = "OS_CERT and OS_KEY, or cert and key in clouds.yaml";
  trust.insecure = config.insecure;
  trust.sha256 = config.fingerprint;
  trust.ca_file = config.ca_file;
  trust.client_certificate = config.client_certificate;
  trust.client_key = config.client_key;
  return trust;
}

}  // namespace vmferry::openstack
