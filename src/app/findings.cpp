// Findings on the terminal and as JSON, and the questions to this host that more than one command asks.
#include "app/findings.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/console.hpp"
#include "base/error.hpp"
#include "nbdkit/nbdkit.hpp"
#include "term/text.hpp"

namespace vmferry::app {

using plan::Finding;
using plan::Level;

namespace {

constexpr int exit_with_problems = 1;

}  // namespace

void ask(std::vector<Finding>& found, const std::string& object, const std::function<void()>& question) {
  try {
    question();
  } catch (const Error& e) {
    found.push_back({Level::problem, object, e.what(), ""});
  }
}

int show(const std::vector<Finding>& found, bool json) {
  int problems = 0, warnings = 0;
  nlohmann::json list = nlohmann::json::array();
  std::string text;
  const term::Screen screen = term::screen_of(STDOUT_FILENO);
  for (const Level level : {Level::problem, Level::warning, Level::note})
    for (const Finding& finding : found) {
      if (finding.level != level) continue;
      problems += level == Level::problem;
      warnings += level == Level::warning;
      list.push_back({{"level", plan::word(level)},
                      {"object", finding.object},
                      {"fact", finding.fact},
                      {"remedy", finding.remedy}});
      const char* paint = level == Level::problem ? "\x1b[31m" : level == Level::warning ? "\x1b[33m" : "";
      text += fmt::format("{}{}{}: {}: {}\n", screen.colour ? paint : "", plan::word(level),
                          screen.colour ? "\x1b[0m" : "", finding.object, finding.fact);
      if (!finding.remedy.empty()) text += fmt::format("  {}\n", finding.remedy);
    }
  if (json)
    print_out(nlohmann::json{{"findings", list}, {"problems", problems}, {"warnings", warnings}}.dump(
                  -1, ' ', false, nlohmann::json::error_handler_t::replace) +
              "\n");
  else
    print_out(term::wrapped(text, screen.width()) +
              fmt::format("{} problem{}, {} warning{}{}\n", problems, problems == 1 ? "" : "s", warnings,
                          warnings == 1 ? "" : "s", problems == 0 ? ": nothing stands in the way" : ""));
  return problems > 0 ? exit_with_problems : 0;
}

void check_reading(const Surroundings& around, const std::vector<std::string>& plugins, std::vector<Finding>& found,
                   std::stop_token stop) {
  ask(found, "this host", [&] {
    const nbdkit::Probe probe = nbdkit::probe(around.runner, stop);
    bool whole = true;
    for (const std::string& plugin : plugins) {
      if (probe.plugin(plugin)) continue;
      whole = false;
      found.push_back({Level::problem, "this host", fmt::format("nbdkit {} has no {} plugin", probe.version, plugin),
                       "install the package that has it (Debian: nbdkit)", Fault::tool});
    }
    if (whole)
      found.push_back({Level::note, "this host", fmt::format("disks are read through nbdkit {}", probe.version), ""});
  });
}

void check_space(const Surroundings& around, bool converts, std::vector<Finding>& found) {
  std::error_code problem;
  std::filesystem::path there = around.places.state;
  // What is not there yet will be made on the file system of what is above it.
  while (!there.empty() && there != there.root_path() && !std::filesystem::exists(there, problem))
    there = there.parent_path();
  const auto space = std::filesystem::space(there, problem);
  const std::uint64_t wanted = converts ? 4ULL << 30 : 256ULL << 20;
  if (!problem && space.available < wanted)
    found.push_back(
        {Level::warning, around.places.state.string(),
         fmt::format("only {} are free there; journal and logs{} may need more", term::human_bytes(space.available),
                     converts ? ", and the overlays of a conversion," : ""),
         "free some space, or choose another --state-dir"});
}

}  // namespace vmferry::app
