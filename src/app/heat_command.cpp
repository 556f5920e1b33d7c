// heat-template: what was moved, for the owner's own stack.
#include "app/chosen_job.hpp"
#include "app/commands.hpp"
#include "app/console.hpp"
#include "report/heat.hpp"
#include "store/store.hpp"

namespace vmferry::app {

int run_heat_template(const config::Options& options, Clock& clock) {
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  print_out(report::heat_template(facts_of_chosen_job(places, options, clock)));
  return 0;
}

}  // namespace vmferry::app
