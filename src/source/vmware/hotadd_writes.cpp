// One small shell script looks, here or at the other end of an ssh: one question, one answer.
#include "source/vmware/hotadd_writes.hpp"

#include <fmt/format.h>

#include <chrono>
#include <sstream>
#include <thread>

#include "base/error.hpp"
#include "copy/copy.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr std::chrono::seconds answer{30};

// For `sh -s`: the question and the device. Says: "fresh", "kept" or "file", a number of the disk, whether its kernel
// counts, and the sectors that were written or discarded (fields 7 and 14 of
// https://docs.kernel.org/block/stat.html, of a disk with all its partitions). Not the requests: an fsync without data
// is one of these, and the `sync` below does just that. It is there since readers get from the device's page cache what
// the device itself has not yet been given.
// Read only is the smaller half: the kernel lets those go on writing who have the device open already, and lets device
// mapper write to what is read only (bio_check_ro in block/blk-core.c only warns). Partitions have a flag of their own
// in kernels before 5.12. Nothing undoes it, so it is for devices alone that go when their disk does, as SCSI ones; a
// loop device, which is what the lab has, would be read only for whatever file comes next. Its counters, too, go on.
constexpr const char* script = R"sh(
question=$1 device=$2 PATH=$PATH:/usr/sbin:/sbin
if [ -f "$device" ]; then echo "file - 1 0"; exit 0; fi # in a lab without loop devices: no kernel writes to it
name=${device##*/}
at=/sys/class/block/$name
kind=kept
if [ -e "$at/device/delete" ]; then
  kind=fresh
  if [ "$question" = begin ]; then
    for node in "$at" "$at/$name"*; do
      [ ! -e "$node/stat" ] || blockdev --setro "/dev/${node##*/}" # for root only
    done
  fi
fi
sync "$device" || exit 1
disk=$(cat "$at/diskseq" 2>/dev/null) # since Linux 5.15
counts=$(cat "$at/queue/iostats") && stat=$(cat "$at/stat") || exit 1
set -- $stat
echo "$kind ${disk:--} $counts $(($7 + ${14:-0}))"
)sh";

constexpr const char* remedy =
    "keep RAID, LVM, multipath and automounts of the proxy from disks that are not its own (docs/transports-hotadd.md)";

}  // namespace

ProxyWrites::ProxyWrites(std::optional<Ssh> ssh, process::Runner& runner) : ssh_(std::move(ssh)), runner_(runner) {}

ProxyWrites::Seen ProxyWrites::begin(const std::string& device, std::stop_token stop) {
  const Count count = ask("begin", device, std::move(stop));
  // Whoever acts on new disks may have been faster. What a device that stays has counted may be of any disk before.
  if (count.fresh && count.seen.sectors != 0)
    throw Error(Fault::conflict, fmt::format("{} has been written to on {} since it appeared there ({} sectors), so it "
                                             "is not the frozen disk any more; nothing was read from it; {}, and run "
                                             "the same command again",
                                             device, proxy(), count.seen.sectors, remedy));
  return count.seen;
}

void ProxyWrites::check(const std::string& device, const Seen& first) {
  // By no stop token: of a run that is being stopped, too, what was copied so far counts.
  const Seen now = insist(device);
  if (now.disk != first.disk)
    throw Error(Fault::conflict, fmt::format("{} on {} is no longer the disk that was read: somebody has detached that "
                                             "one meanwhile; run the same command again",
                                             device, proxy()));
  if (now.sectors == first.sectors) return;
  throw copy::BytesInDoubt(
      fmt::format("{} has been written to on {} while it was read, so what was read may never have "
                  "been in the source's disk; {}, and run the same command again, which copies all "
                  "of this disk anew",
                  device, proxy(), remedy));
}

// The whole copy hangs on this one answer, and an ssh server may refuse many that come at once.
ProxyWrites::Seen ProxyWrites::insist(const std::string& device) {
  for (int left = 3; left > 1; --left) {
    try {
      return ask("check", device, {}).seen;
    } catch (const Error& e) {
      if (e.fault() != Fault::unavailable && e.fault() != Fault::timeout) throw;
    }
    std::this_thread::sleep_for(std::chrono::seconds(2));
  }
  return ask("check", device, {}).seen;
}

ProxyWrites::Count ProxyWrites::ask(const std::string& question, const std::string& device, std::stop_token stop) {
  process::Command command;
  command.input = script;
  if (ssh_) {
    command.program = "ssh";
    command.args = ssh_arguments(*ssh_);
    command.args.insert(command.args.end(), {"--", ssh_->destination,
                                             fmt::format("sh -s -- {} {}", shell_word(question), shell_word(device))});
  } else {
    command.program = "sh";
    command.args = {"-s", "--", question, device};
  }
  const process::Output output = process::run(runner_, command, answer, std::move(stop));
  std::istringstream words(output.out);
  std::string kind;
  Count count;
  int counts = 0;
  const bool said = static_cast<bool>(words >> kind >> count.seen.disk >> counts >> count.seen.sectors);
  if (!output.status.ok() || !said)
    // ssh(1): "exits with the exit status of the remote command or with 255 if an error occurred".
    throw Error(ssh_ && output.status.code == 255 ? Fault::unavailable : Fault::tool,
                fmt::format("whether {} has been written to on {} cannot be told ({}): {}", device, proxy(),
                            output.status.describe(), output.err.substr(0, output.err.find('\n'))));
  if (counts == 0)
    throw Error(Fault::config,
                fmt::format("{} does not count what is written to {}, so whether the bytes there are the source's "
                            "cannot be told: let udev or a tuning profile not set its queue/iostats to 0",
                            proxy(), device));
  count.fresh = kind == "fresh";
  count.seen.disk = kind + " " + count.seen.disk;
  return count;
}

}  // namespace vmferry::source::vmware
