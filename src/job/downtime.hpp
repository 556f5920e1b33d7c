// How long a machine was away in its cutover, and what for. Pure.
#pragma once

#include <optional>
#include <span>

#include "job/fact.hpp"

namespace vmferry::job {

// Seconds; they add up to the whole.
struct Downtime {
  double shutdown = 0;    // the guest goes down, and is confirmed off
  double copy = 0;        // its last changes
  double conversion = 0;  // 0 when there was none
  double delivery = 0;    // as images, and volumes made of them; 0 when they were there already
  double server = 0;      // made, and awaited
  double whole() const noexcept { return shutdown + copy + conversion + delivery + server; }
};

// Of the cutover that is done; nothing when none is.
std::optional<Downtime> downtime_of(std::span<const Fact> facts);

}  // namespace vmferry::job
