// Certificate verification on OpenSSL's own hooks (SSL_CTX_set_cert_verify_callback(3)).
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

}  // namespace

CertificateJudge::CertificateJudge(const Trust& trust) : trust_(trust), pin_(normalized_pin(trust)) {}

void CertificateJudge::take_over(void* ssl_ctx) {
  SSL_CTX_set_cert_verify_callback(static_cast<SSL_CTX*>(ssl_ctx), &CertificateJudge::verify, this);
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

}  // namespace vmferry::http
