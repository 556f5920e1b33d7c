// Formatting for eyes.
#include "term/text.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace vmferry::term {

std::string human_bytes(std::uint64_t bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < std::size(units)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0       ? fmt::format("{} B", bytes)
         : value < 99.95 ? fmt::format("{:.1f} {}", value, units[unit])
                         : fmt::format("{:.0f} {}", value, units[unit]);
}

std::string human_rate(double bytes_per_second) {
  return human_bytes(static_cast<std::uint64_t>(std::max(0.0, bytes_per_second))) + "/s";
}

std::string human_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 3.2e8) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{} d {:02} h", whole / 86400, whole / 3600 % 24);
}

std::string human_age(std::int64_t then_ms, std::int64_t now_ms) {
  if (then_ms == 0) return "never";
  const std::int64_t seconds = std::max<std::int64_t>(0, (now_ms - then_ms) / 1000);
  if (seconds < 5) return "now";
  if (seconds < 60) return fmt::format("{} s ago", seconds);
  if (seconds < 3600) return fmt::format("{} min ago", seconds / 60);
  if (seconds < 86400) return fmt::format("{} h ago", seconds / 3600);
  return fmt::format("{} d ago", seconds / 86400);
}

Screen screen_of(int fd) {
  Screen screen;
  screen.terminal = ::isatty(fd) == 1;
  const char* term = std::getenv("TERM");
  screen.colour = screen.terminal && term && std::strcmp(term, "dumb") != 0 && !std::getenv("NO_COLOR");
  winsize size{};
  if (screen.terminal && ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) screen.columns = size.ws_col;
  return screen;
}

std::size_t width_of(const std::string& text) {
  std::size_t width = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b')
      i = std::min(text.find('m', i), text.size());
    else
      width += (text[i] & 0xc0) != 0x80;
  }
  return width;
}

std::string shortened(const std::string& text, std::size_t width) {
  if (width_of(text) <= width) return text;
  std::string out;
  std::size_t taken = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((text[i] & 0xc0) != 0x80 && ++taken >= width) break;
    out += text[i];
  }
  return width == 0 ? "" : out + "…";
}

namespace {

std::string wrapped_line(const std::string& line, std::size_t columns, std::size_t hang) {
  std::string out;
  std::size_t at = line.find_first_not_of(' '), taken = 0;
  if (at == std::string::npos || width_of(line) <= columns) return line;
  out = line.substr(0, at);
  taken = at;
  for (bool first = true; at < line.size(); first = false) {
    // A word, and the blanks before it (two in a row are columns, and stay).
    const std::size_t begin = line.find_first_not_of(' ', at);
    if (begin == std::string::npos) break;
    const std::size_t end = std::min(line.find(' ', begin), line.size());
    const std::string word = line.substr(begin, end - begin);
    if (!first && taken + (begin - at) + width_of(word) > columns) {
      out += "\n" + std::string(hang, ' ');
      taken = hang;
    } else {
      out.append(begin - at, ' ');
      taken += begin - at;
    }
    out += word;
    taken += width_of(word);
    at = end;
  }
  return out;
}

template <class F>
std::string each_line(const std::string& text, F&& change) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    out += change(text.substr(at, end - at));
    if (end < text.size()) out += '\n';
    at = end + 1;
  }
  return out;
}

}  // namespace

std::string wrapped(const std::string& text, int columns, std::optional<std::size_t> hang) {
  if (columns <= 0) return text;
  return each_line(text, [&](const std::string& line) {
    const std::size_t own = std::min(line.find_first_not_of(' '), line.size());
    return wrapped_line(line, static_cast<std::size_t>(columns), hang.value_or(own + 2));
  });
}

std::string wrapped_help(const std::string& text, int columns) {
  constexpr std::size_t meaning = 30;  // where CLI11 begins it, on the option's line or below
  return each_line(text, [&](const std::string& line) {
    const bool has_meaning =
        line.size() > meaning && line[0] == ' ' && line[meaning - 1] == ' ' && line[meaning] != ' ';
    if (has_meaning) return wrapped(line, columns, meaning);
    return line.starts_with(' ') ? line : wrapped(line, columns, 0);
  });
}

std::string plain(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F, which are C2 80 to C2 9F, act as ESC does.
    const bool second = i + 1 < text.size() && c == 0xc2 && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (second) text.erase(i, 1);
    if (second || c < 0x20 || c == 0x7f) text[i] = '?';
  }
  return text;
}

std::string table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                  int columns, const std::vector<std::string>& whole) {
  constexpr std::size_t narrowest = 4;
  std::vector<std::size_t> widths;
  for (const std::string& cell : header) widths.push_back(width_of(cell));
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size() && i < widths.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  const auto total = [](const std::vector<std::size_t>& of) {
    return std::accumulate(of.begin(), of.end(), of.empty() ? std::size_t{0} : 2 * (of.size() - 1));
  };
  std::vector<std::size_t> fitting = widths;
  while (columns > 0 && total(fitting) > static_cast<std::size_t>(columns)) {
    std::size_t* widest = nullptr;
    for (std::size_t i = 0; i < fitting.size(); ++i)
      if (std::find(whole.begin(), whole.end(), header[i]) == whole.end() && fitting[i] > narrowest &&
          (!widest || fitting[i] > *widest))
        widest = &fitting[i];
    if (!widest) break;
    --*widest;
  }
  if (whole.empty() || total(fitting) <= static_cast<std::size_t>(columns)) widths = fitting;
  std::string text;
  const auto line = [&](const std::vector<std::string>& row) {
    std::string out;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::string cell = shortened(i < row.size() ? row[i] : "", widths[i]);
      out += cell;
      if (i + 1 < widths.size()) out += std::string(widths[i] - width_of(cell) + 2, ' ');
    }
    while (!out.empty() && out.back() == ' ') out.pop_back();
    text += out + "\n";
  };
  line(header);
  for (const auto& row : rows) line(row);
  return text;
}

}  // namespace vmferry::term
