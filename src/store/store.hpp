// SQLite behind job::Journal: the job list and each job's facts. WAL, full synchronous, 0600 in a 0700 folder, a schema
// version that migrates forward; a newer schema is refused in words. Many processes may have it open.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "job/journal.hpp"

namespace vmferry::store {

struct JobRow {
  JobId job;
  std::string source;  // "vcenter <instance uuid>"
  model::VmId vm;
  std::string vm_name;
  std::string target;
  std::int64_t created_at = 0;  // milliseconds since the epoch
};

class Store {
 public:
  // Error(config) when the folder cannot be made or written, Error(unsupported) for a newer schema, Error(data) for a
  // damaged file: each names the file and what to do.
  Store(const std::filesystem::path& directory, Clock& clock);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  std::string id() const;            // of this folder: random, the same wherever it is mounted
  std::vector<JobRow> jobs() const;  // oldest first
  // The unfinished job of that machine on that target, if any.
  std::optional<JobRow> find(const std::string& source, const model::VmId& vm, const std::string& target) const;
  // Adds it with its first fact (JobCreated) in one transaction.
  void create(const JobRow& row, const job::JobCreated& fact);
  // Marks it over (done or aborted): find() no longer returns it.
  void close(const JobId& job);
  std::unique_ptr<job::Journal> journal(const JobId& job);
  const std::filesystem::path& file() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Whether that folder has a journal (or it cannot be told: then Store says why), without making one.
bool has_journal(const std::filesystem::path& directory);

// With mode 0700 when it is not there yet (what is above it has the usual mode). Error(config) when it cannot be made
// or written.
void make_private_directory(const std::filesystem::path& directory);

// Held while a process works on a job. A second one gets Error(conflict) with the first's pid and host.
class JobLock {
 public:
  JobLock(const std::filesystem::path& directory, const std::string& key);
  ~JobLock();
  JobLock(const JobLock&) = delete;
  JobLock& operator=(const JobLock&) = delete;

 private:
  int fd_ = -1;
};

// Whether somebody holds that lock now (or it cannot be told).
bool is_locked(const std::filesystem::path& directory, const std::string& key);

// $VMFERRY_STATE_DIR, else /var/lib/vmferry for root, else $XDG_STATE_HOME/vmferry, else ~/.local/state/vmferry.
std::filesystem::path default_directory();

}  // namespace vmferry::store
