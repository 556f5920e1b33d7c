// A raw disk as a qcow2 file that has no name, so that nothing is left of it whatever ends the run. By qemu-img.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <stop_token>
#include <utility>

#include "base/fd.hpp"
#include "process/process.hpp"

namespace vmferry::target::image {

// The room in a folder for files that are made side by side. What fits when a file has it for itself is never refused:
// it waits until the others are gone. Thread-safe; outlives its shares.
class Room {
 public:
  using Free = std::function<std::uint64_t()>;  // bytes, now
  explicit Room(std::filesystem::path directory);
  Room(std::filesystem::path directory, Free free) : directory_(std::move(directory)), free_(std::move(free)) {}

  class Share {
   public:
    Share() = default;
    Share(Room& room, std::uint64_t bytes) : room_(&room), bytes_(bytes) {}
    Share(Share&& other) noexcept { std::swap(room_, other.room_), std::swap(bytes_, other.bytes_); }
    Share& operator=(Share&& other) noexcept {
      std::swap(room_, other.room_), std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Share() {
      if (room_) room_->give_back(bytes_);
    }

   private:
    Room* room_ = nullptr;
    std::uint64_t bytes_ = 0;
  };
  // Blocks. Error(quota) when it does not fit although nobody else has a share.
  Share take(std::uint64_t bytes, std::stop_token stop);
  const std::filesystem::path& directory() const noexcept { return directory_; }

 private:
  void give_back(std::uint64_t bytes) noexcept;

  const std::filesystem::path directory_;
  const Free free_;
  std::mutex mutex_;
  std::condition_variable_any given_back_;
  int shares_ = 0;
  std::uint64_t taken_ = 0;
  std::uint64_t all_ = 0;  // free when the first of the shares was taken
};

struct Qcow2 {
  Room::Share share;  // given back after the file is closed
  Fd fd;
  std::uint64_t bytes = 0;
};

// `raw` is open for reading. Blocks. Error(quota), before anything is written, when it does not fit; Error(tool).
Qcow2 make_qcow2(process::Runner& runner, int raw, Room& room, std::stop_token stop);
// Error(tool) when there is no qemu-img.
void check_qemu_img(process::Runner& runner, std::stop_token stop);

}  // namespace vmferry::target::image
