// vSphere API: VirtualMachineSnapshot.ExportSnapshot, HttpNfcLease.
#include "vsphere/export.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "vsphere/machine_config.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::vsphere {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::minutes made_ready{10};  // a host opens every disk of the machine first

Moref lease_ref(const std::string& lease) { return {"HttpNfcLease", lease}; }

}  // namespace

std::string begin_export(Session& session, const SnapshotId& snapshot, std::stop_token stop) {
  const Call call("ExportSnapshot", {"VirtualMachineSnapshot", snapshot.value});
  return session.call(call, Repeat::never, stop)["returnval"].moref().value;
}

ExportLease await_export(Session& session, const std::string& lease, std::stop_token stop) {
  const auto decided = [](const ObjectProperties& now) {
    const std::string state = now["state"].text();
    return !state.empty() && state != "initializing";
  };
  if (!wait_until(session, lease_ref(lease), {"state"}, decided, session.clock().mono() + made_ready, stop))
    throw Error(Fault::timeout, fmt::format("{} did not make the export {} ready within {} minutes", session.server(),
                                            lease, made_ready.count()));
  const ObjectProperties now = read(session, lease_ref(lease), {"state", "info", "error"}, stop);
  if (now["state"].text() == "ready") return parse_export(now["info"]);
  const Node error = now["error"];
  throw fault_error(session.server(), "ExportSnapshot", error ? localized_fault(error) : SoapFault{});
}

void keep_export(Session& session, const std::string& lease, int percent, std::stop_token stop) {
  Call call("HttpNfcLeaseProgress", lease_ref(lease));
  call.number("percent", percent);
  session.call(call, Repeat::freely, stop);
}

void end_export(Session& session, const std::string& lease, bool complete, std::stop_token stop) {
  try {
    session.call(Call(complete ? "HttpNfcLeaseComplete" : "HttpNfcLeaseAbort", lease_ref(lease)), Repeat::freely, stop);
  } catch (const FaultError& e) {
    // Both faults are of a lease that is in its last state already.
    if (e.name() != "ManagedObjectNotFound" && e.name() != "InvalidState" && e.name() != "Timedout") throw;
  }
}

ExportLease parse_export(const Node& info) {
  ExportLease lease;
  if (const auto seconds = info["leaseTimeout"].integer(); seconds && *seconds > 0)
    lease.timeout = std::chrono::seconds(*seconds);
  for (const Node& device : info.all("deviceUrl")) {
    if (!device["disk"].flag_or(true)) continue;  // a CD-ROM's image, or the NVRAM
    lease.disks.push_back({device["key"].text(), device["url"].text(), device["sslThumbprint"].text(),
                           static_cast<std::uint64_t>(std::max<std::int64_t>(0, device["fileSize"].integer_or(0)))});
  }
  return lease;
}

bool is_export_of(const ExportedDisk& exported, const model::Disk& disk) {
  static const std::regex place("(?:.*/)?([A-Za-z]+)([0-9]{1,4}):([0-9]{1,4})");
  std::smatch parts;
  return std::regex_match(exported.key, parts, place) && controller_kind(parts[1]) == disk.controller &&
         std::stoi(parts[2]) == disk.bus && std::stoi(parts[3]) == disk.unit;
}

}  // namespace vmferry::vsphere
