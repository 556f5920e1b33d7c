// Widths are of a drawing 960 wide, which the page scales. What is drawn is also told in words, in titles and tables.
#include "report/pictures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "report/text.hpp"
#include "term/text.hpp"

namespace vmferry::report {

namespace {

constexpr double width = 960, label_width = 170, value_width = 210;
constexpr double plot_width = width - label_width - value_width;
constexpr std::size_t most_rows = 24;  // of a picture: a job may have hundreds of cycles

struct Word {
  const char* phase;
  const char* style;
  const char* text;
};
constexpr Word phases[] = {{"shutdown", "p-shutdown", "shutdown"},
                           {"snapshot", "p-snapshot", "take the snapshot"},
                           {"copy", "p-copy", "copy"},
                           {"conversion", "p-conversion", "conversion"},
                           {"verify", "p-verify", "read back"},
                           {"delivery", "p-delivery", "bring the disks to the cloud"},
                           {"server", "p-server", "create the server"},
                           {"remove snapshot", "p-thaw", "remove the snapshot"},
                           {"detach", "p-detach", "detach the volumes"}};

const Word* word_of(const std::string& phase) {
  for (const Word& word : phases)
    if (phase == word.phase) return &word;
  return nullptr;
}

double seconds(std::int64_t ms) { return static_cast<double>(ms) / 1000; }

std::string svg(double height, const std::string& what, const std::string& inside) {
  return fmt::format("<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">{}</svg>\n", width, height,
                     escaped(what), inside);
}

std::string swatch(const std::string& style, const std::string& text) {
  return fmt::format(
      "<li><svg class=\"swatch\" viewBox=\"0 0 12 12\"><rect class=\"{}\" width=\"12\" height=\"12\"/></svg>{}</li>",
      style, text);
}

// A row of the time line: what one run did of one cycle.
struct Row {
  int cycle = 0;
  bool continued = false;
  std::int64_t began = 0, ended = 0;
  std::vector<const Phase*> phases;
};

std::vector<Row> rows_of(const Evidence& told) {
  std::map<std::pair<std::size_t, int>, Row> rows;  // by run and cycle
  std::set<int> seen;
  for (const Phase& phase : told.phases) {
    const auto run = static_cast<std::size_t>(
        std::count_if(told.runs.begin(), told.runs.end(), [&](const Run& r) { return r.at <= phase.ended; }));
    Row& row = rows[{run, phase.cycle}];
    if (row.phases.empty()) row = {phase.cycle, !seen.insert(phase.cycle).second, phase.began, phase.ended, {}};
    row.began = std::min(row.began, phase.began);
    row.ended = std::max(row.ended, phase.ended);
    row.phases.push_back(&phase);
  }
  std::vector<Row> list;
  list.reserve(rows.size());
  for (auto& [key, row] : rows) list.push_back(std::move(row));
  std::stable_sort(list.begin(), list.end(), [](const Row& a, const Row& b) { return a.began < b.began; });
  return list;
}

std::string label_of(const Evidence& told, const Row& row) {
  if (row.cycle == 0) {
    const bool verified =
        std::any_of(row.phases.begin(), row.phases.end(), [](const Phase* p) { return p->name == "verify"; });
    return verified ? "read back" : "in between";
  }
  std::string text = fmt::format("cycle {}", row.cycle);
  for (const Cycle& cycle : told.cycles)
    if (cycle.number == row.cycle && (cycle.final || cycle.abandoned))
      text += cycle.abandoned ? ", in vain" : ", final";
  return text + (row.continued ? ", again" : "");
}

// 1, 2 or 5 times a power of ten: at most six of them fill the scale.
double step_for(double whole) {
  double step = std::pow(10, std::floor(std::log10(std::max(whole, 0.001) / 6)));
  for (const double factor : {2.0, 2.5, 2.0})
    if (whole / step > 6) step *= factor;
  return step;
}

std::string scale(double whole, double height) {
  std::string text;
  const double step = step_for(whole);
  for (int i = 0; i * step <= whole * 1.0001; ++i) {
    const double at = i * step;
    const double x = label_width + plot_width * at / whole;
    text += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"0\" y2=\"{1:.0f}\"/><text class=\"tick\" x=\"{0:.1f}\" y=\"{2:.0f}\">{3}</text>",
        x, height - 18, height - 4, at == 0 ? "0" : term::human_duration(at));
  }
  return text;
}

std::string bar(const Row& row, double whole, double y) {
  std::string text;
  for (const Phase* phase : row.phases) {
    const Word* word = word_of(phase->name);
    const double from = seconds(phase->began - row.began), took = seconds(phase->ended - phase->began);
    text += fmt::format(
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"16\"><title>{}: {}, {}</title></rect>",
        word ? word->style : "p-detach", label_width + plot_width * from / whole, y,
        std::max(1.0, plot_width * took / whole), escaped(phase->name), plain_time(phase->began),
        term::human_duration(took));
  }
  return text;
}

// Cells that look the same are one rectangle.
std::string cells(const std::string& strip, double y, double height, const char* style) {
  std::string text;
  const double cell = plot_width / static_cast<double>(strip.size());
  for (std::size_t i = 0; i < strip.size();) {
    const std::size_t end = std::min(strip.find_first_not_of(strip[i], i), strip.size());
    const char c = strip[i];
    const std::string look = c == '?' ? "class=\"unknown\""
                             : c == '0'
                                 ? "class=\"hole\""
                                 : fmt::format("class=\"{}\" fill-opacity=\"{:.2f}\"", style, 0.28 + 0.08 * (c - '0'));
    text += fmt::format("<rect {} x=\"{:.2f}\" y=\"{:.0f}\" width=\"{:.2f}\" height=\"{:.0f}\"/>", look,
                        label_width + cell * static_cast<double>(i), y, cell * static_cast<double>(end - i), height);
    i = end;
  }
  return text;
}

std::string line(double y, const std::string& label, const std::string& value) {
  return fmt::format(
      "<text x=\"0\" y=\"{0:.0f}\">{1}</text><text class=\"value\" x=\"{2:.0f}\" y=\"{0:.0f}\">{3}</text>", y,
      escaped(label), width, escaped(value));
}

}  // namespace

