// A machine that was moved, as a template for OpenStack's Heat: its server, ports and volumes as resources that the
// stack names but did not make. Drawn from the job's facts alone. Pure.
#pragma once

#include <span>
#include <string>

#include "job/fact.hpp"

namespace vmferry::report {

// A HOT document. Error(unsupported) for a machine that was not moved to OpenStack, Error(conflict) while it is not
// there yet.
std::string heat_template(std::span<const job::Fact> facts);

// `text` as a double-quoted YAML scalar in ASCII, whatever it holds.
std::string quoted_yaml(const std::string& text);

}  // namespace vmferry::report
