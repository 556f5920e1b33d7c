// Frozen disks through an nbdkit that reads with VDDK. VDDK logs in by itself, for each connection; the password
// reaches nbdkit in inherited memory, and the certificate is held against a thumbprint that was taken from a connection
// which we verified.
#include "source/vmware/vddk_transport.hpp"

#include <fmt/format.h>
#include <string.h>

#include <chrono>
#include <mutex>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "copy/permits.hpp"
#include "http/certificate.hpp"
#include "source/vmware/endpoint.hpp"
#include "source/vmware/private_folder.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr int password_fd = 9;  // in nbdkit; any number above 2 that nbdkit's own files do not use yet
constexpr std::chrono::seconds dump_timeout{20};
constexpr int open_attempts = 5;
constexpr const char* usual_libdir = "/usr/lib64/vmware-vix-disklib";  // of our plugin
// Closing takes VDDK as long as opening, one disk after another. Who is killed meanwhile leaves connections behind, of
// which a host has few and which keep files of the snapshot open.
constexpr std::chrono::seconds close_grace{20};
constexpr std::chrono::milliseconds words_wait{500};
constexpr std::chrono::seconds open_pause{1};

// VDDK's own settings, and a folder for what it writes (it would use one in /tmp that everybody shares). Goes with the
// object.
class Settings {
 public:
  explicit Settings(const std::filesystem::path& directory) : folder_(directory, "vddk", "VDDK's settings") {
    // Four buffers of 1 MiB for each disk that is open: "the buffer size and count can be increased to improve
    // performance", VDDK Programming Guide, NBD transport, asynchronous mode.
    folder_.write(name, fmt::format("tmpDirectory=\"{}\"\n"
                                    "vixDiskLib.nfcAio.Session.BufSizeIn64KB=16\n"
                                    "vixDiskLib.nfcAio.Session.BufCount=4\n",
                                    folder_.path().string()));
  }
  std::filesystem::path file() const { return folder_.path() / name; }

 private:
  static constexpr const char* name = "vixdisklib.conf";
  PrivateFolder folder_;
};

// What all disks share.
struct Surroundings {
  VddkOptions options;
  std::string plugin;
  Settings settings;
};

class VddkSource final : public copy::Source {
 public:
  VddkSource(std::shared_ptr<const Surroundings> around, std::string snapshot, FrozenDisk disk, process::Runner& runner,
             log::Log& log)
      : around_(std::move(around)),
        snapshot_(std::move(snapshot)),
        disk_(std::move(disk)),
        runner_(runner),
        log_(log),
        server_(parse_endpoint(around_->options.endpoint)) {}

  // The first look: throws what VDDK says, before anything depends on it. Its connection is one to the machine's host
  // like any other, and waits with its permit for whoever reads. When all are in use, he who connects is told.
  void open(std::stop_token stop) {
    const std::shared_ptr<copy::Permits>& permits = around_->options.permits;
    const std::chrono::seconds patience = around_->options.patience;
    if (permits && !(permit_ = permits->ask(true))) {
      log_.info(fmt::format("{} is not looked at before it is read: {}", disk_.file, permits->reason()));
      return;
    }
    // Another way may be there to take this one's place, or may wait for this one to take its own.
    std::stop_source enough;
    const std::stop_callback stopped(stop, [&] { enough.request_stop(); });
    const std::jthread limit([&](std::stop_token over) {
      if (clock_.sleep(patience, over)) enough.request_stop();
    });
    try {
      look(enough.get_token());
    } catch (const Cancelled&) {
      if (stop.stop_requested()) throw;
      throw Error(Fault::timeout, fmt::format("VDDK did not open {} within {} s", disk_.file, patience.count()));
    }
  }

