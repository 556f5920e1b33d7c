// The pictures of the evidence's page, as SVG elements that take their colours from the page's style. Pure.
#pragma once

#include <string>

#include "report/evidence.hpp"

namespace vmferry::report {

// The downtime as one bar, and its parts in words below. Empty when the machine was not moved.
std::string downtime_bar(const Evidence& evidence);
// Each cycle, and each reading back, as a bar of its phases, all in one scale.
std::string time_line(const Evidence& evidence);
// What the volume holds and what each cycle copied of it, from the disk's first byte to its last.
std::string disk_picture(const Evidence& evidence, const Disk& disk);
// What the colours of disk_picture mean, and what those of time_line mean.
std::string disk_legend();
std::string phase_legend(const Evidence& evidence);

}  // namespace vmferry::report
