// vmferry's first and last lines: arguments in, exit code out. Everything that ends a run is caught here and told in
// words.
#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "app/commands.hpp"
#include "app/console.hpp"
#include "base/error.hpp"
#include "term/text.hpp"

namespace vmferry::app {

namespace {

int run(const config::Options& options, Clock& clock, std::stop_token stop) {
  switch (options.verb) {
    case config::Verb::migrate:
    case config::Verb::cutover:
    case config::Verb::verify:
    case config::Verb::abort:
      return run_job(options, clock, stop);
    case config::Verb::check:
      return run_check(options, clock, stop);
    case config::Verb::host:
      return run_host(options, clock, stop);
    case config::Verb::inventory:
      return run_inventory(options, clock, stop);
    case config::Verb::status:
      return run_status(options, clock, stop);
    case config::Verb::limits:
      return run_limits(options, clock);
    case config::Verb::evidence:
      return run_evidence(options, clock);
    case config::Verb::heat_template:
      return run_heat_template(options, clock);
    case config::Verb::completion:
      print_out(config::completion(options.rest.front()));
      return 0;
    case config::Verb::version:
      print_out(fmt::format("vmferry {}\n", VMFERRY_VERSION));
      return 0;
    case config::Verb::lab:
    case config::Verb::none:
      break;
  }
  return exit_code(Fault::bug);
}

void tell(const Error& e, const config::Options* options) {
  const bool colour = term::screen_of(STDERR_FILENO).colour;
  print_err(fmt::format("{}error:{} {}\n", colour ? "\x1b[31;1m" : "", colour ? "\x1b[0m" : "", e.what()));
  for (const std::string& activity : e.trail()) print_err("  while " + activity + "\n");
  if (options && options->debug && !e.name().empty()) print_err("  the other side calls it " + e.name() + "\n");
}

// Also for a pager, which breaks within words.
void print_help(const std::string& text) {
  constexpr int pager = 100;
  const term::Screen screen = term::screen_of(STDOUT_FILENO);
  print_out(term::wrapped_help(text, screen.terminal ? screen.columns : pager));
}

}  // namespace

int run_lab(const config::Options& options) {
  const std::filesystem::path beside = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "vmferry-lab";
  if (!std::filesystem::exists(beside))
    throw Error(Fault::not_found,
                fmt::format("{} is missing: build the lab (it needs Go), see docs/lab.md", beside.string()));
  std::vector<std::string> words{beside.string()};
  words.insert(words.end(), options.rest.begin(), options.rest.end());
  if (words.size() == 1) words.push_back("status");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  throw Error(Fault::tool, fmt::format("cannot run {}: {}", beside.string(), std::strerror(errno)));
}

}  // namespace vmferry::app

int main(int argc, char** argv) {
  using namespace vmferry;
  const config::Options* options = nullptr;
  try {
    const config::Parsed parsed = config::parse(argc, argv, app::environment());
    if (parsed.finished) {
      parsed.exit_code == 0 ? app::print_help(parsed.text) : app::print_err(parsed.text);
      return parsed.exit_code;
    }
    options = &parsed.options;
    if (parsed.options.verb == config::Verb::lab) return app::run_lab(parsed.options);  // before signals are blocked
    SystemClock clock;
    app::Signals signals;
    try {
      return app::run(parsed.options, clock, signals.token());
    } catch (const Cancelled&) {
      app::print_err("stopped; run the same command again to continue\n");
      return signals.exit_code() != 0 ? signals.exit_code() : 130;
    } catch (const Error& e) {
      // A call that was broken off by the signal ends as its own error; the signal is the reason.
      app::tell(e, options);
      return signals.exit_code() != 0 ? signals.exit_code() : exit_code(e.fault());
    }
  } catch (const Error& e) {
    app::tell(e, nullptr);
    return exit_code(e.fault());
  } catch (const std::exception& e) {
    app::print_err(fmt::format("error: {} (this is a bug in vmferry: please report it with the log)\n", e.what()));
    return exit_code(Fault::bug);
  }
}
