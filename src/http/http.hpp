// HTTP as one call: a request in, a response out. Decorators add retries and recording; libcurl is inside.
// Knows nothing of SOAP, JSON or who is on the other side.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "log/log.hpp"

namespace vmferry::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

// A body that is not held in memory. Read by offset, so that it can be sent again from its start.
class Upload {
 public:
  virtual ~Upload() = default;
  virtual std::uint64_t bytes() const = 0;
  // Fills `into` with what is at `offset`; gives how many bytes it put there, fewer than asked for only at the end.
  // Called by the thread that sends, in order from 0 on; what it throws ends the exchange and is thrown by send().
  virtual std::size_t read(std::uint64_t offset, char* into, std::size_t size) = 0;
};

struct Request {
  std::string method = "GET";
  std::string url;
  Headers headers;
  std::string body;
  // Sent instead of `body`; not owned, and outlives the call. Such a request is never repeated after an answer or when
  // it may have been acted on, and `timeout` is for its silences, not for the whole of it.
  Upload* upload = nullptr;
  // May be sent again when its reply was lost: true for GET, HEAD, and calls that the caller knows to be idempotent.
  // A call that is not is never repeated blindly after it may have been acted on.
  bool idempotent = false;
  std::chrono::milliseconds timeout{60000};  // for the whole exchange
};

struct Response {
  int status = 0;
  Headers headers;
  std::string body;
  // First value of that header, case-insensitive; empty when absent.
  std::string header(std::string_view name) const;
};

// The exchange broke before a whole response arrived (never thrown for an HTTP status).
class Broken : public Error {
 public:
  // `acted`: the request may have reached the other side, so it may have been carried out.
  Broken(Fault fault, const std::string& message, bool acted) : Error(fault, message), acted_(acted) {}
  bool may_have_acted() const noexcept { return acted_; }

 private:
  bool acted_;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // Blocks. Thread-safe. Throws Broken, Error(auth) when the certificate is not trusted, Cancelled.
  virtual Response send(const Request& request, std::stop_token stop) = 0;
};

// How the other side's certificate is judged. Exactly one of the ways applies, in this order.
struct Trust {
  std::string who;                           // "vCenter", "OpenStack": for messages
  std::string pin_flag;                      // the flag that pins it: "--vmware-fingerprint"
  bool insecure = false;                     // accept anything; loud
  std::string sha256;                        // pinned certificate, "AA:BB:..." or plain hex; empty = none
  std::filesystem::path ca_file;             // PEM bundle; empty = the system's
  std::filesystem::path client_certificate;  // PEM, optional
  std::filesystem::path client_key;
  std::string ca_flag = {};      // the flag that gives the CA: "--vmware-ca"; for messages
  std::string client_flag = {};  // what gives the client certificate and its key; for messages
};

struct CurlOptions {
  Trust trust;
  std::string proxy;    // empty = the environment's (https_proxy, no_proxy)
  bool direct = false;  // no proxy at all: a link-local service
  std::chrono::milliseconds connect_timeout{15000};
  std::string user_agent = "vmferry";
  std::filesystem::path unix_socket;  // connect there instead of to the URL's host
};

// Connections are kept and reused. An untrusted certificate gives Error(auth) whose message has its SHA-256 and the
// flag that pins it. Redirects are not followed: the callers' services do not redirect.
std::unique_ptr<Transport> curl(CurlOptions options, log::Log& log);

// The SHA-256 and SHA-1 fingerprints ("AA:BB:...") of the certificate that `url`'s server shows on a connection that
// `trust` accepted: never of an unverified one (unless trust.insecure).
struct Fingerprints {
  std::string sha256;
  std::string sha1;
};
Fingerprints fingerprints(const std::string& url, const Trust& trust, std::stop_token stop);

struct RetryPolicy {
  int attempts = 5;  // in all
  std::chrono::milliseconds first_wait{500};
  std::chrono::milliseconds longest_wait{20000};
  std::chrono::milliseconds longest_retry_after{120000};
};

// What to do after an attempt: nothing = give the result to the caller. Pure, so that the rules are tested as a table.
// Repeats idempotent requests after Broken, 500, 502, 503, 504, 429, and any request after 429 or 503 (refused before
// the act, by their definition) or when it surely was not acted on. Retry-After (seconds or HTTP date) is respected.
std::optional<std::chrono::milliseconds> retry_wait(const RetryPolicy& policy, const Request& request, int attempt,
                                                    const Response* response, const Broken* broken,
                                                    std::chrono::system_clock::time_point now);

std::unique_ptr<Transport> retrying(std::unique_ptr<Transport> inner, RetryPolicy policy, Clock& clock, log::Log& log);

// Writes each exchange, redacted, as one JSON file NNNNNN-METHOD.json into `directory` (0700, files 0600).
// `service` ("vsphere", "openstack") becomes part of the file. See replaying().
std::unique_ptr<Transport> recording(std::unique_ptr<Transport> inner, std::filesystem::path directory,
                                     std::string service, log::Log& log);

// Answers from a recording: the next not yet used exchange with the same service, method, path (host ignored) and
// (redacted) body. Error(not_found) naming the call when the recording has none.
std::unique_ptr<Transport> replaying(std::filesystem::path directory, std::string service);

// Why no TCP connection to that port can be had from here (no proxy); nothing when it can. Blocks for `patience` at
// most.
std::optional<std::string> unreachable(const std::string& host, int port, std::chrono::milliseconds patience);

// Percent-encodes one path segment or query value.
std::string encode(std::string_view text);
std::string base64(std::string_view bytes);

}  // namespace vmferry::http
