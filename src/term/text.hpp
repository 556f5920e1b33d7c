// Numbers, tables and colours as a person reads them. Pure but for asking the terminal's size.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vmferry::term {

std::string human_bytes(std::uint64_t bytes);                      // "1.4 GiB"
std::string human_rate(double bytes_per_second);                   // "312 MiB/s"
std::string human_duration(double seconds);                        // "4 s", "3 min 20 s", "2 h 05 min"
std::string human_age(std::int64_t then_ms, std::int64_t now_ms);  // "3 min ago", "never" for 0

struct Screen {
  bool terminal = false;  // a person watches
  bool colour = false;    // terminal, TERM is not dumb, NO_COLOR is not set
  int columns = 80;
  int width() const noexcept { return terminal ? columns : 0; }  // for table() and wrapped(): files get whole lines
};
Screen screen_of(int fd);

// Columns as wide as needed, shortened from the widest down when the screen is narrower; no borders, two spaces apart.
// `columns` 0 = never shorten. Columns that are `whole` by their heading are to be copied: they are never shortened,
// and where they leave too little room, nothing is. Every line ends with a newline.
std::string table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                  int columns, const std::vector<std::string>& whole = {});

// Characters on the screen, not bytes (UTF-8); colours take none.
std::size_t width_of(const std::string& text);
std::string shortened(const std::string& text, std::size_t width);  // "long-na…"
// For names that others gave: what a terminal would obey becomes '?'.
std::string plain(std::string text);

// Lines broken between words where they are longer than the screen; what goes on is indented by `hang`, or by two more
// than its line when that is not given. Words are never broken: they can be copied. `columns` 0 = as it is.
std::string wrapped(const std::string& text, int columns, std::optional<std::size_t> hang = {});
// Options and what they mean in two columns, the second one wrapped within itself; of the rest what begins at the edge,
// so that examples can be copied.
std::string wrapped_help(const std::string& text, int columns);

}  // namespace vmferry::term
