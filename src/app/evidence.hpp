// The evidence of a job as files: NAME-JOB.html and NAME-JOB.json, 0600, each either whole or as it was before.
#pragma once

#include <filesystem>

#include "app/connections.hpp"
#include "job/journal.hpp"

namespace vmferry::app {

// Written at the end of a run, whatever the end; gives the page's path. What goes wrong is a warning on the terminal
// and in the log, and the path is empty: a proof that cannot be written makes no migration fail.
std::filesystem::path keep_evidence(const Places& places, const job::Journal& journal, const Clock& clock,
                                    log::Log& log) noexcept;

}  // namespace vmferry::app
