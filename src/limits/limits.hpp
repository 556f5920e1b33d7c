// What the runs on this conversion host share: its bandwidth, and connections to each ESXi host. Kept in a folder whose
// files all runs map or lock, so a change acts on copies that run, and a run that dies gives everything back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/id.hpp"
#include "copy/permits.hpp"
#include "copy/throttle.hpp"

namespace vmferry::limits {

// To one ESXi host, of all runs together. The defaults keep within what VMware documents for a host of any version
// since 6.0: buffers of at most 48 MB for all connections (Virtual Disk Programming Guide, "NFC Session Limits and
// Timeouts").
struct EsxiBudget {
  std::uint32_t connections = 16;
  std::uint64_t in_flight = 48ULL << 20;  // bytes; each connection has its equal share, so the sum needs no counting
  std::uint64_t share() const noexcept { return in_flight / connections; }
  bool operator==(const EsxiBudget&) const = default;
};

class Limits {
 public:
  // Makes the folder. Error(config) or Error(quota) when it cannot.
  explicit Limits(std::filesystem::path folder);

  // Of this host, all runs together; bytes a second, 0 = no limit.
  std::uint64_t bandwidth() const;
  void set_bandwidth(std::uint64_t bytes_per_second);
  EsxiBudget esxi() const;
  void set_esxi(const EsxiBudget& budget);

  // A run's own meter. It stays until forget().
  std::shared_ptr<copy::Meter> job(const JobId& job);
  // The same of a run that has begun, null when there is none.
  std::shared_ptr<copy::Meter> running(const JobId& job);
  void forget(const JobId& job) noexcept;
  // For a copy: the run's meter and the host's.
  std::shared_ptr<copy::Throttle> throttle(const JobId& job);
  // `urgent`, for a machine that is off: the first connection of each copy is granted beyond the limit if need be.
  std::shared_ptr<copy::Permits> connections_to(const std::string& host, bool urgent);
  // Connections held now, by host. Only a glance: they come and go.
  std::map<std::string, int> in_use() const;

 private:
  struct Page;
  std::shared_ptr<Page> map(const std::string& name, bool create = true) const;

  std::filesystem::path folder_;
  std::shared_ptr<Page> host_;
  class Slots;
};

}  // namespace vmferry::limits
