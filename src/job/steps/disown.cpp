// A doubt is a fact before it is anything else.
#include "job/steps/disown.hpp"

#include <fmt/format.h>

#include <chrono>
#include <exception>

#include "base/time_limit.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::job::steps {

target::Memory nothing_to_build_on() {
  return {{target::memory_key::change_id, ""}, {target::memory_key::complete, ""}, {target::memory_key::partial, ""}};
}

void tell_volume(const Parts& parts, Observer& observer, const std::string& label, const VolumeId& volume,
                 const std::string& doubt) {
  try {
    const TimeLimit limit(std::chrono::minutes(2));
    parts.cloud.remember(volume, nothing_to_build_on(), limit.token());
  } catch (const std::exception& e) {
    observer.warned(
        fmt::format("{}: {}, and that could not be noted on volume {} ({}): only this host knows, do not go on from "
                    "another one",
                    label, doubt, volume.value, e.what()));
  }
}

void disown(const Parts& parts, Journal& journal, Observer& observer, model::DiskKey disk, const std::string& label,
            const VolumeId& volume, const std::vector<ByteRange>& ranges) {
  std::exception_ptr unwritten;
  try {
    journal.append(DamageFound{disk, ranges});
  } catch (const std::exception&) {
    unwritten = std::current_exception();  // then the volume at least
  }
  tell_volume(parts, observer, label, volume, "what its volume holds is in doubt");
  if (unwritten) std::rethrow_exception(unwritten);
}

}  // namespace vmferry::job::steps
