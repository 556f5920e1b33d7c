// Which machine this is.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace vmferry {

struct MachineFiles {
  std::filesystem::path id = "/etc/machine-id";
  std::filesystem::path hardware = "/sys/class/dmi/id/product_uuid";  // only root can read it; some machines have none
};

// What tells this machine from others: 8 hexadecimal digits, a hash of its machine id, which is not to be told to
// anybody as it is (machine-id(5)); and "-" and 8 more of that together with the system's UUID where it can be read:
// clones of one image have one machine id, but mostly not one UUID. Nothing where there is no id: the file is missing,
// empty (as in images of containers) or "uninitialized" (until the end of a first boot).
std::optional<std::string> look_up_machine_mark(const MachineFiles& files = {});
// The same; Error(config) that names the file and the remedy where there is none.
std::string machine_mark(const MachineFiles& files = {});
// Whether they can be of one machine. A mark without its second half (of an older version, or of one who could not read
// the UUID) tells no more than the machine id.
bool same_machine_mark(const std::string& one, const std::string& other);

}  // namespace vmferry
