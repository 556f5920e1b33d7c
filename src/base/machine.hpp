// Which machine this is.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace vmferry {

inline constexpr const char* machine_id_file = "/etc/machine-id";

// 8 hexadecimal digits that tell this machine from others: a hash of its machine id, which is not to be told to anybody
// as it is (machine-id(5)). Nothing where there is no id: the file is missing, empty (as in images of containers) or
// "uninitialized" (until the end of a first boot).
std::optional<std::string> look_up_machine_mark(const std::filesystem::path& file = machine_id_file);
// The same; Error(config) that names the file and the remedy where there is none.
std::string machine_mark(const std::filesystem::path& file = machine_id_file);

}  // namespace vmferry
