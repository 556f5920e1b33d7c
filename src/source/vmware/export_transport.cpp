// Whole disks from vSphere's export of a snapshot, for what no other way reads: downloaded into a file without a name,
// which qemu-nbd serves. The snapshot itself is exported, not the machine (whose disks have gone on since), so the
// bytes are those of the point by vSphere's own word. One lease for all disks that are downloaded at a time.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <fstream>
#include <mutex>
#include <thread>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/finally.hpp"
#include "base/sync.hpp"
#include "base/time_limit.hpp"
#include "source/vmware/spool.hpp"
#include "source/vmware/transport.hpp"
#include "source/vmware/vmdk.hpp"
#include "vsphere/export.hpp"
#include "vsphere/snapshots.hpp"

namespace vmferry::source::vmware {

namespace {

using namespace std::chrono_literals;

constexpr int spool_fd = 10;  // in qemu-nbd
constexpr int attempts = 4;
constexpr std::chrono::seconds between_attempts{5};
// A lease that nobody knows (the reply of ExportSnapshot got lost) keeps the machine busy until it times out, which by
// vSphere's default is after 300 s. It cannot be found: HttpNfcLease is a property of nothing but its own info, and
// nothing is said of what its task in vSphere tells or whether to cancel that ends it.
constexpr std::chrono::seconds life_of_a_lease{330};
constexpr std::chrono::seconds silence{120};             // of a download
constexpr std::chrono::seconds patience_at_the_end{30};  // to end a lease, whatever the run's own stop says

// Which lease this machine's disks were last exported by, on disk: a run that died leaves it, and the machine locked
// until it times out. Machines of two vCenters may have the same id.
class LeaseRecord {
 public:
  LeaseRecord(const std::filesystem::path& folder, const vsphere::Session& session, const model::VmId& vm)
      : folder_(folder) {
    const std::string& uuid = session.content().instance_uuid;
    const std::string name = fmt::format("lease-{}-{}", uuid.empty() ? session.server() : uuid, vm.value);
    file_ = folder / name;
    written_ = folder / ("." + name);
  }

  void set(const std::string& lease) const {
    std::error_code ignored;
    std::filesystem::create_directories(folder_, ignored);
    std::ofstream(written_) << lease << '\n';
    // Whole or not at all: a run may be killed at any moment.
    std::filesystem::rename(written_, file_, ignored);
  }
  std::string get() const {
    std::string lease;
    std::ifstream in(file_);
    std::getline(in, lease);
    return lease;
  }
  // Unless another one was written down meanwhile.
  void forget(const std::string& lease) const {
    std::error_code ignored;
    if (get() == lease) std::filesystem::remove(file_, ignored);
  }

