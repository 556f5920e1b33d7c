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

TEST(Pace, TellsRateAndTimeLeft) {
  Pace pace;
  EXPECT_LT(pace.seconds_left(100), 0);
  pace.add(0, 0);
  pace.add(1, 100);
  pace.add(2, 200);
  EXPECT_DOUBLE_EQ(pace.bytes_per_second(), 100);
  EXPECT_DOUBLE_EQ(pace.seconds_left(1000), 8);
}

}  // namespace
}  // namespace vmferry::term
