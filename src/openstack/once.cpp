// Waiting for a state, politely.
#include "openstack/once.hpp"

#include <algorithm>

namespace vmferry::openstack {

bool poll(Service& service, std::chrono::seconds patience, const std::function<bool()>& look, std::stop_token stop) {
  using std::chrono::milliseconds;
  constexpr milliseconds longest(3000);
  milliseconds pause(250);
  const auto end = service.clock().mono() + patience;
  for (;;) {
    if (look()) return true;
    const auto left = std::chrono::duration_cast<milliseconds>(end - service.clock().mono());
    if (left <= milliseconds(0)) return false;
    sleep_or_cancel(service.clock(), std::min(pause, left), stop);
    pause = std::min(longest, pause + pause / 2);
  }
}

}  // namespace vmferry::openstack