  std::uint64_t bytes() const override { return disk_.capacity; }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    std::scoped_lock lock(mutex_);
    if (first_) {
      permit_.reset();  // the caller has his own, or this one
      return std::move(first_);
    }
    if (!export_ || !export_->alive()) start(stop);
    const std::string before = export_->last_words();
    const auto begun = clock_.mono();
    try {
      auto handle = std::make_unique<nbd::Handle>(export_->uri(), stop, around_->options.patience);
      opened_ = true;
      return handle;
    } catch (const Error& error) {
      // They come by another way than the refusal, and may come later.
      std::string words = export_->last_words();
      // An open that hangs may hold up all further ones of its process.
      const bool hangs = !opened_ && clock_.mono() - begun >= around_->options.patience;
      for (const auto until = clock_.mono() + words_wait; words == before && clock_.mono() < until;
           words = export_->last_words())
        sleep_or_cancel(clock_, std::chrono::milliseconds(10), stop);
      if (hangs) export_.reset();
      throw Error(fault_of(words.substr(words.starts_with(before) ? before.size() : 0)),
                  fmt::format("{} cannot be opened with VDDK: {}", disk_.file, words.empty() ? error.what() : words));
    }
  }

  std::unique_ptr<copy::Permit> permit() override {
    std::scoped_lock lock(mutex_);
    return std::move(permit_);
  }

 private:
  void look(std::stop_token stop) {
    for (int attempt = 1; first_ == nullptr; ++attempt) {
      try {
        first_ = connect(stop);
      } catch (const Error& error) {
        // A host has few connections, which other disks and other programs take and give back.
        if (error.fault() != Fault::unavailable || attempt == open_attempts) throw;
        log_.info(error.what());
        sleep_or_cancel(clock_, attempt * open_pause, stop);
      }
    }
    if (first_->bytes() == disk_.capacity) return;
    throw Error(Fault::data, fmt::format("VDDK says that {} has {} bytes, but vSphere says {}", disk_.file,
                                         first_->bytes(), disk_.capacity));
  }

  // nbdkit tells NBD clients nothing but that there is no such export. These are the words of VDDK that a second
  // attempt does not change: a login that was refused, and VIX_E_FILE_NOT_FOUND.
  static Fault fault_of(const std::string& words) {
    if (words.find("user name or password") != std::string::npos) return Fault::auth;
    if (words.find("file was not found") != std::string::npos) return Fault::not_found;
    return Fault::unavailable;
  }

  void start(std::stop_token stop) {
    export_.reset();
    const VddkOptions& options = around_->options;
    http::Certificate certificate =
        http::certificate(fmt::format("https://{}:{}/", server_.host, server_.port), options.trust, stop);
    nbdkit::Recipe recipe;
    recipe.plugin = around_->plugin;
    recipe.grace = close_grace;
    recipe.parameters = {{"file", disk_.file},
                         {"server", bare(server_.host)},
                         {"port", server_.port},
                         {"user", options.user},
                         {"password", fmt::format("-{}", password_fd)},
                         {"thumbprint", certificate.thumbprint},
                         {"vm", "moref=" + options.vm},
                         {"snapshot", snapshot_},
                         {"config", around_->settings.file().string()}};
    if (!options.vddk.libdir.empty())
      recipe.parameters.emplace_back("libdir", std::filesystem::absolute(options.vddk.libdir).string());
    if (!options.transports.empty()) recipe.parameters.emplace_back("transports", options.transports);
    if (!options.compression.empty()) recipe.parameters.emplace_back("compression", options.compression);
    // Another one for each start: nbdkit reads on from where the last reader stopped.
    nbdkit::LiveSecret password;
    password.set(options.password);
    recipe.fds = {{password.fd(), password_fd}};
    export_.emplace(nbdkit::serve(runner_, recipe, options.run_directory, log_, stop));
    opened_ = false;
  }

  // An IPv6 address without its brackets.
  static std::string bare(const std::string& host) {
    return host.size() > 2 && host.front() == '[' ? host.substr(1, host.size() - 2) : host;
  }

  const std::shared_ptr<const Surroundings> around_;
  const std::string snapshot_;
  const FrozenDisk disk_;
  process::Runner& runner_;
  log::Log& log_;
  const Endpoint server_;
  SystemClock clock_;
  std::mutex mutex_;
  std::unique_ptr<copy::Permit> permit_;  // of first_; given back after it is closed
  std::optional<nbdkit::Export> export_;
  bool opened_ = false;                 // export_ has given a connection
  std::unique_ptr<nbd::Handle> first_;  // made by open(); an open takes VDDK most of a second
};

