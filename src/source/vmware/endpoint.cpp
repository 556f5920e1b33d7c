// Host and port out of one text.
#include "source/vmware/endpoint.hpp"

#include <algorithm>
#include <string_view>

namespace vmferry::source::vmware {

Endpoint parse_endpoint(std::string text) {
  for (const std::string_view scheme : {"https://", "http://"})
    if (text.starts_with(scheme)) text.erase(0, scheme.size());
  text.resize(std::min(text.find('/'), text.size()));
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || text.find(']', colon) != std::string::npos) return {text, "443"};
  return {text.substr(0, colon), text.substr(colon + 1)};
}

}  // namespace vmferry::source::vmware
