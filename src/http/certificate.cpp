// One handshake with libcurl, judged like every other one, whose leaf certificate is kept.
#include "http/certificate.hpp"

#include <curl/curl.h>
#include <fmt/format.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <array>
#include <memory>

#include "http/tls.hpp"

namespace vmferry::http {

namespace {

constexpr long connect_timeout_seconds = 30;

using Easy = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;
using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using X509Pointer = std::unique_ptr<X509, decltype(&X509_free)>;

std::string host_of(const std::string& text) {
  const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> url(curl_url(), &curl_url_cleanup);
  char* host = nullptr;
  if (!url || curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK ||
      curl_url_get(url.get(), CURLUPART_HOST, &host, 0) != CURLUE_OK)
    throw Error(Fault::config,
                "an address is not a URL of the form https://HOST[:PORT]/PATH; check the configured endpoints");
  std::string copy = host;
  curl_free(host);
  if (copy.size() > 2 && copy.front() == '[') copy = copy.substr(1, copy.size() - 2);  // an IPv6 address
  return copy;
}

CURLcode on_ssl_ctx(CURL*, void* ssl_ctx, void* judge) noexcept {
  static_cast<CertificateJudge*>(judge)->take_over(ssl_ctx);
  return CURLE_OK;
}

int on_progress(void* stop, curl_off_t, curl_off_t, curl_off_t, curl_off_t) noexcept {
  return static_cast<std::stop_token*>(stop)->stop_requested() ? 1 : 0;
}

// The first certificate that the server showed, from CURLINFO_CERTINFO ("Cert:-----BEGIN CERTIFICATE-----...").
std::string leaf_pem(CURL* easy) {
  curl_certinfo* info = nullptr;
  if (curl_easy_getinfo(easy, CURLINFO_CERTINFO, &info) != CURLE_OK || info == nullptr || info->num_of_certs < 1)
    return {};
  for (const curl_slist* line = info->certinfo[0]; line != nullptr; line = line->next) {
    const std::string_view text = line->data;
    if (!text.starts_with("Cert:")) continue;
    std::string pem(text.substr(5));
    if (!pem.ends_with('\n')) pem += '\n';
    return pem;
  }
  return {};
}

bool is_for(X509* certificate, const std::string& host) {
  return X509_check_host(certificate, host.c_str(), host.size(), 0, nullptr) == 1 ||
         X509_check_ip_asc(certificate, host.c_str(), 0) == 1;
}

std::string thumbprint_of(const X509* certificate) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int bytes = 0;
  if (X509_digest(certificate, EVP_sha1(), digest.data(), &bytes) != 1) return {};
  std::string text;
  for (unsigned int i = 0; i < bytes; ++i) text += fmt::format("{}{:02X}", i == 0 ? "" : ":", digest[i]);
  return text;
}

}  // namespace

Certificate certificate(const std::string& url, const Trust& trust, std::stop_token stop) {
  const std::string host = host_of(url);
  const std::string at = fmt::format("{} at {}", trust.who.empty() ? "the server" : trust.who, host);
  CertificateJudge judge(trust);
  const Easy easy(curl_easy_init(), &curl_easy_cleanup);
  if (!easy) throw Error(Fault::quota, "no memory for another HTTPS connection");
  std::array<char, CURL_ERROR_SIZE> detail{};
  bool accepted = true;
  const auto set = [&](CURLoption option, auto value) {
    accepted = accepted && curl_easy_setopt(easy.get(), option, value) == CURLE_OK;
  };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_ERRORBUFFER, detail.data());
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_CONNECT_ONLY, 1L);
  set(CURLOPT_CONNECTTIMEOUT, connect_timeout_seconds);
  set(CURLOPT_CERTINFO, 1L);
  set(CURLOPT_SSL_VERIFYPEER, 1L);
  set(CURLOPT_SSL_VERIFYHOST, judge.names_count() ? 2L : 0L);
  if (!trust.ca_file.empty() && judge.names_count()) set(CURLOPT_CAINFO, trust.ca_file.c_str());
  set(CURLOPT_SSL_CTX_FUNCTION, &on_ssl_ctx);
  set(CURLOPT_SSL_CTX_DATA, static_cast<void*>(&judge));
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &on_progress);
  set(CURLOPT_XFERINFODATA, static_cast<void*>(&stop));
  if (!accepted) throw Error(Fault::bug, "libcurl refuses an option that is needed to read a certificate");

  const CURLcode code = curl_easy_perform(easy.get());
  if (stop.stop_requested()) throw Cancelled();
  const PeerCertificate& peer = judge.peer();
  if (code != CURLE_OK && peer.seen && (!peer.accepted || code == CURLE_PEER_FAILED_VERIFICATION))
    throw judge.refusal(at, host);
  if (code != CURLE_OK)
    throw Broken(Fault::unavailable,
                 fmt::format("cannot reach {}: {}", at, detail[0] != '\0' ? detail.data() : curl_easy_strerror(code)),
                 false);
  Certificate result;
  result.pem = leaf_pem(easy.get());
  result.names = peer.names;
  const Bio bio(BIO_new_mem_buf(result.pem.data(), static_cast<int>(result.pem.size())), &BIO_free);
  const X509Pointer x509(bio ? PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr) : nullptr, &X509_free);
  if (!peer.accepted || !x509)
    throw Error(Fault::config, fmt::format("{} shows no certificate; its address must start with https://", at));
  result.names_host = is_for(x509.get(), host);
  result.thumbprint = thumbprint_of(x509.get());
  return result;
}

}  // namespace vmferry::http
