// What the ways share that read a frozen disk's flat file at the host's side. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "source/machine.hpp"

namespace vmferry::source::vmware {

// Why this disk has no flat file that `reader` ("/folder", "ssh") could read, as a sentence; nothing when it has one as
// far as its name tells.
std::optional<std::string> no_flat_file(const FrozenDisk& disk, std::string_view reader);

}  // namespace vmferry::source::vmware
