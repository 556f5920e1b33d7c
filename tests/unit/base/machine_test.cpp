// Which machine this is: told by its id and its hardware, and not at all without an id.
#include "base/machine.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/error.hpp"

namespace vmferry {
namespace {

class MachineMark : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "machine-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  MachineFiles files(const std::string& id, const std::string& uuid = "") {
    std::ofstream(directory_ / "machine-id") << id;
    std::ofstream(directory_ / "product_uuid") << uuid;
    return {directory_ / "machine-id", directory_ / "product_uuid"};
  }
  std::filesystem::path directory_;
};

constexpr const char* id = "3d1219c7c4c5404aaa1f6d2a48adfda4\n";
constexpr const char* uuid = "4C4C4544-0042-3510-8051-B7C04F595931\n";

TEST_F(MachineMark, IsOfTheIdAloneWhereThereIsNoUuid) {
  const std::string one = machine_mark(files(id));
  EXPECT_EQ(one.size(), 8U);
  EXPECT_EQ(machine_mark(files(id)), one);
  EXPECT_NE(machine_mark(files("11111111111111111111111111111111\n")), one);
  EXPECT_EQ(machine_mark({files(id).id, directory_ / "missing"}), one);
}

TEST_F(MachineMark, TellsClonesWithOneIdFromEachOther) {
  const std::string one = machine_mark(files(id, uuid));
  EXPECT_EQ(machine_mark(files(id, "4c4c4544-0042-3510-8051-b7c04f595931\n")), one);
  const std::string clone = machine_mark(files(id, "11111111-2222-3333-4444-555555555555\n"));
  EXPECT_FALSE(same_machine_mark(one, clone));
  EXPECT_TRUE(same_machine_mark(one, one));
  // What an older version wrote down, and one who may not read the UUID.
  const std::string old = machine_mark(files(id));
  EXPECT_TRUE(same_machine_mark(old, one));
  EXPECT_TRUE(same_machine_mark(one, old));
  EXPECT_TRUE(same_machine_mark(old, old));
  EXPECT_FALSE(same_machine_mark(machine_mark(files("1111\n")), one));
  EXPECT_FALSE(same_machine_mark("", one));
  EXPECT_FALSE(same_machine_mark("", ""));
  EXPECT_FALSE(same_machine_mark("3d12", "3d1219c7"));
}

TEST_F(MachineMark, WithoutAnIdThereIsNone) {
  for (const char* text : {"missing", "", "\n", "uninitialized\n"}) {
    MachineFiles where = files(text, uuid);
    if (text == std::string("missing")) where.id = directory_ / text;
    EXPECT_FALSE(look_up_machine_mark(where));
    try {
      machine_mark(where);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::config);
      EXPECT_NE(std::string(e.what()).find(where.id.string()), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("systemd-machine-id-setup"), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace vmferry
