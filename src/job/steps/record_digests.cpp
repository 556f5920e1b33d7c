// What was written to each volume as one digest, for the proof that stays when the job is over and its digests are
// gone. It proves and changes nothing, so it comes when nobody waits any more.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "job/steps/steps.hpp"
#include "job/strip.hpp"

namespace vmferry::job::steps {

namespace {

constexpr std::uint64_t chunk = copy::Digests::chunk;

class RecordDigests final : public Step {
 public:
  explicit RecordDigests(const Parts& parts) : parts_(parts) {}
  std::string_view name() const noexcept override { return "record the digests"; }
  bool bookkeeping() const noexcept override { return true; }
  bool done(const State& state) const override {
    return std::none_of(state.disks.begin(), state.disks.end(), [](const auto& disk) { return wanted(disk.second); });
  }
  void run(const State& state, Journal& journal, Observer& observer, std::stop_token) override {
    for (const auto& [key, disk] : state.disks) {
      if (!wanted(disk)) continue;
      try {
        const copy::Digests digests = digests_of(parts_, key, disk.volume, disk.capacity);
        if (digests.settled()) journal.append(recorded(key, disk, digests));
      } catch (const Error& e) {
        // The copy is as good without it: a proof that cannot be made must not look like a migration that failed.
        observer.warned(fmt::format("disk {}: the evidence will lack its digest: {}", key.value, e.what()));
      }
    }
  }

 private:
  static bool wanted(const DiskState& disk) { return disk.complete && disk.copied_in != disk.digested_in; }

  static DigestsRecorded recorded(model::DiskKey key, const DiskState& disk, const copy::Digests& digests) {
    DigestsRecorded fact{disk.copied_in, key, digests.bytes(), chunk, "xxh3-128", "", 0, 0, ""};
    constexpr std::uint64_t at_once = 4096;
    Strip strip(digests.bytes());
    for (std::uint64_t begin = 0; begin < digests.bytes(); begin += at_once * chunk) {
      const std::vector<copy::Digest> some = digests.read(begin, at_once);
      for (std::uint64_t i = 0; i < at_once && begin + i * chunk < digests.bytes(); ++i) {
        const std::uint64_t at = begin + i * chunk, length = std::min(chunk, digests.bytes() - at);
        const bool known = some[i].known(), zero = known && some[i] == digests.zero_at(at);
        if (!known) fact.unknown += length;
        if (zero) fact.zero += length;
        if (!known)
          strip.unknown({at, length});
        else if (!zero)
          strip.there({at, length});
      }
    }
    fact.strip = strip.text();
    if (fact.unknown == 0) fact.root = digests.root().text();
    return fact;
  }

  Parts parts_;
};

}  // namespace

std::unique_ptr<Step> record_digests(const Parts& parts) { return std::make_unique<RecordDigests>(parts); }

}  // namespace vmferry::job::steps
