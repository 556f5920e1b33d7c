// See the vSphere API's "Datastore path" (FileInfo, VirtualDevice.FileBackingInfo.fileName).
#include "source/vmware/datastore_path.hpp"

namespace vmferry::source::vmware {

DatastorePath parse_datastore_path(std::string_view text) {
  DatastorePath path;
  if (!text.empty() && text.front() == '[') {
    if (const auto end = text.find(']'); end != std::string_view::npos) {
      path.datastore = text.substr(1, end - 1);
      text.remove_prefix(end + 1);
    }
  }
  while (!text.empty() && (text.front() == ' ' || text.front() == '/')) text.remove_prefix(1);
  path.file = text;
  return path;
}

std::string flat_file(const std::string& file) {
  constexpr std::string_view suffix = ".vmdk", flat = "-flat.vmdk";
  const std::string_view text = file;
  if (text.ends_with(flat) || !text.ends_with(suffix)) return file;
  return file.substr(0, file.size() - suffix.size()) + std::string(flat);
}

}  // namespace vmferry::source::vmware
