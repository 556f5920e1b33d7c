// What is found before a migration: on which object, what is so, what to do about it. Judging is pure; gathering is the
// caller's.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "model/vm.hpp"

namespace vmferry::plan {

enum class Level { note, warning, problem };  // good to know; works, but less well; will not work
std::string_view word(Level level) noexcept;  // "note", "warning", "problem"

struct Finding {
  Level level = Level::note;
  std::string object;  // "web01", "Hard disk 2 (2001)"
  std::string fact;
  std::string remedy;             // empty when there is nothing to do
  Fault fault = Fault::conflict;  // of a problem: who can act
  bool operator==(const Finding&) const = default;
};

struct Wish {
  std::set<model::DiskKey> skip;
  bool tracking = true;          // --no-cbt: false
  bool reads_flat_files = true;  // https, file and ssh: a disk above somebody's snapshot cannot be read
  bool exports = false;          // --transport export
  bool hotadd = false;           // disks are attached to a proxy
  bool https = true;             // files of datastores are asked of vSphere
  bool cutover = false;
  bool force_power_off = false;
  std::set<SnapshotId> leaving = {};  // what the next run removes before it reads
};

// What the machine's own configuration says.
std::vector<Finding> judge_machine(const model::Vm& vm, const Wish& wish);

// The part of it that is about the guest: can it be asked to come to rest, and to shut down?
std::vector<Finding> judge_guest(const model::Vm& vm, const Wish& wish);

// Adapters without a network on the other side (`mapped`: MACs, lower case), and mappings without an adapter.
std::vector<Finding> judge_nics(const model::Vm& vm, const std::set<std::string>& mapped);

// Names of datastores that a flag gave, on which the machine has no disk. One list may well be for many machines, so
// that this stops none of them; a name that was misspelt would be passed over in silence.
std::vector<Finding> judge_datastores(const model::Vm& vm, const std::string& flag, const std::set<std::string>& named);

// Throws one Error that lists every problem, if there is any: "web01 cannot be cut over: ...".
void refuse(const std::string& what, const std::vector<Finding>& found);

// Names of the privileges that a migration of that kind needs, as vSphere's API spells them; docs/permissions.md has
// the sources.
struct Privileges {
  std::vector<std::string> on_machine;
  std::vector<std::string> on_datacenter;  // and on its datastores
  std::vector<std::string> on_proxy;
};
Privileges privileges(const Wish& wish);

}  // namespace vmferry::plan
