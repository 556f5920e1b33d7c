// One step of a job. Order inside a step that changes something elsewhere: tag it, act, append the fact; after a crash
// in between the tag finds it again. Collaborators come by constructor.
#pragma once

#include <memory>
#include <stop_token>
#include <string_view>
#include <vector>

#include "job/journal.hpp"
#include "job/observer.hpp"
#include "job/state.hpp"

namespace vmferry::job {

class Step {
 public:
  virtual ~Step() = default;
  virtual std::string_view name() const noexcept = 0;
  // Only writes to the journal: nobody needs to see it pass.
  virtual bool bookkeeping() const noexcept { return false; }
  // The facts say that nothing is left to do.
  virtual bool done(const State& state) const = 0;
  // Acts and appends its facts. Safe to repeat from any point it may have died at.
  virtual void run(const State& state, Journal& journal, Observer& observer, std::stop_token stop) = 0;
};

using Itinerary = std::vector<std::unique_ptr<Step>>;

// Runs the steps in order, each with the state folded afresh; skips the ones that are done. An Error gets "while
// <step>" added. Cleans nothing up: the caller decides (see release()).
void drive(const Itinerary& itinerary, Journal& journal, Observer& observer, std::stop_token stop);

}  // namespace vmferry::job
