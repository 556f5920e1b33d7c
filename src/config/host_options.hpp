// The flags of `vmferry host`, which has a word of its own after it. CLI11 is only named here.
#pragma once

#include <string>
#include <utility>

#include "config/options.hpp"

namespace CLI {
class App;
}

namespace vmferry::config {

extern const char* const host_footer;

void add_host(CLI::App& app, Options& options);
// Before the variables are applied: what the word does not know is refused, what it needs is asked for.
void finish_host(const CLI::App& app, Options& options);

// "40" or "40,fast" as GiB and volume type. Error(usage).
std::pair<std::uint64_t, std::string> parse_boot_volume(const std::string& text);
// "192.0.2.0/24", "192.0.2.7", "2001:DB8::/32" as Neutron writes them. Error(usage).
std::string parse_prefix(const std::string& text);

}  // namespace vmferry::config
