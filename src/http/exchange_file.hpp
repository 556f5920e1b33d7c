// One recorded exchange and the folder it lies in: what recording() writes and replaying() reads. Internal to http/.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "http/http.hpp"

namespace vmferry::http {

struct RecordedFailure {
  Fault fault = Fault::unavailable;
  std::string message;
  bool acted = false;
};

struct RecordedExchange {
  std::string service;
  std::string method;
  std::string path;  // with its query; the host is left out, so that a recording holds anywhere
  Headers request_headers;
  std::string request_body;
  Response response;
  std::optional<RecordedFailure> failure;  // instead of the response
};

// Path and query of a URL.
std::string path_and_query(const std::string& url);

// Writes it under the next free number. Numbers never collide, whoever else writes into the folder.
void save(const std::filesystem::path& directory, const RecordedExchange& exchange);
// All of one service, in the order of their numbers.
std::vector<RecordedExchange> load(const std::filesystem::path& directory, const std::string& service);

}  // namespace vmferry::http
