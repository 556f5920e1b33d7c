// Certificate verification on OpenSSL's own hooks (SSL_CTX_set_cert_verify_callback(3), SSL_CTX_set_cert_cb(3),
// SSL_CTX_set_info_callback(3)).
#include "http/tls.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <array>
#include <cctype>

namespace vmferry::http {

namespace {

std::string fingerprint(const X509* certificate, const EVP_MD* digest) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned length = 0;
  if (X509_digest(certificate, digest, bytes.data(), &length) != 1) return {};
  std::string text;
  for (unsigned i = 0; i < length; ++i) text += fmt::format("{}{:02X}", i == 0 ? "" : ":", bytes[i]);
  return text;
}

std::string normalized_pin(const Trust& trust) {
  if (trust.sha256.empty()) return {};
  std::string hex;
  for (const char c : trust.sha256) {
    if (std::isxdigit(static_cast<unsigned char>(c)) != 0)
      hex += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    else if (c != ':' && c != ' ')
      hex.assign(1, 'x');  // never 64 long
  }
  if (hex.size() != 64 || hex.front() == 'x')
    throw Error(
        Fault::config,
        fmt::format("{} '{}' is not the SHA-256 fingerprint of a certificate: 64 hexadecimal digits are needed, "
                    "with or without colons{}",
                    trust.pin_flag.empty() ? "the fingerprint" : trust.pin_flag, trust.sha256,
                    hex.size() == 40 ? " (this one looks like SHA-1, which can be forged)" : ""));
  std::string pin;
  for (std::size_t i = 0; i < hex.size(); i += 2) pin += (i == 0 ? "" : ":") + hex.substr(i, 2);
  return pin;
}

std::vector<std::string> host_names(const X509* certificate) {
  std::vector<std::string> names;
  auto* alternatives =
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(alternatives); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(alternatives, i);
    if (name->type == GEN_DNS) {
      names.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
                         static_cast<std::size_t>(ASN1_STRING_length(name->d.dNSName)));
    } else if (name->type == GEN_IPADD && ASN1_STRING_length(name->d.iPAddress) == 4) {
      const unsigned char* ip = ASN1_STRING_get0_data(name->d.iPAddress);
      names.push_back(fmt::format("{}.{}.{}.{}", ip[0], ip[1], ip[2], ip[3]));
    }
  }
  GENERAL_NAMES_free(alternatives);
  if (!names.empty()) return names;
  std::array<char, 256> common{};
  if (X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, common.data(),
                                static_cast<int>(common.size())) > 0)
    names.emplace_back(common.data());
  return names;
}

// The alerts with which a server refuses a client for its certificate, or for having none (RFC 8446, section 6.2;
// before TLS 1.3 a missing one is a handshake failure).
bool is_about_certificates(int alert) noexcept {
  switch (alert) {
    case SSL_AD_HANDSHAKE_FAILURE:
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_CERTIFICATE_REQUIRED:
      return true;
    default:
      return false;
  }
}

// Where an SSL_CTX keeps its judge: the information callback is given nothing else.
int place_of_judge() {
  static const int place = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return place;
}

}  // namespace

CertificateJudge::CertificateJudge(const Trust& trust) : trust_(trust), pin_(normalized_pin(trust)) {}

void CertificateJudge::take_over(void* ssl_ctx) {
  auto* context = static_cast<SSL_CTX*>(ssl_ctx);
  SSL_CTX_set_cert_verify_callback(context, &CertificateJudge::verify, this);
  SSL_CTX_set_cert_cb(context, &CertificateJudge::wanted, this);
  SSL_CTX_set_ex_data(context, place_of_judge(), this);
  SSL_CTX_set_info_callback(context, &CertificateJudge::heard);
}

// A client is asked for its certificate only when the server wants one.
int CertificateJudge::wanted(SSL* /*connection*/, void* self) noexcept {
  static_cast<CertificateJudge*>(self)->peer_.wants_ours = true;
  return 1;
}

