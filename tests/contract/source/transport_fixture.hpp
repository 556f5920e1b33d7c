// What the tests of ways to read a disk share: a disk's description, a target, a copy of it by the engine.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <random>
#include <sstream>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "copy/copy.hpp"
#include "process/process.hpp"
#include "source/vmware/transport.hpp"
#include "support/lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::source::vmware::test {

using support::thrown;

inline constexpr std::uint64_t capacity = 8 * 1024 * 1024 + 512;

inline std::vector<char> random_content(std::uint64_t bytes) {
  std::mt19937_64 random(7);
  std::vector<char> content(bytes);
  for (std::size_t at = 0; at + 8 <= bytes; at += 8) {
    const std::uint64_t word = random();
    memcpy(content.data() + at, &word, 8);
  }
  return content;
}

inline FrozenDisk disk(const std::string& file = "[Local DS] web 01/web 01.vmdk", std::uint64_t bytes = capacity) {
  FrozenDisk frozen;
  frozen.key = model::DiskKey{2000};
  frozen.capacity = bytes;
  frozen.file = file;
  return frozen;
}

// All of it, in one read: files here are as large as disks.
inline std::vector<char> bytes_of(const std::filesystem::path& file) {
  std::vector<char> bytes(std::filesystem::file_size(file));
  std::ifstream(file, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

class FileTarget final : public copy::Target {
 public:
  FileTarget(std::filesystem::path path, std::uint64_t bytes, bool known_zero = true)
      : path_(std::move(path)), bytes_(bytes), known_zero_(known_zero) {
    fd_ = Fd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd_ || ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0)
      throw std::runtime_error("cannot make " + path_.string());
  }
  std::string name() const override { return path_.string(); }
  int fd() const override { return fd_.get(); }
  std::uint64_t bytes() const override { return bytes_; }
  std::uint32_t sector() const override { return 512; }
  bool known_zero() const override { return known_zero_; }
  void check() const override {}
  std::vector<char> content() const { return bytes_of(path_); }

 private:
  std::filesystem::path path_;
  std::uint64_t bytes_;
  bool known_zero_;
  Fd fd_;
};

struct Silent final : copy::Progress {
  void advanced(std::uint64_t, std::uint64_t) noexcept override {}
};

// The first half of a disk; when that is on the target, something happens; then the second half.
class TwoHalves final : public copy::Work {
 public:
  TwoHalves(std::uint64_t bytes, std::function<void()> between) : bytes_(bytes), between_(std::move(between)) {}
  std::optional<std::vector<ByteRange>> next(std::stop_token stop) override {
    const ByteRange first{0, bytes_ / 2 / 65536 * 65536};
    if (given_ == 0) return given(first);
    if (given_ == 2) return std::nullopt;
    {
      std::unique_lock lock(mutex_);
      if (!came_.wait(lock, stop, [&] { return copied_.contains(first); })) return std::nullopt;
    }
    between_();
    return given({first.length, bytes_ - first.length});
  }
  std::optional<std::uint64_t> total() const override { return bytes_; }
  void came(const RangeSet& ranges) {
    const std::scoped_lock lock(mutex_);
    copied_.add(ranges);
    came_.notify_all();
  }
  bool happened() const { return given_ == 2; }

 private:
  std::vector<ByteRange> given(ByteRange range) {
    ++given_;
    return {range};
  }
  const std::uint64_t bytes_;
  const std::function<void()> between_;
  std::mutex mutex_;
  std::condition_variable_any came_;
  RangeSet copied_;
  std::atomic<int> given_{0};
};

class TransportTest : public ::testing::Test {
 protected:
  std::vector<char> copied(copy::Source& source, copy::Report* report = nullptr) {
    FileTarget target(folder_.path() / "target", source.bytes());
    const ByteRange all{0, source.bytes()};
    const auto work = copy::work(RangeSet(std::span(&all, 1)));
    copy::Tuning tuning;
    tuning.whole_disk = true;
    tuning.request = 256 * 1024;
    tuning.requests_per_connection = 2;
    Silent progress;
    SystemClock clock;
    const copy::Report done = copy::run(source, target, *work, tuning, progress, clock, log_, {});
    if (report != nullptr) *report = done;
    return target.content();
  }
  void write(const std::string& name, const std::string& text) const {
    const auto file = folder_.path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
  }

  const Point point_;  // these transports read one disk whatever else was frozen
  support::TemporaryDirectory folder_;
  process::SystemRunner runner_;
  log::Log log_;
};

inline std::string command_line(const std::filesystem::path& process) {
  std::ifstream in(process / "cmdline", std::ios::binary);
  std::ostringstream all;
  all << in.rdbuf();  // a stream iterator would throw when the process ends meanwhile
  std::string text = all.str();
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

// The server program that was started with this test's folder, nbdkit or qemu-nbd; 0 when there is none.
inline int server_pid(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string line = command_line(entry.path());
    if ((line.starts_with("nbdkit ") || line.starts_with("qemu-nbd ")) &&
        line.find(folder.string()) != std::string::npos)
      return std::stoi(name);
  }
  return 0;
}

inline void kill_server(const std::filesystem::path& folder) {
  const int pid = server_pid(folder);
  ASSERT_GT(pid, 0) << "it has ended already";
  ASSERT_EQ(kill(pid, SIGKILL), 0);
}

// Every process' command line and environment, as everybody on the host can read them.
inline bool visible_to_others(int pid, const std::string& text) {
  for (const char* what : {"cmdline", "environ"}) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/" + what, std::ios::binary);
    std::ostringstream all;
    all << in.rdbuf();  // what of a process that ends meanwhile can be read; an iterator would throw
    if (all.str().find(text) != std::string::npos) return true;
  }
  return false;
}

}  // namespace vmferry::source::vmware::test
