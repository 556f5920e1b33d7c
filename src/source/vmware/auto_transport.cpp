// The choice is made once a disk and run, by trying; what each candidate said is kept, since an operator wants to know
// why the others were not taken.
#include "source/vmware/auto_transport.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "base/error.hpp"
#include "base/sync.hpp"
#include "copy/permits.hpp"

namespace vmferry::source::vmware {

namespace {

// A reason that may be gone a minute later; any other stays for this run.
bool passes(const Error& error) {
  return error.fault() == Fault::unavailable || error.fault() == Fault::timeout || error.fault() == Fault::tool ||
         error.fault() == Fault::data;
}

// What is known of one candidate for one disk.
struct Way {
  Transport* transport = nullptr;
  std::string against;  // why it is not taken, or was left
  bool out = false;     // for the rest of the run
  std::exception_ptr error;
  std::unique_ptr<copy::Source> source;
  std::optional<ReadingSpeed> speed;
};

std::string figures(const ReadingSpeed& speed) {
  return fmt::format("{:.0f} MB/s, {:.1f} ms", speed.bytes_per_second / 1e6, speed.seconds_to_first * 1e3);
}

class DiskSource final : public copy::Source {
 public:
  DiskSource(std::vector<Way> ways, std::size_t chosen, std::string reason, const Point& point, const FrozenDisk& disk,
             log::Log& log)
      : point_(point), disk_(disk), log_(log), now_(State{std::move(ways), {}, chosen, std::move(reason)}) {}

  std::uint64_t bytes() const override { return disk_.capacity; }

  bool costly() const override {
    auto now = now_.lock();
    return now->ways[now->chosen].source->costly();
  }

  void prepare(copy::Progress& progress, std::stop_token stop) override {
    progress_ = &progress;
    copy::Source* source = nullptr;
    {
      auto now = now_.lock();
      source = now->ways[now->chosen].source.get();
    }
    // Not under the lock, since it may take hours. Only connect(), which this thread calls next, takes sources away.
    try {
      source->prepare(progress, std::move(stop));
    } catch (const Error&) {
      unprepared_ = std::current_exception();
    }
  }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    auto now = now_.lock();
    const std::optional<ByteRange> doubted = std::exchange(*doubted_.lock(), std::nullopt);
    const std::size_t chosen = now->chosen;
    const std::exception_ptr unprepared = std::exchange(unprepared_, nullptr);
    std::exception_ptr told;  // what the operator should hear when all of them fail
    bool may_pass = false;    // and whether that can be another time
    try {
      if (unprepared) std::rethrow_exception(unprepared);
      if (doubted) now->ways[chosen].source->failed(*doubted);
      auto handle = connected(now->ways[chosen], doubted && now->ways.size() > 1 ? doubted : std::nullopt, stop);
      now->permit = false;
      now->refused = 0;
      return handle;
    } catch (const copy::BytesInDoubt&) {
      throw;  // no other way mends what this one brought
    } catch (const Error& error) {
      // Nothing has failed but a further connection: a host allows so many, and the engine goes on with those it has.
      const bool further = now->refused == 0 && !doubted && !unprepared;
      if (further && passes(error)) {
        now->refused = 1;
        throw;
      }
      told = std::current_exception();
      may_pass = passes(error);
      now->ways[chosen].against = error.what();
    }
    for (std::size_t i = 0; i < now->ways.size(); ++i) {
      Way& other = now->ways[i];
      if (i == chosen || other.out) continue;
      if (needs_permit(*now, other)) {
        *doubted_.lock() = doubted;
        now->permit = true;
        throw copy::PermitNeeded(Fault::unavailable, fmt::format("{} fails, and {} reads from the machine's host: {}",
                                                                 now->ways[chosen].transport->name(),
                                                                 other.transport->name(), now->ways[chosen].against));
      }
      try {
        if (!other.source) other.source = other.transport->serve(point_, disk_, stop);
        if (progress_) other.source->prepare(*progress_, stop);
        auto handle = connected(other, doubted ? *doubted : ByteRange{0, 512}, stop);
        const std::string left = now->ways[chosen].transport->name();
        now->reason = fmt::format("{} failed in the middle of the copy: {}", left, now->ways[chosen].against);
        now->chosen = i;
        now->permit = false;
        now->refused = 0;
        log_.warning(fmt::format("disk {} is now read by {}, because {}", model::to_string(disk_.key),
                                 other.transport->name(), now->reason));
        return handle;
      } catch (const copy::BytesInDoubt&) {
        throw;
      } catch (const Error& error) {
        other.against = error.what();
        // It may have been read before: who cannot be asked now is asked later.
        if (other.source && !ask_after(*other.source, stop)) now->left.push_back(std::move(other.source));
        other.source.reset();
        other.out = !passes(error);
        if (!other.out && !may_pass) told = std::current_exception();
        may_pass |= !other.out;
      }
    }
    // What the chosen one says, unless it is final and another's is not: then they are tried again next time.
    *doubted_.lock() = doubted;
    std::rethrow_exception(told);
  }

