// Making a copied guest fit for KVM, as the job sees it: the conversion writes to overlays above the target's disks, so
// that a failed one leaves them as they were; what it changed is then copied onto them by our engine. Adapter:
// virt_v2v.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string_view>
#include <vector>

#include "base/ranges.hpp"
#include "copy/copy.hpp"
#include "model/vm.hpp"

namespace vmferry::convert {

// A disk to be converted.
struct Disk {
  model::DiskKey key;
  std::filesystem::path base;  // reads its copied bytes; nobody writes there until the Conversion is gone
  std::uint64_t bytes = 0;
};

// A finished conversion, not yet on the disks. Its overlays are deleted with it.
class Conversion {
 public:
  virtual ~Conversion() = default;
  // What it changed on that disk; may be empty. Rounded outwards: what was not changed reads as the base has it.
  virtual RangeSet changed(model::DiskKey disk) const = 0;
  // The disk as converted. Writing its changed ranges to the base while this is read is allowed, nothing else is.
  virtual std::unique_ptr<copy::Source> open(model::DiskKey disk, std::stop_token stop) = 0;
};

// Called with each thing it begins to do ("Inspecting the source").
using Saying = std::function<void(std::string_view)>;

class Converter {
 public:
  virtual ~Converter() = default;
  // Error(tool) when this host lacks what the guest's conversion needs. Cheap; changes nothing.
  virtual void check(const model::Vm& vm, std::stop_token stop) = 0;
  // Takes minutes. `disks`: all of the guest's, boot order. Error(tool) with the program's own words when it cannot.
  virtual std::unique_ptr<Conversion> convert(const model::Vm& vm, const std::vector<Disk>& disks, const Saying& saying,
                                              std::stop_token stop) = 0;
  // Deletes what a run that died left of its overlays.
  virtual void clear() = 0;
};

}  // namespace vmferry::convert
