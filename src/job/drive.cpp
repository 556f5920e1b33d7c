// Runs an itinerary. Knows no step by name.
#include <fmt/format.h>

#include "job/step.hpp"

namespace vmferry::job {

void drive(const Itinerary& itinerary, Journal& journal, Observer& observer, std::stop_token stop) {
  for (const auto& step : itinerary) {
    if (stop.stop_requested()) throw Cancelled();
    const std::vector<Fact> facts = journal.facts();
    const State state = fold(facts);
    if (step->done(state)) continue;
    if (step->bookkeeping()) {
      step->run(state, journal, observer, stop);
      continue;
    }
    observer.step_started(step->name());
    try {
      step->run(state, journal, observer, stop);
    } catch (Error& e) {
      e.during(fmt::format("the step \"{}\" ran", step->name()));
      observer.step_finished(step->name(), &e);
      throw;
    } catch (const std::exception& e) {
      observer.step_finished(step->name(), &e);
      throw;
    }
    observer.step_finished(step->name(), nullptr);
  }
}

}  // namespace vmferry::job
