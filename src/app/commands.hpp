// What each command does. Each returns its exit code; errors are thrown to main().
#pragma once

#include <stop_token>

#include "base/clock.hpp"
#include "config/options.hpp"

namespace vmferry::app {

// migrate, cutover, verify, abort
int run_job(const config::Options& options, Clock& clock, std::stop_token stop);
int run_check(const config::Options& options, Clock& clock, std::stop_token stop);
// The part of it that tries every transport on a snapshot.
int check_transports(const config::Options& options, Clock& clock, std::stop_token stop);
int run_host(const config::Options& options, Clock& clock, std::stop_token stop);
int run_inventory(const config::Options& options, Clock& clock, std::stop_token stop);
int run_limits(const config::Options& options, Clock& clock);
int run_status(const config::Options& options, Clock& clock, std::stop_token stop);
int run_evidence(const config::Options& options, Clock& clock);
int run_heat_template(const config::Options& options, Clock& clock);
// Runs vmferry-lab, which stands beside this program.
int run_lab(const config::Options& options);

}  // namespace vmferry::app
