// Judges the other side's certificate inside the TLS handshake, before a byte of a request is sent, and remembers what
// it saw so that a refusal can be explained. Internal to http/; must not know of requests.
#pragma once

#include <string>
#include <vector>

#include "http/http.hpp"

struct x509_store_ctx_st;  // OpenSSL's X509_STORE_CTX
struct ssl_st;             // OpenSSL's SSL

namespace vmferry::http {

struct PeerCertificate {
  bool seen = false;
  bool accepted = false;
  std::string sha256;  // "AA:BB:..."
  std::string sha1;
  std::string problem;             // OpenSSL's words for why it was refused
  std::vector<std::string> names;  // the hosts it was made for
  bool wants_ours = false;         // it asked for a client certificate
  bool refused_ours = false;       // and said that it is wrong, or missing
};

class CertificateJudge {
 public:
  // Throws Error(config) when the pin is not a SHA-256. `trust` must outlive the judge.
  explicit CertificateJudge(const Trust& trust);
  // Takes over verification in an OpenSSL SSL_CTX*, which must not outlive the judge.
  void take_over(void* ssl_ctx);
  // The chain is judged by CAs, so the name in the certificate counts (with a pin, the pin says it all).
  bool names_count() const noexcept { return !trust_.insecure && pin_.empty(); }

  void forget() { peer_ = {}; }
  const PeerCertificate& peer() const noexcept { return peer_; }
  // The error for a certificate that was refused: at = "vCenter at host:443".
  Error refusal(const std::string& at, const std::string& host) const;
  // The error for ours, when the other side refused it.
  Error refusal_of_ours(const std::string& at) const;

 private:
  static int verify(x509_store_ctx_st* chain, void* self) noexcept;
  static int wanted(ssl_st* connection, void* self) noexcept;
  static void heard(const ssl_st* connection, int what, int value) noexcept;
  bool judge(x509_store_ctx_st* chain);

  const Trust& trust_;
  std::string pin_;  // "AA:BB:...", or empty
  PeerCertificate peer_;
};

}  // namespace vmferry::http
