// The order of things. Read this file and steps/ beside it, and you know what a migration does.
#include "job/itinerary.hpp"

#include <fmt/format.h>

#include "job/steps/steps.hpp"

namespace vmferry::job {

namespace {

using steps::Kind;

void add(Itinerary& itinerary, std::unique_ptr<Step> step) { itinerary.push_back(std::move(step)); }

void rest_of_warm_cycle(Itinerary& itinerary, const Parts& parts, const CopyOptions& copy) {
  add(itinerary, steps::freeze(parts, copy, Kind::warm));
  add(itinerary, steps::copy_disks(parts, copy, Kind::warm, false));
  add(itinerary, steps::thaw(parts, Kind::warm));
  add(itinerary, steps::detach(parts));
  add(itinerary, steps::end_cycle(parts, Kind::warm));
}

void warm_cycle(Itinerary& itinerary, const Parts& parts, const State& state, const CopyOptions& copy) {
  // A cycle that an interrupted run left open may hold an old moment: it is finished first, and then comes one of now.
  if (steps::open_cycle(state, Kind::warm)) {
    add(itinerary, steps::allocate_volumes(parts, copy));
    rest_of_warm_cycle(itinerary, parts, copy);
  }
  add(itinerary, steps::ensure_tracking(parts, copy));
  add(itinerary, steps::allocate_volumes(parts, copy));
  add(itinerary, steps::begin_cycle(parts, Kind::warm));
  rest_of_warm_cycle(itinerary, parts, copy);
}

void verify_after_copy(Itinerary& itinerary, const Parts& parts, const CopyOptions& copy) {
  if (!copy.verifies()) return;
  VerifyOptions options;
  options.changed = !copy.verify;
  options.after_copy = true;
  add(itinerary, steps::verify_disks(parts, copy, options, "run the same command again, which copies"));
}

}  // namespace

Itinerary warm(const Parts& parts, const State& state, const CopyOptions& copy) {
  if (state.cutover && state.server)
    throw Error(
        Fault::conflict,
        fmt::format("{} was cut over already and is server {} now; if it shall be migrated once more, add --again",
                    state.job ? state.job->vm_name : "this machine", state.server->server.value));
  Itinerary itinerary;
  add(itinerary, steps::check_disks(parts, copy, Kind::warm));
  warm_cycle(itinerary, parts, state, copy);
  add(itinerary, steps::record_digests(parts));
  verify_after_copy(itinerary, parts, copy);
  if (copy.verifies()) add(itinerary, steps::detach(parts));
  return itinerary;
}

Itinerary cutover(const Parts& parts, const State& state, const CopyOptions& copy, const CutoverOptions& options) {
  Itinerary itinerary;
  add(itinerary, steps::check_disks(parts, copy, Kind::final));
  add(itinerary, steps::check_cutover(parts, state, options));
  add(itinerary, steps::ensure_ports(parts, options));
  warm_cycle(itinerary, parts, state, copy);
  // The downtime begins here.
  add(itinerary, steps::shut_down(parts, options));
  add(itinerary, steps::begin_cycle(parts, Kind::final));
  add(itinerary, steps::freeze(parts, copy, Kind::final));
  add(itinerary, steps::copy_disks(parts, copy, Kind::final, options.convert));
  if (options.convert) add(itinerary, steps::convert_guest(parts, copy));
  verify_after_copy(itinerary, parts, copy);
  add(itinerary, steps::detach(parts));
  if (parts.cloud.delivery()) add(itinerary, steps::deliver(parts, copy));
  add(itinerary, steps::launch(parts, copy, options));
  add(itinerary, steps::finish(parts));
  // The downtime is over; consolidation may take its time.
  add(itinerary, steps::thaw(parts, Kind::final));
  add(itinerary, steps::end_cycle(parts, Kind::final));
  add(itinerary, steps::record_digests(parts));
  if (parts.cloud.delivery()) add(itinerary, steps::remove_images(parts));
  return itinerary;
}

Itinerary verify(const Parts& parts, const State& state, const CopyOptions& copy, const VerifyOptions& options) {
  const std::string name = state.job ? state.job->vm_name : "this machine";
  if (state.server)
    throw Error(Fault::conflict, fmt::format("server {} has the volumes of {} and may have written to them: there is "
                                             "nothing to verify any more",
                                             state.server->server.value, name));
  if (options.repair && state.shutdown_at)
    throw Error(
        Fault::conflict,
        fmt::format("the cutover of {} has begun: what differs is copied again by `vmferry cutover --verify`", name));
  Itinerary itinerary;
  const char* remedy = "run `vmferry verify --repair`, which copies";
  add(itinerary, steps::verify_disks(parts, copy, options, remedy));
  if (options.repair) {
    warm_cycle(itinerary, parts, state, copy);
    add(itinerary, steps::verify_disks(parts, copy, {options.sample, false, options.changed}, remedy));
  }
  add(itinerary, steps::record_digests(parts));  // of a repair, or where an earlier run did not come to it
  add(itinerary, steps::detach(parts));
  return itinerary;
}

}  // namespace vmferry::job
