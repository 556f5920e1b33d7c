// The tables over Fault, and how a trail reads.
#include "base/error.hpp"

namespace vmferry {

namespace {
struct Row {
  Fault fault;
  std::string_view word;
  int code;
};
// Codes below 64 only, so that shells and schedulers never mistake one for a signal.
constexpr Row rows[] = {
    {Fault::usage, "usage", 2},
    {Fault::config, "config", 3},
    {Fault::auth, "auth", 4},
    {Fault::not_found, "not_found", 5},
    {Fault::conflict, "conflict", 6},
    {Fault::quota, "quota", 7},
    {Fault::unavailable, "unavailable", 8},
    {Fault::timeout, "timeout", 9},
    {Fault::unsupported, "unsupported", 10},
    {Fault::tool, "tool", 11},
    {Fault::data, "data", 12},
    {Fault::bug, "bug", 20},
};
}  // namespace

std::string_view to_string(Fault fault) noexcept {
  for (const Row& row : rows)
    if (row.fault == fault) return row.word;
  return "unknown";
}

int exit_code(Fault fault) noexcept {
  for (const Row& row : rows)
    if (row.fault == fault) return row.code;
  return 20;
}

Error::Error(Fault fault, const std::string& message) : std::runtime_error(message), fault_(fault) {}

Error::Error(Fault fault, const std::string& message, std::string name)
    : std::runtime_error(message), fault_(fault), name_(std::move(name)) {}

Error& Error::during(std::string activity) {
  trail_.push_back(std::move(activity));
  return *this;
}

std::string Error::explain() const {
  std::string text = what();
  for (const std::string& activity : trail_) text += "\n  while " + activity;
  return text;
}

}  // namespace vmferry
