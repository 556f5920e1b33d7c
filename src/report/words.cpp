// The first sentences: what happened, and what of it is sure. A sentence is only there when the facts bear it.
#include <fmt/format.h>

#include <algorithm>

#include "report/evidence.hpp"
#include "report/text.hpp"
#include "term/text.hpp"

namespace vmferry::report {

namespace {

std::string disks_in_words(std::size_t count, std::uint64_t bytes) {
  return fmt::format("{} disk{} ({})", count, count == 1 ? "" : "s", term::human_bytes(bytes));
}

std::uint64_t bytes_of(const Evidence& told, const Cycle& cycle) {
  std::uint64_t bytes = 0;
  for (const Disk& disk : told.disks)
    for (const DiskCopy& copy : cycle.copies)
      if (copy.disk == disk.key) bytes += disk.capacity.value_or(0);
  return bytes;
}

const Cycle* last_whole(const Evidence& told) {
  for (auto cycle = told.cycles.rbegin(); cycle != told.cycles.rend(); ++cycle)
    if (!cycle->abandoned && cycle->ended && !cycle->copies.empty()) return &*cycle;
  return nullptr;
}

// Read again after their last copy, and as they were written.
std::string read_back(const Evidence& told, const Cycle& cycle) {
  std::uint64_t read = 0, unknown = 0;
  for (const DiskCopy& copy : cycle.copies) {
    const Verification* last = nullptr;
    for (const Verification& found : told.verifications)
      if (found.disk == copy.disk && found.at >= copy.ended) last = &found;
    if (!last || last->different > 0) return "";
    read += last->read;
    unknown += last->unknown;
  }
  const std::uint64_t whole = bytes_of(told, cycle);
  if (read == 0) return "";
  return fmt::format(" {} was read back from the volumes after that, and was as it had been written.",
                     read >= whole && unknown == 0 ? "Every byte" : term::human_bytes(read) + " of it");
}

std::string reservations(const Evidence& told) {
  std::string text;
  for (const Disk& disk : told.disks) {
    if (disk.damaged > 0)
      text += fmt::format(" {} bytes of the volume of {} were found damaged, and have not been copied again.",
                          disk.damaged, disk.name());
    if (disk.tracking_doubted)
      text += fmt::format(" The change tracking of {} was found wrong; from then on the disk was compared in full.",
                          disk.name());
    if (disk.adopted && (!disk.root || disk.root->unknown > 0))
      text += fmt::format(" The volume of {} was begun by another tool or host: what that one wrote is not known here.",
                          disk.name());
  }
  return text;
}

std::string moved(const Evidence& told) {
  const bool server = told.job.target.starts_with("OpenStack");
  std::string text = fmt::format("{} was moved to {} {} on {}.", told.job.vm_name, server ? "server" : "the domain",
                                 told.server.value_or("?"), plain_time(told.done.value_or(told.last)));
  if (told.downtime)
    text += fmt::format(" It was down for {}, from the request to shut down until the {} was {}.",
                        term::human_duration(told.downtime->whole()), server ? "server" : "domain",
                        told.server_state.value_or("there"));
  if (const Cycle* cycle = last_whole(told); cycle && cycle->final) {
    text += fmt::format(
        " {} arrived: their last changes come from one snapshot of the machine, taken when it was confirmed off, and "
        "were on stable storage before the {} was made.",
        disks_in_words(cycle->copies.size(), bytes_of(told, *cycle)), server ? "server" : "domain");
    text += read_back(told, *cycle);
  }
  if (told.converted) {
    std::uint64_t bytes = 0;
    for (const Disk& disk : told.disks) bytes += disk.rewritten.value_or(0);
    text += fmt::format(" The guest was converted for KVM, which rewrote {}.", term::human_bytes(bytes));
  }
  return text;
}

// Nothing was written to the volumes after that cycle, and none was made anew.
bool stands(const Evidence& told, const Cycle& cycle) {
  const bool later = std::any_of(told.cycles.begin(), told.cycles.end(), [&](const Cycle& other) {
    return other.number > cycle.number && !other.copies.empty();
  });
  const auto complete = [&](const DiskCopy& copy) {
    return std::any_of(told.disks.begin(), told.disks.end(),
                       [&](const Disk& disk) { return disk.key == copy.disk && disk.complete; });
  };
  return !later && std::all_of(cycle.copies.begin(), cycle.copies.end(), complete);
}

std::string in_sync(const Evidence& told) {
  std::string text = fmt::format("{} has not been moved yet.", told.job.vm_name);
  if (const Cycle* cycle = last_whole(told); cycle && cycle->frozen && !stands(told, *cycle)) {
    text += " Its volumes were written to after the last whole cycle: the next one makes them whole again.";
  } else if (cycle && cycle->frozen) {
    text += fmt::format(" {} {} on the volumes as they were on {} (cycle {}).",
                        disks_in_words(cycle->copies.size(), bytes_of(told, *cycle)),
                        cycle->copies.size() == 1 ? "is" : "are", plain_time(*cycle->frozen), cycle->number);
    text += read_back(told, *cycle);
  }
  return text;
}

}  // namespace

std::string in_words(const Evidence& told) {
  const std::string& name = told.job.vm_name;
  if (told.phase == "done") return moved(told) + reservations(told);
  if (told.phase == "synced") return in_sync(told) + reservations(told);
  const std::string since = plain_time(told.last);
  if (told.phase == "aborted") return fmt::format("The migration of {} was undone on {}.", name, since);
  if (told.phase == "copying")
    return fmt::format("A cycle of {} is under way, or was interrupted; the last word of it is of {}.", name, since) +
           reservations(told);
  if (told.phase == "cutting over")
    return fmt::format("The cutover of {} has begun and is not done; the last word of it is of {}.", name, since) +
           reservations(told);
  return fmt::format("The migration of {} was prepared on {}; nothing has been copied yet.", name,
                     plain_time(told.created));
}

}  // namespace vmferry::report
