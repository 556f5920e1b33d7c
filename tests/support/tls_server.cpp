// The server and its certificates on OpenSSL, one thread a connection.
#include "support/tls_server.hpp"

#include <arpa/inet.h>
#include <errno.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>

namespace vmferry::support {

namespace {

template <class T, void (*free_it)(T*)>
struct Freed {
  void operator()(T* t) const { free_it(t); }
};
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;
using X509Ptr = std::unique_ptr<X509, Freed<X509, X509_free>>;
struct BioFree {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using BioPtr = std::unique_ptr<BIO, BioFree>;

BioPtr bio_of(const std::string& text) { return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }
std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<std::size_t>(length));
}
X509Ptr parse_certificate(const std::string& pem) {
  return X509Ptr(PEM_read_bio_X509(bio_of(pem).get(), nullptr, nullptr, nullptr));
}
Key parse_key(const std::string& pem) {
  return Key(PEM_read_bio_PrivateKey(bio_of(pem).get(), nullptr, nullptr, nullptr));
}

void add_extension(X509* certificate, int nid, const std::string& value) {
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
  if (extension == nullptr) throw std::runtime_error("certificate extension " + value);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

std::string digest_of(X509* certificate, const EVP_MD* kind) {
  unsigned char bytes[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  X509_digest(certificate, kind, bytes, &length);
  std::string text;
  for (unsigned i = 0; i < length; ++i) text += fmt::format("{}{:02X}", i == 0 ? "" : ":", bytes[i]);
  return text;
}

std::size_t content_length(const std::string& header) {
  for (std::size_t at = 0; (at = header.find("\r\n", at)) != std::string::npos; at += 2)
    if (::strncasecmp(header.c_str() + at + 2, "content-length:", 15) == 0) return std::stoul(header.substr(at + 17));
  return 0;
}

void reset(int fd) {
  // Linger of zero: close() sends RST.
  const linger now{1, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace

Certificate make_certificate(const CertificateWish& wish, const Certificate* issuer) {
  const Key key(EVP_EC_gen("P-256"));
  const X509Ptr certificate(X509_new());
  X509* x = certificate.get();
  static std::atomic<long> serial = 1;
  X509_set_version(x, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
  X509_gmtime_adj(X509_getm_notBefore(x), -86400 * 10);
  X509_gmtime_adj(X509_getm_notAfter(x), wish.expired ? -86400 : 86400 * 10);
  X509_set_pubkey(x, key.get());
  const std::string name = wish.is_ca ? fmt::format("test CA {}", serial.load()) : wish.names.at(0);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  std::string alternatives;
  for (const std::string& n : wish.names) {
    in_addr address{};
    const bool is_address = ::inet_pton(AF_INET, n.c_str(), &address) == 1;
    alternatives += fmt::format("{}{}:{}", alternatives.empty() ? "" : ",", is_address ? "IP" : "DNS", n);
  }
  if (wish.is_ca) {
    add_extension(x, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(x, NID_key_usage, "critical,keyCertSign");
  } else {
    add_extension(x, NID_subject_alt_name, alternatives);
  }
  const X509Ptr issuer_certificate = issuer != nullptr ? parse_certificate(issuer->certificate_pem) : nullptr;
  const Key issuer_key = issuer != nullptr ? parse_key(issuer->key_pem) : nullptr;
  X509_set_issuer_name(x, X509_get_subject_name(issuer != nullptr ? issuer_certificate.get() : x));
  if (X509_sign(x, issuer != nullptr ? issuer_key.get() : key.get(), EVP_sha256()) == 0)
    throw std::runtime_error("X509_sign");
  const BioPtr certificate_bio(BIO_new(BIO_s_mem())), key_bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(certificate_bio.get(), x);
  PEM_write_bio_PrivateKey(key_bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  return {text_of(certificate_bio.get()), text_of(key_bio.get()), digest_of(x, EVP_sha256()), digest_of(x, EVP_sha1())};
}

Reply ok(const std::string& body, const std::string& more_headers) {
  return {fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{}\r\n{}", body.size(), more_headers, body),
          Reply::Then::keep,
          {}};
}

// One accepted connection, with or without TLS.
class TlsServer::Connection {
 public:
  Connection(int fd, SSL_CTX* tls) : fd_(fd) {
    if (tls == nullptr) return;
    ssl_ = SSL_new(tls);
    SSL_set_fd(ssl_, fd);
  }
  ~Connection() { SSL_free(ssl_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  bool shake_hands() {
    if (ssl_ == nullptr || SSL_accept(ssl_) == 1) return true;
    // What the client has sent already is taken off the line: closed over it, the socket would reset the connection,
    // and the alert might be lost.
    ::shutdown(fd_, SHUT_WR);
    std::array<char, 4096> rest;
    while (::recv(fd_, rest.data(), rest.size(), 0) > 0) continue;
    return false;
  }
  long read(char* buffer, std::size_t size) {
    return ssl_ != nullptr ? SSL_read(ssl_, buffer, static_cast<int>(size)) : ::recv(fd_, buffer, size, 0);
  }
  bool write(const std::string& bytes) {
    if (bytes.empty()) return true;
    if (ssl_ != nullptr)
      return SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())) == static_cast<int>(bytes.size());
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  void finish(Reply::Then then) {
    if (then == Reply::Then::reset)
      reset(fd_);
    else if (ssl_ != nullptr)
      SSL_shutdown(ssl_);
  }

 private:
  int fd_;
  SSL* ssl_ = nullptr;
};

TlsServer::TlsServer(Options options, std::function<Reply(const std::string&)> answer)
    : options_(std::move(options)), answer_(std::move(answer)) {
  if (options_.certificate) {
    tls_ = {SSL_CTX_new(TLS_server_method()), SSL_CTX_free};
    const X509Ptr certificate = parse_certificate(options_.certificate->certificate_pem);
    const Key key = parse_key(options_.certificate->key_pem);
    if (SSL_CTX_use_certificate(tls_.get(), certificate.get()) != 1 ||
        SSL_CTX_use_PrivateKey(tls_.get(), key.get()) != 1)
      throw std::runtime_error("the server's certificate");
    if (!options_.client_ca_pem.empty()) {
      const X509Ptr ca = parse_certificate(options_.client_ca_pem);
      X509_STORE_add_cert(SSL_CTX_get_cert_store(tls_.get()), ca.get());
      SSL_CTX_set_verify(tls_.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    }
  }
  int bound = -1;
  if (options_.unix_socket.empty()) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    bound = ::bind(listener_, reinterpret_cast<sockaddr*>(&address), length);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
  } else {
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    options_.unix_socket.string().copy(address.sun_path, sizeof address.sun_path - 1);
    bound = ::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
  }
  if (bound != 0 || ::listen(listener_, 16) != 0) throw std::runtime_error("cannot listen");
  acceptor_ = std::thread([this] { accept_all(); });
}

TlsServer::~TlsServer() {
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
  }
  ending_now_.notify_all();
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
  ::close(listener_);
}

std::string TlsServer::url(const std::string& path, const std::string& host) const {
  return fmt::format("{}://{}:{}{}", tls_ ? "https" : "http", host, port_, path);
}

std::vector<std::string> TlsServer::requests() const {
  const std::scoped_lock lock(mutex_);
  return requests_;
}

std::size_t TlsServer::open_connections() const {
  const std::scoped_lock lock(mutex_);
  return open_.size();
}

void TlsServer::accept_all() {
  for (;;) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0 && errno == EINTR) continue;
    if (fd < 0) return;
    const std::scoped_lock lock(mutex_);
    if (ending_) {
      ::close(fd);
      return;
    }
    ++connections_;
    open_.push_back(fd);
    threads_.emplace_back([this, fd] { serve(fd); });
  }
}

void TlsServer::serve(int fd) {
  // A client that went away must not end the test program.
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
  if (options_.resets_at_once) {
    reset(fd);
  } else if (options_.never_answers_the_handshake) {
    pause(std::chrono::minutes(1));
  } else {
    Connection connection(fd, tls_.get());
    std::string pending;
    if (connection.shake_hands())
      while (exchange(connection, pending)) {
      }
  }
  const std::scoped_lock lock(mutex_);
  std::erase(open_, fd);
  ::close(fd);
}

// One request and its answer; false when the connection is done.
bool TlsServer::exchange(Connection& connection, std::string& pending) {
  std::size_t header_end = std::string::npos;
  for (;;) {
    header_end = pending.find("\r\n\r\n");
    if (header_end != std::string::npos &&
        pending.size() >= header_end + 4 + content_length(pending.substr(0, header_end)))
      break;
    char buffer[16384];
    const long got = connection.read(buffer, sizeof buffer);
    if (got <= 0) return false;
    bytes_received_ += static_cast<std::size_t>(got);
    if (buffer[0] < 'A' && pending.empty()) {
      // No HTTP, perhaps a TLS greeting to a server without TLS: what web servers answer to that.
      connection.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
      return false;
    }
    pending.append(buffer, static_cast<std::size_t>(got));
  }
  const std::size_t size = header_end + 4 + content_length(pending.substr(0, header_end));
  const std::string request = pending.substr(0, size);
  pending.erase(0, size);
  {
    const std::scoped_lock lock(mutex_);
    requests_.push_back(request);
  }
  const Reply reply = answer_(request);
  if (!pause(reply.delay) || !connection.write(reply.bytes)) return false;
  if (reply.then == Reply::Then::keep) return true;
  connection.finish(reply.then);
  return false;
}

bool TlsServer::pause(std::chrono::milliseconds duration) {
  std::unique_lock lock(mutex_);
  return !ending_now_.wait_for(lock, duration, [this] { return ending_; });
}

}  // namespace vmferry::support
