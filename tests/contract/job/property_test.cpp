// Whatever the sequence of cycles, deaths, lost histories, damage and ways back: what was copied is the source.
#include "world.hpp"

#include <rapidcheck/gtest.h>

#include "base/finally.hpp"

namespace vmferry::job {
namespace {

enum class Act { cycle, cutover, repair, power_on, reset_tracking, damage };

struct Deed {
  Act act = Act::cycle;
  int dies_after = -1;  // so many further events; negative: it does not
};

void showValue(const Deed& deed, std::ostream& out) {
  constexpr const char* names[] = {"cycle", "cutover", "repair", "power_on", "reset_tracking", "damage"};
  out << names[static_cast<int>(deed.act)];
  if (deed.dies_after >= 0) out << " dies after " << deed.dies_after;
}

rc::Gen<Deed> deeds() {
  return rc::gen::apply(
      [](Act act, int dies_after) {
        return Deed{act, dies_after};
      },
      rc::gen::weightedElement<Act>({{6, Act::cycle},
                                     {3, Act::cutover},
                                     {2, Act::repair},
                                     {2, Act::power_on},
                                     {2, Act::reset_tracking},
                                     {1, Act::damage}}),
      // A cycle has about 60 events, a cutover about 110.
      rc::gen::oneOf(rc::gen::just(-1), rc::gen::inRange(0, 110)));
}

class Sequence {
 public:
  Sequence() { world_.checkpoints = true; }

  bool over() const { return !world_.cloud.servers().empty(); }

  void perform(const Deed& deed) {
    world_.dies_at = deed.dies_after < 0 ? -1 : static_cast<int>(world_.events.size()) + deed.dies_after;
    switch (deed.act) {
      case Act::cycle:
        if (!attempt([&] { world_.run(false); })) break;
        if (!damaged_) world_.expect_equal_to_last_snapshot();
        world_.expect_nothing_left();
        break;
      case Act::cutover:
        cut_over();
        break;
      case Act::repair:
        if (attempt([&] { world_.verify(true); })) damaged_ = false;
        break;
      case Act::power_on:
        world_.machine.power_on();
        break;
      case Act::reset_tracking:
        world_.machine.reset_tracking();
        break;
      case Act::damage:
        damage();
        break;
    }
  }

  // What an operator does in the end: the cutover until it is done. One that finds damage, or a machine that was
  // powered on in between, says so, and the next one is right.
  void arrive() {
    world_.dies_at = -1;
    for (int tries = 0; tries < 4 && !over(); ++tries) cut_over();
    world_.run(true);
    EXPECT_FALSE(world_.machine.on());
    world_.expect_nothing_left();
    EXPECT_EQ(world_.cloud.servers().size(), 1u);
    EXPECT_EQ(world_.cloud.ports().size(), 1u);
    world_.expect_equal(world_.converted());
  }

 private:
  // Nobody finds damage who does not look for it.
  void cut_over() {
    world_.verified = damaged_;
    attempt([&] { world_.run(true); });
    world_.verified = false;
  }

  // False: it died, or it refused; then what a run takes back is taken back.
  bool attempt(const std::function<void()>& command) {
    try {
      command();
      return true;
    } catch (const Died&) {
      return false;
    } catch (const Error& e) {
      RC_LOG() << e.explain() << "\n";
      if (e.fault() == Fault::bug) throw;
      const int dies_at = std::exchange(world_.dies_at, -1);
      release(world_.parts(), *world_.journal, world_.observer, std::chrono::seconds(10));
      world_.dies_at = dies_at;
      return false;
    }
  }

  // Of a volume that is whole and not yet handed to anybody.
  void damage() {
    const std::vector<Fact> facts = world_.journal->facts();
    const State state = fold(facts);
    const model::DiskKey key = world_.machine.keys().front();
    const auto disk = state.disks.find(key);
    if (state.shutdown_at || disk == state.disks.end() || !disk->second.complete || state.open_cycle()) return;
    world_.cloud.scribble(disk->second.volume);
    damaged_ = true;
  }

  World world_;
  bool damaged_ = false;
};

}  // namespace

RC_GTEST_PROP(AnySequence, ArrivesWhole, ()) {
  // A failed expectation ends the sequence, so that a shorter one is looked for.
  const bool before = GTEST_FLAG_GET(throw_on_failure);
  GTEST_FLAG_SET(throw_on_failure, true);
  const Finally restore([&] { GTEST_FLAG_SET(throw_on_failure, before); });
  Sequence sequence;
  for (const Deed& deed : *rc::gen::container<std::vector<Deed>>(deeds())) {
    if (sequence.over()) break;
    sequence.perform(deed);
  }
  sequence.arrive();
}

}  // namespace vmferry::job
