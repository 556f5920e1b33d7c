// The certificate itself of a server that Trust accepts, for programs that verify by file or thumbprint and cannot
// pin as we do (nbdkit's plugins). Knows nothing of what is done with it.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "http/http.hpp"

namespace vmferry::http {

struct Certificate {
  std::string pem;                 // of the server alone, without its chain
  std::vector<std::string> names;  // hosts it was made for
  bool names_host = false;         // the URL's host is among them
  std::string thumbprint;          // SHA-1, "AA:BB:...", as VMware's libraries name a certificate
};

// Of a handshake that `trust` accepted; throws what Transport::send would throw for a certificate that it refuses.
Certificate certificate(const std::string& url, const Trust& trust, std::stop_token stop);

}  // namespace vmferry::http
