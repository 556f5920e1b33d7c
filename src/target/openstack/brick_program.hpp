// The text of brick.py, which the build puts into the program.
#pragma once

#include <string_view>

namespace vmferry::target::openstack {

extern const std::string_view brick_program;

}  // namespace vmferry::target::openstack
