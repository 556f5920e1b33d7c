// Evidence on disk, and the command that shows it. It is drawn from the journal each time; the files are copies.
#include "app/evidence.hpp"

#include <fmt/format.h>

#include "app/chosen_job.hpp"
#include "app/commands.hpp"
#include "app/console.hpp"
#include "plan/plan.hpp"
#include "report/evidence.hpp"
#include "store/store.hpp"
#include "target/local/durable.hpp"

namespace vmferry::app {

namespace {

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
  const report::Evidence evidence = report::evidence_of(facts_of_chosen_job(places, options, clock));
  if (options.json) print_out(report::as_json(evidence, VMFERRY_VERSION, now_ms(clock)));
  if (options.json && options.out.empty()) return 0;
  const Files files = write(options.out.empty() ? places.evidence() : options.out, evidence, clock);
  if (!options.json)
    print_out(fmt::format("{}\n{}\n{}\n", report::in_words(evidence), files.page.string(), files.json.string()));
  return 0;
}

}  // namespace vmferry::app
