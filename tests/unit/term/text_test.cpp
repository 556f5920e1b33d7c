// What people read.
#include "term/text.hpp"

#include <gtest/gtest.h>

#include "term/progress.hpp"

namespace vmferry::term {
namespace {

TEST(Human, Bytes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(100ull << 20), "100 MiB");
  EXPECT_EQ(human_bytes((1ull << 30) - 1), "1.0 GiB");
}

TEST(Human, Duration) {
  EXPECT_EQ(human_duration(0.42), "0.4 s");
  EXPECT_EQ(human_duration(42), "42 s");
  EXPECT_EQ(human_duration(200), "3 min 20 s");
  EXPECT_EQ(human_duration(7500), "2 h 05 min");
  EXPECT_EQ(human_duration(-1), "?");
}

TEST(Table, FitsTheScreenAndNeverLosesAColumn) {
  const std::string text = table({"VM", "STATE"}, {{"a-very-long-machine-name-indeed", "synced"}, {"b", "new"}}, 20);
  EXPECT_EQ(text, "VM            STATE\na-very-long…  synced\nb             new\n");
  EXPECT_EQ(table({"VM"}, {{"äöü"}}, 0), "VM\näöü\n");
}

TEST(Table, WhatIsToBeCopiedStaysWhole) {
  const std::vector<std::vector<std::string>> rows{{"a-long-name", "in sync", "12345678"}};
  EXPECT_EQ(table({"VM", "PHASE", "JOB"}, rows, 24, {"JOB"}),
            "VM      PHASE   JOB\n"
            "a-lon…  in sy…  12345678\n");
  EXPECT_EQ(table({"VM", "PHASE", "JOB"}, rows, 19, {"JOB"}),
            "VM           PHASE    JOB\n"
            "a-long-name  in sync  12345678\n");
}

TEST(Plain, NothingThatATerminalObeysStays) {
  EXPECT_EQ(plain("web01 größer"), "web01 größer");
  EXPECT_EQ(plain("a\x1b[2Jb\nc\x7f"), "a?[2Jb?c?");
  EXPECT_EQ(plain("a\xc2\x9b"
                  "2Jb\xc2\xa0"),
            "a?2Jb\xc2\xa0");
  EXPECT_EQ(plain("\xc2"), "\xc2");
}

TEST(Wrapped, BetweenWordsAndNeverWithin) {
  EXPECT_EQ(wrapped("one two three\n  four five six\n", 9), "one two\n  three\n  four\n    five\n    six\n");
  EXPECT_EQ(wrapped("one two", 7), "one two");
  EXPECT_EQ(wrapped("a /very/long/path b", 6), "a\n  /very/long/path\n  b");
  EXPECT_EQ(wrapped("\x1b[31mäöü\x1b[0m äöü äöü", 8, 0), "\x1b[31mäöü\x1b[0m äöü\näöü");
  EXPECT_EQ(wrapped("one two three", 0), "one two three");
  EXPECT_EQ(wrapped("     \n\nlast", 3), "     \n\nlast");
  EXPECT_EQ(wrapped("", 3), "");
}

TEST(Wrapped, HelpKeepsItsColumnsAndItsExamples) {
  const std::string help =
      "Moves what is there\n"
      "  --one VALUE                 what it means\n"
      "  --a-name-that-is-too-long VALUE\n"
      "                              what it means\n"
      "  vmferry move --one thing --a-name-that-is-too-long thing\n";
  EXPECT_EQ(wrapped_help(help, 38),
            "Moves what is there\n"
            "  --one VALUE                 what it\n"
            "                              means\n"
            "  --a-name-that-is-too-long VALUE\n"
            "                              what it\n"
            "                              means\n"
            "  vmferry move --one thing --a-name-that-is-too-long thing\n");
}

TEST(Pace, TellsRateAndTimeLeft) {
  Pace pace;
  EXPECT_LT(pace.seconds_left(100), 0);
  pace.add(0, 0);
  pace.add(1, 100);
  pace.add(2, 200);
  EXPECT_DOUBLE_EQ(pace.bytes_per_second(), 100);
  EXPECT_DOUBLE_EQ(pace.seconds_left(1000), 8);
  pace.add(3, 10);  // the audit of what was copied until then
  EXPECT_LT(pace.seconds_left(1000), 0);
  pace.add(4, 20);
  EXPECT_DOUBLE_EQ(pace.bytes_per_second(), 10);
}

}  // namespace
}  // namespace vmferry::term
