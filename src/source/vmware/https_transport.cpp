// The datastore's /folder over HTTPS through nbdkit's curl plugin. The session cookie is read by the plugin from
// inherited memory before each request that is a second or more after the last reading (nbdkit-curl-plugin(1),
// cookie-script-renew), so a renewed session needs no new server. What went wrong is asked over our own HTTP, since NBD
// knows only EIO.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <mutex>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "http/certificate.hpp"
#include "source/vmware/datastore_path.hpp"
#include "source/vmware/endpoint.hpp"
#include "source/vmware/flat_disk.hpp"
#include "source/vmware/folder_status.hpp"
#include "source/vmware/private_folder.hpp"
#include "source/vmware/tcp_relay.hpp"
#include "source/vmware/transport.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr int cookie_fd = 9;  // in nbdkit; any number above 2 that nbdkit's own files do not use yet
constexpr std::chrono::milliseconds cookie_read_again{1100};  // cookie-script-renew counts whole seconds
constexpr std::chrono::seconds request_timeout{120};          // of one read of at most a few MiB
constexpr std::chrono::seconds probe_timeout{60};

// What nbdkit's curl shall trust, and nothing else: a 0700 folder with a CA file where one is given, and an empty
// folder in the place of the system's certificates, which libcurl would use beside any CA file (CURLOPT_CAPATH(3)) and
// which take seconds to load for each connection. Goes with the object.
class TrustFolder {
 public:
  explicit TrustFolder(const std::filesystem::path& directory, const std::string& pem = {})
      : folder_(directory, "tls", "the server's certificate") {
    folder_.make_folder("none");
    if (!pem.empty()) folder_.write("server.pem", pem);
  }
  std::filesystem::path certificate() const { return folder_.path() / "server.pem"; }
  std::filesystem::path none() const { return folder_.path() / "none"; }

 private:
  PrivateFolder folder_;
};

std::string encode_path(const std::string& path) {
  std::string encoded;
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    if (!encoded.empty()) encoded += '/';
    encoded += http::encode(path.substr(at, end - at));
    at = end + 1;
  }
  return encoded;
}

class FolderSource final : public copy::Source {
 public:
  FolderSource(HttpsOptions options, FrozenDisk disk, process::Runner& runner, log::Log& log)
      : options_(std::move(options)),
        disk_(std::move(disk)),
        runner_(runner),
        log_(log),
        endpoint_(parse_endpoint(options_.endpoint)) {
    const DatastorePath path = parse_datastore_path(disk_.file);
    const std::string flat = flat_file(path.file);
    file_ = {endpoint_.host + ":" + endpoint_.port, fmt::format("[{}] {}", path.datastore, flat), disk_.capacity};
    resource_ = fmt::format("/folder/{}?dcPath={}&dsName={}", encode_path(flat), http::encode(options_.datacenter),
                            http::encode(path.datastore));
    http::CurlOptions curl;
    curl.trust = options_.trust;
    probe_ = http::curl(curl, log_);
  }

  // The first look: throws what the datastore says, before anything depends on it.
  void open(std::stop_token stop) {
    ask_datastore(stop);
    start(stop);
  }

