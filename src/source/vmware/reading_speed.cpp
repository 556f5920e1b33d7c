// A trial: each connection in a thread of its own, one read at a time, as spread over the disk as the engine's would
// be.
#include "source/vmware/reading_speed.hpp"

#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "base/sync.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr std::uint64_t small = 64 * 1024, large = 1024 * 1024;
constexpr int small_reads = 5;
constexpr std::chrono::seconds patience{60};  // for one read

void read_now(nbd::Handle& handle, std::span<std::byte> buffer, std::uint64_t offset, std::stop_token stop) {
  int result = -1;
  handle.read(buffer, offset, [&result](int error) { result = error; });
  // The buffer belongs to the read until it is over, however the wait for it ends.
  const auto give_up = std::chrono::steady_clock::now() + patience;
  while (result < 0 && !handle.dead() && !stop.stop_requested() && std::chrono::steady_clock::now() < give_up)
    handle.poll(std::chrono::milliseconds(100));
  if (result < 0) handle.drain(std::chrono::seconds(5));
  if (stop.stop_requested()) throw Cancelled();
  if (result != 0)
    throw Error(Fault::unavailable,
                fmt::format("reading {} bytes at offset {} failed: {}", buffer.size(), offset,
                            result > 0 ? strerror(result) : "the connection ended or did not answer"));
}

}  // namespace

void try_reading(nbd::Handle& handle, ByteRange range, std::stop_token stop) {
  const std::uint64_t there = handle.bytes() - std::min(handle.bytes(), range.offset);
  range.length = std::min<std::uint64_t>({range.length, there, handle.maximum_read()});
  if (range.length == 0) return;
  std::vector<std::byte> buffer(range.length);
  read_now(handle, buffer, range.offset, std::move(stop));
}

ReadingSpeed reading_speed(copy::Source& source, const ReadingTrial& trial, Clock& clock, std::stop_token stop) {
  const std::uint64_t size = source.bytes();
  const std::uint64_t piece = std::min(large, size / 512 * 512);
  ReadingSpeed speed;
  if (piece == 0) return speed;
  const std::uint64_t pieces = std::clamp<std::uint64_t>(trial.bytes / piece, 1, size / piece);
  const std::uint64_t stride = size / pieces / piece * piece;
  const auto place = [&](std::uint64_t i) {
    return (i * stride + trial.shift / piece * piece) % (size - piece + 1) / 512 * 512;
  };

  std::vector<std::unique_ptr<copy::Permit>> permits;  // outlive the connections
  std::vector<std::unique_ptr<nbd::Handle>> handles;
  const auto permitted = [&](bool needed) {
    if (!trial.permits) return true;
    auto permit = source.permit();
    if (!permit) permit = trial.permits->ask(needed);
    if (!permit) return false;
    permits.push_back(std::move(permit));
    return true;
  };
  permitted(true);  // the copy that follows needs this one anyway
  handles.push_back(source.connect(stop));
  std::vector<double> waits;
  std::vector<std::byte> little(std::min(small, piece));
  for (int i = 0; i < small_reads; ++i) {
    const auto began = clock.mono();
    read_now(*handles.front(), little, place(static_cast<std::uint64_t>(i)), stop);
    waits.push_back(std::chrono::duration<double>(clock.mono() - began).count());
  }
  std::nth_element(waits.begin(), waits.begin() + small_reads / 2, waits.end());
  speed.seconds_to_first = waits[small_reads / 2];

  while (handles.size() < static_cast<std::size_t>(std::max(trial.connections, 1)) && handles.size() < pieces &&
         permitted(false))
    handles.push_back(source.connect(stop));
  std::atomic<std::uint64_t> next{0}, read{0};
  Sync<std::exception_ptr> failure;
  const auto began = clock.mono();
  {
    std::vector<std::jthread> threads;
    for (const auto& handle : handles)
      threads.emplace_back([&, connection = handle.get()] {
        try {
          std::vector<std::byte> buffer(piece);
          while (clock.mono() - began < trial.time) {
            const std::uint64_t i = next++;
            if (i >= pieces) return;
            read_now(*connection, buffer, place(i), stop);
            read += piece;
          }
        } catch (...) {
          auto first = failure.lock();
          if (!*first) *first = std::current_exception();
        }
      });
  }
  if (const auto reason = *failure.lock()) std::rethrow_exception(reason);
  const double seconds = std::chrono::duration<double>(clock.mono() - began).count();
  speed.bytes = read;
  speed.bytes_per_second = seconds > 0 ? static_cast<double>(read) / seconds : 0;
  return speed;
}

}  // namespace vmferry::source::vmware