std::string downtime_bar(const Evidence& told) {
  if (!told.downtime || told.downtime->whole() <= 0) return "";
  const job::Downtime& d = *told.downtime;
  struct Part {
    const char *style, *text;
    double seconds;
  };
  const Part parts[] = {{"p-shutdown", "shutdown", d.shutdown},
                        {"p-copy", "last changes", d.copy},
                        {"p-conversion", "conversion", d.conversion},
                        {"p-delivery", "images", d.delivery},
                        {"p-server", "server", d.server}};
  std::string bars, list;
  double x = 0;
  for (const Part& part : parts) {
    if (part.seconds <= 0) continue;
    const double w = width * part.seconds / d.whole();
    bars += fmt::format("<rect class=\"{}\" x=\"{:.2f}\" y=\"0\" width=\"{:.2f}\" height=\"34\"/>", part.style, x,
                        std::max(0.5, w - 2));
    x += w;
    list += swatch(part.style, fmt::format("{} <b>{}</b>", part.text, term::human_duration(part.seconds)));
  }
  return svg(34, fmt::format("downtime {}", term::human_duration(d.whole())), bars) + "<ul class=\"legend\">" + list +
         "</ul>\n";
}

std::string time_line(const Evidence& told) {
  std::vector<Row> rows = rows_of(told);
  if (rows.empty()) return "";
  std::string note;
  if (rows.size() > most_rows) {
    note = fmt::format("<p class=\"soft\">Of {} rows the first and the last {} are drawn.</p>\n", rows.size(),
                       most_rows - 1);
    rows.erase(rows.begin() + 1, rows.end() - static_cast<std::ptrdiff_t>(most_rows - 1));
  }
  double whole = 0.001;
  for (const Row& row : rows) whole = std::max(whole, seconds(row.ended - row.began));
  const double height = 26 * static_cast<double>(rows.size()) + 22;
  std::string inside = scale(whole, height);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double y = 26 * static_cast<double>(i) + 2;
    inside += line(y + 13, label_of(told, rows[i]),
                   fmt::format("{} · {}", plain_time(rows[i].began).substr(0, 19),
                               term::human_duration(seconds(rows[i].ended - rows[i].began))));
    inside += bar(rows[i], whole, y);
  }
  return svg(height, "what each cycle took", inside) + note;
}

std::string disk_picture(const Evidence& told, const Disk& disk) {
  struct Drawn {
    std::string label, value, strip;
    const char* style;
  };
  std::vector<Drawn> rows;
  for (const Cycle& cycle : told.cycles)
    for (const DiskCopy& copy : cycle.copies)
      if (copy.disk == disk.key && !copy.strip.empty() && !copy.conversion_kept)
        rows.push_back({fmt::format("cycle {}{}", cycle.number,
                                    copy.full     ? ", in full"
                                    : cycle.final ? ", final"
                                                  : ""),
                        fmt::format("{} written", term::human_bytes(copy.written)), copy.strip,
                        copy.full ? "full" : "changed"});
  if (rows.size() > most_rows) rows.erase(rows.begin() + 1, rows.end() - static_cast<std::ptrdiff_t>(most_rows - 1));
  if (disk.root && !disk.root->strip.empty())
    rows.push_back(
        {"on the volume",
         fmt::format("{} data, {} zero", term::human_bytes(disk.root->bytes - disk.root->zero - disk.root->unknown),
                     term::human_bytes(disk.root->zero)),
         disk.root->strip, "data"});
  std::string inside;
  double y = 2;
  for (const Drawn& row : rows) {
    const double h = row.style == std::string("data") ? 22 : 13;
    inside += line(y + h / 2 + 4, row.label, row.value) + cells(row.strip, y, h, row.style);
    y += h + 5;
  }
  if (rows.empty()) return "<p class=\"soft\">Where on the disk something was copied was not recorded.</p>\n";
  return svg(y, fmt::format("where {} was copied", disk.name()), inside);
}

std::string disk_legend() {
  return "<ul class=\"legend\">" + swatch("full", "copied in full") + swatch("changed", "copied as changed") +
         swatch("data", "data") + swatch("hole", "nothing there, or not copied") + swatch("unknown", "not known") +
         "</ul>\n";
}

std::string phase_legend(const Evidence& told) {
  std::set<std::string> used;
  for (const Phase& phase : told.phases) used.insert(phase.name);
  std::string list;
  for (const Word& word : phases)
    if (used.contains(word.phase)) list += swatch(word.style, word.text);
  return "<ul class=\"legend\">" + list + "</ul>\n";
}

}  // namespace vmferry::report
