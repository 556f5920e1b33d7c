// The journal, for commands that only look: they make nothing.
#pragma once

#include <memory>

#include "app/connections.hpp"
#include "config/options.hpp"
#include "store/store.hpp"

namespace vmferry::app {

// Null while nothing has been kept. Error(config) when the folder was named by a flag or its variable, and is not
// there: it may be misspelt.
std::unique_ptr<store::Store> kept_journal(const Places& places, const config::Options& options, Clock& clock);

}  // namespace vmferry::app
