// Whether a run is dead is told by its job's lock, which the kernel lets go with the process.
#include "app/janitor.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "job/state.hpp"
#include "term/text.hpp"

namespace vmferry::app {

std::string lock_of(const store::JobRow& row) { return lock_of(row.source, row.vm); }
std::string lock_of(const std::string& source, const model::VmId& vm) { return fmt::format("{} {}", source, vm.value); }

void sweep_overlays(const Places& places, const store::Store& store, const JobId& own, log::Log& log) {
  const std::vector<store::JobRow> jobs = store.jobs();
  std::error_code problem;
  for (const auto& entry : std::filesystem::directory_iterator(places.conversion(own).parent_path(), problem)) {
    const JobId job{entry.path().filename().string()};
    const auto row = std::find_if(jobs.begin(), jobs.end(), [&](const store::JobRow& j) { return j.job == job; });
    if (job == own || row == jobs.end()) continue;
    try {
      const store::JobLock lock(places.locks(), lock_of(*row));
      log.info("deleting the overlays of a conversion that died", {{"job", job.value}, {"vm", row->vm_name}});
      std::filesystem::remove_all(entry.path(), problem);
    } catch (const Error&) {
      // It works on them, or is of the very machine that we hold.
    }
  }
}

std::vector<std::string> interrupted_jobs(const Places& places, store::Store& store, const store::JobRow& own,
                                          const Clock& clock) {
  std::vector<std::string> told;
  const std::int64_t now = now_ms(clock);
  for (const store::JobRow& row : store.jobs()) {
    if (row.job == own.job) continue;
    try {
      const std::vector<job::Fact> facts = store.journal(row.job)->facts();
      const job::State state = job::fold(facts);
      const job::CycleState* cycle = state.open_cycle();
      const bool snapshot = cycle && cycle->snapshot && !cycle->snapshot_removed;
      if (state.aborted || !snapshot) continue;
      if (lock_of(row) != lock_of(own) && store::is_locked(places.locks(), lock_of(row))) continue;  // it runs
      told.push_back(fmt::format(
          "a run that moves {} to {} was interrupted (last sign of life: {}), and its snapshot is still there "
          "and grows: run `vmferry migrate` or `vmferry abort` with the same --target",
          row.vm_name, row.target, term::human_age(facts.back().at, now)));
    } catch (const Error&) {
      // A job that this version cannot read is its own trouble, not this machine's.
    }
  }
  return told;
}

}  // namespace vmferry::app
