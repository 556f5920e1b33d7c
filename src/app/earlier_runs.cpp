// Whose a snapshot is says the tag in it; whether its run lives says the machine's lock.
#include "app/earlier_runs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "app/janitor.hpp"
#include "app/transports.hpp"
#include "job/state.hpp"
#include "source/vmware/machine.hpp"
#include "store/store.hpp"

namespace vmferry::app {

namespace {

using plan::Level;

std::string short_name(const JobId& job) { return job.value.substr(0, 8); }

struct Jobs {
  JobId next;               // that the next run goes on with
  bool over = false;        // it was cut over
  bool leaving = false;     // its cutover has begun, and waits for its end
  bool any_target = false;  // which target the next run has is not known: it may be any of these jobs'
  JobId check;              // of `check transports`
  std::vector<store::JobRow> all;
  bool at_work = false;
};

// The finding, and whether the next run removes it.
std::pair<plan::Finding, bool> judge(const model::Snapshot& snapshot, const JobId& job, const Jobs& jobs) {
  plan::Finding finding{Level::warning, "snapshot " + snapshot.id.value, "", ""};
  const auto known = std::find_if(jobs.all.begin(), jobs.all.end(), [&](const auto& row) { return row.job == job; });
  const bool here = known != jobs.all.end();
  const bool next = job == jobs.next || (here && jobs.any_target);
  if (jobs.at_work && (here || job == jobs.check)) {
    finding.fact = fmt::format("it belongs to job {}, and a run works on this machine now", short_name(job));
    finding.remedy = "wait for it to end, and check again";
    return {finding, next || job == jobs.check};
  }
  if (job == jobs.check) {
    finding.fact = "it is one of an interrupted `vmferry check transports`";
    finding.remedy = "run that again or `vmferry migrate`: either removes it";
    return {finding, true};
  }
  if (next) {
    finding.fact = fmt::format("a snapshot of interrupted job {}; it grows", short_name(job));
    finding.remedy = jobs.over      ? "run `vmferry cutover` once more, which removes it"
                     : jobs.leaving ? "run `vmferry cutover`, which goes on with it, or `vmferry abort`"
                                    : "run `vmferry migrate`, which goes on with it, or `vmferry abort`";
    return {finding, true};
  }
  if (here) {
    finding.fact = fmt::format("a snapshot of job {}, which moves this machine to {}", short_name(job), known->target);
    finding.remedy = "run `vmferry migrate` or `vmferry abort` with that --target";
  } else {
    finding.fact = fmt::format("a snapshot of job {}, which this state folder does not know", short_name(job));
    finding.remedy =
        "run `vmferry abort` on the host whose job it is, or remove the snapshot in vSphere if that host is gone";
  }
  return {finding, false};
}

}  // namespace

EarlierRuns earlier_runs(const Surroundings& around, const std::string& source, const model::Vm& vm,
                         const std::string& target) {
  EarlierRuns earlier;
  Jobs jobs;
  if (store::has_journal(around.places.state)) {
    store::Store store(around.places.state, around.clock);
    jobs.all = store.jobs();
    jobs.check = check_job(around, vm);
    jobs.at_work = store::is_locked(around.places.locks(), lock_of(source, vm.id));
    jobs.any_target = target.empty();
    if (const auto row = store.find(source, vm.id, target)) {
      const job::State state = job::fold(store.journal(row->job)->facts());
      if (!state.aborted) {
        jobs.next = row->job;
        earlier.vm_name = state.job->vm_name;
      }
      jobs.leaving = !state.aborted && state.shutdown_at && !state.server;
      if (jobs.leaving && vm.power == model::Power::off)
        earlier.findings.push_back(
            {around.options.cutover.networks.empty() ? Level::problem : Level::warning, vm.name,
             "its cutover has begun and it is off; migrate would refuse it",
             "finish it with `vmferry cutover`, undo it with `vmferry abort`, or power the machine "
             "on to go on with cycles"});
      if (!state.is_of(vm.instance_uuid))
        earlier.findings.push_back({Level::problem, vm.name,
                                    fmt::format("it is another machine than the one that job {} began with: its id was "
                                                "given away",
                                                short_name(row->job)),
                                    "undo that job's volumes by hand, and start with another --state-dir"});
      jobs.over = state.cutover && state.server;
      if (jobs.over)
        earlier.findings.push_back({Level::problem, vm.name,
                                    fmt::format("it was cut over already and is server {} now; migrate would refuse it",
                                                state.server->server.value),
                                    "nothing is left to do; to move it once more see --again (docs/getting-started.md, "
                                    "\"Moving it again\")"});
    }
  }
  earlier.job = jobs.next;
  for (const model::Snapshot& snapshot : vm.snapshots)
    if (const auto tag = source::vmware::parse_tag(snapshot.name, snapshot.description)) {
      const auto [finding, leaves] = judge(snapshot, tag->job, jobs);
      earlier.findings.push_back(finding);
      if (leaves) earlier.leaving.insert(snapshot.id);
    }
  return earlier;
}

}  // namespace vmferry::app
