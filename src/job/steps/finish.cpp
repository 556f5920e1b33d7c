// The end of a migration: the machine goes off here and comes up there.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/time_limit.hpp"
#include "job/steps/steps.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::job::steps {

namespace {

namespace key = target::memory_key;

class ShutDown final : public Step {
 public:
  ShutDown(const Parts& parts, const CutoverOptions& options) : parts_(parts), options_(options) {}
  std::string_view name() const noexcept override { return "shut the machine down"; }
  bool done(const State& state) const override { return state.server.has_value(); }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    if (state.powered_off && parts_.cloud.find_server(state.job->job, stop)) return;  // only its fact is missing
    if (state.powered_off) {
      // An earlier run shut it down. It may have run, written and been shut down again since then, and nothing would
      // show.
      if (vm.power == model::Power::off) {
        observer.said("an earlier run shut the machine down; taking its last changes once more");
        journal.append(FinalCopyDoubted{});
        return;
      }
      journal.append(PoweredOnAgain{});
    }
    journal.append(ShutdownBegan{now_ms(parts_.clock)});
    parts_.machine.power_off(options_.force_power_off ? source::Stop::guest_then_power : source::Stop::guest,
                             options_.shutdown_patience, stop);
    journal.append(PoweredOff{});
  }

 private:
  Parts parts_;
  CutoverOptions options_;
};

class Launch final : public Step {
 public:
  Launch(const Parts& parts, const CopyOptions& copy, const CutoverOptions& options)
      : parts_(parts), copy_(copy), options_(options) {}
  std::string_view name() const noexcept override { return "create the server"; }
  bool done(const State& state) const override { return state.server.has_value(); }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    // Or two machines could run with one identity, or one without its last writes.
    const std::vector<std::string> untold = refuse_newer_writes(parts_, state, vm, copy_, stop);
    if (!untold.empty())
      observer.warned(
          fmt::format("{} is off, as it was when it was copied; whether it ran in between is not known for {}, whose "
                      "changes are not tracked",
                      vm.name, fmt::join(untold, ", ")));
    target::LaunchWish wish{state.job->job, vm, {}, {}, options_.flavor, options_.availability_zone};
    for (const model::Disk& disk : final_disks(vm, state, copy_)) {
      const DiskState& known = state.disks.at(disk.key);
      wish.volumes.push_back(known.delivered ? known.delivered->volume : known.volume);
    }
    for (const model::Nic& nic : vm.nics) {
      const auto port = state.ports.find(nic.mac);
      if (port == state.ports.end())
        throw Error(Fault::conflict,
                    fmt::format("{} ({}) appeared during cutover; run the same command again", nic.label, nic.mac));
      wish.ports.push_back(port->second.port);
    }
    // Not before: a copy that was handed over is made anew, all of it, while the machine is off.
    bool begun = false, asked = false;
    wish.before_asking = [&] {
      begun = true;
      hand_over(state, wish, journal, stop);
      asked = true;
    };
    target::Launched launched;
    try {
      launched = parts_.cloud.launch(wish, stop);
    } catch (const Cancelled&) {
      if (begun && !asked) take_back(state, wish, journal, observer);
      throw;
    } catch (const Error& e) {
      if (begun && (!asked || surely_nothing_was_made(e, wish, stop))) take_back(state, wish, journal, observer);
      throw;
    }
    journal.append(ServerLaunched{launched.id, launched.state});
  }

 private:
  // From here on a server may write to the volumes. Whoever finds them later, by journal or by their own memory, must
  // not build a delta on what they held.
  void hand_over(const State& state, const target::LaunchWish& wish, Journal& journal, std::stop_token stop) const {
    journal.append(HandedOver{});
    for (const auto& [disk_key, disk] : state.disks)
      if (given(disk, wish))
        parts_.cloud.remember(disk.volume,
                              {{key::change_id, ""}, {key::complete, ""}, {key::moved, state.job->job.value}}, stop);
  }

  // The server gets the very volume that cycles write to, not one that was delivered.
  static bool given(const DiskState& disk, const target::LaunchWish& wish) {
    return std::find(wish.volumes.begin(), wish.volumes.end(), disk.volume) != wish.volumes.end();
  }

  // A refusal (quota, flavor, a wrong setting) before anything was made; not a lost reply, not a server that failed to
  // start.
  bool surely_nothing_was_made(const Error& e, const target::LaunchWish& wish, std::stop_token stop) const {
    const bool refused = e.fault() == Fault::quota || e.fault() == Fault::usage || e.fault() == Fault::config ||
                         e.fault() == Fault::not_found || e.fault() == Fault::auth;
    try {
      return refused && !parts_.cloud.find_server(wish.job, stop);
    } catch (const Error&) {
      return false;
    }
  }

  // Also for a run that is being stopped; what it was stopped by is the better reason.
  void take_back(const State& state, const target::LaunchWish& wish, Journal& journal, Observer& observer) const {
    const TimeLimit limit(std::chrono::minutes(2));
    try {
      for (const auto& [disk_key, disk] : state.disks) {
        if (!given(disk, wish)) continue;
        target::Memory memory{{key::moved, "no"}};
        if (disk.complete && disk.rewritten.empty()) {
          memory.insert({key::complete, key::yes});
          if (disk.base && !disk.tracking_doubted) memory.insert({key::change_id, disk.base->text()});
        }
        parts_.cloud.remember(disk.volume, memory, limit.token());
      }
      journal.append(HandoverTakenBack{});
    } catch (const Error& e) {
      observer.warned(
          fmt::format("the volumes count as a server's, so the next run copies all of them ({})", e.what()));
    } catch (const Cancelled&) {
      observer.warned("the volumes count as a server's, so the next run copies all of them (the cloud did not answer)");
    }
  }

  Parts parts_;
  CopyOptions copy_;
  CutoverOptions options_;
};

class Finish final : public Step {
 public:
  explicit Finish(const Parts& parts) : parts_(parts) {}
  std::string_view name() const noexcept override { return "record the downtime"; }
  bool bookkeeping() const noexcept override { return true; }
  bool done(const State& state) const override { return !state.server || state.cutover; }
  void run(const State& state, Journal& journal, Observer&, std::stop_token) override {
    const std::int64_t now = now_ms(parts_.clock);
    journal.append(CutoverDone{now, state.shutdown_at ? static_cast<double>(now - *state.shutdown_at) / 1000.0 : 0});
  }

 private:
  Parts parts_;
};

}  // namespace

std::unique_ptr<Step> shut_down(const Parts& parts, const CutoverOptions& options) {
  return std::make_unique<ShutDown>(parts, options);
}
std::unique_ptr<Step> launch(const Parts& parts, const CopyOptions& copy, const CutoverOptions& options) {
  return std::make_unique<Launch>(parts, copy, options);
}
std::unique_ptr<Step> finish(const Parts& parts) { return std::make_unique<Finish>(parts); }

}  // namespace vmferry::job::steps
