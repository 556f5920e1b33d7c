// Making a thing exactly once although replies get lost: after a failure that may hide a success the thing is looked
// for, several times because the service may still be at it, before it is made again.
#pragma once

#include <array>
#include <chrono>
#include <exception>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "base/clock.hpp"
#include "log/log.hpp"
#include "openstack/service.hpp"

namespace vmferry::openstack {

template <class T>
T make_once(Service& service, const std::string& doing, const std::function<T()>& make,
            const std::function<std::optional<T>()>& find, std::stop_token stop) {
  using std::chrono::milliseconds;
  constexpr std::array<milliseconds, 6> looks{milliseconds(200),  milliseconds(500),  milliseconds(1000),
                                              milliseconds(2000), milliseconds(3000), milliseconds(5000)};
  constexpr int attempts = 3;
  for (int attempt = 1;; ++attempt) {
    std::exception_ptr failure;
    try {
      return make();
    } catch (...) {
      failure = std::current_exception();
    }
    if (!may_have_acted(failure)) std::rethrow_exception(failure);
    service.log().warning("no usable reply; looking whether it was done", {{"call", doing}});
    for (const milliseconds pause : looks) {
      sleep_or_cancel(service.clock(), pause, stop);
      if (std::optional<T> found = find()) return *std::move(found);
    }
    if (attempt == attempts) std::rethrow_exception(failure);
  }
}

// Polls `look` with growing pauses until it gives something. False = the time is up.
bool poll(Service& service, std::chrono::seconds patience, const std::function<bool()>& look, std::stop_token stop);

}  // namespace vmferry::openstack