void CertificateJudge::heard(const SSL* connection, int what, int value) noexcept {
  if (what != SSL_CB_READ_ALERT || !is_about_certificates(value & 0xff)) return;
  if (auto* self = static_cast<CertificateJudge*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(connection), place_of_judge())))
    self->peer_.refused_ours = self->peer_.wants_ours;
}

int CertificateJudge::verify(X509_STORE_CTX* chain, void* self) noexcept {
  try {
    if (static_cast<CertificateJudge*>(self)->judge(chain)) {
      X509_STORE_CTX_set_error(chain, X509_V_OK);
      return 1;
    }
  } catch (...) {
    // Out of memory: refuse. No exception may pass through C code.
    X509_STORE_CTX_set_error(chain, X509_V_ERR_OUT_OF_MEM);
    return 0;
  }
  if (X509_STORE_CTX_get_error(chain) == X509_V_OK)
    X509_STORE_CTX_set_error(chain, X509_V_ERR_APPLICATION_VERIFICATION);
  return 0;
}

bool CertificateJudge::judge(X509_STORE_CTX* chain) {
  peer_ = {};
  const X509* leaf = X509_STORE_CTX_get0_cert(chain);
  if (leaf == nullptr) return false;
  peer_.seen = true;
  peer_.sha256 = fingerprint(leaf, EVP_sha256());
  peer_.sha1 = fingerprint(leaf, EVP_sha1());
  peer_.names = host_names(leaf);
  if (trust_.insecure) {
    peer_.accepted = true;
  } else if (!pin_.empty()) {
    peer_.accepted = peer_.sha256 == pin_;
  } else {
    peer_.accepted = X509_verify_cert(chain) == 1;
    if (!peer_.accepted) peer_.problem = X509_verify_cert_error_string(X509_STORE_CTX_get_error(chain));
  }
  return peer_.accepted;
}

Error CertificateJudge::refusal(const std::string& at, const std::string& host) const {
  const std::string pin_it =
      trust_.pin_flag.empty() ? "pin its fingerprint" : fmt::format("add {} {}", trust_.pin_flag, peer_.sha256);
  const std::string give_ca =
      trust_.ca_flag.empty() ? "give the PEM file of its CA" : fmt::format("give its CA with {} FILE", trust_.ca_flag);
  if (!pin_.empty())
    return Error(
        Fault::auth,
        fmt::format(
            "{} shows another certificate than the pinned one (SHA-256 {}; pinned {}). Either it was renewed or "
            "somebody sits in between; nothing was sent. If you have checked the new one, {}.",
            at, peer_.sha256, pin_, pin_it),
        "certificate_changed");
  if (peer_.accepted)
    return Error(
        Fault::auth,
        fmt::format("{} shows a certificate made for {} and not for {} (SHA-256 {}). Use one of its names, or, if you "
                    "have checked it, {}.",
                    at, peer_.names.empty() ? "no host at all" : fmt::format("{}", fmt::join(peer_.names, ", ")), host,
                    peer_.sha256, pin_it),
        "certificate_name");
  return Error(
      Fault::auth,
      fmt::format("{} shows a certificate nobody here vouches for ({}; SHA-256 {}). If you have checked it, {}, or {}.",
                  at, peer_.problem, peer_.sha256, pin_it, give_ca),
      "certificate_unknown");
}

Error CertificateJudge::refusal_of_ours(const std::string& at) const {
  const std::string with = trust_.client_flag.empty() ? "" : fmt::format(" with {}", trust_.client_flag);
  if (trust_.client_certificate.empty())
    return Error(Fault::auth, fmt::format("{} wants a client certificate: give one{}", at, with), "client_certificate");
  return Error(Fault::auth,
               fmt::format("{} does not accept the client certificate {}: give another one{}, of a CA that it knows",
                           at, trust_.client_certificate.string(), with),
               "client_certificate");
}

}  // namespace vmferry::http
