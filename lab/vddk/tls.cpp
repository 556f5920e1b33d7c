#include "tls.hpp"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <poll.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "disk.hpp"

namespace lab {

namespace {

int connect_to(const std::string& host, std::uint16_t port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    throw Problem{vix::cannot_connect, "no address is known for " + host};
  int fd = -1;
  for (const addrinfo* at = found; at != nullptr && fd < 0; at = at->ai_next) {
    fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) == 0) break;
    if (fd >= 0) close(fd);
    fd = -1;
  }
  freeaddrinfo(found);
  if (fd < 0) throw Problem{vix::cannot_connect, host + ":" + std::to_string(port) + ": " + strerror(errno)};
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

std::string thumbprint_of(SSL* ssl) {
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(SSL_get1_peer_certificate(ssl), &X509_free);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  if (!certificate || X509_digest(certificate.get(), EVP_sha1(), digest, &bytes) != 1) return "none";
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) {
    char pair[4];
    snprintf(pair, sizeof pair, "%s%02X", i == 0 ? "" : ":", digest[i]);
    text += pair;
  }
  return text;
}

}  // namespace

Tls::Tls(const std::string& host, std::uint16_t port, const std::string& thumbprint)
    : context_(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free), ssl_(nullptr, &SSL_free) {
  fd_ = connect_to(host, port);
  try {
    ssl_.reset(SSL_new(context_.get()));
    SSL_set_fd(ssl_.get(), fd_);
    if (SSL_connect(ssl_.get()) != 1) throw Problem{vix::cannot_connect, host + " does not speak TLS"};
    const std::string actual = thumbprint_of(ssl_.get());
    if (strcasecmp(actual.c_str(), thumbprint.c_str()) != 0)
      throw Problem{vix::cannot_connect,
                    "Failed to verify SSL certificate: actual thumbprint=" + actual + " expected=" + thumbprint};
    fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) | O_NONBLOCK);
  } catch (...) {
    close(fd_);
    throw;
  }
}

Tls::~Tls() { close(fd_); }

template <typename Operation>
bool Tls::carry(std::size_t bytes, const Operation& operation) {
  for (std::size_t done = 0; done < bytes;) {
    int result = 0, reason = 0;
    {
      std::scoped_lock lock(mutex_);
      ERR_clear_error();
      result = operation(done);
      if (result <= 0) reason = SSL_get_error(ssl_.get(), result);
    }
    if (result > 0) {
      done += static_cast<std::size_t>(result);
      continue;
    }
    if (reason != SSL_ERROR_WANT_READ && reason != SSL_ERROR_WANT_WRITE) return false;
    pollfd waiting{fd_, static_cast<short>(reason == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT), 0};
    if (poll(&waiting, 1, -1) < 0 && errno != EINTR) return false;
  }
  return true;
}

bool Tls::read(void* buffer, std::size_t bytes) {
  return carry(bytes, [&](std::size_t done) {
    return SSL_read(ssl_.get(), static_cast<char*>(buffer) + done, static_cast<int>(bytes - done));
  });
}

bool Tls::write(const void* buffer, std::size_t bytes) {
  return carry(bytes, [&](std::size_t done) {
    return SSL_write(ssl_.get(), static_cast<const char*>(buffer) + done, static_cast<int>(bytes - done));
  });
}

void Tls::shut() { shutdown(fd_, SHUT_RDWR); }

Answer ask(Tls& tls, const std::string& request) {
  std::string head;
  bool alive = tls.write(request.data(), request.size());
  // One byte at a time: what follows the head of a 101 is another protocol.
  for (char c = 0; alive && !head.ends_with("\r\n\r\n"); head += c) {
    alive = tls.read(&c, 1);
    if (!alive) break;
  }
  if (!alive) throw Problem{vix::connection_lost, "the server ended the connection"};
  Answer answer;
  std::size_t at = head.find("\r\n");
  sscanf(head.c_str(), "HTTP/1.1 %d", &answer.status);
  while ((at += 2) < head.size()) {
    const std::size_t end = head.find("\r\n", at), colon = head.find(": ", at);
    if (colon < end) {
      std::string name = head.substr(at, colon - at);
      for (char& c : name) c = static_cast<char>(tolower(c));
      answer.headers[name] = head.substr(colon + 2, end - colon - 2);
    }
    at = end;
  }
  if (const auto length = answer.headers.find("content-length");
      answer.status != 101 && length != answer.headers.end()) {
    answer.body.resize(std::stoul(length->second));
    if (!tls.read(answer.body.data(), answer.body.size()))
      throw Problem{vix::connection_lost, "the server ended the connection"};
  }
  return answer;
}

std::string percent_encode(const std::string& text) {
  std::string encoded;
  for (const unsigned char c : text) {
    char code[4];
    snprintf(code, sizeof code, "%%%02X", c);
    encoded += isalnum(c) ? std::string(1, static_cast<char>(c)) : std::string(code);
  }
  return encoded;
}

std::string base64(const std::string& text) {
  std::vector<unsigned char> encoded(text.size() * 4 / 3 + 5);
  const int bytes = EVP_EncodeBlock(encoded.data(), reinterpret_cast<const unsigned char*>(text.data()),
                                    static_cast<int>(text.size()));
  return {reinterpret_cast<char*>(encoded.data()), static_cast<std::size_t>(bytes)};
}

}  // namespace lab
