// The same for several disks at once.
#pragma once

#include <cstddef>
#include <functional>
#include <stop_token>

namespace vmferry::job::steps {

enum class OnFailure {
  stop_others,   // they lose little
  finish_begun,  // what is under way is worth more than the time; nothing else is begun
};

// act(0) ... act(count - 1), at most `most` at a time, each in a thread of its own. Throws the first failure when all
// have ended. `stop` ends all of them.
void side_by_side(std::size_t count, std::size_t most, OnFailure on_failure,
                  const std::function<void(std::size_t index, std::stop_token stop)>& act, std::stop_token stop);

}  // namespace vmferry::job::steps