  std::unique_ptr<copy::Permit> permit() override {
    auto now = now_.lock();
    return now->ways[now->chosen].source->permit();
  }

  void failed(ByteRange range) noexcept override { *doubted_.lock() = range; }

  // Also of the ways that were left: some of the bytes came by them.
  void check(std::stop_token stop) override {
    auto now = now_.lock();
    std::erase_if(now->left, [&](const auto& left) { return ask_after(*left, stop); });
    for (std::size_t i = 0; i < now->ways.size(); ++i)
      if (i != now->chosen && now->ways[i].source) ask_after(*now->ways[i].source, stop);
    now->ways[now->chosen].source->check(stop);
  }

  copy::Way way() const override {
    auto now = now_.lock();
    const Transport& by = *now->ways[now->chosen].transport;
    const std::optional<ReadingSpeed>& speed = now->ways[now->chosen].speed;
    return {by.name(), now->reason, speed ? speed->bytes_per_second : 0, by.counted() || now->permit};
  }

 private:
  struct State {
    std::vector<Way> ways;
    std::vector<std::unique_ptr<copy::Source>> left;  // what came by them is still to be asked about
    std::size_t chosen = 0;
    std::string reason;
    int refused = -1;     // connections in a row; -1 before the first one
    bool permit = false;  // the chosen one needs none, but the next connection comes with one all the same
  };

  // Of the machine's host nothing is opened, not even to try, before whoever connects has leave to.
  static bool needs_permit(const State& now, const Way& other) {
    return other.transport->counted() && !now.ways[now.chosen].transport->counted() && !now.permit;
  }

  // Of a way that is left only one thing matters: whether what it brought was right. False: it is away, which may be
  // why it was left.
  static bool ask_after(copy::Source& left, const std::stop_token& stop) {
    try {
      left.check(stop);
      return true;
    } catch (const copy::BytesInDoubt&) {
      throw;
    } catch (const Error&) {
      return false;
    }
  }

  // A connection that has read `proof`, if one is asked for.
  std::unique_ptr<nbd::Handle> connected(Way& way, std::optional<ByteRange> proof, std::stop_token stop) const {
    auto handle = way.source->connect(stop);
    if (handle->bytes() < disk_.capacity)
      throw Error(Fault::data, fmt::format("{} shows {} bytes of disk {}, which has {}", way.transport->name(),
                                           handle->bytes(), model::to_string(disk_.key), disk_.capacity));
    if (proof) try_reading(*handle, *proof, stop);
    return handle;
  }

  const Point& point_;
  const FrozenDisk disk_;
  log::Log& log_;
  copy::Progress* progress_ = nullptr;  // of the copy under way; touched by the thread that connects, as is the next
  std::exception_ptr unprepared_;
  mutable Sync<State> now_;
  mutable Sync<std::optional<ByteRange>> doubted_;  // where a read failed since the last connection was made
};

class AutoTransport final : public Transport {
 public:
  AutoTransport(AutoOptions options, Clock& clock, log::Log& log)
      : options_(std::move(options)), clock_(clock), log_(log) {
    for (const auto& [disk, name] : options_.before) (*before_.lock())[disk] = {name, "as the last time"};
    for (const Candidate& candidate : options_.candidates)
      if (!candidate.transport) log_.info(fmt::format("not read by {}: {}", candidate.name, candidate.absent));
  }

