// The guest is converted on overlays above its volumes, and only a conversion that succeeded is written to them. What
// it is about to overwrite is a fact first: a retry, or the way back to warm cycles, copies just those bytes again.
#include <fmt/format.h>
#include <unistd.h>

#include "job/steps/disk_progress.hpp"
#include "job/steps/disown.hpp"
#include "job/steps/steps.hpp"

namespace vmferry::job::steps {

namespace {

class ConvertGuest final : public Step {
 public:
  ConvertGuest(const Parts& parts, const CopyOptions& copy) : parts_(parts), copy_(copy) {}
  std::string_view name() const noexcept override { return "convert the guest"; }
  bool done(const State& state) const override { return state.server || state.converted; }

  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    if (vm.power != model::Power::off)
      throw Error(Fault::conflict,
                  fmt::format("{} was powered on again during cutover; run the same command again", vm.name));
    const auto began = parts_.clock.mono();
    const std::vector<Volume> volumes = attach(vm, state, journal, stop);
    std::vector<convert::Disk> disks;
    for (const Volume& volume : volumes)
      disks.push_back({volume.disk.key, open_path(*volume.device), volume.device->bytes()});
    const auto conversion = parts_.converter.convert(
        vm, disks, [&](std::string_view what) { observer.said(fmt::format("converting: {}", what)); }, stop);
    GuestConverted fact;
    for (const Volume& volume : volumes) fact.bytes += commit(volume, *conversion, journal, observer, stop);
    fact.seconds = std::chrono::duration<double>(parts_.clock.mono() - began).count();
    journal.append(fact);
  }

 private:
  struct Volume {
    model::Disk disk;
    VolumeId id;
    std::unique_ptr<target::Device> device;
    std::uint64_t copied_capacity = 0;  // bytes of the disk when it was copied last
  };

  std::vector<Volume> attach(const model::Vm& vm, const State& state, Journal& journal, std::stop_token stop) const {
    std::vector<Volume> volumes;
    for (const model::Disk& disk : final_disks(vm, state, copy_)) {
      const target::Volume volume = volume_of(parts_, state, disk, stop);
      journal.append(DiskAttaching{disk.key, volume.id});
      volumes.push_back({disk, volume.id, parts_.cloud.attach(volume, stop), state.disks.at(disk.key).capacity});
    }
    return volumes;
  }

  // What was opened and proven, whatever its name may lead to by now.
  static std::filesystem::path open_path(const target::Device& device) {
    return fmt::format("/proc/{}/fd/{}", ::getpid(), device.fd());
  }

  std::uint64_t commit(const Volume& volume, convert::Conversion& conversion, Journal& journal, Observer& observer,
                       std::stop_token stop) const {
    const RangeSet changed = conversion.changed(volume.disk.key);
    if (changed.empty()) return 0;
    journal.append(ConversionCommitting{volume.disk.key, {changed.ranges().begin(), changed.ranges().end()}});
    // Whoever finds the volume without this journal must not build on what it holds from now on either.
    parts_.cloud.remember(volume.id, nothing_to_build_on(), stop);
    const auto source = conversion.open(volume.disk.key, stop);
    const auto work = copy::work(changed);
    const std::string label = fmt::format("{} ({}), converted", volume.disk.label, volume.disk.key.value);
    DiskProgress progress(observer, volume.disk.key, label);
    copy::Digests digests = digests_of(parts_, volume.disk.key, volume.id, volume.copied_capacity);
    copy::Tuning tuning = copy_.tuning;
    tuning.digests = &digests;
    tuning.throttle = nullptr;  // that is for the source: this reads an overlay of this host
    digests.unsettle();
    copy::run(*source, *volume.device, *work, tuning, progress, parts_.clock, parts_.log, stop);
    digests.settle();
    return changed.bytes();
  }

  Parts parts_;
  CopyOptions copy_;
};

}  // namespace

std::unique_ptr<Step> convert_guest(const Parts& parts, const CopyOptions& copy) {
  return std::make_unique<ConvertGuest>(parts, copy);
}

}  // namespace vmferry::job::steps
