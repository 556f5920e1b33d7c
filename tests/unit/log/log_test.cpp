// The log file: private, one line an event, without secrets, never a reason to fail.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <regex>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "log/log.hpp"
#include "support/lab.hpp"

namespace vmferry::log {
namespace {

std::vector<std::string> lines_of(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

unsigned mode_of(const std::filesystem::path& path) {
  struct stat s {};
  EXPECT_EQ(::stat(path.c_str(), &s), 0) << path;
  return s.st_mode & 07777;
}

TEST(Log, IsPrivateWhateverTheUmask) {
  const support::TemporaryDirectory tmp;
  const mode_t before = ::umask(0);
  const std::filesystem::path file = tmp.path() / "jobs" / "7" / "job.log";
  {
    Log log(file, nullptr, Level::info, false, Level::error);
    log.info("hello");
    EXPECT_EQ(log.file(), file);
  }
  ::umask(before);
  EXPECT_EQ(mode_of(file), 0600U);
  EXPECT_EQ(mode_of(file.parent_path()), 0700U);
}

TEST(Log, TightensAFileThatWasOpenToAll) {
  const support::TemporaryDirectory tmp;
  const std::filesystem::path file = tmp.path() / "job.log";
  std::ofstream(file) << "earlier\n";
  ::chmod(file.c_str(), 0644);
  Log log(file, nullptr, Level::info, false, Level::error);
  log.info("later");
  EXPECT_EQ(mode_of(file), 0600U);
  EXPECT_EQ(lines_of(file).size(), 2U);
}

TEST(Log, WritesOneLineAnEventWithTimeLevelAndFields) {
  const support::TemporaryDirectory tmp;
  Log log(tmp.path() / "l", nullptr, Level::info, false, Level::error);
  log.debug("not wanted");
  log.warning("first {} line\nstill first", {{"vm", "web 1"}, {"disk", "2000"}, {"empty", ""}, {"bell", "a\x07\"b"}});
  const auto lines = lines_of(tmp.path() / "l");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_TRUE(std::regex_match(
      lines[0],
      std::regex(
          R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d warning first \{\} line\\nstill first vm="web 1" disk=2000 empty="" bell="a\\x07\\"b")")))
      << lines[0];
}

TEST(Log, HidesSecretsInMessagesAndFields) {
  const support::TemporaryDirectory tmp;
  auto redactor = std::make_shared<Redactor>();
  Log log(tmp.path() / "l", redactor, Level::debug, false, Level::error);
  log.redactor().add(Secret(std::string("hunter2hunter2")));
  log.info("got hunter2hunter2",
           {{"password", "other one"}, {"cookie", "a=b"}, {"url", "https://u:hunter2hunter2@h/"}});
  const auto lines = lines_of(tmp.path() / "l");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].find("hunter2"), std::string::npos) << lines[0];
  EXPECT_EQ(lines[0].find("other"), std::string::npos) << lines[0];
  EXPECT_EQ(lines[0].find("a=b"), std::string::npos) << lines[0];
}

TEST(Log, KeepsLinesOfManyThreadsApart) {
  const support::TemporaryDirectory tmp;
  {
    Log log(tmp.path() / "l", nullptr, Level::debug, false, Level::error);
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&log] {
        for (int i = 0; i < 200; ++i) log.info("from a thread", {{"x", std::string(100, 'x')}});
      });
  }
  const auto lines = lines_of(tmp.path() / "l");
  EXPECT_EQ(lines.size(), 800U);
  for (const std::string& line : lines) EXPECT_TRUE(line.ends_with("x=" + std::string(100, 'x'))) << line;
}

TEST(Log, GoesOnWhenItsDiskIsFull) {
  Log log("/dev/full", nullptr, Level::debug, false, Level::error);
  for (int i = 0; i < 3; ++i) log.error("nobody will read this");
}

TEST(Log, SaysWhyItCannotBeOpened) {
  const support::TemporaryDirectory tmp;
  std::ofstream(tmp.path() / "file") << "x";
  try {
    Log log(tmp.path() / "file" / "job.log", nullptr, Level::info, false, Level::error);
    FAIL() << "opened";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::config);
    EXPECT_NE(std::string(e.what()).find((tmp.path() / "file").string()), std::string::npos) << e.what();
  }
}

TEST(Log, RefusesToFollowALinkPlantedInItsPlace) {
  const support::TemporaryDirectory tmp;
  std::ofstream(tmp.path() / "victim") << "x";
  std::filesystem::create_symlink(tmp.path() / "victim", tmp.path() / "l");
  EXPECT_THROW(Log(tmp.path() / "l", nullptr, Level::info, false, Level::error), Error);
}

TEST(Log, TheDefaultOneGoesNowhere) {
  Log log;
  log.error("nothing happens");
  EXPECT_TRUE(log.file().empty());
}

}  // namespace
}  // namespace vmferry::log
