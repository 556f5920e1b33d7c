// The command line: migratekit's flags mean what they meant, and what is wrong is named.
#include "config/options.hpp"

#include <fmt/format.h>
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

std::string told(std::vector<std::string> words, const std::map<std::string, std::string>& env = {}) {
  try {
    const Parsed parsed = Line(std::move(words)).parse(env);
    return fmt::format("{} {}", parsed.exit_code, parsed.text);
  } catch (const Error& e) {
    return fmt::format("{} {}", exit_code(e.fault()), e.what());
  }
}

TEST(Options, ABadVariableIsNamed) {
  for (const char* name : {"VMFERRY_ATTACH", "VMFERRY_IMAGE_FORMAT", "VMFERRY_IMAGE_UPLOAD"}) {
    const std::string text = told(migrate(), {{name, "foo://x"}});
    EXPECT_TRUE(text.starts_with("3 ")) << text;
    EXPECT_NE(text.find(std::string(name) + ": foo://x not in {"), std::string::npos) << text;
  }
  const std::string text = told({"inventory", "--vmware-username", "u"}, {{"VMFERRY_VMWARE_ENDPOINT", "https://vc"}});
  EXPECT_TRUE(text.starts_with("3 the variable VMFERRY_VMWARE_ENDPOINT: https://vc: give the host alone")) << text;
}

TEST(Options, AMisspeltFlagIsTheOneThatIsNamed) {
  std::vector<std::string> words = migrate({"--flavour", "2"});
  for (const char* verb : {"check", "cutover"}) {
    words[0] = verb;
    const std::string text = told(words);
    EXPECT_TRUE(text.starts_with("2 error: --flavour was not expected\ndid you mean --flavor?\n")) << text;
  }
  EXPECT_NE(told({"migrat", "--vmware-path", "x"}).find("did you mean migrate?"), std::string::npos);
  words = migrate({"transport"});
  words[0] = "check";
  EXPECT_EQ(told(words), "2 check transport: give transports, or flags alone; see vmferry check --help");
  words.back() = "transports";
  EXPECT_TRUE(Line(words).parse().options.try_transports);
}

