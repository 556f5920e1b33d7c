// migrate, cutover, verify and abort: one machine, one job, one log.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "app/crash_points.hpp"
#include "app/evidence.hpp"
#include "app/janitor.hpp"
#include "app/run_directory.hpp"
#include "app/transports.hpp"
#include "base/error.hpp"
#include "base/finally.hpp"
#include "job/downtime.hpp"
#include "job/itinerary.hpp"
#include "limits/limits.hpp"
#include "plan/plan.hpp"
#include "source/vmware/machine.hpp"
#include "store/store.hpp"
#include "term/progress.hpp"
#include "term/text.hpp"
#include "vsphere/inventory.hpp"

namespace vmferry::app {

namespace {

term::Style style_of(const config::Options& options) {
  if (options.json) return term::Style::json;
  return term::screen_of(STDERR_FILENO).terminal && !options.debug ? term::Style::bars : term::Style::lines;
}

model::Vm look_up(vsphere::Session& session, const std::string& wanted, std::stop_token stop) {
  return vsphere::describe(session, vsphere::find(session, wanted, stop), stop);
}

std::string command_of(config::Verb verb) {
  return verb == config::Verb::cutover  ? "cutover"
         : verb == config::Verb::verify ? "verify"
         : verb == config::Verb::abort  ? "abort"
                                        : "migrate";
}

// Snapshots of a `check transports` that was killed. None runs now: it would have the machine's lock.
void remove_checks(source::Machine& machine, const Surroundings& around, const model::Vm& vm, std::stop_token stop) {
  const JobId check = check_job(around, vm);
  for (const model::Snapshot& snapshot : vm.snapshots)
    if (const auto tag = source::vmware::parse_tag(snapshot.name, snapshot.description); tag && tag->job == check)
      if (const std::string left = machine.thaw(snapshot.id, check, false, stop); !left.empty())
        around.log.warning(left);
}

std::map<model::DiskKey, std::string> transports_of(const job::State& state) {
  std::map<model::DiskKey, std::string> names;
  for (const auto& [key, disk] : state.disks)
    if (!disk.last_transport.empty() && !disk.transport_anew) names[key] = disk.last_transport;
  return names;
}

struct Opened {
  store::JobRow row;
  bool fresh = false;
};

void forget_digests(const Places& places, const JobId& job) {
  std::error_code ignored;
  std::filesystem::remove_all(places.digests(job), ignored);
}

Opened open_job(store::Store& store, const VmwareSide& vmware, const model::Vm& vm, target::Cloud& cloud,
                const config::Options& wish, const Places& places, std::stop_token stop) {
  const bool may_create = wish.verb == config::Verb::migrate || wish.verb == config::Verb::cutover;
  const std::string source = vmware.source(), target = cloud.describe();
  if (auto found = store.find(source, vm.id, target)) {
    // A finished job stays open, so that a repeated cutover only says so and a migrate does not begin to overwrite the
    // new server.
    const job::State state = job::fold(store.journal(found->job)->facts());
    if (!state.is_of(vm.instance_uuid))
      throw Error(
          Fault::conflict,
          fmt::format(
              "{} is another machine ({}) than the one this job began with ({}, {}): its id was given away. Undo that job's "
              "volumes by hand, and start with another --state-dir",
              vm.path, vm.instance_uuid, state.job->vm_name, state.job->instance_uuid));
    if (!state.aborted && (!wish.again || !state.cutover)) return {*found, false};
    if (!state.aborted)
      job::let_go(
          cloud, found->job, vm, [](const std::string& sentence) { print_err(sentence + "\n"); }, stop);
    forget_digests(places, found->job);  // nobody finds the job any more once it is closed
    store.close(found->job);
  }
  if (!may_create)
    throw Error(Fault::not_found,
                fmt::format("there is no unfinished job of {} to {} on this host; `vmferry status` lists what there is",
                            vm.name, target));
  const store::JobRow row{JobId{random_uuid()}, source, vm.id, vm.name, target, 0};
  store.create(row, job::JobCreated{row.job, source, vm.id, vm.name, vm.path, target, vm.instance_uuid,
                                    wish.vmware.endpoint, vm.guest_name});
  return {row, true};
}

// For abort: another host's run may have died. What that attached is found by its marks; its snapshot may be of a run
// that lives, so it is only told of.
void undo_of_other_hosts(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, std::stop_token stop) {
  if (let_go_of_attached(around, vmware, vm, stop))
    print_err(fmt::format("what other runs had attached of {} to proxies is detached\n", vm.name));
  const std::vector<JobId> here = jobs_of(around, vmware, vm);
  for (const model::Snapshot& snapshot : vm.snapshots) {
    const auto tag = source::vmware::parse_tag(snapshot.name, snapshot.description);
    if (!tag) continue;
    if (tag->job == check_job(around, vm))
      print_err(
          fmt::format("warning: snapshot {} of {} is of a `vmferry check transports` that was interrupted: run "
                      "that again, and it removes it\n",
                      snapshot.id.value, vm.name));
    else if (std::find(here.begin(), here.end(), tag->job) == here.end())
      print_err(
          fmt::format("warning: snapshot {} of {} is of job {}, which this state folder does not know: run `vmferry "
                      "abort` on the host whose job it is, or remove the snapshot in vSphere if that host is gone\n",
                      snapshot.id.value, vm.name, tag->job.value));
  }
}

// `known`: how many facts there were before this run; `evidence`: the page about all of them, empty when there is none.
void report_cycle(const std::vector<job::Fact>& facts, std::size_t known, const std::filesystem::path& evidence,
                  const config::Options& options) {
  const job::State after = job::fold(facts);
  std::uint64_t read = 0, written = 0;
  bool full = false;
  for (std::size_t i = known; i < facts.size(); ++i)
    if (const auto* copied = std::get_if<job::DiskCopied>(&facts[i].body)) {
      read += copied->read;
      written += copied->written;
      full |= copied->full;
    }
  if (options.json) {
    nlohmann::json result = {{"event", "result"},
                             {"job", after.job->job.value},
                             {"phase", after.phase()},
                             {"disks", after.disks.size()},
                             {"read", read},
                             {"written", written},
                             {"full", full}};
    if (after.cutover) result["downtime_seconds"] = after.cutover->downtime_seconds;
    if (const auto parts = job::downtime_of(facts))
      result["downtime"] = {{"shutdown", parts->shutdown},
                            {"copy", parts->copy},
                            {"conversion", parts->conversion},
                            {"delivery", parts->delivery},
                            {"server", parts->server}};
    if (!evidence.empty()) result["evidence"] = evidence.string();
    if (after.server) result["server"] = after.server->server.value;
    print_out(result.dump() + "\n");
    return;
  }
  if (options.verb == config::Verb::verify) {
    const bool mended =
        std::any_of(facts.begin() + static_cast<std::ptrdiff_t>(known), facts.end(),
                    [](const job::Fact& f) { return std::holds_alternative<job::DamageFound>(f.body); });
    print_out(fmt::format("{}: {}\n", after.job->vm_name,
                          mended ? "what differed was copied once more, and is right now" : "no difference was found"));
    return;
  }
  if (after.cutover && after.server) {
    const std::string& state = after.server->state;
    const char* how = state == "defined"       ? "is ready: virsh define"
                      : options.to_openstack() ? "runs as server"
                                               : "runs as the domain of";
    print_sentence(fmt::format("{} {} {} ({}); downtime {}\n", after.job->vm_name, how, after.server->server.value,
                               state, term::human_duration(after.cutover->downtime_seconds)));
    if (const auto parts = job::downtime_of(facts))
      print_sentence(fmt::format("  shutdown {}, last changes {}{}{}, server {}\n",
                                 term::human_duration(parts->shutdown), term::human_duration(parts->copy),
                                 parts->conversion > 0 ? ", conversion " + term::human_duration(parts->conversion) : "",
                                 parts->delivery > 0 ? ", images " + term::human_duration(parts->delivery) : "",
                                 term::human_duration(parts->server)));
    if (!evidence.empty()) print_out(fmt::format("evidence: {}\n", evidence.string()));
  } else
    print_sentence(fmt::format(
        "{}: {} disk{} in sync, {} copied\nnext: `vmferry migrate` to catch up again, or `vmferry cutover` to move\n",
        after.job->vm_name, after.disks.size(), after.disks.size() == 1 ? "" : "s", term::human_bytes(read)));
}

void travel(const config::Options& options, const job::CopyOptions& copy, const job::Parts& parts,
            job::Journal& journal, job::Observer& observer, std::stop_token stop) {
  const std::vector<job::Fact> facts = journal.facts();
  const job::State state = job::fold(facts);
  const job::Itinerary itinerary =
      options.verb == config::Verb::cutover  ? job::cutover(parts, state, copy, options.cutover)
      : options.verb == config::Verb::verify ? job::verify(parts, state, copy, options.verify)
                                             : job::warm(parts, state, copy);
  try {
    job::drive(itinerary, journal, observer, stop);
  } catch (...) {
    // Whatever ended it: no snapshot and no attachment stays behind.
    job::release(parts, journal, observer, std::chrono::seconds(120));
    const std::vector<job::Fact> by_now = journal.facts();
    if (const job::State left = job::fold(by_now); left.powered_off && !left.server)
      observer.warned(fmt::format(
          "{} is off, and its server does not run yet: run the same command again to finish the cutover, or "
          "`vmferry abort` and power it on in vSphere to go back",
          left.job->vm_name));
    throw;
  }
}

int run_in(const config::Options& wish, const Places& places, Clock& clock, log::Log& log, std::stop_token stop) {
  process::SystemRunner runner;
  store::Store store(places.state, clock);
  const Surroundings around{wish, places, clock, runner, log};
  VmwareSide vmware = connect_vmware(around, stop);
  const model::Vm vm = look_up(*vmware.session, wish.vmware.path, stop);
  job::CopyOptions copy = wish.copy;
  copy.image_properties =
      plan::image_properties(vm, {wish.os_type, wish.guest_agent, wish.disk_bus, wish.os_distro, wish.vif_model});
  if (wish.verb != config::Verb::abort) job::refuse_impossible_disks(vm, wish.copy.skip);
  for (const auto& [disk, existing] : wish.openstack.existing_volumes)
    job::refuse_unknown_disk(vm, disk, "--existing-volume");
  // Once: before the machine is touched, and for what its server gets.
  Labels labels;
  if (wish.openstack.labels && wish.verb == config::Verb::cutover)
    labels = [&, asked = std::optional<std::map<std::string, std::string>>()](std::stop_token token) mutable {
      if (!asked) asked = server_labels(around, vmware, vm.id, token);
      return *asked;
    };
  const std::unique_ptr<target::Cloud> cloud = connect_target(around, labels, stop);
  if (wish.verb != config::Verb::abort) cloud->check_settings(stop);

  const store::JobLock lock(places.locks(), lock_of(vmware.source(), vm.id));
  // Before anything is begun that makes a snapshot.
  if (wish.verb == config::Verb::migrate || wish.verb == config::Verb::cutover ||
      (wish.verb == config::Verb::verify && wish.verify.repair))
    refuse_attached_by_others(around, vmware, vm, stop);
  const Opened opened = [&] {
    try {
      return open_job(store, vmware, vm, *cloud, wish, places, stop);
    } catch (const Error& error) {
      if (wish.verb == config::Verb::abort && error.fault() == Fault::not_found)
        undo_of_other_hosts(around, vmware, vm, stop);
      throw;
    }
  }();
  log.continue_in(places.logs() /
                  fmt::format("{}-{}.log", plan::volume_name(vm.name, ""), opened.row.job.value.substr(0, 8)));
  log.info(
      "run",
      {{"job", opened.row.job.value}, {"vm", vm.path}, {"target", opened.row.target}, {"version", VMFERRY_VERSION}});

  limits::Limits limits(places.limits());
  const std::unique_ptr<job::Journal> journal = store.journal(opened.row.job);
  const std::unique_ptr<source::Machine> machine =
      open_machine(around, vmware, vm, transports_of(job::fold(journal->facts())),
                   limits.connections_to(vm.host, wish.verb == config::Verb::cutover), stop);
  remove_checks(*machine, around, vm, stop);
  const std::unique_ptr<convert::Converter> converter = make_converter(around, opened.row.job);
  const std::filesystem::path digests = places.digests(opened.row.job);
  for (const std::filesystem::path& folder : {digests.parent_path(), digests}) store::make_private_directory(folder);
  limits.job(opened.row.job)->set_rate(wish.bandwidth.value_or(0));
  const Finally forget_limits([&] { limits.forget(opened.row.job); });
  copy.tuning.throttle = limits.throttle(opened.row.job);
  job::Parts parts{*machine, *cloud, *converter, clock, log, digests};
  parts.connections_to = [&](const std::string& host, bool urgent) { return limits.connections_to(host, urgent); };
  const std::size_t known = journal->facts().size();
  journal->append(job::RunBegan{command_of(wish.verb), VMFERRY_VERSION});
  // A run that died after the conversion would leave its overlays for good: nothing converts once more.
  converter->clear();
  sweep_overlays(places, store, opened.row.job, log);
  for (const std::string& sentence : interrupted_jobs(places, store, opened.row, clock)) {
    log.warning(sentence);
    print_err("warning: " + sentence + "\n");
  }
  {
    const auto shown = term::observer(style_of(wish), wish.json ? STDOUT_FILENO : STDERR_FILENO, clock, log);
    const auto crash = CrashPoints::wanted(environment());
    const auto watched_observer = crash ? crash->watching(*shown) : nullptr;
    const auto watched_journal = crash ? crash->watching(*journal) : nullptr;
    job::Observer& observer = crash ? *watched_observer : *shown;
    job::Journal& kept = crash ? *watched_journal : *journal;
    try {
      if (wish.verb == config::Verb::abort) {
        job::abort(parts, kept, observer, wish.delete_volumes, stop);
        // Also if no snapshot of this job was in the way. Those that there are by now.
        undo_of_other_hosts(around, vmware, vsphere::describe(*vmware.session, vm.id, stop), stop);
      } else
        travel(wish, copy, parts, kept, observer, stop);
    } catch (...) {
      keep_evidence(places, *journal, clock, log);  // of what was found and done until then
      throw;
    }
  }
  const std::filesystem::path evidence = keep_evidence(places, *journal, clock, log);
  const std::vector<job::Fact> facts = journal->facts();
  const job::State ended = job::fold(facts);
  if (ended.aborted || ended.cutover) forget_digests(places, opened.row.job);
  if (ended.aborted) store.close(opened.row.job);
  if (wish.verb == config::Verb::abort)
    print_out(wish.json
                  ? nlohmann::json{{"event", "result"}, {"job", opened.row.job.value}, {"phase", "aborted"}}.dump() +
                        "\n"
                  : fmt::format("the migration of {} was undone{}\n", vm.name,
                                wish.delete_volumes ? "" : "; its volumes were kept"));
  else
    report_cycle(facts, known, evidence, wish);
  return 0;
}

}  // namespace

int run_job(const config::Options& options, Clock& clock, std::stop_token stop) {
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  store::Store(places.state, clock);  // makes the folder, or says why it cannot, before anything else
  const RunDirectory run(places.state);
  places.run = run.path();
  auto redactor = std::make_shared<log::Redactor>();
  log::Log log(places.logs() / "vmferry.log", redactor, log::Level::debug, options.debug, log::Level::debug);
  try {
    return run_in(options, places, clock, log, stop);
  } catch (const Cancelled&) {
    log.warning("stopped");
    throw;
  } catch (Error& e) {
    log.error(e.explain(), {{"fault", to_string(e.fault())}, {"name", e.name()}});
    e.during(fmt::format("working on {}; the log is {}", options.vmware.path, log.file().string()));
    throw;
  }
}

}  // namespace vmferry::app
