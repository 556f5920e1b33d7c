// A stop token that says stop after so long. For a clean-up that the run's own token, stopped already, would stop too,
// and that must not take for ever. Real time, whatever clock there is: a test's clock does not bound what hangs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>

namespace vmferry {

class TimeLimit {
 public:
  explicit TimeLimit(std::chrono::nanoseconds limit)
      : watchdog_([over = over_, limit](std::stop_token finished) mutable {
          std::mutex mutex;
          std::condition_variable_any wake;
          std::unique_lock lock(mutex);
          wake.wait_for(lock, finished, limit, [] { return false; });
          if (!finished.stop_requested()) over.request_stop();
        }) {}
  std::stop_token token() const { return over_.get_token(); }

 private:
  std::stop_source over_;
  std::jthread watchdog_;
};

}  // namespace vmferry
