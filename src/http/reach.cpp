// A connection and nothing more, to find out whether a firewall lets it through.
#include <curl/curl.h>

#include <memory>

#include "http/http.hpp"

namespace vmferry::http {

std::optional<std::string> unreachable(const std::string& host, int port, std::chrono::milliseconds patience) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> easy(curl_easy_init(), &curl_easy_cleanup);
  if (!easy) return "no memory";
  const bool ipv6 = host.find(':') != std::string::npos && !host.starts_with('[');
  const std::string url = "http://" + (ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
  curl_easy_setopt(easy.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(easy.get(), CURLOPT_CONNECT_ONLY, 1L);
  curl_easy_setopt(easy.get(), CURLOPT_PROXY, "");
  curl_easy_setopt(easy.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy.get(), CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(patience.count()));
  const CURLcode code = curl_easy_perform(easy.get());
  if (code == CURLE_OK) return std::nullopt;
  return curl_easy_strerror(code);
}

}  // namespace vmferry::http
