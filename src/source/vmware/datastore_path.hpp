// The way vSphere spells a file: "[datastore1] web01/web01.vmdk". Pure.
#pragma once

#include <string>
#include <string_view>

namespace vmferry::source::vmware {

struct DatastorePath {
  std::string datastore;  // empty when the text names none
  std::string file;       // "web01/web01.vmdk"
  bool operator==(const DatastorePath&) const = default;
};

DatastorePath parse_datastore_path(std::string_view text);
// The file with a flat disk's bytes: "web01/web01-flat.vmdk" for "web01/web01.vmdk", itself for everything else.
std::string flat_file(const std::string& file);

}  // namespace vmferry::source::vmware
