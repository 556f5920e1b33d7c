// What migrate would find out when its snapshot is taken already.
#include "app/ways_to_read.hpp"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "app/findings.hpp"
#include "app/transports.hpp"
#include "base/error.hpp"
#include "plan/plan.hpp"

namespace vmferry::app {

namespace {

using plan::Finding;
using plan::Level;

// The disk as a snapshot would freeze it, if it lies on no other snapshot now.
source::FrozenDisk frozen(const model::Disk& disk) {
  source::FrozenDisk now;
  now.key = disk.key;
  now.capacity = disk.capacity;
  now.file = disk.file;
  now.uuid = disk.uuid;
  now.content_id = disk.content_id;
  return now;
}

// The folders that were given and are needed.
std::set<std::filesystem::path> folders_for(const config::Vmware& wish, const std::vector<model::Disk>& disks) {
  std::set<std::filesystem::path> folders;
  for (const model::Disk& disk : disks) {
    const auto own = wish.datastores.find(plan::datastore_of(disk.file));
    const std::filesystem::path& folder = own == wish.datastores.end() ? wish.datastore_directory : own->second;
    if (!folder.empty()) folders.insert(folder);
  }
  return folders;
}

void judge_file(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, std::vector<Finding>& found,
                std::stop_token stop) {
  const config::Options& options = around.options;
  std::vector<model::Disk> disks;
  for (const model::Disk& disk : vm.disks)
    if (!options.copy.skip.contains(disk.key)) disks.push_back(disk);
  bool there = true;
  for (const std::filesystem::path& folder : folders_for(options.vmware, disks)) {
    std::error_code unseen;
    if (std::filesystem::is_directory(folder, unseen)) continue;
    there = false;
    // Also an NFS server that is gone, or keeps root out.
    const bool absent = !unseen || unseen == std::errc::no_such_file_or_directory;
    found.push_back({Level::problem, "--local-disk-path " + folder.string(),
                     absent ? "there is no such folder" : fmt::format("it cannot be looked at ({})", unseen.message()),
                     absent ? "mount the datastore there, or correct the flag"
                            : "look at the mount, and at this user's rights there"});
  }
  if (!there) return;
  const auto transport = make_transport("file", around, vmware, vm, nullptr, stop);
  for (const model::Disk& disk : disks) {
    if (disk.has_parent) continue;  // what is below is not known here
    if (const auto reason = transport->refuses(frozen(disk)))
      found.push_back({Level::problem, "--transport file", *reason, ""});
  }
}

// Where libssh looks for keys of its own accord: nbdkit gets our HOME, and no agent.
bool has_own_key() {
  std::set<std::filesystem::path> homes;
  if (const char* home = std::getenv("HOME")) homes.insert(home);
  if (const passwd* self = ::getpwuid(::geteuid()); self != nullptr && self->pw_dir != nullptr)
    homes.insert(self->pw_dir);
  for (const std::filesystem::path& home : homes)
    for (const char* name : {"id_ed25519", "id_ecdsa", "id_rsa", "id_dsa"}) {
      std::error_code unseen;
      if (std::filesystem::exists(home / ".ssh" / name, unseen)) return true;
    }
  return false;
}

void judge_ssh(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm, std::vector<Finding>& found,
               std::stop_token stop) {
  const config::EsxiSsh& wish = around.options.vmware.esxi_ssh;
  if (wish.password_file.empty() && wish.identity.empty() && !has_own_key())
    found.push_back({Level::problem, "--transport ssh",
                     "no login on the ESXi host was given, and this user has no key in ~/.ssh",
                     "give --esxi-ssh-key FILE or --esxi-ssh-password-file FILE"});
  for (const auto& [flag, file] :
       {std::pair("--esxi-ssh-key", wish.identity), std::pair("--esxi-ssh-known-hosts", wish.known_hosts)})
    if (!file.empty() && ::access(file.c_str(), R_OK) != 0)
      found.push_back({Level::problem, fmt::format("{} {}", flag, file.string()), "there is no such file to be read",
                       "correct the flag, or give this user the right to read it"});
  ask(found, "--transport ssh", [&] { make_transport("ssh", around, vmware, vm, nullptr, stop); });
}

}  // namespace

std::vector<Finding> judge_ways_to_read(const Surroundings& around, VmwareSide& vmware, const model::Vm& vm,
                                        std::stop_token stop) {
  const config::Vmware& wish = around.options.vmware;
  std::vector<std::string> ways = wish.transports;
  if (ways.empty()) {  // of all of them those that somebody gave flags for
    if (!wish.datastore_directory.empty() || !wish.datastores.empty()) ways.emplace_back("file");
    if (!wish.esxi_ssh.identity.empty() || !wish.esxi_ssh.password_file.empty()) ways.emplace_back("ssh");
  }
  std::vector<Finding> found;
  bool another = wish.transports.empty();
  for (const std::string& way : ways) {
    const std::size_t before = found.size();
    if (way == "file") ask(found, "--transport file", [&] { judge_file(around, vmware, vm, found, stop); });
    if (way == "ssh") ask(found, "--transport ssh", [&] { judge_ssh(around, vmware, vm, found, stop); });
    another = another || found.size() == before;
  }
  if (another)  // by which the disks may well be read
    for (Finding& finding : found) finding.level = Level::warning;
  return found;
}

}  // namespace vmferry::app
