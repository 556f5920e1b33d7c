// A small HTTPS (or plain HTTP) server inside the test, with certificates made to order and bad manners on demand.
// Knows HTTP only as far as "a header, then Content-Length bytes".
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

struct ssl_ctx_st;  // OpenSSL's SSL_CTX

namespace vmferry::support {

struct Certificate {
  std::string certificate_pem;
  std::string key_pem;
  std::string sha256;  // "AA:BB:..."
  std::string sha1;
};

struct CertificateWish {
  std::vector<std::string> names = {"localhost", "127.0.0.1"};  // IPv4 addresses become address entries
  bool is_ca = false;
  bool expired = false;
};
// Signed by `issuer`, or by itself.
Certificate make_certificate(const CertificateWish& wish, const Certificate* issuer = nullptr);

// What the server does after one whole request.
struct Reply {
  std::string bytes;  // the raw answer; may be a part of one
  enum class Then { keep, close, reset } then = Then::keep;
  std::chrono::milliseconds delay{0};  // before the bytes
};
Reply ok(const std::string& body, const std::string& more_headers = "");

class TlsServer {
 public:
  struct Options {
    std::optional<Certificate> certificate = {};  // none: plain HTTP
    std::string client_ca_pem = {};               // asks clients for a certificate of this CA
    bool resets_at_once = false;                  // every connection, before the handshake
    bool never_answers_the_handshake = false;
    std::filesystem::path unix_socket = {};  // listens there instead of on 127.0.0.1
  };
  // `answer` is called with each request, header and body, from the connection's thread.
  TlsServer(Options options, std::function<Reply(const std::string&)> answer);
  ~TlsServer();
  TlsServer(const TlsServer&) = delete;
  TlsServer& operator=(const TlsServer&) = delete;

  int port() const { return port_; }
  std::string url(const std::string& path = "/", const std::string& host = "127.0.0.1") const;
  std::vector<std::string> requests() const;
  int connections() const { return connections_; }
  std::size_t open_connections() const;  // that this side has not closed yet
  // Bytes of requests that arrived, complete or not: what a client gave away.
  std::size_t bytes_received() const { return bytes_received_; }

 private:
  class Connection;
  void accept_all();
  void serve(int fd);
  bool exchange(Connection& connection, std::string& pending);
  bool pause(std::chrono::milliseconds duration);

  const Options options_;
  const std::function<Reply(const std::string&)> answer_;
  std::shared_ptr<ssl_ctx_st> tls_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> connections_ = 0;
  std::atomic<std::size_t> bytes_received_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable ending_now_;
  bool ending_ = false;
  std::vector<std::string> requests_;
  std::vector<int> open_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace vmferry::support