TEST(Options, ABadValueIsToldWithItsFlagAndWhatThatTakes) {
  const auto names = [](const std::vector<std::string>& more, const std::string& part) {
    const std::string text = told(migrate(more));
    EXPECT_TRUE(text.starts_with("2 ")) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  names({"--bandwidth", "fast"}, "--bandwidth fast: give a size");
  names({"--request-size", "fast"}, "--request-size fast: give");
  names({"--skip-disk", "abc"}, "--skip-disk KEY: Leave out");
  names({"--quiesce", "never", "--quiesce", "always"}, "--quiesce is given twice");
  names({"--vmware-endpoint"}, "--vmware-endpoint HOST: vCenter");
  EXPECT_NE(told({"limits", "--host-bandwidth", "fast"}).find("--host-bandwidth fast: give a size"), std::string::npos);
  const std::string wish = told({"cutover", "--run-v2v=maybe"});
  EXPECT_NE(wish.find("--run-v2v true|false: "), std::string::npos) << wish;
}

TEST(Options, AnEndpointIsAHostAndAPort) {
  const auto with = [](const std::string& endpoint) {
    return told({"inventory", "--vmware-username", "u", "--vmware-endpoint", endpoint});
  };
  for (const char* good : {"vc", "127.0.0.1:1", "vc.example:65535", "[2001:db8::7]", "[::1]:443"})
    EXPECT_EQ(with(good), "0 ");
  for (const char* bad : {"127.0.0.1:99999", "vc:", "vc:x", "::1", "u@vc", "a b", "vc:0", "https://vc/"})
    EXPECT_TRUE(with(bad).starts_with(std::string("2 error: --vmware-endpoint: ") + bad + ": give ")) << with(bad);
}

TEST(Options, CheckTakesTheFlagsOfMigrateAndCutover) {
  std::vector<std::string> words = migrate({"--audit", "1", "--flavor", "2"});
  words[0] = "check";
  EXPECT_EQ(told(words), "0 ");
}

TEST(Options, WhatMakesNoSenseIsNotOffered) {
  EXPECT_EQ(told({"heat-template", "--help"}).find("--json"), std::string::npos);
  EXPECT_TRUE(told({"heat-template", "--json"}).starts_with("2 "));
  EXPECT_TRUE(told({"status", "--volumes", "--all"}).starts_with("2 "));
}

TEST(Options, AMappingNeedsNoSubnet) {
  std::vector<std::string> words = migrate({"--network-mapping", "mac=00:50:56:00:00:01,network-id=n"});
  words[0] = "cutover";
  const Parsed parsed = Line(words).parse();
  ASSERT_FALSE(parsed.finished) << parsed.text;
  EXPECT_EQ(parsed.options.cutover.networks.at(0), (target::NetworkChoice{"00:50:56:00:00:01", "n", "", {}, {}, {}}));
}

TEST(Options, StatusAsksACloudOnlyForVolumes) {
  const Parsed parsed = Line({"status", "--volumes", "--os-cloud", "c", "--project", "p"}).parse();
  ASSERT_FALSE(parsed.finished) << parsed.text;
  EXPECT_TRUE(parsed.options.volumes);
  EXPECT_EQ(parsed.options.openstack.cloud, "c");
  for (const char* flag : {"--os-cloud", "--project"}) {
    const Parsed refused = Line({"status", flag, "x"}).parse();
    EXPECT_EQ(refused.exit_code, exit_code(Fault::usage));
    EXPECT_NE(refused.text.find("requires --volumes"), std::string::npos) << refused.text;
  }
}

TEST(Options, CutoverNeedsItsSettings) {
  struct Case {
    std::vector<std::string> more;
    const char* word;
  };
  const Case cases[] = {
      {{}, "--network-mapping"},
      {{"--network-mapping", "mac=nonsense,network-id=n,subnet-id=s", "--flavor", "f"}, "no MAC address"},
      {{"--network-mapping", "mac=00:50:56:00:00:01,subnet-id=s", "--flavor", "f"}, "network-id="},
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

TEST(Options, AProxyAndTheWayToIt) {
  const auto proxy = [](const std::string& text) {
    Line line(migrate({"--transport", "hotadd", "--proxy-ssh", text}));
    try {
      const Parsed parsed = line.parse();
      if (parsed.finished) return std::string("refused");
      return parsed.options.vmware.proxy_ssh + " " + std::to_string(parsed.options.vmware.proxy_ssh_port);
    } catch (const Error&) {
      return std::string("refused");
    }
  };
  EXPECT_EQ(proxy("root@proxy.example"), "root@proxy.example 22");
  EXPECT_EQ(proxy("root@proxy.example:2222"), "root@proxy.example 2222");
  EXPECT_EQ(proxy("proxy"), "proxy 22");
  EXPECT_EQ(proxy("root@[fe80::1]:2222"), "root@fe80::1 2222");
  // What ssh or a shell would take for something else.
  for (const char* text : {"-oProxyCommand=id", "-x@host", "root@-host", "root@host:0", "root@host:99999",
                           "root@host:x", "a b@host", "root@ho st", "root@", "@host"})
    EXPECT_EQ(proxy(text), "refused") << text;
  EXPECT_THROW(Line(migrate({"--transport", "https", "--proxy-vm", "proxy01"})).parse(), Error);
  EXPECT_THROW(Line(migrate({"--transport", "hotadd", "--proxy-ssh-key", "k"})).parse(), Error);
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
                                             {"--transport", "auto,https"},
                                             {"--transport", "https", "--vddk-transports", "nbd"},
                                             {"--vmware-insecure", "--vmware-fingerprint", "aa"}}) {
    Line line(migrate(more));
    EXPECT_THROW(line.parse(), Error) << more.front();
  }
}

TEST(Options, TransportsStandInTheirOrder) {
  const auto transports = [](const std::vector<std::string>& more) {
    Line line(migrate(more));
    return line.parse().options.vmware.transports;
  };
  EXPECT_EQ(transports({}), std::vector<std::string>{});
  EXPECT_EQ(transports({"--transport", "auto"}), std::vector<std::string>{});
  EXPECT_EQ(transports({"--transport", "https,file,https", "--datastore-dir", "/mnt"}),
            (std::vector<std::string>{"https", "file"}));
}

TEST(Options, Vddk) {
  Line line(migrate({"--transport", "vddk", "--vddk-transports", "nbdssl:nbd", "--compression-method", "FastLZ"}));
  const Options o = line.parse({{"VMFERRY_VDDK_LIBDIR", "/opt/vddk"}}).options;
  EXPECT_EQ(o.vmware.transports, std::vector<std::string>{"vddk"});
  EXPECT_EQ(o.vmware.vddk_libdir, "/opt/vddk");
  EXPECT_EQ(o.vmware.vddk_transports, "nbdssl:nbd");
  EXPECT_EQ(o.vmware.compression, "fastlz");
}

TEST(Options, WhereDatastoresAreMounted) {
  const auto paths = [](const std::vector<std::string>& more) { return Line(migrate(more)).parse().options.vmware; };
  const Vmware plain = paths({"--datastore-dir", "/mnt/ds"});
  EXPECT_EQ(plain.datastore_directory, "/mnt/ds");
  const Vmware named =
      paths({"--local-disk-path", "ds 1=/mnt/one", "--local-disk-path", "ds2=two", "--local-disk-path", "/mnt/a=b"});
  EXPECT_EQ(named.datastores.at("ds 1"), "/mnt/one");
  EXPECT_EQ(named.datastores.at("ds2"), "two");
  EXPECT_EQ(named.datastore_directory, "/mnt/a=b");
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--local-disk-path", "ds="},
                                             {"--local-disk-path", "=/mnt"},
                                             {"--local-disk-path", "/a", "--datastore-dir", "/b"},
                                             {"--local-disk-path", "ds=/a", "--local-disk-path", "ds=/b"}})
    EXPECT_THROW(Line(migrate(more)).parse(), Error) << more[1];
}

