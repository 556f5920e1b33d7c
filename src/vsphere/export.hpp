// Export leases (HttpNfcLease) of snapshots: where vSphere gives out whole disks for download, as long as the lease is
// kept alive. While it is held, the machine cannot be started, moved or changed. Knows nothing of downloading.
#pragma once

#include <chrono>
#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "model/vm.hpp"
#include "vsphere/session.hpp"

namespace vmferry::vsphere {

struct ExportedDisk {
  std::string key;          // "/vm-42/ParaVirtualSCSIController0:1"
  std::string url;          // "https://*/nfc/..."; * stands for the server that was asked. Whoever has it may download
  std::string thumbprint;   // SHA-1 of the certificate that the URL's host shows; may be empty
  std::uint64_t bytes = 0;  // about so many; 0: not known
};

struct ExportLease {
  std::chrono::seconds timeout{300};  // it ends when nothing was heard for so long
  std::vector<ExportedDisk> disks;
};

// The id of a new lease on the disks as this snapshot froze them. vSphere makes it ready in the background. A lost
// reply leaves one that nobody knows; it ends by its timeout.
std::string begin_export(Session& session, const SnapshotId& snapshot, std::stop_token stop);
// Waits until it is ready. Throws the fault that the export ended with.
ExportLease await_export(Session& session, const std::string& lease, std::stop_token stop);
// Tells that it is still needed. Throws FaultError when it has ended.
void keep_export(Session& session, const std::string& lease, int percent, std::stop_token stop);
// Lets the machine go again. One that has ended already is a success.
void end_export(Session& session, const std::string& lease, bool complete, std::stop_token stop);

// Pure: HttpNfcLeaseInfo, and whether an exported disk is this one, by controller and unit.
ExportLease parse_export(const Node& info);
bool is_export_of(const ExportedDisk& exported, const model::Disk& disk);

}  // namespace vmferry::vsphere