 private:
  std::filesystem::path folder_, file_, written_;
};

// A lease that is kept alive, and ended with the object: completed when all of its downloads were.
class Lease {
 public:
  Lease(vsphere::Session& session, const SnapshotId& snapshot, const LeaseRecord& record, std::stop_token stop)
      : session_(session), record_(record), snapshot_(snapshot) {
    // Not to be broken off: a lease whose id nobody has keeps the machine busy until it times out.
    id_ = vsphere::begin_export(session_, snapshot, {});
    record_.set(id_);
    try {
      info_ = vsphere::await_export(session_, id_, stop);
    } catch (...) {
      end(false);
      throw;
    }
    keeper_ = std::jthread([this](std::stop_token ending) { keep(ending); });
  }
  ~Lease() {
    keeper_.request_stop();
    if (keeper_.joinable()) keeper_.join();
    end(complete_);
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  const SnapshotId& snapshot() const noexcept { return snapshot_; }
  const vsphere::ExportLease& info() const noexcept { return info_; }
  std::string loss() { return *loss_.lock(); }
  std::stop_token lost() const { return lost_.get_token(); }
  void broke_off() noexcept { complete_ = false; }
  void expect(std::uint64_t bytes) noexcept { expected_ += bytes; }
  void came(std::uint64_t more) noexcept { came_ += more; }

 private:
  void keep(std::stop_token ending) {
    // Thrice as often as needed: one that goes missing does not matter.
    const auto pause = std::clamp<std::chrono::milliseconds>(info_.timeout / 3, 300ms, 60s);
    Clock& clock = session_.clock();
    auto heard = clock.mono();
    try {
      while (true) {
        if (const std::string problem = say_so(ending); problem.empty()) {
          heard = clock.mono();
        } else if (clock.mono() - heard > info_.timeout) {
          return lose(problem);
        }
        sleep_or_cancel(clock, pause, ending);
      }
    } catch (const Cancelled&) {
    } catch (const std::exception& e) {
      lose(e.what());
    }
  }

  // Why vSphere was not reached this time. Throws when the lease is no more.
  std::string say_so(std::stop_token ending) {
    const std::uint64_t expected = std::max<std::uint64_t>(1, expected_);
    try {
      vsphere::keep_export(session_, id_, static_cast<int>(std::min<std::uint64_t>(99, came_ * 100 / expected)),
                           ending);
      return {};
    } catch (const vsphere::FaultError& e) {
      // Any other is the moment's: hours of download are not given up for it.
      if (e.name() == "ManagedObjectNotFound" || e.name() == "InvalidState" || e.name() == "Timedout") throw;
      return e.what();
    } catch (const Error& e) {
      return e.what();
    }
  }

  void lose(const std::string& reason) {
    *loss_.lock() = reason;
    lost_.request_stop();
  }

  void end(bool complete) noexcept {
    const TimeLimit limit(patience_at_the_end);
    try {
      vsphere::end_export(session_, id_, complete && !lost_.stop_requested(), limit.token());
      record_.forget(id_);
    } catch (const std::exception& e) {
      session_.log().warning("the lease of an export could not be ended; vSphere ends it when it hears nothing of it",
                             {{"lease", id_}, {"reason", e.what()}});
    }
  }

  vsphere::Session& session_;
  const LeaseRecord record_;
  const SnapshotId snapshot_;
  std::string id_;
  vsphere::ExportLease info_;
  std::atomic<bool> complete_{true};
  std::atomic<std::uint64_t> expected_{0}, came_{0};
  Sync<std::string> loss_;
  std::stop_source lost_;
  std::jthread keeper_;
};

void end_left_over(const ExportOptions& options, const LeaseRecord& record, log::Log& log, std::stop_token stop) {
  const std::string left = record.get();
  if (left.empty()) return;
  log.info("ending the export of a run that was interrupted", {{"lease", left}});
  vsphere::end_export(*options.session, left, false, std::move(stop));
  record.forget(left);
}

// What the disks of one machine share.
class Exporter {
 public:
  explicit Exporter(ExportOptions options, log::Log& log)
      : options_(std::move(options)), log_(log), record_(options_.spool, *options_.session, options_.vm) {}

  const ExportOptions& options() const noexcept { return options_; }

  std::shared_ptr<Lease> lease(const SnapshotId& snapshot, std::stop_token stop) {
    std::scoped_lock lock(mutex_);
    if (auto held = lease_.lock(); held && held->snapshot() == snapshot && !held->lost().stop_requested()) return held;
    if (lease_.expired()) end_left_over(options_, record_, log_, stop);
    auto made = std::make_shared<Lease>(*options_.session, snapshot, record_, stop);
    lease_ = made;
    return made;
  }

  // Of a run that died.
  void let_go(std::stop_token stop) {
    std::scoped_lock lock(mutex_);
    if (lease_.expired()) end_left_over(options_, record_, log_, stop);  // else it ends by its owners
  }

 private:
  const ExportOptions options_;
  log::Log& log_;
  const LeaseRecord record_;
  std::mutex mutex_;
  std::weak_ptr<Lease> lease_;
};

struct Url {
  std::string text;
  std::string host;  // with its port, as the endpoint has it
};

// "*" stands for the server that was asked (HttpNfcLeaseDeviceUrl.url).
Url absolute_url(const std::string& text, const std::string& endpoint) {
  constexpr std::string_view scheme = "https://";
  if (!text.starts_with(scheme))
    throw Error(Fault::data, fmt::format("{} offers an export by another way than https", endpoint));
  const std::size_t slash = std::min(text.find('/', scheme.size()), text.size());
  std::string host = text.substr(scheme.size(), slash - scheme.size());
  if (host == "*") host = endpoint;
  if (host.find(':', host.rfind(']') == std::string::npos ? 0 : host.rfind(']')) == std::string::npos) host += ":443";
  return {std::string(scheme) + host + text.substr(slash), host};
}

class ExportSource final : public copy::Source {
 public:
  ExportSource(std::shared_ptr<Exporter> exporter, SnapshotId snapshot, FrozenDisk disk, process::Runner& runner,
               log::Log& log)
      : exporter_(std::move(exporter)),
        snapshot_(std::move(snapshot)),
        disk_(std::move(disk)),
        runner_(runner),
        log_(log) {}

