// What a volume holds is no point of the source any more, or may not be one.
#pragma once

#include <string>
#include <vector>

#include "job/itinerary.hpp"
#include "job/journal.hpp"
#include "job/observer.hpp"

namespace vmferry::job::steps {

// Notes that nothing may build on these bytes: in the journal first, then on the volume, for whoever finds that without
// the journal. Goes on when the volume cannot be told, with a warning; throws when the journal cannot. Also for a run
// that is being stopped: takes two minutes at most.
void disown(const Parts& parts, Journal& journal, Observer& observer, model::DiskKey disk, const std::string& label,
            const VolumeId& volume, const std::vector<ByteRange>& ranges);

// The second half of it alone. `doubt`: what is wrong, for the warning.
void tell_volume(const Parts& parts, Observer& observer, const std::string& label, const VolumeId& volume,
                 const std::string& doubt);

// The volume's own words that say it is whole, or how far it is.
target::Memory nothing_to_build_on();

}  // namespace vmferry::job::steps
