// Listing, choosing and missing.
#include "vsphere/inventory.hpp"

#include <gtest/gtest.h>

#include "fake_server.hpp"
#include "support/fake_clock.hpp"

namespace vmferry::vsphere {
namespace {

ListedVm vm(const std::string& id, const std::string& path, const std::string& uuid = "") {
  ListedVm made;
  made.id.value = id;
  made.path = path;
  made.name = path.substr(path.rfind('/') + 1);
  if (made.name == "a%2fb") made.name = "a/b";
  made.uuid = uuid;
  return made;
}

const std::vector<ListedVm> house{vm("vm-1", "/DC0/vm/web01", "423C6E10-aaaa-bbbb-cccc-0123456789ab"),
                                  vm("vm-2", "/DC0/vm/test/web02"),
                                  vm("vm-3", "/DC1/vm/web02"),
                                  vm("vm-4", "/DC0/vm/a%2fb"),
                                  vm("12", "/ha-datacenter/vm/host"),
                                  vm("vm-6", "/DC0/vm/42")};

TEST(Choose, TakesPathsNamesUuidsAndMorefs) {
  EXPECT_EQ(choose("/DC0/vm/web01", house).value, "vm-1");
  EXPECT_EQ(choose("DC0/vm/web01/", house).value, "vm-1");
  EXPECT_EQ(choose("web01", house).value, "vm-1");
  EXPECT_EQ(choose("423c6e10-AAAA-bbbb-cccc-0123456789ab", house).value, "vm-1");
  EXPECT_EQ(choose("/DC0/vm/a%2fb", house).value, "vm-4");
  EXPECT_EQ(choose("/DC0/vm/a%2Fb", house).value, "vm-4");
  EXPECT_EQ(choose("a/b", house).value, "vm-4");
  EXPECT_EQ(choose("a%2fb", house).value, "vm-4");
  EXPECT_EQ(choose("vm-3", house).value, "vm-3");
  EXPECT_EQ(choose("12", house).value, "12");
  EXPECT_EQ(choose("42", house).value, "vm-6") << "a name is nearer than a moref";
  EXPECT_TRUE(choose("web", house).empty());
  EXPECT_TRUE(choose("/DC0/vm/web02", house).empty()) << "a path is meant as it stands";
}

TEST(Choose, AmbiguousNamesListTheirPaths) {
  try {
    choose("web02", house);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::conflict);
    const std::string said = e.what();
    EXPECT_NE(said.find("/DC0/vm/test/web02 (vm-2)"), std::string::npos) << said;
    EXPECT_NE(said.find("/DC1/vm/web02 (vm-3)"), std::string::npos) << said;
    EXPECT_EQ(said.find("web01"), std::string::npos) << said;
  }
}

TEST(Miss, ShowsNearNamesFirstAndThenEverything) {
  const std::string said = explain_miss("/DC0/vm/Web1", house);
  const auto near = said.find("Near it:\n  /DC0/vm/web01");
  const auto rest = said.find("There are:\n  /DC0/vm/web01");
  ASSERT_NE(near, std::string::npos) << said;
  ASSERT_NE(rest, std::string::npos) << said;
  EXPECT_LT(near, rest);
  EXPECT_EQ(explain_miss("quite-different", house).find("Near it"), std::string::npos);
}

TEST(Miss, ShowsFiftyPathsAtMost) {
  std::vector<ListedVm> many;
  for (int i = 0; i < 60; ++i)
    many.push_back(vm("vm-" + std::to_string(i), "/DC/vm/machine" + std::to_string(100 + i)));
  const std::string said = explain_miss("zzz", many);
  EXPECT_NE(said.find("machine149"), std::string::npos);
  EXPECT_EQ(said.find("machine150"), std::string::npos);
  EXPECT_NE(said.find("and 10 more"), std::string::npos);
}

TEST(Miss, AnEmptyInventoryIsAMatterOfRoles) { EXPECT_NE(explain_miss("x", {}).find("role"), std::string::npos); }

TEST(List, FollowsPagesAndBuildsPathsThroughFoldersAndVapps) {
  FakeServer server;
  server.on("CreateContainerView",
            FakeServer::xml(envelope("<R><returnval type=\"ContainerView\">view-1</returnval></R>")));
  server.on("RetrievePropertiesEx", FakeServer::file("listing-1.xml"));
  server.on("ContinueRetrievePropertiesEx", FakeServer::file("listing-2.xml"));
  server.on("DestroyView", FakeServer::xml(envelope("<R/>")));
  support::FakeClock clock;
  log::Log log;
  Session session(server, {"vc.example:443", "u", Secret(std::string("secret")), std::chrono::seconds(0)}, clock, log,
                  {});
  const std::vector<ListedVm> all = list(session, {});
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].path, "/north/DC0/vm/a%2fb");
  EXPECT_EQ(all[0].name, "a/b");
  EXPECT_EQ(all[0].disks, 1);
  EXPECT_EQ(all[0].bytes, 4096U);
  EXPECT_EQ(all[1].path, "/north/DC0/vm/shop/till");
  EXPECT_EQ(all[1].power, model::Power::off);
  EXPECT_NE(server.last("ContinueRetrievePropertiesEx").body.find("<token>page-2</token>"), std::string::npos);
  EXPECT_EQ(server.count("DestroyView"), 1);
}

}  // namespace
}  // namespace vmferry::vsphere
