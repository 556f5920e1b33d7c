// What the installed nbdkit can do, asked from itself: features are probed, versions never compared.
#include <fmt/format.h>

#include <chrono>
#include <map>
#include <mutex>

#include "base/error.hpp"
#include "nbdkit/nbdkit.hpp"

namespace vmferry::nbdkit {

namespace {

constexpr std::chrono::seconds probe_deadline{20};

process::Output ask(process::Runner& runner, std::vector<std::string> args, std::stop_token stop) {
  process::Command command;
  command.program = "nbdkit";
  command.args = std::move(args);
  return process::run(runner, command, probe_deadline, std::move(stop));
}

}  // namespace

struct Probe::Answers {
  std::mutex mutex;
  std::map<std::string, bool> known;

  // `args` makes nbdkit load the thing and describe it; it exits non-zero when there is no such thing.
  bool works(process::Runner& runner, const std::string& key, std::vector<std::string> args) {
    {
      std::scoped_lock lock(mutex);
      if (const auto found = known.find(key); found != known.end()) return found->second;
    }
    const bool answer = ask(runner, std::move(args), {}).status.ok();
    std::scoped_lock lock(mutex);
    return known.emplace(key, answer).first->second;
  }
};

bool Probe::plugin(const std::string& name) const {
  if (runner == nullptr || answers == nullptr || version.empty()) return false;
  return answers->works(*runner, "plugin " + name, {name, "--dump-plugin"});
}

bool Probe::filter(const std::string& name) const {
  if (runner == nullptr || answers == nullptr || version.empty()) return false;
  return answers->works(*runner, "filter " + name, {"--filter=" + name, "null", "--dump-plugin"});
}

Probe probe(process::Runner& runner, std::stop_token stop) {
  process::Output output;
  try {
    output = ask(runner, {"--version"}, std::move(stop));
  } catch (const Error& error) {
    if (error.fault() != Fault::tool) throw;
    throw Error(
        Fault::tool,
        fmt::format("nbdkit, which serves the disks, cannot be started: {}; install the package nbdkit", error.what()));
  }
  const std::string prefix = "nbdkit ";
  if (!output.status.ok() || output.out.rfind(prefix, 0) != 0)
    throw Error(Fault::tool,
                fmt::format("`nbdkit --version` did not work ({}): {}; repair or reinstall the package nbdkit",
                            output.status.describe(), output.err));
  Probe found;
  // "nbdkit 1.32.5" or "nbdkit 1.38.3 (nbdkit-1.38.3-1.el9)"
  found.version = output.out.substr(prefix.size());
  found.version.resize(std::min(found.version.find_first_of(" \n"), found.version.size()));
  found.runner = &runner;
  found.answers = std::make_shared<Probe::Answers>();
  return found;
}

}  // namespace vmferry::nbdkit
