// The evidence for eyes: first what happened, in a sentence, then the pictures, then every number, then how to check
// it. It is well-formed XML too, so that a program can look into it.
#include <fmt/format.h>

#include <algorithm>

#include "report/evidence.hpp"
#include "report/page_style.hpp"
#include "report/pictures.hpp"
#include "report/text.hpp"
#include "term/text.hpp"

namespace vmferry::report {

namespace {

std::string code(const std::string& text) { return text.empty() ? "" : fmt::format("<code>{}</code>", escaped(text)); }
std::string bytes(std::optional<std::uint64_t> count) { return count ? term::human_bytes(*count) : ""; }
std::string soft(const std::string& text) {
  return text.empty() ? "" : "<br/><span class=\"soft\">" + text + "</span>";
}

// Cells are HTML already; a head that begins with '#' is of a column of numbers.
std::string table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
  const auto number = [&](std::size_t i) { return head[i].starts_with('#') ? " class=\"n\"" : ""; };
  std::string text = "<div class=\"scroll\"><table><thead><tr>";
  for (std::size_t i = 0; i < head.size(); ++i)
    text += fmt::format("<th{}>{}</th>", number(i), head[i].substr(head[i].starts_with('#') ? 1 : 0));
  text += "</tr></thead><tbody>\n";
  for (const auto& row : rows) {
    text += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) text += fmt::format("<td{}>{}</td>", number(i), row[i]);
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

std::string section(const std::string& title, const std::string& inside) {
  return inside.empty() ? "" : fmt::format("<section><h2>{}</h2>\n{}</section>\n", title, inside);
}

std::string figures(const Evidence& told) {
  std::string text;
  const auto figure = [&](const std::string& what, const std::string& value) {
    text += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", what, value);
  };
  std::uint64_t size = 0, read = 0, written = 0;
  for (const Disk& disk : told.disks) size += disk.capacity.value_or(0), read += disk.read, written += disk.written;
  if (told.downtime) figure("downtime", term::human_duration(told.downtime->whole()));
  figure("disks", fmt::format("{}, {}", told.disks.size(), term::human_bytes(size)));
  figure("cycles", std::to_string(told.cycles.size()));
  figure("read from the source", term::human_bytes(read));
  figure("written", term::human_bytes(written));
  if (!told.runs.empty()) figure("interruptions", std::to_string(told.interruptions));
  return "<dl class=\"figures\">" + text + "</dl>\n";
}

std::string downtime(const Evidence& told) {
  const std::string bar = downtime_bar(told);
  if (bar.empty()) return "";
  return bar +
         "<p class=\"soft\">From the request to shut down until the new machine was there. Shutdown: until the machine was "
         "confirmed off. Last changes: until the last byte of them was on stable storage. Server: made, and awaited; before that the volumes were "
         "detached and, where that was wished for, read back.</p>\n";
}

std::string pictures(const Evidence& told) {
  std::string text;
  for (const Disk& disk : told.disks)
    text += fmt::format("<h3>{}</h3>\n", escaped(disk.name())) + disk_picture(told, disk);
  if (text.empty()) return "";
  return text + disk_legend() +
         "<p class=\"soft\">From the disk's first byte, left, to its last. The fuller the colour, the more of that part.</p>\n";
}

std::string root_of(const Disk& disk) {
  if (disk.root && !disk.root->digest.empty())
    return code(disk.root->digest) + soft(disk.root->converted ? "after the conversion of the guest" : "");
  return "<span class=\"soft\">not known: " + escaped(disk.no_root) + "</span>";
}

std::string disks(const Evidence& told) {
  std::vector<std::vector<std::string>> rows;
  for (const Disk& disk : told.disks)
    rows.push_back(
        {escaped(disk.name()) + soft(escaped(disk.file)), bytes(disk.capacity),
         code(disk.volume) + soft(escaped(disk.volume_name) + (disk.adopted ? "existed before this job" : "")),
         bytes(disk.read),
         bytes(disk.written) + soft(disk.equal.value_or(0) > 0 ? bytes(disk.equal) + " more were equal" : ""),
         root_of(disk)});
  if (rows.empty()) return "";
  return table({"Disk", "#Size", "Volume", "#Read", "#Written", "Digest root"}, rows) +
         "<p class=\"soft\">The digest root is one XXH3-128 over the digests of all 64 KiB chunks of the disk, in their order, and the "
         "disk's size: what was written to the volume and flushed, before any server had it.</p>\n";
}

// How the disks came to the cloud, where they were not written there.
std::string images(const Evidence& told) {
  std::vector<std::vector<std::string>> rows;
  for (const Disk& disk : told.disks) {
    if (!disk.image) continue;
    const job::ImageUploaded& image = *disk.image;
    rows.push_back(
        {escaped(disk.name()), code(image.image.value), bytes(image.bytes) + soft(escaped(image.format)),
         term::human_duration(image.seconds),
         (image.hash.empty() ? "not compared" : code(image.algorithm + " " + image.hash)) + soft(escaped(image.remark)),
         code(disk.delivered)});
  }
  if (rows.empty()) return "";
  std::string text = table({"Disk", "Image", "#Sent", "#In", "Proven by", "Volume made of it"}, rows) +
                     "<p class=\"soft\">Proven: the digest was computed here, of what was sent, and is what the cloud "
                     "says of what it stored.</p>\n";
  for (const std::string& kept : told.images_kept) text += "<p>Still there: " + escaped(kept) + "</p>\n";
  return text;
}

std::string kind_of(const DiskCopy& copy) {
  if (copy.conversion_kept) return "nothing had changed";
  return (copy.full ? "everything" + soft(escaped(copy.reason)) : "what changed") +
         (copy.transport.empty() ? "" : soft("by " + escaped(copy.transport)));
}

std::string points(const DiskCopy& copy) {
  const std::string after = copy.after ? code(copy.after->text()) : "";
  return copy.before ? code(copy.before->text()) + " →<br/>" + after : after;
}

std::string cycles(const Evidence& told) {
  std::vector<std::vector<std::string>> rows;
  const auto name = [&](model::DiskKey key) {
    for (const Disk& disk : told.disks)
      if (disk.key == key) return disk.name();
    return fmt::format("disk {}", key.value);
  };
  for (const Cycle& cycle : told.cycles) {
    std::string head = fmt::format("{}", cycle.number) + soft(std::string(cycle.abandoned ? "final, in vain"
                                                                          : cycle.final   ? "final"
                                                                                          : "") +
                                                              (cycle.ended ? "" : "not ended"));
    std::string frozen = (cycle.frozen ? plain_time(*cycle.frozen) : "") + soft(escaped(cycle.consistency));
    if (cycle.copies.empty()) rows.push_back({head, frozen, "", "", "", "", "", ""});
    for (const DiskCopy& copy : cycle.copies) {
      rows.push_back({head, frozen, escaped(name(copy.disk)), kind_of(copy), bytes(copy.read), bytes(copy.written),
                      copy.audited.value_or(0) > 0 ? bytes(copy.audited) : "", points(copy)});
      head = frozen = "";
    }
  }
  if (rows.empty()) return "";
  return table({"Cycle", "Frozen at", "Disk", "Copied", "#Read", "#Written", "#Audited", "Change id"}, rows) +
         "<p class=\"soft\">Each cycle copies all disks as one snapshot froze them. Audited: read although it was called unchanged, and "
         "compared.</p>\n";
}

std::string verifications(const Evidence& told) {
  std::vector<std::vector<std::string>> rows;
  for (const Verification& found : told.verifications) {
    std::string name = fmt::format("disk {}", found.disk.value);
    for (const Disk& disk : told.disks)
      if (disk.key == found.disk) name = disk.name();
    rows.push_back({plain_time(found.at), escaped(name), bytes(found.read), bytes(found.unknown),
                    found.different == 0 ? "none" : fmt::format("<b>{} bytes</b>", found.different)});
  }
  if (rows.empty()) return "<p>The volumes were not read back.</p>\n";
  return table({"At", "Volume of", "#Read and compared", "#Not known", "#Differences"}, rows);
}

std::string commands(const Evidence& told) {
  std::vector<std::vector<std::string>> rows;
  for (const Run& run : told.runs)
    rows.push_back({plain_time(run.at), "<code>vmferry " + escaped(run.command) + "</code>", escaped(run.version),
                    run.resumed ? "went on from what an interrupted run had left" : ""});
  return rows.empty() ? "" : table({"Began", "Command", "Version", ""}, rows);
}

std::string how_to_check(const Evidence& told) {
  const std::string path = shell_word(told.job.vm_path.empty() ? told.job.vm.value : told.job.vm_path);
  std::string text;
  if (!told.server)
    text +=
        "<p>Read the volumes again and compare every 64 KiB with what was written, with the flags that <code>migrate</code> was "
        "given:</p>\n<pre>vmferry verify --vmware-path " +
        escaped(path) + " ...</pre>\n";
  else
    text +=
        "<p>The server writes to its volumes, so these cannot be compared any more. As long as nobody powers the old machine on, its "
        "disks hold what was copied last: where the guest was not converted, their digest roots must be the ones above.</p>\n";
  text +=
      "<p>The digest root of any disk, image or volume can be computed without vmferry; its manual (docs/evidence.md) has a short "
      "program for it. This page is drawn from the job's journal, and can be made again from it:</p>\n<pre>vmferry evidence --job " +
      escaped(shell_word(told.job.job.value)) + "</pre>\n";
  return text +
         "<p class=\"soft\">The digests find damage and mistakes. They are no signature: whoever can change the journal can change "
         "this page.</p>\n";
}

std::string about(const Evidence& told) {
  std::vector<std::vector<std::string>> rows;
  const auto row = [&](const char* what, const std::string& value) {
    if (!value.empty()) rows.push_back({what, value});
  };
  row("Machine",
      escaped(told.job.vm_path.empty() ? told.job.vm_name : told.job.vm_path) + " " + code(told.job.vm.value));
  row("Guest", escaped(told.job.guest));
  row("Instance UUID", code(told.job.instance_uuid));
  row("From", escaped(told.job.endpoint) + " " + code(told.job.source));
  row("To", escaped(told.job.target));
  if (told.server) row("New machine", code(*told.server) + " " + escaped(told.server_state.value_or("")));
  row("Job", code(told.job.job.value));
  std::string text = "<div class=\"scroll\"><table><tbody>\n";
  for (const auto& r : rows) text += fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", r[0], r[1]);
  return text + "</tbody></table></div>\n";
}

}  // namespace

std::string as_page(const Evidence& told, std::string_view version, std::int64_t now) {
  const std::string name = escaped(told.job.vm_name);
  const bool trouble =
      std::any_of(told.disks.begin(), told.disks.end(), [](const Disk& disk) { return disk.damaged > 0; });
  // A policy that allows nothing but this page's own style: should escaping ever fail, nothing runs.
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n<meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\"/>\n<title>{}: evidence of its migration</title>\n<style>{}</style></head>\n<body><main>\n"
      "<p class=\"kicker\">Evidence of a migration</p>\n<h1>{}</h1>\n<p class=\"lead\">{}</p>\n",
      name, page_style, name, escaped(in_words(told)));
  if (trouble)
    page +=
        "<p class=\"notice\">Damage was found on a volume and has not been copied again: the next cycle does so.</p>\n";
  page += figures(told);
  page += section("Downtime", downtime(told));
  if (const std::string line = time_line(told); !line.empty())
    page += section("What took how long", line + phase_legend(told));
  page += section("Where the bytes went", pictures(told));
  page += section("Disks", disks(told));
  page += section("Images", images(told));
  page += section("Cycles", cycles(told));
  page += section("Read back from the volumes", verifications(told));
  page += section("Commands", commands(told));
  page += section("What it is about", about(told));
  page += section("How to check this", how_to_check(told));
  return page +
         fmt::format(
             "<footer>Drawn from the journal of job {} by vmferry {} on {}. All times are UTC. What was not recorded is "
             "not shown.</footer>\n</main></body></html>\n",
             escaped(told.job.job.value), escaped(version), plain_time(now));
}

}  // namespace vmferry::report
