// The volumes are read again and compared with what was kept of every byte when it was written.
#include <fmt/format.h>

#include "copy/verify.hpp"
#include "job/steps/disk_progress.hpp"
#include "job/steps/steps.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::job::steps {

namespace {

constexpr std::size_t ranges_shown = 5;

std::string shown(const RangeSet& ranges) {
  std::string text;
  std::size_t count = 0;
  for (const ByteRange& range : ranges.ranges()) {
    if (count++ == ranges_shown) return text + fmt::format(" and {} more", ranges.ranges().size() - ranges_shown);
    text += fmt::format("{}{} bytes at offset {}", text.empty() ? "" : ", ", range.length, range.offset);
  }
  return text;
}

class VerifyDisks final : public Step {
 public:
  VerifyDisks(const Parts& parts, const CopyOptions& copy, const VerifyOptions& options, std::string_view remedy)
      : parts_(parts), copy_(copy), options_(options), remedy_(remedy) {}
  std::string_view name() const noexcept override { return "verify the volumes"; }
  bool done(const State& state) const override { return state.server.has_value(); }

  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    std::string damage;
    for (const model::Disk& disk : vm.disks) {
      if (copy_.skip.contains(disk.key)) continue;
      const std::string label = fmt::format("{} ({})", disk.label, disk.key.value);
      const copy::Verified found = one_disk(state, disk, label, journal, observer, stop);
      observer.said(
          fmt::format("{}: {:.0f} MiB read again: {}{}", label, static_cast<double>(found.read) / 0x1p20,
                      found.different.empty() ? "all as they were written" : shown(found.different) + " differ",
                      found.unknown == 0 ? ""
                                         : fmt::format("; {} bytes were written by another tool or host, and "
                                                       "nothing is known of them",
                                                       found.unknown)));
      if (!found.different.empty()) damage += fmt::format("\n  {}: {}", label, shown(found.different));
    }
    if (damage.empty() || options_.repair) return;
    throw Error(Fault::data,
                fmt::format("volumes of {} do not hold what was written to them; look at their storage, then {} "
                            "the damaged bytes once more:{}",
                            vm.name, remedy_, damage));
  }

 private:
  copy::Verified one_disk(const State& state, const model::Disk& disk, const std::string& label, Journal& journal,
                          Observer& observer, std::stop_token stop) const {
    const auto known = state.disks.find(disk.key);
    if (known == state.disks.end() || !known->second.complete)
      throw Error(Fault::conflict, fmt::format("{} was never copied whole: run `vmferry migrate` first", label));
    if (known->second.handed_over)
      throw Error(Fault::conflict,
                  fmt::format("a server may have written to the volume of {}: there is nothing to verify", label));
    copy::Digests digests = digests_of(parts_, disk.key, known->second.volume, known->second.capacity);
    if (!digests.settled())
      throw Error(Fault::conflict,
                  fmt::format("{}: its last copy was interrupted, or made by an older version: run `vmferry migrate` "
                              "first",
                              label));
    const target::Volume volume = volume_of(parts_, state, disk, stop);
    journal.append(DiskAttaching{disk.key, volume.id});
    const std::unique_ptr<target::Device> device = parts_.cloud.attach(volume, stop);
    DiskProgress progress(observer, disk.key, label + ", verified");
    const auto seed = static_cast<std::uint64_t>(parts_.clock.wall().time_since_epoch().count());
    copy::Verified found =
        copy::verify(*device, digests, {options_.sample, seed, options_.changed}, progress, parts_.clock, stop);
    if (!found.different.empty()) {
      // Whoever finds the volume without this journal must not build on it either.
      try {
        parts_.cloud.remember(volume.id, {{target::memory_key::change_id, ""}, {target::memory_key::complete, ""}},
                              stop);
      } catch (...) {
        observer.warned(
            fmt::format("{}: {} differ from what was written, and that could not be noted on the volume: "
                        "verify again before the cutover",
                        label, shown(found.different)));
        throw;
      }
      journal.append(DamageFound{disk.key, {found.different.ranges().begin(), found.different.ranges().end()}});
    }
    journal.append(DiskVerified{disk.key, found.read, found.unknown, found.different.bytes(), found.seconds});
    return found;
  }

  Parts parts_;
  CopyOptions copy_;
  VerifyOptions options_;
  std::string remedy_;
};

}  // namespace

std::unique_ptr<Step> verify_disks(const Parts& parts, const CopyOptions& copy, const VerifyOptions& options,
                                   std::string_view remedy) {
  return std::make_unique<VerifyDisks>(parts, copy, options, remedy);
}

}  // namespace vmferry::job::steps
