// Real nbdkit servers, files as targets, and bytes that can be compared: what the copy tests share.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "copy/copy.hpp"
#include "nbdkit/nbdkit.hpp"
#include "support/lab.hpp"

namespace vmferry::copy::test {

using Bytes = std::vector<std::byte>;
constexpr std::uint64_t kib = 1024, mib = 1024 * 1024;

inline void put(const std::filesystem::path& file, const Bytes& bytes, std::uint64_t offset = 0) {
  Fd fd(open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(fd) << file;
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t n = pwrite(fd.get(), bytes.data() + at, bytes.size() - at, static_cast<off_t>(offset + at));
    ASSERT_GT(n, 0);
    at += static_cast<std::size_t>(n);
  }
}

inline Bytes get(const std::filesystem::path& file, std::uint64_t offset, std::uint64_t length) {
  Fd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(fd) << file;
  Bytes bytes(length);
  std::size_t at = 0;
  while (at < length) {
    const ssize_t n = pread(fd.get(), bytes.data() + at, length - at, static_cast<off_t>(offset + at));
    if (n <= 0) break;
    at += static_cast<std::size_t>(n);
  }
  EXPECT_EQ(at, length) << file;
  return bytes;
}

inline Bytes random_bytes(std::uint64_t length, std::uint32_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(length);
  for (std::size_t at = 0; at < length; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random() | 0x0101010101010101ULL;  // never a zero byte
    std::memcpy(bytes.data() + at, &word, std::min(sizeof word, length - at));
  }
  return bytes;
}

// Where they first differ, or nothing.
inline std::optional<std::uint64_t> difference(const Bytes& a, const Bytes& b) {
  if (a.size() != b.size()) return std::min(a.size(), b.size());
  if (std::memcmp(a.data(), b.data(), a.size()) == 0) return std::nullopt;
  return static_cast<std::uint64_t>(std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
}

class FileTarget final : public Target {
 public:
  FileTarget(std::filesystem::path path, std::uint64_t bytes, bool known_zero)
      : path_(std::move(path)),
        fd_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
        bytes_(bytes),
        known_zero_(known_zero) {
    if (!fd_) throw std::runtime_error("cannot open " + path_.string());
    struct stat st {};
    if (fstat(fd_.get(), &st) == 0 && S_ISREG(st.st_mode) && ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0)
      throw std::runtime_error("cannot size " + path_.string());
  }
  std::string name() const override { return "test disk " + path_.string(); }
  int fd() const override { return fd_.get(); }
  std::uint64_t bytes() const override { return bytes_; }
  std::uint32_t sector() const override { return sector_; }
  bool known_zero() const override { return known_zero_; }
  void check() const override {
    ++checks;
    if (swapped) throw Error(Fault::conflict, "the device was swapped");
  }
  void set_sector(std::uint32_t sector) { sector_ = sector; }
  void use(Fd fd) { fd_ = std::move(fd); }
  void reopen(int flags) { fd_ = Fd(open(path_.c_str(), flags | O_CLOEXEC)); }
  Bytes content() const { return get(path_, 0, bytes_); }
  std::uint64_t allocated() const {
    struct stat st {};
    EXPECT_EQ(fstat(fd_.get(), &st), 0);
    return static_cast<std::uint64_t>(st.st_blocks) * 512;
  }

  std::atomic<bool> swapped{false};
  mutable std::atomic<int> checks{0};

 private:
  std::filesystem::path path_;
  Fd fd_;
  std::uint64_t bytes_;
  bool known_zero_;
  std::uint32_t sector_ = 512;
};

// An nbdkit of its own; restarted by connect() when it has died.
class ServedSource final : public Source {
 public:
  ServedSource(nbdkit::Recipe recipe, std::uint64_t bytes) : recipe_(std::move(recipe)), bytes_(bytes) { start(); }
  std::uint64_t bytes() const override { return bytes_; }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    ++connects;
    if (refuse_after >= 0 && connects > refuse_after)
      throw Error(Fault::unavailable, "the host takes no more connections");
    std::scoped_lock lock(mutex_);
    if (!export_->alive()) start();
    return std::make_unique<nbd::Handle>(export_->uri(), stop);
  }
  void kill_server() {
    std::scoped_lock lock(mutex_);
    kill(export_->pid(), SIGKILL);
  }
  bool server_alive() {
    std::scoped_lock lock(mutex_);
    return export_->alive();
  }
  int server_pid() {
    std::scoped_lock lock(mutex_);
    return export_->pid();
  }
  std::string last_words() { return export_->last_words(); }

  std::atomic<int> connects{0};
  std::atomic<int> starts{0};
  std::atomic<int> refuse_after{-1};

 private:
  void start() {
    ++starts;
    export_.reset();
    export_.emplace(nbdkit::serve(runner_, recipe_, folder_.path(), log_, {}));
  }

  process::SystemRunner runner_;
  support::TemporaryDirectory folder_;
  log::Log log_;
  nbdkit::Recipe recipe_;
  std::uint64_t bytes_;
  std::mutex mutex_;
  std::optional<nbdkit::Export> export_;
};

struct Heard final : Progress {
  void advanced(std::uint64_t d, std::uint64_t t) noexcept override {
    if (d < done) backwards = true;
    done = d;
    total = t;
    ++calls;
    if (hook) hook(d);
  }
  std::atomic<std::uint64_t> done{0}, total{0};
  std::atomic<int> calls{0};
  std::atomic<bool> backwards{false};
  std::function<void(std::uint64_t)> hook;
};

// Pieces given one by one, with something to do before each.
class Pieces final : public Work {
 public:
  explicit Pieces(std::vector<std::vector<ByteRange>> pieces) : pieces_(std::move(pieces)) {}
  std::optional<std::vector<ByteRange>> next(std::stop_token stop) override {
    if (before) before(at_, stop);
    if (at_ == pieces_.size()) return std::nullopt;
    return pieces_[at_++];
  }
  std::optional<std::uint64_t> total() const override { return std::nullopt; }
  std::function<void(std::size_t, std::stop_token)> before;

