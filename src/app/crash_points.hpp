// For the tests of crashes: ends this process with SIGKILL at a named point of a job, and lists the points that a job
// passes. The points come from the steps and facts as they pass, so a new step has its points without anybody's doing.
//
//   VMFERRY_CRASH_POINTS=FILE   appends the name of each point that is passed, one a line
//   VMFERRY_CRASH_AT=NAME       dies at that point
//
// A name is "STEP|before", "STEP|before FACT", "STEP|after FACT" or "STEP|after", with "#2" for its second time, and so
// on.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "job/journal.hpp"
#include "job/observer.hpp"

namespace vmferry::app {

class CrashPoints {
 public:
  // Nothing when neither variable is set. `environment` is read once.
  static std::unique_ptr<CrashPoints> wanted(const std::map<std::string, std::string>& environment);
  ~CrashPoints();
  CrashPoints(const CrashPoints&) = delete;
  CrashPoints& operator=(const CrashPoints&) = delete;

  // Stand-ins that pass everything on; `inner` must outlive them, and so must this object.
  std::unique_ptr<job::Observer> watching(job::Observer& inner);
  std::unique_ptr<job::Journal> watching(job::Journal& inner);

 private:
  CrashPoints();
  class WatchedObserver;
  class WatchedJournal;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vmferry::app