  std::string name() const override { return "auto"; }

  std::optional<std::string> refuses(const FrozenDisk& disk) const override {
    std::vector<std::string> reasons;
    for (const Candidate& candidate : options_.candidates) {
      if (!candidate.transport) {
        reasons.push_back(fmt::format("{}: {}", candidate.name, candidate.absent));
        continue;
      }
      const auto reason = candidate.transport->refuses(disk);
      if (!reason) return std::nullopt;
      reasons.push_back(fmt::format("{}: {}", candidate.name, *reason));
    }
    return nothing_works(disk, reasons);
  }

  std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token stop) override {
    std::vector<Way> ways;
    for (const Candidate& candidate : options_.candidates) {
      Way way;
      way.transport = candidate.transport.get();
      way.against = candidate.absent;
      if (way.transport)
        if (const auto reason = way.transport->refuses(disk)) way.against = *reason;
      ways.push_back(std::move(way));
    }
    const Choice choice = choose(ways, point, disk, stop);
    (*before_.lock())[disk.key] = {ways[choice.index].transport->name(), choice.reason};
    log_.info(fmt::format("disk {} is read by {}: {}", model::to_string(disk.key), ways[choice.index].transport->name(),
                          choice.reason));
    // Only what may take the chosen one's place stays.
    std::vector<Way> usable;
    std::size_t chosen = 0;
    for (std::size_t i = 0; i < ways.size(); ++i) {
      if (i == choice.index) chosen = usable.size();
      if (i == choice.index || (ways[i].transport && !ways[i].out && !ways[i].transport->refuses(disk)))
        usable.push_back(std::move(ways[i]));
    }
    for (std::size_t i = 0; i < usable.size(); ++i)
      if (i != chosen) usable[i].source.reset();
    return std::make_unique<DiskSource>(std::move(usable), chosen, choice.reason, point, disk, log_);
  }

  void let_go(std::stop_token stop) override {
    std::exception_ptr first;  // each gets its turn
    for (const Candidate& candidate : options_.candidates) try {
        if (candidate.transport) candidate.transport->let_go(stop);
      } catch (const Error&) {
        if (!first) first = std::current_exception();
      }
    if (first) std::rethrow_exception(first);
  }

 private:
  struct Choice {
    std::size_t index;
    std::string reason;
  };

  static std::string nothing_works(const FrozenDisk& disk, const std::vector<std::string>& reasons) {
    return fmt::format("disk {} ({}) can be read in no way from here. {}", model::to_string(disk.key), disk.file,
                       fmt::join(reasons, ". "));
  }

  // What the others said that are open here at all.
  std::string others(const std::vector<Way>& ways, std::size_t chosen) const {
    std::vector<std::string> words;
    for (std::size_t i = 0; i < ways.size(); ++i)
      if (i != chosen && ways[i].transport && !ways[i].against.empty())
        words.push_back(fmt::format("{}: {}", options_.candidates[i].name, ways[i].against));
    return fmt::format("{}", fmt::join(words, "; "));
  }

  // Opens it. False: it cannot be had, and the way says why.
  bool open(Way& way, const Point& point, const FrozenDisk& disk, std::stop_token stop) const {
    if (!way.transport || !way.against.empty()) return false;
    try {
      way.source = way.transport->serve(point, disk, std::move(stop));
      return true;
    } catch (const Error& error) {
      way.against = error.what();
      way.out = !passes(error);
      way.error = std::current_exception();
      return false;
    }
  }

  // Which way a disk was read by, and why that one.
  struct Before {
    std::string name, reason;
  };

  Before before(model::DiskKey disk) const {
    auto all = before_.lock();
    const auto one = all->find(disk);
    return one == all->end() ? Before{} : one->second;
  }

