// A file that several write at once is always one of theirs, whole.
#include "target/local/durable.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "support/lab.hpp"

namespace vmferry::target::local {
namespace {

TEST(Durable, SeveralWritersOfOneFileDoNotMixIt) {
  const support::TemporaryDirectory folder;
  const auto file = folder.path() / "evidence.json";
  write_durably(file, "first");
  std::atomic<int> failures = 0, writing = 4;
  std::vector<std::jthread> writers;
  for (char name = 'a'; name < 'e'; ++name)
    writers.emplace_back([&, name] {
      try {
        for (int i = 0; i < 20; ++i) write_durably(file, std::string(100'000 + 10'000 * i % 70'000, name));
      } catch (const Error& e) {
        ADD_FAILURE() << e.what();
        ++failures;
      }
      --writing;
    });
  while (writing > 0) {
    const std::string text = read_whole(file).value();
    ASSERT_TRUE(text == "first" || (text.size() >= 100'000 && text.find_first_not_of(text[0]) == std::string::npos))
        << text.size() << " bytes, mixed";
  }
  writers.clear();
  EXPECT_EQ(failures, 0);
  EXPECT_FALSE(std::filesystem::exists(file.string() + ".new"));
}

TEST(Durable, WhatACrashLeftIsNoObstacle) {
  const support::TemporaryDirectory folder;
  const auto file = folder.path() / "evidence.json";
  write_durably(file.string() + ".new", "half of something that was longer than this");
  write_durably(file, "whole");
  EXPECT_EQ(read_whole(file), "whole");
  EXPECT_FALSE(std::filesystem::exists(file.string() + ".new"));
}

}  // namespace
}  // namespace vmferry::target::local
