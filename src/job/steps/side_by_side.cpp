// Each thread takes the next one that nobody has taken.
#include "job/steps/side_by_side.hpp"

#include <algorithm>
#include <exception>
#include <optional>
#include <thread>
#include <vector>

#include "base/sync.hpp"

namespace vmferry::job::steps {

namespace {

struct Turn {
  std::size_t next = 0;
  std::exception_ptr failure;  // the first
};

}  // namespace

void side_by_side(std::size_t count, std::size_t most, OnFailure on_failure,
                  const std::function<void(std::size_t index, std::stop_token stop)>& act, std::stop_token stop) {
  std::stop_source everyone;
  std::stop_callback chain(stop, [&] { everyone.request_stop(); });
  Sync<Turn> turn;
  const auto take = [&]() -> std::optional<std::size_t> {
    auto now = turn.lock();
    if (now->failure || now->next == count) return std::nullopt;
    return now->next++;
  };
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < std::min(count, most); ++i)
    threads.emplace_back([&] {
      while (const auto index = take()) {
        try {
          act(*index, everyone.get_token());
        } catch (...) {
          auto now = turn.lock();
          if (now->failure) continue;
          now->failure = std::current_exception();
          if (on_failure == OnFailure::stop_others) everyone.request_stop();
        }
      }
    });
  threads.clear();
  if (auto now = turn.lock(); now->failure) std::rethrow_exception(now->failure);
}

}  // namespace vmferry::job::steps
