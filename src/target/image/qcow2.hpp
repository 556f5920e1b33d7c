// A raw disk as a qcow2 file that has no name, so that nothing is left of it whatever ends the run. By qemu-img.
#pragma once

#include <cstdint>
#include <filesystem>
#include <stop_token>

#include "base/fd.hpp"
#include "process/process.hpp"

namespace vmferry::target::image {

struct Qcow2 {
  Fd fd;
  std::uint64_t bytes = 0;
};

// `raw` is open for reading; the file is made in `directory`. Blocks. Error(quota), before anything is written, when it
// does not fit there; Error(tool).
Qcow2 make_qcow2(process::Runner& runner, int raw, const std::filesystem::path& directory, std::stop_token stop);
// Error(tool) when there is no qemu-img.
void check_qemu_img(process::Runner& runner, std::stop_token stop);

}  // namespace vmferry::target::image
