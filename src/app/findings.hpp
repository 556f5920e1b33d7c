// Findings as they are gathered and shown, by every command that has some.
#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "app/connections.hpp"
#include "plan/finding.hpp"

namespace vmferry::app {

// Asks; an error is a finding, and the next question is asked all the same.
void ask(std::vector<plan::Finding>& found, const std::string& object, const std::function<void()>& question);

// The worst first, and a line with how many there are; or as one JSON object. The exit code: 1 when there is a problem.
int show(const std::vector<plan::Finding>& found, bool json);

// What any run needs of this host: nbdkit with those plugins ("curl", "file"), and space in the state folder.
void check_reading(const Surroundings& around, const std::vector<std::string>& plugins,
                   std::vector<plan::Finding>& found, std::stop_token stop);
void check_space(const Surroundings& around, bool converts, std::vector<plan::Finding>& found);

}  // namespace vmferry::app