  std::uint64_t bytes() const override { return disk_.capacity; }

  bool costly() const override { return true; }

  void prepare(copy::Progress& progress, std::stop_token stop) override {
    std::scoped_lock lock(mutex_);
    if (spool_) return;
    const auto give_up = clock_.mono() + life_of_a_lease;
    bool told = false;
    for (int attempt = 1;; ++attempt) {
      std::uint64_t came = 0;
      try {
        spool_ = download(progress, came, stop);
        return;
      } catch (const Error& e) {
        // The copy asks again after what passes.
        if (e.fault() == Fault::unavailable || e.fault() == Fault::timeout)
          progress.waiting(fmt::format("its export broke off after {:.2f} GiB and begins again from its start: {}",
                                       static_cast<double>(came) / (1ULL << 30), e.what()));
        const bool busy = e.name() == "TaskInProgress";  // maybe with another lease that has not ended yet
        if (e.fault() != Fault::conflict || (busy ? clock_.mono() >= give_up : attempt >= attempts)) throw;
        if (busy && !std::exchange(told, true))
          progress.waiting(
              fmt::format("vSphere is busy with the machine; its export is tried again for {} s, since one "
                          "that was begun and lost keeps it busy until it times out: {}",
                          life_of_a_lease.count(), e.what()));
        log_.info("the machine is busy; its export waits", {{"reason", e.what()}});
      }
      sleep_or_cancel(clock_, between_attempts, stop);
    }
  }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    std::scoped_lock lock(mutex_);
    if (!spool_) throw Error(Fault::bug, "an export is read before it was downloaded");
    if (!export_ || !export_->alive()) start(stop);
    try {
      return std::make_unique<nbd::Handle>(export_->uri(), stop);
    } catch (const Error& error) {
      throw Error(error.fault(), fmt::format("{}; its server said: {}", error.what(), export_->last_words()));
    }
  }

 private:
  Fd download(copy::Progress& progress, std::uint64_t& came, std::stop_token stop) {
    const ExportOptions& options = exporter_->options();
    const std::shared_ptr<Lease> lease = exporter_->lease(snapshot_, stop);
    bool whole = false;
    const Finally tell([&] {
      if (!whole) lease->broke_off();
    });
    const vsphere::ExportedDisk exported = find(lease->info(), stop);
    const Url url = absolute_url(exported.url, options.endpoint);
    // Whoever knows the URL may download.
    log_.redactor().add(Secret(url.text.substr(url.text.find('/', 8))));
    Spool spool(
        options.spool, exported.bytes, disk_.capacity, clock_, [&](const std::string& line) { progress.waiting(line); },
        [&, before = std::uint64_t{0}](std::uint64_t bytes) mutable {
          lease->came(bytes - before);
          before = came = bytes;
        });
    lease->expect(exported.bytes == 0 ? disk_.capacity : exported.bytes);
    fetch(url, exported.thumbprint, spool, *lease, stop);
    Fd fd = spool.take();
    check(fd.get());
    whole = true;
    log_.info("exported", {{"disk", model::to_string(disk_.key)}, {"bytes", std::to_string(came)}});
    return fd;
  }

  vsphere::ExportedDisk find(const vsphere::ExportLease& lease, std::stop_token stop) const {
    const auto frozen = vsphere::frozen_disks(*exporter_->options().session, snapshot_, stop);
    if (!frozen)
      throw Error(Fault::not_found,
                  fmt::format("the snapshot {} is gone: run the same command again", snapshot_.value));
    for (const model::Disk& disk : *frozen) {
      if (disk.key != disk_.key) continue;
      for (const vsphere::ExportedDisk& exported : lease.disks)
        if (vsphere::is_export_of(exported, disk)) return exported;
    }
    std::string keys;
    for (const vsphere::ExportedDisk& exported : lease.disks) keys += (keys.empty() ? "" : ", ") + exported.key;
    throw Error(Fault::unsupported, fmt::format("vSphere's export has no disk {} ({}); it offers: {}. Use another "
                                                "transport for it, or leave it out with --skip-disk",
                                                model::to_string(disk_.key), disk_.file, keys));
  }

