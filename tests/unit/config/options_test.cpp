// The command line: migratekit's flags mean what they meant, and what is wrong is named.
#include "config/options.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.hpp"

namespace vmferry::config {
namespace {

struct Line {
  std::vector<std::string> words;
  std::vector<char*> argv;
  explicit Line(std::vector<std::string> w) : words(std::move(w)) {
    words.insert(words.begin(), "vmferry");
    for (std::string& word : words) argv.push_back(word.data());
  }
  Parsed parse(const std::map<std::string, std::string>& env = {}) {
    return config::parse(static_cast<int>(argv.size()), argv.data(), env);
  }
};

std::vector<std::string> migrate(std::vector<std::string> more = {}) {
  std::vector<std::string> words = {"migrate", "--vmware-endpoint", "vc.example",   "--vmware-username",
                                    "u",       "--vmware-path",     "/DC0/vm/web01"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(Options, MigratekitsFlagsAreKnown) {
  Line line(migrate({"--vmware-password",
                     "geheim",
                     "--compression-method",
                     "Skipz",
                     "--availability-zone",
                     "az1",
                     "--volume-availability-zone",
                     "az2",
                     "--volume-type",
                     "fast",
                     "--disk-bus-type",
                     "SCSI",
                     "--os-type",
                     "auto",
                     "--enable-qemu-guest-agent",
                     "--no-cbt",
                     "--project",
                     "p",
                     "--vz-unsafe-volume-by-name",
                     "--debug"}));
  const Parsed parsed = line.parse();
  ASSERT_FALSE(parsed.finished) << parsed.text;
  const Options& o = parsed.options;
  EXPECT_EQ(o.verb, Verb::migrate);
  EXPECT_EQ(o.vmware.password.reveal(), "geheim");
  EXPECT_TRUE(o.vmware.password_on_command_line);
  EXPECT_EQ(o.disk_bus, "scsi");
  EXPECT_EQ(o.openstack.availability_zone, "az1");
  EXPECT_EQ(o.openstack.volume_availability_zone, "az2");
  EXPECT_TRUE(o.copy.no_tracking && o.guest_agent && o.openstack.volume_by_name && o.debug);
}

TEST(Options, APasswordIsWipedFromTheArguments) {
  for (const bool together : {false, true}) {
    Line line(together ? migrate({"--vmware-password=geheim"}) : migrate({"--vmware-password", "geheim"}));
    EXPECT_EQ(line.parse().options.vmware.password.reveal(), "geheim");
    for (const std::string& word : line.words) EXPECT_EQ(word.find("geheim"), std::string::npos) << word;
  }
  Line broken(migrate({"--vmware-password", "geheim", "--no-such-flag"}));
  EXPECT_TRUE(broken.parse().finished);
  for (const std::string& word : broken.words) EXPECT_EQ(word.find("geheim"), std::string::npos) << word;
}

TEST(Options, EnvironmentFillsIn) {
  Line line(migrate());
  EXPECT_EQ(line.parse({{"VMFERRY_VMWARE_PASSWORD", "aus der umgebung"}}).options.vmware.password.reveal(),
            "aus der umgebung");
}

TEST(Options, AFlagBeatsItsVariableInEverySubcommand) {
  for (const char* verb : {"migrate", "abort"}) {
    std::vector<std::string> words = migrate({"--state-dir", "/given"});
    words[0] = verb;
    Line line(words);
    const Options o = std::move(line.parse({{"VMFERRY_VMWARE_PATH", "/DC0/vm/other"},
                                            {"VMFERRY_STATE_DIR", "/other"},
                                            {"VMFERRY_VMWARE_ENDPOINT", "other"}})
                                    .options);
    EXPECT_EQ(o.vmware.path, "/DC0/vm/web01") << verb;
    EXPECT_EQ(o.vmware.endpoint, "vc.example") << verb;
    EXPECT_EQ(o.state_directory, "/given") << verb;
  }
  Line line({"migrate", "--vmware-username", "u"});
  const Options o = std::move(
      line.parse({{"VMFERRY_VMWARE_PATH", "web02"}, {"VMFERRY_VMWARE_ENDPOINT", "vc2"}, {"VMFERRY_STATE_DIR", "/s"}})
          .options);
  EXPECT_EQ(o.vmware.path, "web02");
  EXPECT_EQ(o.vmware.endpoint, "vc2");
  EXPECT_EQ(o.state_directory, "/s");
}

TEST(Options, AFlagBeatsTheVariablesOfItsNeighbours) {
  Line file(migrate({"--vmware-password-file", "/secret"}));
  const Options by_file = std::move(file.parse({{"VMFERRY_VMWARE_PASSWORD", "of the shell"}}).options);
  EXPECT_TRUE(by_file.vmware.password.empty());
  EXPECT_EQ(by_file.vmware.password_file, "/secret");
  Line insecure(migrate({"--vmware-insecure"}));
  const Options open =
      std::move(insecure.parse({{"VMFERRY_VMWARE_CA", "/ca"}, {"VMFERRY_VMWARE_FINGERPRINT", "AA"}}).options);
  EXPECT_TRUE(open.vmware.insecure);
  EXPECT_TRUE(open.vmware.ca_file.empty() && open.vmware.fingerprint.empty());
  Line both(migrate({"--vmware-insecure", "--vmware-ca", "/ca"}));
  EXPECT_THROW(both.parse(), Error);
}

TEST(Options, WhatIsMissingIsNamed) {
  Line line({"migrate", "--vmware-endpoint", "vc"});
  try {
    line.parse();
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("--vmware-username"), std::string::npos) << e.what();
  }
  Line typo({"migrat"});
  EXPECT_NE(typo.parse().text.find("did you mean migrate?"), std::string::npos);
}

TEST(Options, CutoverNeedsItsSettings) {
  struct Case {
    std::vector<std::string> more;
    const char* word;
  };
  const Case cases[] = {
      {{}, "--network-mapping"},
      {{"--network-mapping", "mac=nonsense,network-id=n,subnet-id=s", "--flavor", "f"}, "no MAC address"},
      {{"--network-mapping", "mac=00:50:56:00:00:01,network-id=n", "--flavor", "f"}, "subnet-id= is missing"},
  };
  for (const Case& c : cases) {
    std::vector<std::string> words = migrate(c.more);
    words[0] = "cutover";
    Line line(words);
    try {
      line.parse();
      ADD_FAILURE() << c.word;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(c.word), std::string::npos) << e.what();
    }
  }
  std::vector<std::string> words =
      migrate({"--network-mapping", "mac=00:50:56:AB:00:01,network-id=n,subnet-id=s,ip=192.0.2.7", "--flavor", "f",
               "--run-v2v=false", "--security-groups", "a,b"});
  words[0] = "cutover";
  Line line(words);
  const Parsed parsed = line.parse();
  ASSERT_FALSE(parsed.finished) << parsed.text;
  EXPECT_EQ(parsed.options.cutover.networks.at(0),
            (target::NetworkChoice{"00:50:56:ab:00:01", "n", "s", {"192.0.2.7"}, {}, {}}));
  EXPECT_EQ(parsed.options.openstack.security_groups, (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(parsed.options.cutover.convert);
}

TEST(Options, AnAdapterMayHaveSeveralAddressesAndRulesOfItsOwn) {
  const target::NetworkChoice choice = parse_network_mapping(
      "mac=00:50:56:ab:00:01,network-id=n,subnet-id=s,ip=192.0.2.7,ip=2001:db8::7,security-group=web,"
      "allowed-address=192.0.2.100,allowed-address=192.0.2.0/28");
  EXPECT_EQ(choice.ips, (std::vector<std::string>{"192.0.2.7", "2001:db8::7"}));
  EXPECT_EQ(choice.security_groups, (std::vector<std::string>{"web"}));
  EXPECT_EQ(choice.allowed_addresses, (std::vector<std::string>{"192.0.2.100", "192.0.2.0/28"}));
  EXPECT_EQ(choice.port_security, std::nullopt);
  EXPECT_EQ(parse_network_mapping("mac=00:50:56:ab:00:01,network-id=n,port-security=off").port_security, false);
  EXPECT_EQ(parse_network_mapping("mac=00:50:56:ab:00:01,network-id=n,port-security=on").port_security, true);
  for (const char* wrong : {"port-security=perhaps", "port-security=off,security-group=web",
                            "port-security=off,allowed-address=192.0.2.9", "network-id=m", "colour=blue"})
    EXPECT_THROW(parse_network_mapping(std::string("mac=00:50:56:ab:00:01,network-id=n,") + wrong), Error) << wrong;
}

TEST(Options, FlavorsAndVolumeTypesAreChosenByRules) {
  std::vector<std::string> words =
      migrate({"--network-mapping", "mac=00:50:56:ab:00:01,network-id=n,subnet-id=s", "--allow-flavors", "gpu,Private",
               "--create-flavor", "--volume-type-mapping", "ds=1=fast", "--volume-type-mapping", "ds2=slow"});
  words[0] = "cutover";
  Line line(words);
  const Parsed parsed = line.parse();
  ASSERT_FALSE(parsed.finished) << parsed.text;
  EXPECT_EQ(parsed.options.openstack.allowed_flavors,
            (std::set<plan::Reserved>{plan::Reserved::gpu, plan::Reserved::not_public}));
  EXPECT_TRUE(parsed.options.openstack.create_flavor);
  EXPECT_EQ(parsed.options.openstack.volume_types,
            (std::map<std::string, std::string>{{"ds=1", "fast"}, {"ds2", "slow"}}));
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--allow-flavors", "vgpu"},
                                             {"--flavor", "m1.small", "--create-flavor"},
                                             {"--volume-type-mapping", "ds"},
                                             {"--volume-type-mapping", "ds=a", "--volume-type-mapping", "ds=b"}}) {
    std::vector<std::string> wrong = migrate({"--network-mapping", "mac=00:50:56:ab:00:01,network-id=n,subnet-id=s"});
    wrong[0] = "cutover";
    wrong.insert(wrong.end(), more.begin(), more.end());
    Line bad(wrong);
    EXPECT_THROW(bad.parse(), Error) << more.front();
  }
}

TEST(Options, TheServersOwnSettings) {
  std::vector<std::string> words =
      migrate({"--network-mapping", "mac=00:50:56:ab:00:01,network-id=n,subnet-id=s", "--key-pair", "k", "--user-data",
               "/f", "--config-drive", "--server-group", "g", "--server-host", "h", "--server-tag", "a", "--server-tag",
               "b", "--server-metadata", "owner=a=b", "--server-metadata", "empty="});
  words[0] = "cutover";
  Line line(words);
  const Parsed parsed = line.parse();
  ASSERT_FALSE(parsed.finished) << parsed.text;
  const OpenStack& o = parsed.options.openstack;
  EXPECT_EQ(o.key_pair + o.user_data.string() + o.server_group + o.server_host, "k/fgh");
  EXPECT_TRUE(o.config_drive);
  EXPECT_EQ(o.server_tags, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(o.server_metadata, (std::map<std::string, std::string>{{"owner", "a=b"}, {"empty", ""}}));
  for (const char* wrong : {"owner", "=x", "vmferry_job=1"}) {
    std::vector<std::string> bad = words;
    bad.insert(bad.end(), {"--server-metadata", wrong});
    Line refused(bad);
    EXPECT_THROW(refused.parse(), Error) << wrong;
  }
}

TEST(Options, MalformedFlagsEndWithUsage) {
  for (const std::vector<std::string>& more : std::vector<std::vector<std::string>>{{"--connections", "0"},
                                                                                    {"--connections", "many"},
                                                                                    {"--no-such-flag"},
                                                                                    {"--transport", "carrier-pigeon"},
                                                                                    {"--disk-bus-type", "ide"}}) {
    Line line(migrate(more));
    const Parsed parsed = line.parse();
    EXPECT_TRUE(parsed.finished);
    EXPECT_EQ(parsed.exit_code, exit_code(Fault::usage));
    EXPECT_FALSE(parsed.text.empty());
  }
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--request-size", "3M"},
                                             {"--request-size", "x"},
                                             {"--target", "moon"},
                                             {"--transport", "file"},
                                             {"--vmware-insecure", "--vmware-fingerprint", "aa"}}) {
    Line line(migrate(more));
    EXPECT_THROW(line.parse(), Error) << more.front();
  }
}

TEST(Options, Sizes) {
  EXPECT_EQ(parse_size("64K"), 65536u);
  EXPECT_EQ(parse_size("1GiB"), 1ull << 30);
  EXPECT_EQ(parse_size("7"), 7u);
  EXPECT_THROW(parse_size("-1"), Error);
  EXPECT_THROW(parse_size("999999999999999T"), Error);
}

TEST(Options, EveryCommandHasHelpWithAnExample) {
  for (const char* verb :
       {"migrate", "cutover", "status", "abort", "inventory", "evidence", "lab", "completion", "version"}) {
    Line line({verb, "--help"});
    const Parsed parsed = line.parse();
    EXPECT_TRUE(parsed.finished);
    EXPECT_EQ(parsed.exit_code, 0);
    if (std::string(verb) != "lab") {
      EXPECT_NE(parsed.text.find("Example:"), std::string::npos) << verb;
    }
  }
}

TEST(Completion, KnowsEveryFlag) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = completion(shell);
    EXPECT_NE(script.find("vmware-endpoint"), std::string::npos) << shell;
    EXPECT_NE(script.find("cutover"), std::string::npos) << shell;
  }
  EXPECT_THROW(completion("tcsh"), Error);
}

}  // namespace
}  // namespace vmferry::config
