// The volumes are read again and compared with what was kept of every byte when it was written.
#include <fmt/format.h>

#include <array>

#include "copy/verify.hpp"
#include "job/steps/disk_progress.hpp"
#include "job/steps/disown.hpp"
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

// What was found damaged and not found right since, be it mended or not: also by a run that ended before it looked. Not
// a whole disk that was in doubt: all of it is copied anew.
RangeSet known_damage(const std::vector<Fact>& facts, model::DiskKey disk, std::uint64_t capacity) {
  const RangeSet whole(std::array{ByteRange{0, capacity}});
  RangeSet damage;
  for (const Fact& fact : facts) {
    if (const auto* f = std::get_if<VolumeAllocated>(&fact.body); f && f->disk == disk) damage = {};
    if (const auto* f = std::get_if<DamageFound>(&fact.body); f && f->disk == disk && RangeSet(f->ranges) != whole)
      damage.add(RangeSet(f->ranges));
    if (const auto* f = std::get_if<DiskVerified>(&fact.body); f && f->disk == disk && f->different == 0) damage = {};
  }
  return damage;
}

class VerifyDisks final : public Step {
 public:
  VerifyDisks(const Parts& parts, const CopyOptions& copy, const VerifyOptions& options, std::string_view remedy)
      : parts_(parts), copy_(copy), options_(options), remedy_(remedy) {}
  std::string_view name() const noexcept override { return "verify the volumes"; }
  bool done(const State& state) const override { return state.server.has_value(); }

  void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) override {
    const model::Vm vm = parts_.machine.describe(stop);
    // Made by a run that died before that was a fact: what it has written to the volumes is no damage.
    if (options_.after_copy && state.powered_off && parts_.cloud.find_server(state.job->job, stop)) return;
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
    const std::string last = target::value(volume.memory, target::memory_key::opened);
    if (!last.empty() && last != target::memory_key::yes && last != state.job->job.value)
      throw Error(Fault::conflict,
                  fmt::format("volume {} of {} was written to by job {} since: verify it on that job's "
                              "host, or run `vmferry migrate` here first",
                              volume.id.value, label, last));
    journal.append(DiskAttaching{disk.key, volume.id});
    const std::unique_ptr<target::Device> device = parts_.cloud.attach(volume, stop);
    DiskProgress progress(observer, disk.key, label + ", verified");
    const auto seed = static_cast<std::uint64_t>(parts_.clock.wall().time_since_epoch().count());
    const copy::Selection selection{options_.sample, seed, options_.changed,
                                    known_damage(journal.facts(), disk.key, digests.bytes())};
    const copy::Verified found = copy::verify(*device, digests, selection, progress, parts_.clock, stop);
    if (!found.different.empty())
      disown(parts_, journal, observer, disk.key, label, volume.id,
             {found.different.ranges().begin(), found.different.ranges().end()});
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
