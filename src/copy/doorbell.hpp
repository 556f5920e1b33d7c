// Wakes a thread that waits in poll(). Any thread (and any stop callback) may ring.
#pragma once

#include "base/fd.hpp"

namespace vmferry::copy {

class Doorbell {
 public:
  Doorbell();
  void ring() noexcept;
  void clear() noexcept;
  int fd() const noexcept { return fd_.get(); }

 private:
  Fd fd_;
};

}  // namespace vmferry::copy
