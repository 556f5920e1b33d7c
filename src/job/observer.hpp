// Who watches a job: the terminal, the log, `--json`. Calls come from several threads, must not throw or block.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.hpp"
#include "model/vm.hpp"

namespace vmferry::job {

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void step_started(std::string_view step) noexcept = 0;
  virtual void step_finished(std::string_view step, const std::exception* problem) noexcept = 0;
  // A disk's copy: bytes done of total (total may grow during a delta). label: "Hard disk 1 (2000)".
  virtual void copied(model::DiskKey disk, std::string_view label, std::uint64_t done,
                      std::uint64_t total) noexcept = 0;
  virtual void disk_finished(model::DiskKey disk, std::string_view label, bool full, std::uint64_t read,
                             std::uint64_t written, double seconds) noexcept = 0;
  virtual void said(std::string_view sentence) noexcept = 0;    // worth telling
  virtual void warned(std::string_view sentence) noexcept = 0;  // worth worrying
};

}  // namespace vmferry::job
