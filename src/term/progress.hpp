// What a user sees of a running job: live bars on a terminal, plain lines in a file or pipe, JSON events for programs.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.hpp"
#include "job/observer.hpp"
#include "log/log.hpp"

namespace vmferry::term {

enum class Style { bars, lines, json };

// Writes to `fd` (stderr for bars and lines, stdout for JSON); everything also goes to the log. Thread-safe. The
// last bars stay on the screen when it is destroyed.
std::unique_ptr<job::Observer> observer(Style style, int fd, Clock& clock, log::Log& log);

// Rate and time left from a series of (time, bytes) samples; pure, so that it can be tested.
class Pace {
 public:
  void add(double seconds, std::uint64_t done);
  double bytes_per_second() const;                 // of about the last ten seconds
  double seconds_left(std::uint64_t total) const;  // negative = not known yet

 private:
  struct Sample {
    double at = 0;
    std::uint64_t done = 0;
  };
  std::vector<Sample> samples_;
};

}  // namespace vmferry::term
