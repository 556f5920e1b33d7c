// A TLS connection to the lab's vCenter whose certificate must have one thumbprint, as VDDK checks it. Reading and
// writing may go on in two threads.
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace lab {

class Tls {
 public:
  Tls(const std::string& host, std::uint16_t port, const std::string& thumbprint);
  ~Tls();
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  // False when the connection has ended.
  bool read(void* buffer, std::size_t bytes);
  bool write(const void* buffer, std::size_t bytes);
  void shut();  // wakes the reader

 private:
  template <typename Operation>
  bool carry(std::size_t bytes, const Operation& operation);

  int fd_ = -1;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context_;
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl_;
  std::mutex mutex_;  // an SSL object is for one thread at a time
};

// The answer to one HTTP request: status, headers (names in lower case) and, unless it is 101, the body.
struct Answer {
  int status = 0;
  std::map<std::string, std::string> headers;
  std::string body;
};
Answer ask(Tls& tls, const std::string& request);

std::string percent_encode(const std::string& text);
std::string base64(const std::string& text);

}  // namespace lab
