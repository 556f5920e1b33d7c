// clouds.yaml and OS_* variables as a table: what is chosen, what wins, and what a wrong one says.
#include "openstack/cloud_config.hpp"

#include <gtest/gtest.h>

#include <rapidcheck.h>
#include <fstream>
#include <sstream>

#include "base/error.hpp"
#include "support/lab.hpp"
#include "test_paths.hpp"

namespace vmferry::openstack {
namespace {

std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in) << path;
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

CloudFiles data_files() {
  const std::filesystem::path folder = std::filesystem::path(test::data_directory) / "openstack";
  return {TextFile{"/etc/openstack/clouds.yaml", slurp(folder / "clouds.yaml")},
          TextFile{"/etc/openstack/secure.yaml", slurp(folder / "secure.yaml")}};
}

CloudFiles only(const std::string& text) { return {TextFile{"/home/me/clouds.yaml", text}, std::nullopt}; }

std::string failure(const Environment& environment, const CloudFiles& files, const std::string& cloud = "") {
  try {
    read_config(environment, files, cloud);
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::config);
    return e.what();
  }
  return "no error";
}

Environment openrc() {
  return {{"OS_AUTH_URL", "https://rc.example:5000/v3"},
          {"OS_USERNAME", "alice"},
          {"OS_PASSWORD", "pw-of-alice"},
          {"OS_PROJECT_NAME", "red"},
          {"OS_USER_DOMAIN_NAME", "Users"},
          {"OS_PROJECT_DOMAIN_ID", "pd"},
          {"OS_REGION_NAME", "West"},
          {"OS_INTERFACE", "internal"},
          {"OS_CACERT", "/ca.pem"}};
}

TEST(CloudConfig, EnvironmentAlone) {
  const CloudConfig c = read_config(openrc(), {});
  EXPECT_EQ(c.cloud, "");
  EXPECT_EQ(c.method, AuthMethod::password);
  EXPECT_EQ(c.auth_url, "https://rc.example:5000/v3");
  EXPECT_EQ(c.user.name, "alice");
  EXPECT_EQ(c.user.domain_name, "Users");
  EXPECT_EQ(c.project.name, "red");
  EXPECT_EQ(c.project.domain_id, "pd");
  EXPECT_EQ(c.password.reveal(), "pw-of-alice");
  EXPECT_EQ(c.region, "West");
  EXPECT_EQ(c.interface, "internal");
  EXPECT_EQ(c.ca_file, "/ca.pem");
  EXPECT_FALSE(c.insecure);
}

TEST(CloudConfig, EnvironmentAloneWinsOverAFileThatNobodyNamed) {
  EXPECT_EQ(read_config(openrc(), data_files()).auth_url, "https://rc.example:5000/v3");
  Environment named = openrc();
  named["OS_CLOUD"] = "envvars";
  EXPECT_EQ(read_config(named, data_files()).cloud, "");
}

TEST(CloudConfig, WholeEntry) {
  const CloudConfig c = read_config({{"OS_CLOUD", "lab"}, {"HOME", "/home/me"}}, data_files());
  EXPECT_EQ(c.cloud, "lab");
  EXPECT_EQ(c.origin, "cloud 'lab' of /etc/openstack/clouds.yaml");
  EXPECT_EQ(c.auth_url, "https://cloud.example/identity");
  EXPECT_EQ(c.password.reveal(), "s3cret: with colon");
  EXPECT_EQ(c.interface, "internal");
  EXPECT_TRUE(c.insecure);
  EXPECT_EQ(c.ca_file, "/home/me/ca.pem");
  EXPECT_EQ(c.client_certificate, "/etc/ssl/me.pem");
  EXPECT_EQ(c.client_key, "/etc/ssl/me.key");
  EXPECT_EQ(c.api_versions.at("volume"), "3.60");
  EXPECT_EQ(c.api_versions.at("compute"), "2.53");
  EXPECT_EQ(c.endpoints.at("volume"), "https://volumes.example/v3/%(project_id)s");
  EXPECT_TRUE(trust(c).insecure);
}

TEST(CloudConfig, MergeKeysAreFollowed) {
  const CloudConfig c = read_config({}, data_files(), "merged");
  EXPECT_EQ(c.auth_url, "https://merged.example/v3");
  EXPECT_EQ(c.user.name, "demo");
  EXPECT_EQ(c.password.reveal(), "12345");
  EXPECT_EQ(c.project.id, "p1");
  EXPECT_EQ(c.region, "RegionOne");
}

