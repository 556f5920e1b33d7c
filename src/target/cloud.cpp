// What all targets refuse in the same words.
#include "target/cloud.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::target {

void refuse_taken_away(const Volume& found, const std::string& job_now) {
  const std::string job = value(found.memory, memory_key::job);
  if (job.empty() || job == job_now) return;
  throw Error(
      Fault::conflict,
      fmt::format("volume {} was taken over by job {} a moment ago: another host moves this machine, too; end one "
                  "of the two",
                  found.id.value, job_now));
}

}  // namespace vmferry::target
