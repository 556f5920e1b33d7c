// The transport on libcurl: a pool of connections, cancellation at once, certificates judged in the handshake, and an
// honest answer to "may the other side have acted?".
#include <curl/curl.h>
#include <errno.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <array>
#include <cstdio>
#include <exception>
#include <mutex>

#include "base/finally.hpp"
#include "base/sync.hpp"
#include "http/download.hpp"
#include "http/http.hpp"
#include "http/tls.hpp"

namespace vmferry::http {

namespace {

constexpr std::size_t largest_body = 256U << 20;
constexpr std::size_t most_idle_lines = 16;

// OpenSSL writes with write(2), which raises SIGPIPE on a connection that the other side closed. The program as a whole
// may or may not ignore that signal; this thread shall never be killed by it.
class SigpipeHeld {
 public:
  SigpipeHeld() noexcept {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~SigpipeHeld() {
    const timespec now{0, 0};
    if (!was_pending_)
      while (sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
      }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  SigpipeHeld(const SigpipeHeld&) = delete;
  SigpipeHeld& operator=(const SigpipeHeld&) = delete;

 private:
  sigset_t pipe_, before_;
  bool was_pending_;
};

struct Origin {
  std::string host;
  std::string port;
};

std::string url_part(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return {};
  std::string copy = text;
  curl_free(text);
  return copy;
}

// Of a URL what messages may show: neither a user's password nor what a query tells.
std::string shown(const std::string& text) {
  const std::size_t scheme = text.find("://"), begin = scheme == std::string::npos ? 0 : scheme + 3;
  // The last '@' of all: a password that was not encoded may hold any sign.
  const std::string rest = text.substr(std::max(begin, text.rfind('@') + 1));
  return text.substr(0, begin) + rest.substr(0, rest.find_first_of("/?#"));
}

Origin origin_of(const std::string& text) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> url(curl_url(), &curl_url_cleanup);
  if (!url || curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK)
    throw Error(Fault::config,
                fmt::format("'{}' is not the beginning of a URL of the form https://HOST[:PORT]/PATH; check the "
                            "configured endpoints",
                            shown(text)));
  const std::string scheme = url_part(url.get(), CURLUPART_SCHEME);
  if (scheme != "https" && scheme != "http")
    throw Error(Fault::config,
                fmt::format("an address starts with '{}://'; only https:// and http:// are understood", scheme));
  return {url_part(url.get(), CURLUPART_HOST), url_part(url.get(), CURLUPART_PORT)};
}

std::string path_of(const std::string& text) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> url(curl_url(), &curl_url_cleanup);
  if (!url || curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) return "?";
  return url_part(url.get(), CURLUPART_PATH);
}

// One request's state as libcurl's callbacks see it.
struct Exchange {
  Response response;
  bool sent = false;        // a byte of the request has left
  bool repeatable = false;  // libcurl may send it again by itself
  bool too_large = false;
  Upload* upload = nullptr;
  std::uint64_t uploaded = 0;  // bytes read from it
  Download* download = nullptr;
  bool ok = false;            // the answer's status is 200
  std::exception_ptr thrown;  // what upload or download threw
  std::array<char, CURL_ERROR_SIZE> detail{};
};

std::size_t on_header(char* data, std::size_t one, std::size_t count, void* user) noexcept {
  try {
    Exchange& x = *static_cast<Exchange*>(user);
    std::string_view line(data, one * count);
    while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
    if (line.starts_with("HTTP/")) {
      x.response.headers.clear();  // what came with a 100 Continue
      x.ok = line.find(" 200") != std::string_view::npos;
      return one * count;
    }
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return one * count;
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
    while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
    x.response.headers.emplace_back(std::string(line.substr(0, colon)), std::string(value));
    return one * count;
  } catch (...) {
    return 0;
  }
}

std::size_t on_piece(Exchange& x, std::string_view piece) noexcept {
  try {
    x.download->write(piece);
    return piece.size();
  } catch (...) {
    x.thrown = std::current_exception();
    return 0;
  }
}

std::size_t on_body(char* data, std::size_t one, std::size_t count, void* user) noexcept {
  try {
    Exchange& x = *static_cast<Exchange*>(user);
    if (x.download != nullptr && x.ok) return on_piece(x, {data, one * count});
    if (x.response.body.size() + one * count > largest_body) {
      x.too_large = true;
      return 0;
    }
    x.response.body.append(data, one * count);
    return one * count;
  } catch (...) {
    return 0;
  }
}

std::size_t on_upload(char* into, std::size_t one, std::size_t count, void* user) noexcept {
  Exchange& x = *static_cast<Exchange*>(user);
  try {
    const std::size_t got = x.upload->read(x.uploaded, into, one * count);
    x.uploaded += got;
    return got;
  } catch (...) {
    x.thrown = std::current_exception();
    return CURL_READFUNC_ABORT;
  }
}

// libcurl rewinds what it sends again after an answer that asked for that (417 to its Expect).
int on_rewind(void* user, curl_off_t offset, int origin) noexcept {
  if (origin != SEEK_SET || offset < 0) return CURL_SEEKFUNC_CANTSEEK;
  static_cast<Exchange*>(user)->uploaded = static_cast<std::uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

// Called after bytes were handed to the connection; CONNECT goes to a proxy, not to the other side.
int on_debug(CURL*, curl_infotype type, char* data, std::size_t size, void* user) noexcept {
  const bool request = (type == CURLINFO_HEADER_OUT && !std::string_view(data, size).starts_with("CONNECT ")) ||
                       type == CURLINFO_DATA_OUT;
  if (request) static_cast<Exchange*>(user)->sent = true;
  return 0;
}

// Close-on-exec like all our descriptors. And the last line of defence against a request that libcurl sends again by
// itself: a new connection is refused once bytes of a request that must not be repeated have left.
curl_socket_t on_socket(void* user, curlsocktype, struct curl_sockaddr* address) noexcept {
  const Exchange& x = *static_cast<const Exchange*>(user);
  if (x.sent && !x.repeatable) return CURL_SOCKET_BAD;
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

CURLcode on_ssl_ctx(CURL*, void* ssl_ctx, void* judge) noexcept {
  static_cast<CertificateJudge*>(judge)->take_over(ssl_ctx);
  return CURLE_OK;
}

void start_libcurl() {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
}

class CurlHeaders {
 public:
  ~CurlHeaders() { curl_slist_free_all(list_); }
  CurlHeaders() = default;
  CurlHeaders(const CurlHeaders&) = delete;
  CurlHeaders& operator=(const CurlHeaders&) = delete;
  void add(const std::string& line) {
    curl_slist* longer = curl_slist_append(list_, line.c_str());
    if (longer == nullptr) throw std::bad_alloc();
    list_ = longer;
  }
  curl_slist* get() const noexcept { return list_; }

 private:
  curl_slist* list_ = nullptr;
};

// One kept connection set, used by one thread at a time.
class Line {
 public:
  explicit Line(const Trust& trust) : judge_(trust), multi_(curl_multi_init()), easy_(curl_easy_init()) {
    if (multi_ == nullptr || easy_ == nullptr) {
      close();
      throw Error(Fault::quota, "no memory for another HTTP connection");
    }
    // One for each service of a cloud, so that they do not push each other out.
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, 8L);
  }
  ~Line() { close(); }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  CURL* easy() noexcept { return easy_; }
  CertificateJudge& judge() noexcept { return judge_; }

  // Throws Cancelled.
  CURLcode perform(std::stop_token stop) {
    const SigpipeHeld held;
    curl_multi_add_handle(multi_, easy_);
    const Finally remove([this] { curl_multi_remove_handle(multi_, easy_); });
    const std::stop_callback on_stop(stop, [this] { curl_multi_wakeup(multi_); });
    for (;;) {
      int running = 0, left = 0;
      if (const CURLMcode code = curl_multi_perform(multi_, &running); code != CURLM_OK)
        throw Error(Fault::bug, fmt::format("libcurl: {}", curl_multi_strerror(code)));
      while (const CURLMsg* message = curl_multi_info_read(multi_, &left))
        if (message->msg == CURLMSG_DONE) return message->data.result;
      if (stop.stop_requested()) throw Cancelled();
      curl_multi_poll(multi_, nullptr, 0, 1000, nullptr);
    }
  }

 private:
  void close() noexcept {
    if (easy_ != nullptr) curl_easy_cleanup(easy_);
    if (multi_ != nullptr) curl_multi_cleanup(multi_);
  }

  CertificateJudge judge_;  // outlives the connections, which call it
  CURLM* multi_;
  CURL* easy_;
};

template <class Value>
void set(CURL* easy, CURLoption option, Value value) {
  if (const CURLcode code = curl_easy_setopt(easy, option, value); code != CURLE_OK)
    throw Error(Fault::bug,
                fmt::format("libcurl refuses option {}: {}", static_cast<int>(option), curl_easy_strerror(code)));
}

void set_trust(Line& line, const Trust& trust) {
  CURL* easy = line.easy();
  // Peer verification stays on in every mode, since OpenSSL heeds the judge's "no" only then.
  set(easy, CURLOPT_SSL_VERIFYPEER, 1L);
  set(easy, CURLOPT_SSL_VERIFYHOST, line.judge().names_count() ? 2L : 0L);
  set(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!line.judge().names_count()) {
    set(easy, CURLOPT_CAINFO, static_cast<const char*>(nullptr));
    set(easy, CURLOPT_CAPATH, static_cast<const char*>(nullptr));
  } else if (!trust.ca_file.empty()) {
    set(easy, CURLOPT_CAINFO, trust.ca_file.c_str());
    set(easy, CURLOPT_CAPATH, static_cast<const char*>(nullptr));
  }
  // Every connection proves its certificate anew.
  set(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
  set(easy, CURLOPT_SSL_CTX_FUNCTION, &on_ssl_ctx);
  set(easy, CURLOPT_SSL_CTX_DATA, static_cast<void*>(&line.judge()));
  // An encrypted key must fail, not ask at the terminal.
  set(easy, CURLOPT_KEYPASSWD, "");
  if (!trust.client_certificate.empty()) set(easy, CURLOPT_SSLCERT, trust.client_certificate.c_str());
  if (!trust.client_key.empty()) set(easy, CURLOPT_SSLKEY, trust.client_key.c_str());
}

void set_basics(Line& line, const CurlOptions& options, const std::string& url, Exchange& x) {
  CURL* easy = line.easy();
  curl_easy_reset(easy);
  set(easy, CURLOPT_ERRORBUFFER, x.detail.data());
  set(easy, CURLOPT_NOSIGNAL, 1L);
  set(easy, CURLOPT_URL, url.c_str());
  set(easy, CURLOPT_USERAGENT, options.user_agent.c_str());
  set(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout.count()));
  set(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  // Load balancers forget idle connections; a request sent into one of those is a lost reply.
  set(easy, CURLOPT_MAXAGE_CONN, 20L);
  set(easy, CURLOPT_OPENSOCKETFUNCTION, &on_socket);
  set(easy, CURLOPT_OPENSOCKETDATA, static_cast<void*>(&x));
  set(easy, CURLOPT_DEBUGFUNCTION, &on_debug);
  set(easy, CURLOPT_DEBUGDATA, static_cast<void*>(&x));
  set(easy, CURLOPT_VERBOSE, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
  set(easy, CURLOPT_QUICK_EXIT, 1L);  // a cancelled request does not wait for the name server
#endif
  if (!options.unix_socket.empty()) {
    set(easy, CURLOPT_UNIX_SOCKET_PATH, options.unix_socket.c_str());
    set(easy, CURLOPT_PROXY, "");
  } else if (options.direct) {
    set(easy, CURLOPT_PROXY, "");
  } else if (!options.proxy.empty()) {
    set(easy, CURLOPT_PROXY, options.proxy.c_str());
  }
  set_trust(line, options.trust);
}

std::string remedy(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      return "check the name and this host's DNS";
    case CURLE_COULDNT_RESOLVE_PROXY:
      return "check the proxy's name in https_proxy";
    case CURLE_COULDNT_CONNECT:
      return "check that it runs and that no firewall is in between";
    case CURLE_SSL_CONNECT_ERROR:
      return "check that this port speaks TLS 1.2 or later and that no proxy interferes";
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE:
      return "check its state and the network, then try again";
    default:
      return "try again, and look at the log if it stays so";
  }
}

// Turns libcurl's verdict into ours.
[[noreturn]] void fail(CURLcode code, const Exchange& x, const CertificateJudge& judge, const CurlOptions& options,
                       const Origin& origin, std::chrono::milliseconds timeout) {
  const Trust& trust = options.trust;
  const std::string at =
      fmt::format("{} at {}:{}{}", trust.who.empty() ? "the server" : trust.who, origin.host, origin.port,
                  options.unix_socket.empty() ? "" : fmt::format(" (socket {})", options.unix_socket.string()));
  const std::string detail = x.detail[0] != '\0' ? x.detail.data() : curl_easy_strerror(code);
  const PeerCertificate& peer = judge.peer();
  if (code == CURLE_SSL_CACERT_BADFILE)
    throw Error(Fault::config,
                fmt::format("the CA file {} for {} cannot be used: {}",
                            trust.ca_file.empty() ? "of the system" : trust.ca_file.string(), at, detail));
  if (code == CURLE_SSL_CERTPROBLEM)
    throw Error(Fault::config, fmt::format("the client certificate {} (key {}) for {} cannot be used: {}",
                                           trust.client_certificate.string(), trust.client_key.string(), at, detail));
  if (peer.refused_ours) throw judge.refusal_of_ours(at);
  if (peer.seen && (!peer.accepted || code == CURLE_PEER_FAILED_VERIFICATION)) throw judge.refusal(at, origin.host);
  if (x.too_large)
    throw Broken(
        Fault::data,
        fmt::format("{} answered with more than {} MiB, which is not a sensible answer", at, largest_body >> 20), true);
  if (code == CURLE_OPERATION_TIMEDOUT && !x.sent)
    throw Broken(Fault::unavailable,
                 fmt::format("cannot reach {} in time: {}; {}", at, detail, remedy(CURLE_COULDNT_CONNECT)), false);
  if (code == CURLE_OPERATION_TIMEDOUT)
    throw Broken(Fault::timeout,
                 fmt::format("{} did not answer within {:.1f} s", at, std::chrono::duration<double>(timeout).count()),
                 true);
  if (x.sent)
    throw Broken(Fault::unavailable,
                 fmt::format("the connection to {} broke before its answer was complete: {}; {}", at, detail,
                             remedy(code == CURLE_COULDNT_CONNECT ? CURLE_GOT_NOTHING : code)),
                 true);
  throw Broken(Fault::unavailable, fmt::format("cannot reach {}: {}; {}", at, detail, remedy(code)), false);
}

bool repeatable(const Request& request) noexcept {
  if (request.upload != nullptr) return false;
  return request.idempotent || request.method == "GET" || request.method == "HEAD";
}

bool has_header(const Headers& headers, std::string_view name) {
  Response probe;
  for (const auto& [key, value] : headers) probe.headers.emplace_back(key, "x");
  return !probe.header(name).empty();
}

void add_headers(const Request& request, CurlHeaders& out) {
  for (const auto& [name, value] : request.headers) {
    if (name.empty() || name.find_first_of("\r\n:") != std::string::npos ||
        value.find_first_of("\r\n") != std::string::npos || value.find('\0') != std::string::npos)
      throw Error(Fault::bug, fmt::format("the HTTP header '{}' holds a line break or is malformed", encode(name)));
    out.add(value.empty() ? name + ";" : name + ": " + value);  // libcurl's notation for an empty value
  }
  // libcurl's own additions that nobody here asked for. An upload keeps the first: a refusal shall come before the
  // bytes, not as a connection that is closed in the middle of them.
  if (request.upload == nullptr) out.add("Expect:");
  if (!has_header(request.headers, "Content-Type")) out.add("Content-Type:");
}

void set_upload(CURL* easy, const Request& request, Exchange& x) {
  constexpr long at_once = 1L << 20;
  // A busy service takes longer than libcurl's one second to refuse. What never answers an Expect costs this once.
  constexpr long refusal_ms = 10'000;
  x.upload = request.upload;
  set(easy, CURLOPT_EXPECT_100_TIMEOUT_MS, refusal_ms);
  set(easy, CURLOPT_UPLOAD, 1L);
  set(easy, CURLOPT_UPLOAD_BUFFERSIZE, at_once);
  set(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.upload->bytes()));
  set(easy, CURLOPT_READFUNCTION, &on_upload);
  set(easy, CURLOPT_READDATA, static_cast<void*>(&x));
  set(easy, CURLOPT_SEEKFUNCTION, &on_rewind);
  set(easy, CURLOPT_SEEKDATA, static_cast<void*>(&x));
}

// A second without a byte is slow; only so many of them in a row are too slow.
void set_patience_with_silence(CURL* easy, const Request& request) {
  set(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(easy, CURLOPT_LOW_SPEED_TIME, static_cast<long>(request.timeout.count() / 1000));
}

void set_request(CURL* easy, const Request& request, Exchange& x) {
  if (request.upload != nullptr || x.download != nullptr)
    set_patience_with_silence(easy, request);
  else
    set(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(request.timeout.count()));
  // A kept connection may have been closed by the other side a moment ago, which looks just like a lost reply; libcurl
  // then sends the request again, POST or not (Curl_retry_request in its lib/transfer.c), and we could not tell whether
  // the first one was acted on. What must not run twice therefore starts on a connection of its own.
  if (!repeatable(request)) set(easy, CURLOPT_FRESH_CONNECT, 1L);
  const bool carries =
      !request.body.empty() || request.method == "POST" || request.method == "PUT" || request.method == "PATCH";
  if (request.upload != nullptr) {
    set_upload(easy, request, x);
  } else if (request.method == "HEAD") {
    set(easy, CURLOPT_NOBODY, 1L);
  } else if (carries) {
    set(easy, CURLOPT_POST, 1L);
    set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    set(easy, CURLOPT_POSTFIELDS, request.body.data());
  } else {
    set(easy, CURLOPT_HTTPGET, 1L);
  }
  if (request.method != "HEAD") set(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
}

class CurlTransport final : public Transport {
 public:
  CurlTransport(CurlOptions options, log::Log& log) : options_(std::move(options)), log_(log) {
    start_libcurl();
    const CertificateJudge checks_the_pin(options_.trust);
    if (options_.trust.insecure)
      log_.warning("certificates are NOT verified: anybody between us and it can read the password and the disks",
                   {{"service", options_.trust.who}});
  }

  Response send(const Request& request, std::stop_token stop) override { return exchange(request, nullptr, stop); }

  Response exchange(const Request& request, Download* download, std::stop_token stop) {
    const Origin origin = origin_of(request.url);
    std::unique_ptr<Line> line = take();
    const Finally give_back([&] { give(std::move(line)); });
    Exchange x;
    x.repeatable = repeatable(request) && download == nullptr;
    x.download = download;
    CurlHeaders headers;
    add_headers(request, headers);
    set_basics(*line, options_, request.url, x);
    set_request(line->easy(), request, x);
    set(line->easy(), CURLOPT_HTTPHEADER, headers.get());
    set(line->easy(), CURLOPT_HEADERFUNCTION, &on_header);
    set(line->easy(), CURLOPT_HEADERDATA, static_cast<void*>(&x));
    set(line->easy(), CURLOPT_WRITEFUNCTION, &on_body);
    set(line->easy(), CURLOPT_WRITEDATA, static_cast<void*>(&x));
    line->judge().forget();
    const auto started = std::chrono::steady_clock::now();
    const CURLcode code = line->perform(stop);
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - started);
    long status = 0;
    curl_easy_getinfo(line->easy(), CURLINFO_RESPONSE_CODE, &status);
    const std::string outcome = code == CURLE_OK ? fmt::format("{}", status) : curl_easy_strerror(code);
    log_.debug("http", {{"method", request.method},
                        {"host", origin.host + ":" + origin.port},
                        {"path", path_of(request.url)},
                        {"result", outcome},
                        {"ms", fmt::format("{}", took.count())},
                        {"bytes", fmt::format("{}", x.response.body.size())}});
    if (x.thrown) std::rethrow_exception(x.thrown);
    if (code != CURLE_OK) fail(code, x, line->judge(), options_, origin, request.timeout);
    x.response.status = static_cast<int>(status);
    return std::move(x.response);
  }

 private:
  std::unique_ptr<Line> take() {
    {
      auto idle = idle_.lock();
      if (!idle->empty()) {
        std::unique_ptr<Line> line = std::move(idle->back());
        idle->pop_back();
        return line;
      }
    }
    return std::make_unique<Line>(options_.trust);
  }
  void give(std::unique_ptr<Line> line) {
    curl_easy_reset(line->easy());  // it must not remember pointers into the finished exchange
    auto idle = idle_.lock();
    if (idle->size() < most_idle_lines) idle->push_back(std::move(line));
  }

  const CurlOptions options_;
  log::Log& log_;
  Sync<std::vector<std::unique_ptr<Line>>> idle_;
};

}  // namespace

std::unique_ptr<Transport> curl(CurlOptions options, log::Log& log) {
  return std::make_unique<CurlTransport>(std::move(options), log);
}

Response download(const CurlOptions& options, const Request& request, Download& into, log::Log& log,
                  std::stop_token stop) {
  return CurlTransport(options, log).exchange(request, &into, stop);
}

Fingerprints fingerprints(const std::string& url, const Trust& trust, std::stop_token stop) {
  start_libcurl();
  const Origin origin = origin_of(url);
  CurlOptions options;
  options.trust = trust;
  Line line(options.trust);
  Exchange x;
  const Finally forget([&] { curl_easy_reset(line.easy()); });
  set_basics(line, options, url, x);
  constexpr std::chrono::milliseconds timeout{30000};
  set(line.easy(), CURLOPT_CONNECT_ONLY, 1L);
  set(line.easy(), CURLOPT_TIMEOUT_MS, static_cast<long>(timeout.count()));
  const CURLcode code = line.perform(stop);
  if (code != CURLE_OK) fail(code, x, line.judge(), options, origin, timeout);
  const PeerCertificate& peer = line.judge().peer();
  if (!peer.seen || !peer.accepted)
    throw Error(Fault::config, fmt::format("{} at {}:{} shows no certificate; its address must start with https://",
                                           trust.who.empty() ? "the server" : trust.who, origin.host, origin.port));
  return {peer.sha256, peer.sha1};
}

}  // namespace vmferry::http