TEST(CloudConfig, ApplicationCredentials) {
  const CloudConfig by_id = read_config({}, data_files(), "appcred");
  EXPECT_EQ(by_id.method, AuthMethod::application_credential);
  EXPECT_EQ(by_id.application_credential.id, "0123456789abcdef");
  EXPECT_EQ(by_id.application_secret.reveal(), "very-secret");
  const CloudConfig by_name = read_config({}, data_files(), "appcred-by-name");
  EXPECT_EQ(by_name.application_credential.name, "mover");
  EXPECT_EQ(by_name.user.name, "demo");
  // Without an auth_type the credential itself says what is meant.
  const CloudConfig variables = read_config({{"OS_AUTH_URL", "https://c.example"},
                                             {"OS_APPLICATION_CREDENTIAL_ID", "i"},
                                             {"OS_APPLICATION_CREDENTIAL_SECRET", "s"}},
                                            {});
  EXPECT_EQ(variables.method, AuthMethod::application_credential);
}

TEST(CloudConfig, Tokens) {
  const CloudConfig c = read_config({}, data_files(), "ticket");
  EXPECT_EQ(c.method, AuthMethod::token);
  EXPECT_EQ(c.token.reveal(), "gAAAAAB-token");
  EXPECT_EQ(c.project.id, "11112222");
  const CloudConfig v =
      read_config({{"OS_AUTH_URL", "https://c.example"}, {"OS_TOKEN", "t"}, {"OS_PROJECT_ID", "p"}}, {});
  EXPECT_EQ(v.method, AuthMethod::token);
}

TEST(CloudConfig, SecureFileIsLaidOver) {
  const CloudConfig c = read_config({}, data_files(), "split");
  EXPECT_EQ(c.password.reveal(), "from-secure");
  EXPECT_EQ(c.region, "West");
}

TEST(CloudConfig, VariablesWinOverTheFile) {
  const CloudConfig c = read_config({{"OS_CLOUD", "lab"},
                                     {"OS_PASSWORD", "other"},
                                     {"OS_PROJECT_ID", "99"},
                                     {"OS_ENDPOINT_TYPE", "publicURL"},
                                     {"OS_INSECURE", "false"},
                                     {"OS_REGION_NAME", "East"}},
                                    data_files());
  EXPECT_EQ(c.password.reveal(), "other");
  EXPECT_EQ(c.project.id, "99");
  EXPECT_EQ(c.project.name, "") << "the file's project name must not survive another project";
  EXPECT_EQ(c.interface, "public");
  EXPECT_FALSE(c.insecure);
  EXPECT_EQ(c.region, "East");
  EXPECT_EQ(c.user.name, "demo");
}

TEST(CloudConfig, FlagWinsOverVariable) {
  EXPECT_EQ(read_config({{"OS_CLOUD", "lab"}}, data_files(), "merged").cloud, "merged");
}

TEST(CloudConfig, TheOnlyCloudIsTaken) {
  const auto files = only("clouds: {one: {auth: {auth_url: 'http://h', username: u, password: p, project_id: q}}}");
  EXPECT_EQ(read_config({}, files).cloud, "one");
}

TEST(CloudConfig, DomainDefaults) {
  const auto files = only("clouds: {one: {auth: {auth_url: 'http://h', username: u, password: p, project_name: q}}}");
  EXPECT_EQ(read_config({}, files).user.domain_id, "default");
  EXPECT_EQ(read_config({{"OS_DOMAIN_NAME", "Big"}}, files, "one").project.domain_name, "Big");
}

struct Wrong {
  const char* yaml;
  const char* cloud;
  const char* says;
};

TEST(CloudConfig, WrongFilesSayWhatAndWhere) {
  const Wrong table[] = {
      {"clouds:\n  a:\n    auth: [1, 2]\n", "a", "/home/me/clouds.yaml:3: 'auth' must be a mapping"},
      {"clouds:\n  a:\n\tauth: {}\n", "a", "/home/me/clouds.yaml:3: not valid YAML"},
      {"clouds:\n  a: {}\n  b: {}\n", "c", "no cloud 'c'; it has: a, b"},
      {"clouds:\n  a: {}\n  b: {}\n", "", "several clouds: choose one with --os-cloud or OS_CLOUD: a, b"},
      {"clouds: [a]\n", "a", "/home/me/clouds.yaml:1: 'clouds' must be a mapping"},
      {"- a\n", "a", "must be a mapping with the key 'clouds'"},
      {"", "a", "no cloud 'a'; it has: no cloud at all"},
      {"clouds:\n  a: text\n", "a", "/home/me/clouds.yaml:2: cloud 'a' must be a mapping"},
      {"clouds:\n  a:\n    auth:\n      password: [x]\n", "a",
       "/home/me/clouds.yaml:4: 'password' must be a plain text"},
      {"clouds: {a: {auth: {username: u}}}", "a", "has no auth_url (OS_AUTH_URL)"},
      {"clouds: {a: {auth: {auth_url: 'ftp://x', username: u, password: p, project_id: q}}}", "a",
       "must begin with https://"},
      {"clouds: {a: {auth: {auth_url: 'http://x'}}}", "a", "has no username"},
      {"clouds: {a: {auth: {auth_url: 'http://x', username: u}}}", "a", "has no password"},
      {"clouds: {a: {auth: {auth_url: 'http://x', username: u, password: p}}}", "a", "has no project"},
      {"clouds: {a: {auth: {auth_url: 'http://x', application_credential_id: i}}}", "a",
       "has no application_credential_secret"},
      {"clouds: {a: {auth: {auth_url: 'http://x', application_credential_name: i, application_credential_secret: s}}}",
       "a", "username or user_id"},
      {"clouds: {a: {auth_type: token, auth: {auth_url: 'http://x'}}}", "a", "has no token"},
      {"clouds: {a: {interface: sideways, auth: {auth_url: 'http://x', username: u, password: p, project_id: q}}}", "a",
       "interface 'sideways'"},
      {"clouds: {a: {verify: maybe, auth: {auth_url: 'http://x', username: u, password: p, project_id: q}}}", "a",
       "'verify' of the cloud must be true or false"},
      {"clouds: {a: {identity_api_version: 2.0, auth: {auth_url: 'http://x', username: u, password: p, project_id: q}}}",
       "a", "identity_api_version 2.0"},
  };
  for (const Wrong& row : table) {
    const std::string said = failure({}, only(row.yaml), row.cloud);
    EXPECT_NE(said.find(row.says), std::string::npos) << row.yaml << "\nsaid: " << said;
  }
}

