// The address of a vSphere server as people write it, in its parts.
#pragma once

#include <string>

namespace vmferry::source::vmware {

struct Endpoint {
  std::string host;  // an IPv6 address with its brackets
  std::string port;
};

// "vcenter.example", "https://vcenter.example:8443/", "[::1]:443"; 443 where no port is named.
Endpoint parse_endpoint(std::string text);

}  // namespace vmferry::source::vmware