  void fetch(const Url& url, const std::string& thumbprint, Spool& spool, Lease& lease, std::stop_token stop) {
    std::stop_source either;
    const std::stop_callback stopped(stop, [&] { either.request_stop(); });
    const std::stop_callback lost(lease.lost(), [&] { either.request_stop(); });
    http::Request request;
    request.url = url.text;
    request.timeout = silence;
    const ExportOptions& options = exporter_->options();
    http::CurlOptions curl;
    curl.trust = trust_for(url, thumbprint, either.get_token());
    try {
      const int status = http::download(curl, request, spool, log_, either.get_token()).status;
      if (status != 200)
        throw Error(status >= 500 || status == 404 ? Fault::unavailable : Fault::auth,
                    fmt::format("{} does not give out the export of disk {} (HTTP {})", url.host,
                                model::to_string(disk_.key), status));
    } catch (const Cancelled&) {
      if (stop.stop_requested()) throw;
      throw Error(Fault::unavailable,
                  fmt::format("the export's lease at {} ended: {}", options.endpoint, lease.loss()));
    }
  }

  // The endpoint's trust is for its hosts as well (a vCenter's authority signs their certificates), but a pin is for
  // one certificate: that of another host is known by the fingerprint that came over the verified connection.
  http::Trust trust_for(const Url& url, const std::string& thumbprint, std::stop_token stop) const {
    http::Trust trust = exporter_->options().trust;
    if (trust.sha256.empty() || trust.insecure || url.host == exporter_->options().endpoint) return trust;
    http::Trust anybody;
    anybody.insecure = true;
    const http::Fingerprints shown = http::fingerprints("https://" + url.host + "/", anybody, stop);
    const auto same = [](char a, char b) {
      return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
    };
    if (thumbprint.empty() ||
        !std::equal(shown.sha1.begin(), shown.sha1.end(), thumbprint.begin(), thumbprint.end(), same))
      throw Error(
          Fault::auth,
          fmt::format("{} shows another certificate (SHA-1 {}) than vSphere says it has ({}): somebody may be in "
                      "between; give --vmware-ca with the vCenter's authorities instead of a fingerprint",
                      url.host, shown.sha1, thumbprint.empty() ? "it names none" : thumbprint));
    trust.sha256 = shown.sha256;
    return trust;
  }

  void check(int fd) {
    auto piece = sparse_piece(fd, "the export of disk " + model::to_string(disk_.key), disk_.capacity);
    if (const auto* refusal = std::get_if<Refusal>(&piece)) throw Error(Fault::data, refusal->reason);
  }

  void start(std::stop_token stop) {
    export_.reset();
    const Pieces pieces{{fmt::format("/dev/fd/{}", spool_fd), disk_.capacity, 0, false, true}};
    export_.emplace(serve_pieces(runner_, pieces, {{spool_->get(), spool_fd}}, exporter_->options().run_directory, log_,
                                 std::move(stop)));
  }

  const std::shared_ptr<Exporter> exporter_;
  const SnapshotId snapshot_;
  const FrozenDisk disk_;
  process::Runner& runner_;
  log::Log& log_;
  SystemClock clock_;
  std::mutex mutex_;
  std::optional<Fd> spool_;
  std::optional<nbdkit::Export> export_;
};

class ExportTransport final : public Transport {
 public:
  ExportTransport(ExportOptions options, process::Runner& runner, log::Log& log)
      : exporter_(std::make_shared<Exporter>(std::move(options), log)), runner_(runner), log_(log) {}

  std::string name() const override { return "export"; }
  bool counted() const override { return false; }
  bool quick() const override { return false; }
  std::optional<std::string> refuses(const FrozenDisk&) const override { return std::nullopt; }

  std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token) override {
    if (point.consistency != Consistency::powered_off)
      throw Error(Fault::unsupported,
                  "the machine was running when its snapshot was made, and --transport export downloads whole disks in "
                  "every cycle, too slow to catch up with one that runs: shut it down first, or use another transport");
    return std::make_unique<ExportSource>(exporter_, point.snapshot, disk, runner_, log_);
  }

  void let_go(std::stop_token stop) override { exporter_->let_go(std::move(stop)); }

 private:
  const std::shared_ptr<Exporter> exporter_;
  process::Runner& runner_;
  log::Log& log_;
};

}  // namespace

std::unique_ptr<Transport> export_transport(ExportOptions options, process::Runner& runner, log::Log& log) {
  return std::make_unique<ExportTransport>(std::move(options), runner, log);
}

void end_interrupted_export(const ExportOptions& options, log::Log& log, std::stop_token stop) {
  end_left_over(options, LeaseRecord(options.spool, *options.session, options.vm), log, std::move(stop));
}

}  // namespace vmferry::source::vmware
