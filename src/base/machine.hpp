// Which machine this is.
#pragma once

#include <string>

namespace vmferry {

// 8 hexadecimal digits that tell this machine from others of its name: a hash of /etc/machine-id, which is not to be
// told to anybody as it is (machine-id(5)). Where there is none, those of nothing.
std::string machine_mark();

}  // namespace vmferry
