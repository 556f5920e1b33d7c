// What a host tells another by a volume's metadata; anything else that may stand there is not believed.
#include "target/partial.hpp"

#include <gtest/gtest.h>

#include "target/memory_keys.hpp"

namespace vmferry::target {

TEST(Partial, IsReadAsItWasWritten) {
  const Partial partial{5ULL << 40, 6ULL << 40, {"52 de c0 d9-01", "17"}};
  EXPECT_EQ(partial_of({{memory_key::partial, encode(partial)}}), partial);
  EXPECT_LT(encode(partial).size(), 256U);
}

TEST(Partial, NothingElseIsBelieved) {
  for (const char* text : {"", "x", "1", "1/", "1/2", "1/2 ", "1/2 nonsense", "0/2 a/1", "3/2 a/1", "-1/2 a/1",
                           "1/2a/1", "99999999999999999999/2 a/1", " 1/2 a/1"})
    EXPECT_EQ(partial_of({{memory_key::partial, text}}), std::nullopt) << text;
  EXPECT_EQ(partial_of({}), std::nullopt);
}

}  // namespace vmferry::target
