// A body that is too large to hold in memory: given away piece by piece while it comes. Knows nothing of what it is.
#pragma once

#include <stop_token>
#include <string_view>

#include "http/http.hpp"

namespace vmferry::http {

class Download {
 public:
  virtual ~Download() = default;
  // Called by the thread that receives; what it throws ends the exchange and is thrown by download().
  virtual void write(std::string_view piece) = 0;
};

// One GET on a connection of its own, never repeated. The body of an answer with status 200 goes to `into`, of another
// one into the response. The request's timeout is for silences, not for the whole of it. Throws as Transport::send().
Response download(const CurlOptions& options, const Request& request, Download& into, log::Log& log,
                  std::stop_token stop);

}  // namespace vmferry::http