TEST(CloudConfig, VendorsAndIdentityProvidersAreRefusedInWords) {
  EXPECT_NE(failure({}, data_files(), "vendor").find("profile: rackspace"), std::string::npos);
  EXPECT_NE(failure({}, data_files(), "oidc").find("auth_type 'v3oidcpassword', which is not supported"),
            std::string::npos);
}

TEST(CloudConfig, NothingConfigured) {
  EXPECT_NE(failure({}, {}).find("set the OS_* variables"), std::string::npos);
  EXPECT_NE(failure({{"OS_CLOUD", "x"}}, {}).find("there is no clouds.yaml"), std::string::npos);
}

TEST(CloudConfig, AYamlErrorNeverQuotesAPassword) {
  for (const char* text :
       {"clouds:\n  a:\n    auth:\n      password: *hunter2\n", "clouds:\n  a:\n    auth:\n      password: &hunter2\n",
        "clouds:\n  a:\n    auth:\n      password: !hunter2 [x]\n",
        "clouds:\n  a:\n    auth:\n      password: %hunter2\n", "clouds:\n  a:\n    auth:\n      password: 'hunter2\n",
        "clouds:\n  a:\n    auth:\n      password: hunter2: x\n",
        "clouds:\n  a:\n    auth:\n      password: @hunter2\n",
        "clouds:\n  a:\n    auth:\n      password: hunter2: {\n"}) {
    const std::string said = failure({}, only(text), "a");
    EXPECT_EQ(said.find("hunter2"), std::string::npos) << said;
    EXPECT_NE(said, "no error") << text;
  }
}

TEST(CloudConfig, MergesThatMultiplyAreCutShort) {
  std::string text = "a0: &a0 {x: 1}\n";
  for (int i = 1; i < 12; ++i) {
    const std::string below = "*a" + std::to_string(i - 1);
    std::string list = below;
    for (int n = 0; n < 9; ++n) list += ", " + below;
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " {<<: [" + list + "]}\n";
  }
  text += "clouds: {a: {<<: *a11}}\n";
  EXPECT_NE(failure({}, only(text), "a").find("too many '<<' merges"), std::string::npos);
}

TEST(CloudConfig, TextsOfAnyKindNeverDoMoreThanThrowError) {
  rc::check("any text is read or refused as Error(config)", [](const std::string& text) {
    try {
      read_config({}, only(text), "a");
    } catch (const Error& e) {
      RC_ASSERT(e.fault() == Fault::config);
    }
  });
}

TEST(FindFiles, SearchOrder) {
  const support::TemporaryDirectory temporary;
  const auto write = [&](const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  };
  const auto home = temporary.path() / "home";
  write(home / ".config/openstack/clouds.yml", "home");
  write(home / ".config/openstack/secure.yaml", "home-secure");
  write(temporary.path() / "given.yaml", "given");
  write(temporary.path() / "xdg/openstack/clouds.yaml", "xdg");

  const CloudFiles by_home = find_files({{"HOME", home.string()}});
  ASSERT_TRUE(by_home.clouds && by_home.secure);
  EXPECT_EQ(by_home.clouds->text, "home");
  EXPECT_EQ(by_home.secure->text, "home-secure");
  EXPECT_EQ(
      find_files({{"HOME", home.string()}, {"XDG_CONFIG_HOME", (temporary.path() / "xdg").string()}}).clouds->text,
      "xdg");
  EXPECT_EQ(find_files({{"HOME", home.string()}, {"OS_CLIENT_CONFIG_FILE", (temporary.path() / "given.yaml").string()}})
                .clouds->text,
            "given");
  EXPECT_THROW(find_files({{"OS_CLIENT_CONFIG_FILE", "/nonexistent/clouds.yaml"}}), Error);
}

}  // namespace
}  // namespace vmferry::openstack
