// RAII over libnbd: a connection to one export, with asynchronous reads. libnbd's header stays in nbd.cpp.
// A Handle belongs to one thread. Errors are Error(unavailable) for a dead connection, Error(data) for a failed read.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/ranges.hpp"

namespace vmferry::nbd {

// "nbd+unix:///?socket=/run/..." or nbd://host:port/export.
struct Uri {
  std::string text;
};

// What an export says of a stretch of itself (base:allocation).
struct Extent {
  ByteRange range;
  bool zero = false;  // reads as zeroes. A hole without it is data (NBD_STATE_HOLE alone promises nothing).
};

// Called exactly once, from poll() or deliver() of the same thread, or never when the handle is destroyed first. error
// is 0 or an errno value.
using Done = std::function<void(int error)>;
using ExtentsDone = std::function<void(int error, std::vector<Extent> extents)>;

class Handle {
 public:
  // Connects (blocking, read-only use). Error(unavailable) when nobody listens or answers within `patience`.
  explicit Handle(const Uri& uri, std::stop_token stop = {},
                  std::chrono::milliseconds patience = std::chrono::minutes(2));
  ~Handle();  // NBD_CMD_DISC; requests must have been drained (see drain())
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  std::uint64_t bytes() const noexcept;
  bool can_extents() const noexcept;  // base:allocation negotiated
  std::uint32_t minimum_block() const noexcept;
  std::uint32_t maximum_read() const noexcept;  // bytes of one request the server takes

  // The buffer must live until done is called. A failed read leaves rubbish in it: never use it.
  void read(std::span<std::byte> buffer, std::uint64_t offset, Done done);
  // The reply may cover less than `range` (then ask again) but starts at its offset; clipped to it.
  void extents(ByteRange range, ExtentsDone done);

  int in_flight() const noexcept;
  bool dead() const noexcept;
  // For an event loop of several handles: the descriptor and what to wait for, then notify.
  int fd() const noexcept;
  bool wants_read() const noexcept;
  bool wants_write() const noexcept;
  void notify_readable();
  void notify_writable();
  // Runs the callbacks of what has finished, without waiting. False: nothing had.
  bool deliver();
  // Waits at most `timeout` for something to happen and runs callbacks. False: nothing happened.
  bool poll(std::chrono::milliseconds timeout);
  // Lets every request finish (their callbacks run), at most `deadline`. nbdkit 1.32 aborts when a client vanishes with
  // requests in flight (fixed in nbdkit by 9d82aa4f), so nobody closes a busy connection.
  void drain(std::chrono::milliseconds deadline) noexcept;
  // For a server that hangs: the connection ends here and now, with everything in flight failed (poll() or the notify
  // functions find it dead). An nbdkit 1.32 may abort by it, see above, which ends what hangs in it.
  void give_up() noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vmferry::nbd
