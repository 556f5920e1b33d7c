// By what the journals say of their machines: no call to vSphere.
#include "app/chosen_job.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "app/console.hpp"
#include "app/kept_journal.hpp"
#include "base/error.hpp"
#include "store/store.hpp"

namespace vmferry::app {

namespace {

struct Found {
  store::JobRow row;
  std::vector<job::Fact> facts;
};

bool is_meant(const Found& found, const config::Options& options) {
  if (!options.job.empty()) return found.row.job.value.starts_with(options.job);
  const std::string& wanted = options.vmware.path;
  const auto& created = std::get<job::JobCreated>(found.facts.front().body);
  return wanted.empty() || wanted == created.vm_path || wanted == found.row.vm_name || wanted == found.row.vm.value ||
         (wanted == created.instance_uuid && !wanted.empty());
}

std::string listed(const std::vector<Found>& found) {
  std::string text;
  for (const Found& one : found)
    text += fmt::format("\n  --job {}  {} to {}", one.row.job.value.substr(0, 8), one.row.vm_name, one.row.target);
  return text;
}

// The newest job of the one machine that is meant.
Found choose(std::vector<Found> found, const config::Options& options) {
  const std::string wanted = options.job.empty() ? options.vmware.path : "--job " + options.job;
  if (found.empty())
    throw Error(Fault::not_found, wanted.empty()
                                      ? "there is no job on this host yet: nothing can be shown"
                                      : fmt::format("no job on this host is meant by {}; `vmferry status --all` lists "
                                                    "what there is (another --state-dir?)",
                                                    wanted));
  const auto other = [&](const Found& one) {
    return one.row.source != found.front().row.source || one.row.vm != found.front().row.vm;
  };
  const bool several = std::any_of(found.begin(), found.end(), other);
  if (several || (!options.job.empty() && found.size() > 1))
    throw Error(Fault::usage, fmt::format("{} can be several jobs; say which one:{}",
                                          wanted.empty() ? "without --vmware-path VM it" : wanted, listed(found)));
  if (found.size() > 1)
    print_err(fmt::format("note: {} has {} jobs, this is the newest; any other by --job:{}\n",
                          found.front().row.vm_name, found.size(), listed(found)));
  return std::move(found.back());
}

}  // namespace

std::vector<job::Fact> facts_of_chosen_job(const Places& places, const config::Options& options, Clock& clock) {
  const auto store = kept_journal(places, options, clock);
  std::vector<Found> meant;
  for (const store::JobRow& row : store ? store->jobs() : std::vector<store::JobRow>{}) {
    Found found{row, store->journal(row.job)->facts()};
    if (is_meant(found, options)) meant.push_back(std::move(found));
  }
  return choose(std::move(meant), options).facts;
}

}  // namespace vmferry::app