  std::uint64_t bytes() const override { return disk_.capacity; }

  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    std::scoped_lock lock(mutex_);
    const bool alive = export_ && export_->alive();
    if (alive) {
      try {
        return std::make_unique<nbd::Handle>(export_->uri(), stop);
      } catch (const Error& error) {
        log_.info(fmt::format("no connection to {}: {}; asking the datastore why", file_.path, error.what()));
      }
    }
    ask_datastore(stop);
    if (export_ && export_->alive())
      sleep_or_cancel(clock_, cookie_read_again, stop);
    else
      start(stop);
    try {
      return std::make_unique<nbd::Handle>(export_->uri(), stop);
    } catch (const Error& error) {
      throw Error(error.fault(), fmt::format("{} can be read, but not through nbdkit: {}; nbdkit said: {}", file_.path,
                                             error.what(), export_->last_words()));
    }
  }

 private:
  std::string url(const std::string& host) const {
    return fmt::format("https://{}:{}{}", host, endpoint_.port, resource_);
  }

  http::Response first_sector(const Secret& cookie, std::stop_token stop) {
    log_.redactor().add(cookie);
    http::Request request;
    request.url = url(endpoint_.host);
    request.idempotent = true;
    request.timeout = probe_timeout;
    request.headers = {{"Range", "bytes=0-511"}, {"Cookie", std::string(cookie.reveal())}};
    const http::Response response = probe_->send(request, stop);
    wipe(request.headers.back().second);
    return response;
  }

  // Makes sure that the cookie nbdkit has is one the datastore takes, or throws why the disk cannot be read.
  void ask_datastore(std::stop_token stop) {
    Secret cookie = options_.cookie(false, stop);
    http::Response response = first_sector(cookie, stop);
    if (response.status == 401) {
      log_.info(fmt::format("{} refuses the session for {}, logging in again", file_.endpoint, file_.path));
      cookie = options_.cookie(true, stop);
      response = first_sector(cookie, stop);
    }
    if (const auto problem = folder_problem(response, file_)) throw *problem;
    cookie_.set(cookie);
  }

  void start(std::stop_token stop) {
    export_.reset();
    nbdkit::Recipe recipe;
    recipe.plugin = "curl";
    recipe.parameters = {{"protocols", "https"},
                         {"followlocation", "false"},
                         {"tcp-keepalive", "true"},
                         {"timeout", std::to_string(request_timeout.count())},
                         {"cookie-script", fmt::format("cat /dev/fd/{}", cookie_fd)},
                         {"cookie-script-renew", "1"}};
    recipe.fds = {{cookie_.fd(), cookie_fd}};
    std::string host = endpoint_.host;
    add_trust(recipe, host, stop);
    recipe.parameters.emplace_back("url", url(host));
    export_.emplace(nbdkit::serve(runner_, recipe, options_.run_directory, log_, stop));
  }

  // The plugin knows CA files and "anything", but no pins. A pinned certificate becomes the only trust anchor: both
  // GnuTLS and libcurl with OpenSSL take a certificate that is in the CA file itself as proof (CURLOPT_SSL_OPTIONS(3):
  // partial chains are accepted by default). The plugin checks the name as well, which a pin makes pointless and which
  // ESXi's own certificates (made for "localhost.localdomain") fail; then it is given a name of the certificate, and
  // its connections go through a relay to the right address.
  void add_trust(nbdkit::Recipe& recipe, std::string& host, std::stop_token stop) {
    const http::Trust& trust = options_.trust;
    if (trust.insecure) {
      recipe.parameters.emplace_back("sslverify", "false");
      return;
    }
    if (trust.sha256.empty()) {
      if (trust.ca_file.empty()) return;  // the system's certificates
      trust_ = std::make_unique<TrustFolder>(options_.run_directory);
      recipe.parameters.emplace_back("cainfo", std::filesystem::absolute(trust.ca_file).string());
      recipe.parameters.emplace_back("capath", trust_->none().string());
      return;
    }
    const http::Certificate certificate = http::certificate(url(host), trust, stop);
    trust_ = std::make_unique<TrustFolder>(options_.run_directory, certificate.pem);
    recipe.parameters.emplace_back("cainfo", trust_->certificate().string());
    recipe.parameters.emplace_back("capath", trust_->none().string());
    if (certificate.names_host) return;
    if (certificate.names.empty())
      throw Error(Fault::unsupported,
                  fmt::format("the pinned certificate of {} names no host, so disks cannot be read over https with it; "
                              "give the server a certificate with a name",
                              file_.endpoint));
    host = concrete_name(certificate.names.front());
    relay_ = std::make_unique<TcpRelay>(options_.run_directory, endpoint_.host, endpoint_.port, log_);
    recipe.parameters.emplace_back("unix-socket-path", relay_->socket().string());
    log_.info(fmt::format("the pinned certificate of {} is made for {}; reads are relayed under that name",
                          file_.endpoint, fmt::join(certificate.names, ", ")));
  }

  // "*.example" is a name of every host there.
  static std::string concrete_name(const std::string& name) {
    return name.starts_with("*.") ? "host" + name.substr(1) : name;
  }

  const HttpsOptions options_;
  const FrozenDisk disk_;
  process::Runner& runner_;
  log::Log& log_;
  const Endpoint endpoint_;
  SystemClock clock_;
  FolderFile file_;
  std::string resource_;
  std::unique_ptr<http::Transport> probe_;
  nbdkit::LiveSecret cookie_;
  std::unique_ptr<TrustFolder> trust_;
  std::unique_ptr<TcpRelay> relay_;
  std::mutex mutex_;
  std::optional<nbdkit::Export> export_;  // last: it uses the cookie, the certificate and the relay
};

class HttpsTransport final : public Transport {
 public:
  HttpsTransport(HttpsOptions options, process::Runner& runner, log::Log& log)
      : options_(std::move(options)), runner_(runner), log_(log) {}

  std::string name() const override { return "https"; }
  std::optional<std::string> refuses(const FrozenDisk& disk) const override { return no_flat_file(disk, "/folder"); }

  std::unique_ptr<copy::Source> serve(const Point&, const FrozenDisk& disk, std::stop_token stop) override {
    if (const auto reason = no_flat_file(disk, "/folder")) throw Error(Fault::unsupported, *reason);
    auto source = std::make_unique<FolderSource>(options_, disk, runner_, log_);
    try {
      source->open(std::move(stop));
    } catch (Error& error) {
      throw error.during(fmt::format("opening disk {} over https", model::to_string(disk.key)));
    }
    return source;
  }

 private:
  const HttpsOptions options_;
  process::Runner& runner_;
  log::Log& log_;
};

}  // namespace

std::unique_ptr<Transport> https_transport(HttpsOptions options, process::Runner& runner, log::Log& log) {
  return std::make_unique<HttpsTransport>(std::move(options), runner, log);
}

}  // namespace vmferry::source::vmware
