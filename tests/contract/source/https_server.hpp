// A small HTTPS server with one file, a session cookie that can be changed, and certificates made for the occasion.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"

namespace vmferry::source::vmware::test {

inline std::string pem_of(X509* certificate) {
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<std::size_t>(length));
  BIO_free(bio);
  return text;
}

struct Identity {
  EVP_PKEY* key = nullptr;
  X509* certificate = nullptr;
  Identity() = default;
  Identity(const Identity&) = delete;
  Identity& operator=(const Identity&) = delete;
  ~Identity() {
    X509_free(certificate);
    EVP_PKEY_free(key);
  }
  std::string sha256() const {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    X509_digest(certificate, EVP_sha256(), digest, &length);
    std::string text;
    for (unsigned i = 0; i < length; ++i) {
      char hex[4];
      snprintf(hex, sizeof hex, "%s%02X", i == 0 ? "" : ":", digest[i]);
      text += hex;
    }
    return text;
  }
};

// Self-signed, or signed by `issuer`. `alternative` as in a configuration file: "IP:127.0.0.1", "DNS:esx.example".
inline std::unique_ptr<Identity> identity(const std::string& common_name, const std::string& alternative,
                                          const Identity* issuer = nullptr, bool authority = false) {
  auto made = std::make_unique<Identity>();
  made->key = EVP_EC_gen("P-256");
  made->certificate = X509_new();
  X509* c = made->certificate;
  static std::atomic<long> serial{1000};
  X509_set_version(c, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(c), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(c), -3600);
  X509_gmtime_adj(X509_getm_notAfter(c), 86400);
  X509_NAME* name = X509_get_subject_name(c);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(common_name.c_str()), -1,
                             -1, 0);
  X509_set_issuer_name(c, issuer != nullptr ? X509_get_subject_name(issuer->certificate) : name);
  X509_set_pubkey(c, made->key);
  const auto extend = [&](int nid, const std::string& value) {
    X509_EXTENSION* e = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
    X509_add_ext(c, e, -1);
    X509_EXTENSION_free(e);
  };
  if (!alternative.empty()) extend(NID_subject_alt_name, alternative);
  extend(NID_basic_constraints, authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
  if (X509_sign(c, issuer != nullptr ? issuer->key : made->key, EVP_sha256()) == 0)
    throw std::runtime_error("cannot sign");
  return made;
}

class HttpsServer {
 public:
  struct Settings {
    const Identity* who = nullptr;
    std::string resource;  // "/folder/...?..." as it must be asked for
    std::vector<char> content;
  };

  explicit HttpsServer(Settings settings) : settings_(std::move(settings)), context_(SSL_CTX_new(TLS_server_method())) {
    SSL_CTX_use_certificate(context_, settings_.who->certificate);
    SSL_CTX_use_PrivateKey(context_, settings_.who->key);
    listener_ = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_.get(), 64) != 0 ||
        getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
      throw std::runtime_error("cannot listen");
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_clients(); });
  }
  ~HttpsServer() {
    ending_ = true;
    acceptor_.join();
    {
      std::scoped_lock lock(mutex_);
      for (const int fd : open_) shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& thread : clients_) thread.join();
    SSL_CTX_free(context_);
  }
  std::string endpoint(const std::string& host = "127.0.0.1") const { return host + ":" + std::to_string(port_); }

  void accept_cookie(const std::string& cookie) {
    std::scoped_lock lock(mutex_);
    cookie_ = cookie;
  }
  std::set<std::string> cookies_seen() {
    std::scoped_lock lock(mutex_);
    return seen_;
  }
  std::string last_host() {
    std::scoped_lock lock(mutex_);
    return host_;
  }

  std::atomic<int> refuse_status{0};  // answered to everything when set
  std::string refuse_body;

 private:
  void accept_clients() {
    while (!ending_) {
      pollfd waiting{listener_.get(), POLLIN, 0};
      if (::poll(&waiting, 1, 50) <= 0) continue;
      const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      std::scoped_lock lock(mutex_);
      open_.insert(fd);
      clients_.emplace_back([this, fd] {
        // OpenSSL writes with write(2); in this thread only, so that the product's own SIGPIPEs still show.
        sigset_t pipe;
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
        serve(fd);
        std::scoped_lock inner(mutex_);
        open_.erase(fd);
        close(fd);
      });
    }
  }

  void serve(int fd) {
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context_), &SSL_free);
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    SSL_set_fd(ssl.get(), fd);
    if (SSL_accept(ssl.get()) != 1) return;
    std::string buffer;
    for (char chunk[4096]; !ending_;) {
      while (buffer.find("\r\n\r\n") == std::string::npos) {
        const int got = SSL_read(ssl.get(), chunk, sizeof chunk);
        if (got <= 0) return;
        buffer.append(chunk, static_cast<std::size_t>(got));
      }
      const std::string request = buffer.substr(0, buffer.find("\r\n\r\n") + 2);
      buffer.erase(0, request.size() + 2);
      const std::string reply = answer(request);
      if (SSL_write(ssl.get(), reply.data(), static_cast<int>(reply.size())) <= 0) return;
    }
  }

  static std::string field(const std::string& request, const std::string& name) {
    const auto at = request.find("\r\n" + name + ": ");
    if (at == std::string::npos) return {};
    const auto begin = at + name.size() + 4;
    return request.substr(begin, request.find("\r\n", begin) - begin);
  }

  static std::string plain(int status, const std::string& body, bool head) {
    return "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
           (head ? "" : body);
  }

  std::string answer(const std::string& request) {
    const bool head = request.starts_with("HEAD ");
    const std::string target = request.substr(request.find(' ') + 1, request.find(" HTTP/") - request.find(' ') - 1);
    const std::string cookie = field(request, "Cookie");
    if (refuse_status != 0) return plain(refuse_status, refuse_body, head);
    {
      std::scoped_lock lock(mutex_);
      seen_.insert(cookie);
      host_ = field(request, "Host");
      if (cookie != cookie_) return plain(401, "", head);
    }
    if (target != settings_.resource) return plain(404, "", head);
    const std::string range = field(request, "Range");
    std::size_t first = 0, last = settings_.content.size() - 1;
    if (!range.empty()) {
      first = std::stoull(range.substr(6));
      last = std::min(last, static_cast<std::size_t>(std::stoull(range.substr(range.find('-') + 1))));
    }
    std::string reply = range.empty()
                            ? "HTTP/1.1 200 OK\r\n"
                            : "HTTP/1.1 206 Partial\r\nContent-Range: bytes " + std::to_string(first) + "-" +
                                  std::to_string(last) + "/" + std::to_string(settings_.content.size()) + "\r\n";
    reply += "Accept-Ranges: bytes\r\nContent-Length: " + std::to_string(last - first + 1) + "\r\n\r\n";
    if (!head) reply.append(settings_.content.data() + first, last - first + 1);
    return reply;
  }

  Settings settings_;
  SSL_CTX* context_;
  Fd listener_;
  int port_ = 0;
  std::atomic<bool> ending_{false};
  std::mutex mutex_;
  std::string cookie_, host_;
  std::set<std::string> seen_;
  std::set<int> open_;
  std::list<std::thread> clients_;
  std::thread acceptor_;
};

}  // namespace vmferry::source::vmware::test
