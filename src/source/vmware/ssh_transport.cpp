// Flat files on an ESXi host through nbdkit's ssh plugin: each connection to it is an ssh session of its own, made when
// it is opened. The host's key is always verified, and ~/.ssh/config is not read, which could say otherwise. NBD knows
// only EIO, so why something failed is read from the plugin's words.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "source/vmware/datastore_path.hpp"
#include "source/vmware/flat_disk.hpp"
#include "source/vmware/ssh_words.hpp"
#include "source/vmware/transport.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr int password_fd = 9;  // in nbdkit; any number above 2 that nbdkit's own files do not use yet
constexpr std::chrono::seconds session_timeout{60};
constexpr std::chrono::milliseconds words_may_take{1000}, look_again{20};

// libssh expands % in the names of files (nbdkit-ssh-plugin(1)).
std::string literally(const std::filesystem::path& file) {
  std::string text;
  for (const char c : std::filesystem::absolute(file).string()) text += c == '%' ? "%%" : std::string(1, c);
  return text;
}

class SshSource final : public copy::Source {
 public:
  SshSource(std::shared_ptr<const SshOptions> options, FrozenDisk disk, process::Runner& runner, log::Log& log)
      : options_(std::move(options)), disk_(std::move(disk)), runner_(runner), log_(log) {
    const DatastorePath path = parse_datastore_path(disk_.file);
    file_ = {fmt::format("{}:{}", options_->host, options_->port), options_->user,
             fmt::format("/vmfs/volumes/{}/{}", path.datastore, flat_file(path.file)), !options_->password.empty()};
  }

  std::uint64_t bytes() const override { return disk_.capacity; }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    std::scoped_lock lock(mutex_);
    if (!export_ || !export_->alive()) start(stop);
    const std::string before = export_->last_words();
    std::unique_ptr<nbd::Handle> handle;
    try {
      handle = std::make_unique<nbd::Handle>(export_->uri(), stop);
    } catch (const Error& error) {
      if (error.fault() != Fault::unavailable) throw;
      throw ssh_problem(words_after(before, stop), file_);
    }
    if (handle->bytes() != disk_.capacity)
      throw Error(Fault::data,
                  fmt::format("{} has {} bytes on {}, but the disk has {}: it is not the flat file of this "
                              "disk, or the snapshot is gone",
                              file_.path, handle->bytes(), file_.host, disk_.capacity));
    return handle;
  }

 private:
  void start(std::stop_token stop) {
    export_.reset();
    nbdkit::Recipe recipe;
    recipe.plugin = "ssh";
    recipe.parameters = {{"host", options_->host}, {"port", std::to_string(options_->port)},
                         {"user", options_->user}, {"path", file_.path},
                         {"config", ""},           {"timeout", std::to_string(session_timeout.count())}};
    if (!options_->known_hosts.empty()) recipe.parameters.emplace_back("known-hosts", literally(options_->known_hosts));
    if (!options_->identity.empty()) recipe.parameters.emplace_back("identity", literally(options_->identity));
    nbdkit::LiveSecret password;
    if (!options_->password.empty()) {
      password.set(options_->password);
      recipe.fds = {{password.fd(), password_fd}};
      recipe.parameters.emplace_back("password", fmt::format("-{}", password_fd));
    }
    export_.emplace(nbdkit::serve(runner_, recipe, options_->run_directory, log_, std::move(stop)));
  }

  // The plugin's line may come a moment after the connection has ended.
  std::string words_after(const std::string& before, std::stop_token stop) {
    const auto give_up = clock_.mono() + words_may_take;
    while (export_->last_words() == before && clock_.mono() < give_up) sleep_or_cancel(clock_, look_again, stop);
    return export_->last_words();
  }

  const std::shared_ptr<const SshOptions> options_;
  const FrozenDisk disk_;
  process::Runner& runner_;
  log::Log& log_;
  SystemClock clock_;
  SshFile file_;
  std::mutex mutex_;
  std::optional<nbdkit::Export> export_;
};

class SshTransport final : public Transport {
 public:
  SshTransport(SshOptions options, process::Runner& runner, log::Log& log)
      : options_(std::make_shared<const SshOptions>(std::move(options))), runner_(runner), log_(log) {}

  std::string name() const override { return "ssh"; }
  std::optional<std::string> refuses(const FrozenDisk& disk) const override { return no_flat_file(disk, "ssh"); }

  std::unique_ptr<copy::Source> serve(const Point&, const FrozenDisk& disk, std::stop_token stop) override {
    if (const auto reason = refuses(disk)) throw Error(Fault::unsupported, *reason);
    auto source = std::make_unique<SshSource>(options_, disk, runner_, log_);
    // All disks begin at once, and ESXi locks an account after five wrong logins, for its API, too (Security.
    // AccountLockFailures): one of them tries the login first, and a refusal holds for all.
    std::unique_lock first(login_, std::defer_lock);
    if (!let_in_) {
      first.lock();
      if (refused_) throw Error(*refused_);
      if (let_in_) first.unlock();
    }
    try {
      source->connect(std::move(stop));  // what the host says, before anything depends on it
      let_in_ = true;
    } catch (Error& error) {
      if (first.owns_lock() && error.name() == refused_login) refused_ = error;
      throw error.during(fmt::format("opening disk {} by ssh", model::to_string(disk.key)));
    }
    return source;
  }

 private:
  const std::shared_ptr<const SshOptions> options_;
  process::Runner& runner_;
  log::Log& log_;
  std::mutex login_;
  std::atomic<bool> let_in_{false};
  std::optional<Error> refused_;  // under login_
};

}  // namespace

std::unique_ptr<Transport> ssh_transport(SshOptions options, process::Runner& runner, log::Log& log) {
  return std::make_unique<SshTransport>(std::move(options), runner, log);
}

}  // namespace vmferry::source::vmware
