// Judged by the backing that the snapshot names.
#include "source/vmware/flat_disk.hpp"

#include <fmt/format.h>

#include "source/vmware/datastore_path.hpp"

namespace vmferry::source::vmware {

std::optional<std::string> no_flat_file(const FrozenDisk& disk, std::string_view reader) {
  if (disk.has_parent)
    return fmt::format(
        "disk {} ({}) sits on the redo file of another snapshot, which {} cannot read; remove or consolidate that "
        "snapshot, or use another transport",
        model::to_string(disk.key), disk.file, reader);
  const DatastorePath path = parse_datastore_path(disk.file);
  if (path.datastore.empty() || !std::string_view(path.file).ends_with(".vmdk"))
    return fmt::format("disk {} has the file name '{}', which is not one on a datastore; use another transport",
                       model::to_string(disk.key), disk.file);
  return std::nullopt;
}

}  // namespace vmferry::source::vmware
