// Names and marks of a conversion host, and where its SSH is.
#include "target/openstack/conversion_host.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"

namespace vmferry::target::openstack {
namespace {

TEST(ConversionHost, ItsNameIsOneThatNovaTakesForAKeyPair) {
  for (const char* good : {"vmferry-host", "a", "host_2", "7"}) EXPECT_NO_THROW(check_host_name(good)) << good;
  for (const std::string& bad : {std::string(), std::string("-a"), std::string("a b"), std::string("a.b"),
                                 std::string("h\xc3\xb6st"), std::string(64, 'a')})
    EXPECT_THROW(check_host_name(bad), Error) << bad;
}

TEST(ConversionHost, AMarkTellsOfTheKeyPairThatWasMade) {
  std::optional<MadeKeyPair> told;
  EXPECT_TRUE(is_host_mark(host_mark("a"), "a", &told));
  EXPECT_FALSE(told);
  for (const MadeKeyPair& made : {MadeKeyPair{"a", "aa:bb"}, MadeKeyPair{"my key key-pair=x", ""}}) {
    EXPECT_TRUE(is_host_mark(host_mark("a", made), "a", &told));
    EXPECT_EQ(told, made);
    EXPECT_TRUE(is_host_mark(host_mark("a", made), "a", nullptr));
  }
}

TEST(ConversionHost, NothingElseIsItsMark) {
  std::optional<MadeKeyPair> told;
  for (const char* other : {"", "a", "vmferry host=", "vmferry host=ab", "vmferry host=a ", "vmferry job=a",
                            "vmferry host=a key-fingerprint=x", "vmferry host=a, please keep"})
    EXPECT_FALSE(is_host_mark(other, "a", &told)) << other;
  EXPECT_FALSE(told);
}

TEST(Address, EverySpellingOfAHostAndAPort) {
  struct Case {
    const char* text;
    const char* host;
    int port;
    const char* shown;
  };
  for (const Case& c : {Case{"192.0.2.5", "192.0.2.5", 22, "192.0.2.5:22"},
                        Case{"jump.example:2222", "jump.example", 2222, "jump.example:2222"},
                        Case{"2001:db8::5", "2001:db8::5", 22, "[2001:db8::5]:22"},
                        Case{"[2001:db8::5]", "2001:db8::5", 22, "[2001:db8::5]:22"},
                        Case{"[2001:db8::5]:2222", "2001:db8::5", 2222, "[2001:db8::5]:2222"}}) {
    const Address address = parse_address(c.text, 22);
    EXPECT_EQ(address.host, c.host);
    EXPECT_EQ(address.port, c.port);
    EXPECT_EQ(address.text(), c.shown);
  }
  for (const char* bad :
       {"", ":22", "host:", "host:0", "host:65536", "host:ssh", "[::1]:", "[::1]22x", "user@host", "ssh://host"})
    EXPECT_THROW(parse_address(bad, 22), Error) << bad;
}

}  // namespace
}  // namespace vmferry::target::openstack
