// Passes the copy engine's progress on a disk to the job's observer, under the disk's name.
#pragma once

#include <string>

#include "copy/copy.hpp"
#include "job/observer.hpp"

namespace vmferry::job::steps {

class DiskProgress final : public copy::Progress {
 public:
  DiskProgress(Observer& observer, model::DiskKey key, std::string label)
      : observer_(observer), key_(key), label_(std::move(label)) {}
  void advanced(std::uint64_t done, std::uint64_t total) noexcept override {
    observer_.copied(key_, label_, done, total);
  }
  void waiting(const std::string& reason) noexcept override { observer_.said(label_ + " waits: " + reason); }

 private:
  Observer& observer_;
  model::DiskKey key_;
  std::string label_;
};

}  // namespace vmferry::job::steps