 private:
  std::vector<std::vector<ByteRange>> pieces_;
  std::size_t at_ = 0;
};

inline RangeSet whole(std::uint64_t bytes) {
  const ByteRange range{0, bytes};
  return RangeSet(std::span(&range, 1));
}

inline nbdkit::Recipe file_recipe(const std::filesystem::path& file) {
  nbdkit::Recipe recipe;
  recipe.plugin = "file";
  recipe.parameters = {{"file", file.string()}};
  return recipe;
}

// An eval server whose pread is a shell fragment with $2=handle $3=count $4=offset: what happens at an offset happens
// there, however fast the machine is.
inline nbdkit::Recipe eval(std::uint64_t size, const std::string& pread) {
  nbdkit::Recipe recipe;
  recipe.plugin = "eval";
  recipe.parameters = {
      {"get_size", "echo " + std::to_string(size)}, {"pread", pread}, {"thread_model", "echo parallel"}};
  return recipe;
}

inline std::string dd(const std::filesystem::path& file) {
  return "dd iflag=skip_bytes,count_bytes skip=$4 count=$3 if=" + file.string() + " bs=64k 2>/dev/null";
}

// Reads of an eval server wait until the test lets them pass, by the offset where they begin. After a minute all of
// them pass: then the test's own checks say what has not happened.
class Gate {
 public:
  explicit Gate(std::filesystem::path folder) : folder_(std::move(folder)) {
    std::filesystem::create_directory(folder_);
  }
  // A shell fragment, to stand before the read itself.
  std::string wait() const {
    const std::string all = (folder_ / "all").string();
    return "n=0; until [ -e " + all + " ] || [ -e " + (folder_ / "$(($4 / 1048576))").string() +
           " ]; do n=$((n + 1)); [ $n -lt 1200 ] || : >" + all + "; sleep 0.05; done; ";
  }
  void open_to(std::uint64_t offset) {
    for (; opened_ * mib < offset; ++opened_) put(folder_ / std::to_string(opened_), {});
  }
  void open() { put(folder_ / "all", {}); }
  std::uint64_t opened() const { return opened_ * mib; }

 private:
  const std::filesystem::path folder_;
  std::uint64_t opened_ = 0;  // MiB
};

}  // namespace vmferry::copy::test