  Choice choose(std::vector<Way>& ways, const Point& point, const FrozenDisk& disk, std::stop_token stop) const {
    // An order that was given is kept to, each time.
    if (const Before last = options_.measure ? before(disk.key) : Before{}; !last.name.empty())
      for (std::size_t i = 0; i < ways.size(); ++i)
        // Not what is only a last resort, whatever a moment's trouble had led to.
        if (ways[i].transport && ways[i].transport->name() == last.name && ways[i].transport->quick() &&
            open(ways[i], point, disk, stop))
          return {i, last.reason};
    std::vector<std::size_t> open_ones;
    for (std::size_t i = 0; i < ways.size(); ++i)
      if (ways[i].transport && ways[i].transport->quick() && open(ways[i], point, disk, stop)) {
        open_ones.push_back(i);
        if (!options_.measure) break;
      }
    if (open_ones.empty())
      for (std::size_t i = 0; i < ways.size() && open_ones.empty(); ++i)
        if (ways[i].transport && !ways[i].transport->quick() && open(ways[i], point, disk, stop))
          open_ones.push_back(i);
    if (open_ones.empty()) fail(ways, disk);
    if (open_ones.size() > 1) measure(ways, open_ones, stop);
    if (open_ones.empty()) fail(ways, disk);
    if (open_ones.size() == 1) {
      const std::string why_not = others(ways, open_ones.front());
      return {open_ones.front(),
              why_not.empty() ? "no other way is open here" : fmt::format("it works, the others do not ({})", why_not)};
    }
    return fastest(ways, open_ones);
  }

  // Leaves in `open_ones` what can be read.
  void measure(std::vector<Way>& ways, std::vector<std::size_t>& open_ones, std::stop_token stop) const {
    ReadingTrial trial = options_.trial;
    std::erase_if(open_ones, [&](std::size_t i) {
      Way& way = ways[i];
      try {
        trial.permits = way.transport->counted() ? options_.trial.permits : nullptr;
        way.speed = reading_speed(*way.source, trial, clock_, stop);
        trial.shift += 1 << 20;
        return false;
      } catch (const Error& error) {
        way.against = error.what();
        way.error = std::current_exception();
        way.source.reset();
        way.out = !passes(error);
        return true;
      }
    });
  }

  Choice fastest(const std::vector<Way>& ways, const std::vector<std::size_t>& open_ones) const {
    std::vector<std::optional<ReadingSpeed>> speeds;
    for (const Way& way : ways) speeds.push_back(way.speed);
    const std::size_t best = *vmware::best_of(speeds);
    std::vector<std::string> words;
    for (const std::size_t i : open_ones)
      if (i != best) words.push_back(fmt::format("{} {}", options_.candidates[i].name, figures(*ways[i].speed)));
    std::string reason = fmt::format("{} against {}", figures(*ways[best].speed), fmt::join(words, ", "));
    if (const std::string why_not = others(ways, best); !why_not.empty()) reason += fmt::format(" ({})", why_not);
    return {best, reason};
  }

  // One candidate alone speaks for itself.
  [[noreturn]] void fail(const std::vector<Way>& ways, const FrozenDisk& disk) const {
    std::vector<std::string> reasons;
    bool later = false;
    for (std::size_t i = 0; i < ways.size(); ++i) {
      reasons.push_back(fmt::format("{}: {}", options_.candidates[i].name, ways[i].against));
      later |= ways[i].error && !ways[i].out;
    }
    if (ways.size() == 1 && ways.front().error) std::rethrow_exception(ways.front().error);
    if (ways.size() == 1) throw Error(Fault::unsupported, ways.front().against);
    throw Error(later ? Fault::unavailable : Fault::unsupported, nothing_works(disk, reasons));
  }

  const AutoOptions options_;
  Clock& clock_;
  log::Log& log_;
  mutable Sync<std::map<model::DiskKey, Before>> before_;  // later cycles of this run, too, measure nothing
};

}  // namespace

std::optional<std::size_t> best_of(std::span<const std::optional<ReadingSpeed>> ranked) {
  constexpr double alike = 0.8;  // differences below that are the moment's
  double fastest = 0;
  for (const auto& speed : ranked)
    if (speed) fastest = std::max(fastest, speed->bytes_per_second);
  for (std::size_t i = 0; i < ranked.size(); ++i)
    if (ranked[i] && ranked[i]->bytes_per_second >= alike * fastest) return i;
  return std::nullopt;
}

std::unique_ptr<Transport> auto_transport(AutoOptions options, Clock& clock, log::Log& log) {
  return std::make_unique<AutoTransport>(std::move(options), clock, log);
}

}  // namespace vmferry::source::vmware
