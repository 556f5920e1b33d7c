// The flags of `vmferry host`: each word knows its own, and what is wrong is named.
#include "config/host_options.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "support/thrown.hpp"

namespace vmferry::config {
namespace {

using support::has;

Parsed parsed(std::vector<std::string> words, const std::map<std::string, std::string>& environment = {}) {
  words.insert(words.begin(), {"vmferry", "host"});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return parse(static_cast<int>(argv.size()), argv.data(), environment);
}

std::string refusal(const std::vector<std::string>& words) {
  try {
    const Parsed p = parsed(words);
    EXPECT_TRUE(p.finished);
    return p.text;
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::usage);
    return e.what();
  }
}

const std::vector<std::string> least{"deploy", "--image", "debian", "--flavor", "m1", "--network", "net"};

std::vector<std::string> with(std::vector<std::string> more) {
  more.insert(more.begin(), least.begin(), least.end());
  return more;
}

TEST(HostOptions, DeployWithLittleAndWithMuch) {
  const Parsed little = parsed(least);
  ASSERT_FALSE(little.finished) << little.text;
  EXPECT_EQ(little.options.verb, Verb::host);
  EXPECT_EQ(little.options.host.action, "deploy");
  EXPECT_EQ(little.options.host.name, "vmferry-host");
  EXPECT_TRUE(little.options.host.ssh_from.empty());
  const Parsed much = parsed(with({"--name", "h2", "--boot-volume", "40,fast", "--ssh-from", "10.1.2.3/8", "--ssh-from",
                                   "2001:DB8::1/32", "--ssh-from", "10.0.0.0/8", "--config-drive"}));
  ASSERT_FALSE(much.finished) << much.text;
  EXPECT_EQ(much.options.host.boot_volume_gib, 40u);
  EXPECT_EQ(much.options.host.boot_volume_type, "fast");
  EXPECT_EQ(much.options.host.ssh_from, (std::vector<std::string>{"10.0.0.0/8", "2001:db8::/32"}));
  EXPECT_TRUE(much.options.host.config_drive);
}

TEST(HostOptions, EachWordKnowsItsOwnFlags) {
  EXPECT_TRUE(has(refusal({}), "action is required"));
  EXPECT_TRUE(has(refusal({"dance"}), "dance"));
  EXPECT_TRUE(has(refusal({"deploy", "--image", "debian"}), "--flavor, --network"));
  EXPECT_TRUE(has(refusal({"check", "--image", "debian"}), "--image makes no sense with vmferry host check"));
  EXPECT_TRUE(has(refusal({"destroy", "--ssh-port", "2"}), "--ssh-port"));
  EXPECT_TRUE(has(refusal(with({"--instance-id", "x"})), "--instance-id"));
  EXPECT_TRUE(has(refusal(with({"--yes"})), "--yes"));
  // A variable that stands there for other commands is no mistake.
  EXPECT_EQ(parsed({"destroy", "--yes"}, {{"VMFERRY_INSTANCE_ID", "x"}}).options.host.action, "destroy");
  EXPECT_EQ(parsed({"check"}, {{"VMFERRY_INSTANCE_ID", "x"}}).options.openstack.instance_id, "x");
}

TEST(HostOptions, PrefixesAsNeutronWritesThem) {
  for (const auto& [text, plain] :
       std::vector<std::pair<std::string, std::string>>{{"198.51.100.7", "198.51.100.7/32"},
                                                        {"198.51.100.7/24", "198.51.100.0/24"},
                                                        {"0.0.0.0/0", "0.0.0.0/0"},
                                                        {"10.129.0.0/9", "10.128.0.0/9"},
                                                        {"2001:DB8:0::1", "2001:db8::1/128"},
                                                        {"::/0", "::/0"}})
    EXPECT_EQ(parse_prefix(text), plain);
  for (const char* bad :
       {"", "x", "1.2.3", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/x", "1.2.3.4/8x", "::/129", "1.2.3.4/-1"})
    EXPECT_THROW(parse_prefix(bad), Error) << bad;
}

TEST(HostOptions, BootVolumes) {
  EXPECT_EQ(parse_boot_volume("20"), (std::pair<std::uint64_t, std::string>{20, ""}));
  EXPECT_EQ(parse_boot_volume("20,a,b"), (std::pair<std::uint64_t, std::string>{20, "a,b"}));
  for (const char* bad : {"", "0", "x", "20G", "20,", ",fast", "-1", "99999999"})
    EXPECT_THROW(parse_boot_volume(bad), Error) << bad;
}

TEST(HostOptions, CompletionKnowsTheWordsAndTheFlags) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = completion(shell);
    for (const char* word : {"host", "deploy", "destroy", "boot-volume"})
      EXPECT_TRUE(has(script, word)) << shell << word;
  }
}

}  // namespace
}  // namespace vmferry::config
