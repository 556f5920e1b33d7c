// A loop device over a file, held open for as long as the object lives and detached through its own
// descriptor, so that no other device can be meant.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/fd.hpp"

namespace vmferry::target {

class LoopDevice {
 public:
  // Nothing, and the reason in `why`, where this machine has no loop devices for us.
  static std::unique_ptr<LoopDevice> over(const std::filesystem::path& file, std::string& why);
  ~LoopDevice();
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string numbers() const;  // "7:3"
  // After the backing file changed its size.
  void size_changed();

 private:
  LoopDevice(std::filesystem::path path, Fd held) : path_(std::move(path)), held_(std::move(held)) {}
  std::filesystem::path path_;
  Fd held_;
};

}  // namespace vmferry::target
