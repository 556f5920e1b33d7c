// A virtual machine to be moved, as the job sees it: describe it, freeze it, read the frozen disks, ask what changed,
// let it go, stop it. Adapters: source/vmware. Nothing here names vSphere's calls.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "copy/copy.hpp"
#include "model/vm.hpp"

namespace vmferry::source {

enum class Quiesce { automatic, always, never };  // automatic: try when the guest's tools run, fall back and say so
enum class Consistency { application, crash, powered_off };

struct FrozenDisk {
  model::DiskKey key;
  std::uint64_t capacity = 0;                // bytes, as frozen
  std::optional<model::ChangeId> change_id;  // nothing when tracking is off for it
  std::string file;                          // the frozen backing file, source's spelling
  bool has_parent = false;                   // it is a redo layer above another snapshot's file
  std::string uuid{};                        // the disk's own, in the source's spelling; empty when not said
  std::string content_id{};                  // the frozen bytes', in the source's spelling; empty when not said
  bool operator==(const FrozenDisk&) const = default;
};

// One moment of all disks of a VM.
struct Point {
  SnapshotId snapshot;
  Consistency consistency = Consistency::crash;
  std::string remark;  // why it is not application-consistent, in words; empty otherwise
  std::vector<FrozenDisk> disks;
  bool unmerged_before = false;  // files of removed snapshots were still to be merged into the disks when it was taken
  const FrozenDisk* find(model::DiskKey key) const noexcept {
    for (const FrozenDisk& d : disks)
      if (d.key == key) return &d;
    return nullptr;
  }
};

// The label that marks a snapshot as ours: put into its name and description, searched for after a crash.
struct Tag {
  JobId job;
  int cycle = 0;
};

// The changed ranges of a disk, page by page. next() throws HistoryLost when the source cannot say what changed.
class HistoryLost : public Error {
 public:
  explicit HistoryLost(const std::string& message) : Error(Fault::data, message) {}
};

enum class Stop { guest, guest_then_power, power };

class Machine {
 public:
  virtual ~Machine() = default;
  virtual model::Vm describe(std::stop_token stop) = 0;
  // Makes change tracking act (switches it on and, where needed, activates it by a snapshot cycle marked with `tag`).
  // False: this machine cannot track changes. Idempotent.
  virtual bool ensure_tracking(const Tag& tag, std::stop_token stop) = 0;
  // One snapshot for all disks. Returns the one that already carries `tag` if a lost reply or crash left it.
  virtual Point freeze(const Tag& tag, Quiesce quiesce, std::stop_token stop) = 0;
  // The point of a snapshot taken earlier, or nothing when it is gone.
  virtual std::optional<Point> recall(const SnapshotId& snapshot, std::stop_token stop) = 0;
  // Removes it and consolidates. Already gone is success. Refuses a snapshot that does not carry the job's tag. Gives a
  // sentence for the operator when something is left to do by hand, else nothing. `unmerged_before`: its point's, for
  // when it is gone and the machine alone cannot tell whose files are still to be merged.
  virtual std::string thaw(const SnapshotId& snapshot, const JobId& job, bool unmerged_before,
                           std::stop_token stop) = 0;
  // Every snapshot that carries the job's tag.
  virtual std::vector<SnapshotId> snapshots_of(const JobId& job, std::stop_token stop) = 0;
  // Throws Error(unsupported) naming the disk and the reason when this way of reading cannot read it.
  virtual std::unique_ptr<copy::Source> serve(const Point& point, model::DiskKey disk, std::stop_token stop) = 0;
  // Ranges that changed since then, or (nothing) the ranges that are allocated at all; the ranges may be larger than
  // the truth, never smaller. `point` must outlive the work. An allocated-areas query that the source refuses gives
  // the whole disk.
  virtual std::unique_ptr<copy::Work> changed(const Point& point, model::DiskKey disk,
                                              const std::optional<model::ChangeId>& since, std::stop_token stop) = 0;
  // Whether anything was written to the disk since then, asked of the machine as it is now: it must be off. Throws
  // HistoryLost when the source cannot say.
  virtual bool written_since(const model::Disk& disk, const model::ChangeId& since, std::stop_token stop) = 0;
  // Returns once the machine is confirmed off. Already off is success. Error(timeout) when a guest shutdown takes
  // longer than `patience` and `how` does not allow more.
  virtual void power_off(Stop how, std::chrono::seconds patience, std::stop_token stop) = 0;
};

}  // namespace vmferry::source
