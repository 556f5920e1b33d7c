// The table of vSphere's faults. Names are from the vSphere Web Services API reference ("Faults").
#include "vsphere/fault.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace vmferry::vsphere {

namespace {

struct Row {
  std::string_view name;
  Fault fault;
  std::string_view remedy;  // a sentence, or nothing
};

constexpr Row rows[] = {
    {"InvalidLogin", Fault::auth, "Check the user name and the password."},
    {"PasswordExpired", Fault::auth, "Set a new password for this user in vSphere."},
    {"NotAuthenticated", Fault::auth, ""},
    {"NoPermission", Fault::auth, "Give the user a role with that privilege there."},
    {"RestrictedByAdministrator", Fault::auth, ""},
    {"NoClientCertificate", Fault::auth, ""},
    {"ManagedObjectNotFound", Fault::not_found, ""},
    {"NotFound", Fault::not_found, ""},
    {"FileNotFound", Fault::not_found, ""},
    {"TaskInProgress", Fault::conflict, "Wait until the other task has ended, then start again."},
    {"ConcurrentAccess", Fault::conflict, "Start again."},
    {"InvalidState", Fault::conflict, ""},
    {"InvalidPowerState", Fault::conflict, ""},
    {"InvalidSnapshotState", Fault::conflict, ""},
    {"FileLocked", Fault::conflict, "See which backup or migration still uses the file."},
    {"ResourceInUse", Fault::conflict, ""},
    {"DuplicateName", Fault::conflict, ""},
    {"VmToolsUpgradeFault", Fault::conflict, ""},
    {"ToolsUnavailable", Fault::conflict, "VMware Tools (open-vm-tools) must be installed and running in the guest."},
    {"ApplicationQuiesceFault", Fault::conflict,
     "The guest could not be quiesced: see its event log, or take a crash-consistent snapshot."},
    {"FilesystemQuiesceFault", Fault::conflict,
     "The guest could not be quiesced: see its event log, or take a crash-consistent snapshot."},
    {"SnapshotFault", Fault::conflict, ""},
    {"TooManySnapshotLevels", Fault::quota, "Remove snapshots that are no longer needed."},
    {"NoDiskSpace", Fault::quota, "Make room on the datastore."},
    {"InsufficientResourcesFault", Fault::quota, ""},
    {"OutOfBounds", Fault::quota, ""},
    {"SnapshotNoChange", Fault::conflict, ""},
    {"RestrictedVersion", Fault::unsupported,
     "The free ESXi licence offers a read-only API: use the vCenter that manages the host, or give the host a licence."},
    {"NotEnoughLicenses", Fault::unsupported, "Give the host or the vCenter a licence."},
    {"LicenseExpired", Fault::unsupported, "Renew the licence of the host or the vCenter."},
    {"InvalidLicense", Fault::unsupported, ""},
    {"NotSupported", Fault::unsupported, ""},
    {"NotImplemented", Fault::unsupported, ""},
    {"MethodNotFound", Fault::unsupported, ""},
    {"SnapshotMoveNotSupported", Fault::unsupported, ""},
    {"MultiWriterNotSupported", Fault::unsupported, ""},
    {"MemorySnapshotOnIndependentDisk", Fault::unsupported, ""},
    {"HostCommunication", Fault::unavailable, "See in vSphere whether the host is connected."},
    {"HostNotConnected", Fault::unavailable, "See in vSphere whether the host is connected."},
    {"HostNotReachable", Fault::unavailable, "See in vSphere whether the host is connected."},
    {"HostConnectFault", Fault::unavailable, ""},
    {"SystemError", Fault::unavailable, ""},
    {"RequestCanceled", Fault::unavailable, ""},
    {"Timedout", Fault::timeout, ""},
    {"InvalidArgument", Fault::data, ""},
    {"InvalidRequest", Fault::data, ""},
    {"InvalidProperty", Fault::data, ""},
    {"InvalidCollectorVersion", Fault::data, ""},
    {"InvalidType", Fault::data, ""},
    {"FileFault", Fault::data, ""},
    {"CannotAccessFile", Fault::data, ""},
    {"CorruptedFile", Fault::data, ""},
    {"InvalidVmConfig", Fault::conflict, ""},
    {"GenericVmConfigFault", Fault::conflict, ""},
};

const Row* row(std::string_view name) noexcept {
  const auto* found = std::find_if(std::begin(rows), std::end(rows), [&](const Row& r) { return r.name == name; });
  return found == std::end(rows) ? nullptr : found;
}

// What only this fault says: the privilege and the object, the argument, the file.
std::string particulars(const SoapFault& fault) {
  if (fault.name == "NoPermission") {
    const std::string privilege = fault.detail["privilegeId"].text();
    const Moref object = fault.detail["object"].moref();
    if (!privilege.empty() && !object.empty())
      return fmt::format("the privilege {} on {} is missing", privilege, to_string(object));
    if (!privilege.empty()) return fmt::format("the privilege {} is missing", privilege);
  }
  if (const Node property = fault.detail["invalidProperty"]) return fmt::format("the argument is {}", property.text());
  if (const Node file = fault.detail["file"]) return fmt::format("the file is {}", file.text());
  if (fault.name == "ManagedObjectNotFound")
    if (const Node object = fault.detail["obj"]) return fmt::format("the object is {}", to_string(object.moref()));
  if (fault.name == "InvalidPowerState")
    if (const Node state = fault.detail["existingState"]) return fmt::format("the machine is {}", state.text());
  return {};
}

}  // namespace

FaultError::FaultError(Fault fault, const std::string& message, SoapFault detail)
    : Error(fault, message, detail.name), detail_(std::move(detail)) {}

std::string FaultError::property() const { return detail_.detail["invalidProperty"].text(); }

Fault classify(std::string_view fault_name) noexcept {
  if (const Row* known = row(fault_name)) return known->fault;
  // A fault that says that something is not supported in this state, version or place, by its name.
  if (fault_name.ends_with("NotSupported")) return Fault::unsupported;
  if (fault_name.empty()) return Fault::unavailable;
  return Fault::conflict;
}

FaultError fault_error(const std::string& server, const std::string& what, SoapFault fault) {
  std::string said = fault.message;
  while (!said.empty() && (said.back() == '.' || said.back() == ' ' || said.back() == '\n')) said.pop_back();
  std::string message = fmt::format("{} refused {}", server, what);
  if (!fault.name.empty()) message += fmt::format(": {}", fault.name);
  if (!said.empty()) message += fmt::format(": {}", said);
  if (const std::string more = particulars(fault); !more.empty()) message += fmt::format(" ({})", more);
  message += '.';
  // Old hosts send the sentence of RestrictedVersion under other names.
  const bool restricted =
      fault.message.find("Current license or ESXi version prohibits execution") != std::string::npos;
  const Row* known = row(restricted ? std::string_view("RestrictedVersion") : std::string_view(fault.name));
  if (known && !known->remedy.empty()) message += fmt::format(" {}", known->remedy);
  const Fault kind = restricted ? Fault::unsupported : classify(fault.name);
  return FaultError(kind, message, std::move(fault));
}

}  // namespace vmferry::vsphere
