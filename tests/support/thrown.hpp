// What an act throws, and what is in its words.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "base/error.hpp"

namespace vmferry::support {

// A failure of the test when it is no Error.
template <class F>
Error thrown(F act) {
  try {
    act();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(Fault::bug, "nothing");
}

// The words of a refusal of that kind.
template <class F>
std::string refusal(F act, Fault fault) {
  const Error error = thrown(act);
  EXPECT_EQ(error.fault(), fault) << error.what();
  return error.what();
}

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace vmferry::support
