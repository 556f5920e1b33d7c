// One sentence per way in which /folder says no.
#include "source/vmware/folder_status.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

namespace vmferry::source::vmware {

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// "bytes 0-511/4194304" -> 4194304
std::optional<std::uint64_t> total_of(const std::string& content_range) {
  const auto slash = content_range.rfind('/');
  if (slash == std::string::npos) return std::nullopt;
  std::uint64_t total = 0;
  const char* begin = content_range.data() + slash + 1;
  const char* end = content_range.data() + content_range.size();
  const auto [stop, problem] = std::from_chars(begin, end, total);
  if (problem != std::errc() || stop != end) return std::nullopt;
  return total;
}

std::optional<Error> partial_problem(const http::Response& response, const FolderFile& file, const std::string& who) {
  const auto total = total_of(response.header("Content-Range"));
  if (total && *total < file.bytes)
    return Error(Fault::data,
                 fmt::format("{} has {} bytes in {}, but the disk has {}: it is not the flat file of this disk", who,
                             *total, file.path, file.bytes));
  return std::nullopt;
}

}  // namespace

std::optional<Error> folder_problem(const http::Response& response, const FolderFile& file) {
  const std::string who = "the datastore of " + file.endpoint;
  const std::string body = lower(response.body.substr(0, 4096));
  switch (response.status) {
    case 206:
      return partial_problem(response, file, who);
    case 200:
      return Error(Fault::unsupported,
                   fmt::format("{} does not give parts of {} (it ignores Range), as a copy needs; use another "
                               "transport",
                               who, file.path),
                   "no_ranges");
    case 401:
      return Error(
          Fault::auth,
          fmt::format("{} refuses the session for {} even after logging in again; check the account", who, file.path));
    case 403:
      return Error(
          Fault::auth,
          fmt::format("{} does not let this account read {} (HTTP 403); it needs the privileges Datastore.Browse and "
                      "Datastore.FileManagement there, and redo files of snapshots are never readable this way",
                      who, file.path));
    case 404:
      return Error(Fault::not_found,
                   fmt::format("{} has no file {} (HTTP 404); the disk was moved (storage vMotion), is kept on vSAN or "
                               "vVols (which have no flat files: use another transport), or the datacenter's path is "
                               "another one",
                               who, file.path));
    default:
      break;
  }
  if (response.status == 423 || (response.status >= 500 && body.find("lock") != std::string::npos))
    return Error(
        Fault::conflict,
        fmt::format("the host keeps {} locked (HTTP {}): a running VM's disk can be read this way only below a "
                    "snapshot, and some ESXi versions refuse it even then; use another transport or power off "
                    "the VM",
                    file.path, response.status),
        "locked");
  if (response.status == 429 || response.status >= 500)
    return Error(Fault::unavailable,
                 fmt::format("{} could not read {} (HTTP {}); the host may be busy, in maintenance or low on memory: "
                             "try again later",
                             who, file.path, response.status));
  return Error(Fault::unsupported,
               fmt::format("{} answers a read of {} with HTTP {}, which is not understood; is {} a vCenter or ESXi?",
                           who, file.path, response.status, file.endpoint));
}

}  // namespace vmferry::source::vmware