class VddkTransport final : public Transport {
 public:
  VddkTransport(std::shared_ptr<const Surroundings> around, process::Runner& runner, log::Log& log)
      : around_(std::move(around)), runner_(runner), log_(log) {}

  std::string name() const override { return "vddk"; }
  // A disk on the redo file of another snapshot is one, too: VDDK reads the chain.
  std::optional<std::string> refuses(const FrozenDisk&) const override { return std::nullopt; }

  std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token stop) override {
    auto source = std::make_unique<VddkSource>(around_, point.snapshot.value, disk, runner_, log_);
    try {
      source->open(std::move(stop));
    } catch (Error& error) {
      throw error.during(fmt::format("opening disk {} with VDDK", model::to_string(disk.key)));
    }
    return source;
  }

 private:
  const std::shared_ptr<const Surroundings> around_;
  process::Runner& runner_;
  log::Log& log_;
};

}  // namespace

namespace {

// Where both plugins look. Without a libdir nbdkit's own has its own idea.
bool has_library(const std::filesystem::path& libdir) {
  for (const auto& folder : {libdir / "lib64", libdir}) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error))
      if (entry.path().filename().string().starts_with("libvixDiskLib.so")) return true;
  }
  return false;
}

[[noreturn]] void refuse(const std::string& folder, const std::string& words) {
  throw Error(
      Fault::config,
      fmt::format("VMware's VDDK cannot be used from {}{}{}; unpack it and name its folder with --vddk-libdir DIR "
                  "(it has lib64/libvixDiskLib.so.N in it), or read disks in another way (--transport)",
                  folder, words.empty() ? "" : ": ", words));
}

}  // namespace

std::string usable_plugin(const Vddk& vddk, process::Runner& runner, std::stop_token stop) {
  // Before anything is started: most hosts have no VDDK.
  if (!vddk.libdir.empty() && !has_library(vddk.libdir)) refuse(vddk.libdir.string(), "there is no library in it");
  std::string plugin = "vddk";
  if (!nbdkit::probe(runner, stop).plugin(plugin)) {
    std::error_code error;
    if (!std::filesystem::exists(vddk.plugin, error))
      throw Error(Fault::tool, fmt::format("there is no nbdkit plugin for VDDK: nbdkit has none of its own (package "
                                           "nbdkit-plugin-vddk where there is one), and vmferry's is not at {}",
                                           vddk.plugin.string()));
    if (vddk.libdir.empty() && !has_library(usual_libdir)) refuse(usual_libdir, "there is no library in it");
    plugin = std::filesystem::absolute(vddk.plugin).string();
  }
  process::Command command;
  command.program = "nbdkit";
  command.args = {plugin, "--dump-plugin"};
  if (!vddk.libdir.empty()) command.args.push_back("libdir=" + std::filesystem::absolute(vddk.libdir).string());
  const process::Output told = process::run(runner, command, dump_timeout, stop);
  // Said by both plugins once they have loaded the library (nbdkit-vddk-plugin(1), Dump-plugin output).
  for (const char* line : {"vddk_dll=", "vddk_library_version="})
    if (told.out.find(line) != std::string::npos) return plugin;
  std::string folder = vddk.libdir.string();
  if (const auto at = told.out.find("vddk_default_libdir="); folder.empty() && at != std::string::npos)
    folder = told.out.substr(at + strlen("vddk_default_libdir="),
                             told.out.find('\n', at) - at - strlen("vddk_default_libdir="));
  refuse(folder, told.err.substr(0, told.err.find('\n')));
}

std::unique_ptr<Transport> vddk_transport(VddkOptions options, process::Runner& runner, log::Log& log,
                                          std::stop_token stop) {
  std::string plugin = usable_plugin(options.vddk, runner, std::move(stop));
  log.info(fmt::format("disks are read with VDDK by nbdkit's plugin {}", plugin));
  const std::filesystem::path run_directory = options.run_directory;
  const auto around = std::shared_ptr<const Surroundings>(
      new Surroundings{std::move(options), std::move(plugin), Settings(run_directory)});
  return std::make_unique<VddkTransport>(around, runner, log);
}

}  // namespace vmferry::source::vmware
