// Evidence on disk, and the command that shows it. It is drawn from the journal each time; the files are copies.
#include "app/evidence.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "app/commands.hpp"
#include "app/console.hpp"
#include "base/error.hpp"
#include "plan/plan.hpp"
#include "report/evidence.hpp"
#include "store/store.hpp"
#include "target/local/durable.hpp"

namespace vmferry::app {

namespace {

std::int64_t now_ms(const Clock& clock) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(clock.wall().time_since_epoch()).count();
}

struct Files {
  std::filesystem::path page, json;
};

// Named like the job's log.
Files write(const std::filesystem::path& folder, const report::Evidence& evidence, const Clock& clock) {
  const std::string name =
      fmt::format("{}-{}", plan::volume_name(evidence.job.vm_name, ""), evidence.job.job.value.substr(0, 8));
  Files files{folder / (name + ".html"), folder / (name + ".json")};
  target::local::make_directory(folder);
  target::local::write_durably(files.json, report::as_json(evidence, VMFERRY_VERSION, now_ms(clock)));
  target::local::write_durably(files.page, report::as_page(evidence, VMFERRY_VERSION, now_ms(clock)));
  return files;
}

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

std::filesystem::path keep_evidence(const Places& places, const job::Journal& journal, const Clock& clock,
                                    log::Log& log) noexcept {
  try {
    return write(places.evidence(), report::evidence_of(journal.facts()), clock).page;
  } catch (const std::exception& e) {
    try {
      const std::string sentence =
          fmt::format("the evidence could not be written ({}); `vmferry evidence` makes it later", e.what());
      log.warning(sentence);
      print_err("warning: " + sentence + "\n");
    } catch (const std::exception&) {
      // No memory, no disk: the run has worse to tell.
    }
    return {};
  }
}

int run_evidence(const config::Options& options, Clock& clock) {
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  store::Store store(places.state, clock);
  std::vector<Found> meant;
  for (const store::JobRow& row : store.jobs()) {
    Found found{row, store.journal(row.job)->facts()};
    if (is_meant(found, options)) meant.push_back(std::move(found));
  }
  const report::Evidence evidence = report::evidence_of(choose(std::move(meant), options).facts);
  if (options.json) print_out(report::as_json(evidence, VMFERRY_VERSION, now_ms(clock)));
  if (options.json && options.out.empty()) return 0;
  const Files files = write(options.out.empty() ? places.evidence() : options.out, evidence, clock);
  if (!options.json)
    print_out(fmt::format("{}\n{}\n{}\n", report::in_words(evidence), files.page.string(), files.json.string()));
  return 0;
}

}  // namespace vmferry::app
