// vSphere's faults as errors: which Fault of ours each one is, and the sentence an operator can act on.
// A table over fault names; knows no transport.
#pragma once

#include "base/error.hpp"
#include "vsphere/soap.hpp"

namespace vmferry::vsphere {

// An Error whose name() is the fault's name and that keeps what the fault says beyond it.
class FaultError : public Error {
 public:
  FaultError(Fault fault, const std::string& message, SoapFault detail);
  const SoapFault& detail() const noexcept { return detail_; }
  // InvalidArgument's (and InvalidProperty's) argument: "changeId"; empty for other faults.
  std::string property() const;

 private:
  SoapFault detail_;
};

Fault classify(std::string_view fault_name) noexcept;

// `what`: "CreateSnapshot_Task on VirtualMachine:vm-42"; `server`: "vcenter.example:443".
FaultError fault_error(const std::string& server, const std::string& what, SoapFault fault);

}  // namespace vmferry::vsphere
