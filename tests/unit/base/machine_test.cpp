// Which machine this is: told from its id alone, and not at all without one.
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
  std::filesystem::path file(const std::string& text) {
    std::ofstream(directory_ / "machine-id") << text;
    return directory_ / "machine-id";
  }
  std::filesystem::path directory_;
};

TEST_F(MachineMark, IsOfTheIdAlone) {
  const std::string one = machine_mark(file("3d1219c7c4c5404aaa1f6d2a48adfda4\n"));
  EXPECT_EQ(one.size(), 8U);
  EXPECT_EQ(machine_mark(file("3d1219c7c4c5404aaa1f6d2a48adfda4\n")), one);
  EXPECT_NE(machine_mark(file("11111111111111111111111111111111\n")), one);
}

TEST_F(MachineMark, WithoutAnIdThereIsNone) {
  for (const char* text : {"missing", "", "\n", "uninitialized\n"}) {
    const auto path = text == std::string("missing") ? directory_ / text : file(text);
    EXPECT_FALSE(look_up_machine_mark(path));
    try {
      machine_mark(path);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::config);
      EXPECT_NE(std::string(e.what()).find(path.string()), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("systemd-machine-id-setup"), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace vmferry
