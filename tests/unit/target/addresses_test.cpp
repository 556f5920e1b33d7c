// Addresses of both families, as people and Neutron write them.
#include <gtest/gtest.h>

#include "target/openstack/room.hpp"

namespace vmferry::target::openstack {
namespace {

TEST(Addresses, AreInANetworkOrNot) {
  for (const auto& [address, cidr] : {std::pair{"10.0.0.1", "10.0.0.0/24"},
                                      {"10.0.1.255", "10.0.0.0/23"},
                                      {"10.0.0.9", "10.0.0.9/32"},
                                      {"1.2.3.4", "0.0.0.0/0"},
                                      {"2001:db8::1", "2001:db8::/64"},
                                      {"2001:DB8:0:0::ffff", "2001:db8::/64"},
                                      {"2001:db8:0:1::1", "2001:db8::/63"},
                                      {"fd00::1", "::/0"}})
    EXPECT_TRUE(in_cidr(address, cidr)) << address << " in " << cidr;
  for (const auto& [address, cidr] : {std::pair{"10.0.1.1", "10.0.0.0/24"},
                                      {"10.0.2.0", "10.0.0.0/23"},
                                      {"10.0.0.8", "10.0.0.9/32"},
                                      {"2001:db8:0:1::1", "2001:db8::/64"},
                                      {"2001:db8:0:2::1", "2001:db8::/63"},
                                      {"10.0.0.1", "::/0"},
                                      {"::1", "0.0.0.0/0"},
                                      {"10.0.0.1", "10.0.0.0"},
                                      {"10.0.0.1", "10.0.0.0/33"},
                                      {"10.0.0.1", "10.0.0.0/x"},
                                      {"web01", "10.0.0.0/24"},
                                      {"", "10.0.0.0/24"}})
    EXPECT_FALSE(in_cidr(address, cidr)) << address << " in " << cidr;
}

TEST(Addresses, AreTheSameHoweverTheyAreWritten) {
  EXPECT_TRUE(same_address("10.0.0.1", "10.0.0.1"));
  EXPECT_TRUE(same_address("FD00:0::1", "fd00::1"));
  EXPECT_TRUE(same_address("2001:db8:0:0:0:0:0:a", "2001:DB8::A"));
  EXPECT_FALSE(same_address("10.0.0.1", "10.0.0.2"));
  EXPECT_FALSE(same_address("fd00::1", "fd00::2"));
  EXPECT_FALSE(same_address("10.0.0.1", "::ffff:10.0.0.2"));
  EXPECT_FALSE(same_address("", "10.0.0.1"));
}

}  // namespace
}  // namespace vmferry::target::openstack