TEST(Options, HowEsxiIsReachedBySsh) {
  const auto ssh = [](const std::string& address) {
    return Line(migrate({"--transport", "ssh", "--esxi-ssh-address", address})).parse().options.vmware.esxi_ssh;
  };
  EXPECT_EQ(ssh("esxi1.example").host, "esxi1.example");
  EXPECT_EQ(ssh("esxi1.example").port, 22);
  EXPECT_EQ(ssh("esxi1.example").user, "root");
  EXPECT_EQ(ssh("192.0.2.7:2222").port, 2222);
  EXPECT_EQ(ssh("[2001:db8::7]:2222").host, "2001:db8::7");
  EXPECT_EQ(ssh("[2001:db8::7]:2222").port, 2222);
  EXPECT_EQ(ssh("2001:db8::7").host, "2001:db8::7");
  for (const char* bad : {"root@esxi1", "esxi1:", "esxi1:70000", "esxi1:x", "a b"})
    EXPECT_THROW(ssh(bad), Error) << bad;
}

TEST(Options, Sizes) {
  EXPECT_EQ(parse_size("64K"), 65536u);
  EXPECT_EQ(parse_size("1GiB"), 1ull << 30);
  EXPECT_EQ(parse_size("7"), 7u);
  EXPECT_THROW(parse_size("-1"), Error);
  EXPECT_THROW(parse_size("999999999999999T"), Error);
}

TEST(Options, EveryCommandHasHelpWithAnExample) {
  for (const char* verb : {"migrate", "cutover", "status", "abort", "inventory", "evidence", "heat-template", "lab",
                           "completion", "version"}) {
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
