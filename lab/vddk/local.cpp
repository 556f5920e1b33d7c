// A file, read by a few threads: for measuring the plugin without a network.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "disk.hpp"

namespace lab {

namespace {

constexpr int threads = 4;  // as many as vixDiskLib.nfcAio.Session.BufCount is by default
constexpr std::uint64_t largest_read = 23 * 1024 * 1024;

class LocalDisk final : public Disk {
 public:
  explicit LocalDisk(const std::string& file) : fd_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat st {};
    if (fd_ < 0 || fstat(fd_, &st) != 0)
      throw Problem{errno == ENOENT ? vix::file_not_found : vix::file_error, file + ": " + strerror(errno)};
    sectors_ = static_cast<std::uint64_t>(st.st_size) / vix::sector;
    for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~LocalDisk() override {
    {
      std::scoped_lock lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    if (fd_ >= 0) ::close(fd_);
  }

  std::uint64_t sectors() const override { return sectors_; }
  std::uint64_t read_limit() const override { return largest_read; }

  void read(std::uint64_t sector, std::uint64_t sectors, unsigned char* buffer, Done done) override {
    {
      std::scoped_lock lock(mutex_);
      requests_.push_back({sector, sectors, buffer, std::move(done)});
    }
    wake_.notify_one();
  }

  std::vector<vix::Block> map(std::uint64_t sector, std::uint64_t sectors, std::uint64_t chunk) override {
    std::vector<vix::Block> blocks;
    const auto end = static_cast<off_t>((sector + sectors) * vix::sector);
    const std::uint64_t chunk_bytes = chunk * vix::sector;
    for (auto at = static_cast<off_t>(sector * vix::sector); at < end;) {
      const off_t data = lseek(fd_, at, SEEK_DATA);
      if (data < 0 || data >= end) break;
      const off_t hole = std::min(lseek(fd_, data, SEEK_HOLE), end);
      const std::uint64_t first = static_cast<std::uint64_t>(data) / chunk_bytes * chunk;
      const std::uint64_t last = (static_cast<std::uint64_t>(hole) + chunk_bytes - 1) / chunk_bytes * chunk;
      if (!blocks.empty() && blocks.back().offset + blocks.back().length >= first)
        blocks.back().length = last - blocks.back().offset;
      else
        blocks.push_back({first, last - first});
      at = static_cast<off_t>(last * vix::sector);
    }
    return blocks;
  }

 private:
  struct Request {
    std::uint64_t sector, sectors;
    unsigned char* buffer;
    Done done;
  };

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return ending_ || !requests_.empty(); });
      if (requests_.empty()) return;
      const Request request = std::move(requests_.front());
      requests_.pop_front();
      lock.unlock();
      request.done(fetch(request));
      lock.lock();
    }
  }

  vix::Error fetch(const Request& request) const {
    const std::uint64_t bytes = request.sectors * vix::sector;
    for (std::uint64_t got = 0; got < bytes;) {
      const ssize_t n =
          pread(fd_, request.buffer + got, bytes - got, static_cast<off_t>(request.sector * vix::sector + got));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return vix::file_error;
      got += static_cast<std::uint64_t>(n);
    }
    return vix::ok;
  }

  int fd_;
  std::uint64_t sectors_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Request> requests_;
  bool ending_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace

std::unique_ptr<Disk> open_local(const std::string& file) { return std::make_unique<LocalDisk>(file); }

}  // namespace lab
