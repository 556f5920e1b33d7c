// Only what is surely not there is taken for nothing: of all else the store says why it cannot be read.
#include "app/kept_journal.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.hpp"

namespace vmferry::app {

std::unique_ptr<store::Store> kept_journal(const Places& places, const config::Options& options, Clock& clock) {
  std::error_code unseen;
  const bool missing = std::filesystem::status(places.state, unseen).type() == std::filesystem::file_type::not_found;
  if (missing && !options.state_directory.empty())
    throw Error(Fault::config,
                fmt::format("there is no state folder {}: give the one of the runs that are meant by --state-dir or "
                            "VMFERRY_STATE_DIR; the first `vmferry migrate` makes it",
                            places.state.string()));
  if (!store::has_journal(places.state)) return nullptr;
  return std::make_unique<store::Store>(places.state, clock);
}

}  // namespace vmferry::app
