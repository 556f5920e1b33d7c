// One copy as an event loop in the calling thread. Beside it run: a thread that asks Work for ranges, one that opens
// connections (both may block for long), and the writers. They talk to the loop through the inbox and the doorbell
// only.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <list>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/sync.hpp"
#include "copy/arena.hpp"
#include "copy/copy.hpp"
#include "copy/cutter.hpp"
#include "copy/doorbell.hpp"
#include "copy/permits.hpp"
#include "copy/sink.hpp"
#include "copy/writers.hpp"

namespace vmferry::copy {

class Engine {
 public:
  Engine(Source& source, Target& target, Work& work, const Tuning& tuning, Progress& progress, Clock& clock,
         log::Log& log, std::stop_token stop);
  ~Engine();
  Report run();

 private:
  // One connection.
  struct Lane {
    std::uint64_t number = 0;        // of the order that it was opened for
    std::unique_ptr<Permit> permit;  // null: none is needed. Given back after the handle is closed
    std::unique_ptr<nbd::Handle> handle;
    std::uint64_t reading = 0;                      // bytes
    std::chrono::steady_clock::time_point heard{};  // of the last answer; when it was idle, of the question after it
    bool retiring = false;                          // it failed a read: gets no more, closed when its last one is back
    bool usable() const noexcept { return !retiring && !handle->dead(); }
  };
  // A read under way.
  struct Flight {
    Chunk chunk;
    std::span<std::byte> buffer;
    Lane* lane = nullptr;
  };
  // What the other threads leave for the loop.
  struct Inbox {
    std::vector<std::vector<ByteRange>> pieces;
    bool work_ended = false;
    std::vector<Written> written;
    std::unique_ptr<nbd::Handle> connected;
    std::exception_ptr refused;  // what connect() threw
    bool checkpointed = false;
    std::exception_ptr failure;  // the first one, from any thread
  };
  // What the loop asks of the connecting thread.
  struct Order {
    bool open = false;
    std::chrono::milliseconds after{0};
  };

  void produce(std::stop_token stop);
  void connect_on_order(std::stop_token stop);
  static bool in_doubt(const std::exception_ptr& failure);
  std::exception_ptr deeper_reason(std::exception_ptr refusal, std::stop_token stop);
  void keep_checkpoints(std::stop_token stop);
  void checkpoint(const RangeSet& ranges);
  void fail(std::exception_ptr reason);

  void loop();
  void take_inbox();
  void take_written(const std::vector<Written>& written);
  void last_checkpoint() noexcept;
  void take_piece(const std::vector<ByteRange>& piece);
  void take_connection(std::unique_ptr<nbd::Handle> handle);
  void take_refusal(std::exception_ptr reason);
  std::uint64_t share_of_connection() const;  // of the arena, bytes
  bool tend_lanes();
  void busy(Lane& lane) const;
  void heed_silence();
  void ask_extents();
  void on_extents(ByteRange asked, Lane& lane, int error, const std::vector<nbd::Extent>& extents);
  void clear_outside();
  void clear(ByteRange range, bool is_work);
  void dispatch();
  bool dispatch_retries();
  std::chrono::milliseconds throttled() const;
  Lane* pick(std::uint64_t length, std::uint64_t newer_than);
  void start(Chunk chunk, Lane& lane, std::span<std::byte> buffer);
  void on_read(std::list<Flight>::iterator flight, int error);
  void retry_later(Chunk chunk, int error);
  void order_connection();
  void see_whether_counted();
  bool permitted(bool needed);
  void heed_limits();
  int usable_lanes() const;
  bool complete() const;
  void wait();
  void watch_pace(std::chrono::steady_clock::duration waited);
  void tell_progress(bool last);
  void order_checkpoint();
  void drain() noexcept;
  std::chrono::milliseconds back_off(int failures) const;

  Source& source_;
  Target& target_;
  Work& work_;
  const Tuning tuning_;
  Progress& progress_;
  Clock& clock_;
  log::Log& log_;
  const std::stop_token user_stop_;
  const std::uint64_t size_;
  const bool costly_;                         // a connection is made for work that is there, not for work that may come
  const std::optional<std::uint64_t> total_;  // asked before another thread works with work_

  Doorbell doorbell_;
  Sink sink_;
  Arena arena_;
  bool counted_;              // a connection needs a permit
  std::uint64_t lane_bytes_;  // one connection's share of it
  const std::uint64_t unit_;  // of reads
  Cutter cutter_;
  Sync<Inbox> inbox_;
  Sync<Order> order_;
  std::condition_variable_any order_given_;
  Sync<std::optional<RangeSet>> to_checkpoint_;
  std::condition_variable_any checkpoint_ordered_;

  std::list<std::unique_ptr<Lane>> lanes_;
  std::list<Flight> flights_;
  std::deque<Chunk> retries_;
  std::optional<Chunk> held_;       // cut, but no room for it yet
  std::deque<ByteRange> unmapped_;  // whole disk: extents not asked yet
  RangeSet covered_;                // by work so far, and what was done before
  RangeSet completed_;              // on the target since the last checkpoint was ordered
  std::uint64_t completed_bytes_ = 0;
  bool checkpointing_ = false;
  std::chrono::steady_clock::time_point checkpointed_;
  std::uint64_t orders_ = 0;  // connections asked for so far
  int lane_limit_;
  std::unique_ptr<Permit> permit_;  // for the connection that is being opened
  std::chrono::steady_clock::time_point ask_needed_at_{}, ask_further_at_{};
  std::chrono::steady_clock::time_point heeded_{};
  bool waits_ = false;  // for its first permit
  int refusals_ = 0;    // in a row
  int extent_failures_ = 0;
  int clearing_ = 0;     // zero jobs not finished
  int writing_ = 0;      // data jobs not finished
  bool shaped_ = false;  // the first connection told us its limits
  bool asks_extents_;
  bool asking_ = false;
  bool ordered_ = false;        // a connection is being opened
  bool starved_ = false;        // work was ready and no lane had room
  bool starved_fresh_ = false;  // a retry waits for a connection that did not fail it
  bool work_ended_ = false;
  bool outside_cleared_ = false;
  bool draining_ = false;

  Report report_;
  std::uint64_t done_ = 0;  // bytes of work
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point told_;
  std::chrono::steady_clock::duration source_bound_{0};  // since the last pace was taken
  std::uint64_t paced_from_ = 0, paced_requests_ = 0;    // what was read then

  // Last: their threads use everything above.
  std::unique_ptr<Writers> writers_;
  std::jthread producer_;
  std::jthread connector_;
  std::jthread checkpointer_;
};

}  // namespace vmferry::copy
