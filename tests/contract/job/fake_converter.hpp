// A conversion with memory: adds one to some bytes of each disk, so that one that was done twice, or on bytes that were
// converted already, is seen.
#pragma once

#include <functional>
#include <string>

#include "convert/converter.hpp"
#include "log/log.hpp"
#include "process/process.hpp"
#include "support/lab.hpp"

namespace vmferry::job {

class FakeConverter final : public convert::Converter {
 public:
  // Called before (false) and after (true) each call that changes something. May throw.
  std::function<void(const std::string& call, bool acted)> around = [](const std::string&, bool) {};
  int conversions = 0;  // that were finished
  bool fails = false;

  // What becomes of a disk.
  static std::string converted(std::string bytes);

  void check(const model::Vm&, std::stop_token) override {}
  std::unique_ptr<convert::Conversion> convert(const model::Vm& vm, const std::vector<convert::Disk>& disks,
                                               const convert::Saying& saying, std::stop_token stop) override;
  void clear() override { ++cleared; }
  int cleared = 0;

 private:
  process::SystemRunner runner_;
  log::Log log_;
  support::TemporaryDirectory directory_;
};

}  // namespace vmferry::job
