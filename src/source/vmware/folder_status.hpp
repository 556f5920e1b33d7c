// What an HTTP answer to a read of a datastore file means for an operator. Pure.
#pragma once

#include <optional>
#include <string>

#include "base/error.hpp"
#include "http/http.hpp"

namespace vmferry::source::vmware {

struct FolderFile {
  std::string endpoint;     // "vcenter.example:443"
  std::string path;         // "[datastore1] web01/web01-flat.vmdk"
  std::uint64_t bytes = 0;  // of the disk
};

// The reason why the disk cannot be read, from the answer to a GET of its first bytes; nothing when it can.
std::optional<Error> folder_problem(const http::Response& response, const FolderFile& file);

}  // namespace vmferry::source::vmware
