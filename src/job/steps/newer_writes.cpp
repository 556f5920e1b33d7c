// Between the final copy and the server a machine may run and be off again, which no power state shows, and neither
// does the time of its last start, which is gone with the run. What it wrote does: change tracking is asked once more.
#include <fmt/format.h>

#include <optional>

#include "job/steps/steps.hpp"

namespace vmferry::job::steps {

namespace {

class Fence {
 public:
  Fence(const Parts& parts, const State& state, std::stop_token stop)
      : parts_(parts), state_(state), stop_(std::move(stop)) {}

  bool written(const model::Disk& disk, const model::ChangeId& since) {
    try {
      return parts_.machine.written_since(disk, since, stop_);
    } catch (const source::HistoryLost& e) {
      parts_.log.info("asking for what was written by a snapshot",
                      {{"disk", model::to_string(disk.key)}, {"reason", e.what()}});
      return written_until_snapshot(disk, since);
    }
  }

 private:
  // A history that is lost now was known when the final copy was made: the machine was reverted, or worse.
  bool written_until_snapshot(const model::Disk& disk, const model::ChangeId& since) {
    // Like every snapshot that no cycle knows, it goes with the cycle's own.
    if (!now_)
      now_ = parts_.machine.freeze({state_.job->job, state_.cycles.back().number + 1}, source::Quiesce::never, stop_);
    if (now_->consistency != source::Consistency::powered_off) return true;
    try {
      const auto work = parts_.machine.changed(*now_, disk.key, since, stop_);
      while (const auto ranges = work->next(stop_))
        if (!ranges->empty()) return true;
      return false;
    } catch (const source::HistoryLost&) {
      return true;
    }
  }

  const Parts& parts_;
  const State& state_;
  std::stop_token stop_;
  std::optional<source::Point> now_;
};

}  // namespace

std::vector<std::string> refuse_newer_writes(const Parts& parts, const State& state, const model::Vm& vm,
                                             const CopyOptions& copy, std::stop_token stop) {
  if (vm.power != model::Power::off)
    throw Error(Fault::conflict,
                fmt::format("{} was powered on again during cutover; run the same command again", vm.name));
  Fence fence(parts, state, stop);
  std::vector<std::string> untold;
  for (const model::Disk& disk : final_disks(vm, state, copy)) {
    const DiskState& known = state.disks.at(disk.key);
    const std::string label = fmt::format("{} ({})", disk.label, disk.key.value);
    if (!known.base || known.tracking_doubted) untold.push_back(label);
    if (!known.base || !fence.written(disk, *known.base)) continue;
    // One that was made already, and whose fact is missing, is the machine now, whatever the source did since.
    if (parts.cloud.find_server(state.job->job, stop)) return {};
    throw Error(Fault::conflict,
                fmt::format("{} ran again after its last copy was made, and is off now: {} was written to since. Run "
                            "the same command again, which copies that",
                            vm.name, label));
  }
  return untold;
}

}  // namespace vmferry::job::steps
