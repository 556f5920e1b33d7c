// Rates are numbers in a mapped page. A connection is one locked byte of a file: the kernel gives it back.
#include "limits/limits.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vmferry::limits {

namespace {

constexpr std::size_t page_bytes = 4096;
constexpr std::uint32_t most = 128;   // connections that a limit may allow
constexpr std::uint32_t beyond = 64;  // further connections for machines that are off
constexpr const char* esxi_prefix = "esxi-";

// A host's name as a file's name.
std::string file_name(const std::string& host) {
  std::string name = esxi_prefix;
  for (const char c : host) name += std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' ? c : '_';
  return name;
}

// Locks of open file descriptions (fcntl(2)) exclude each other within a process too, and end with their last
// descriptor.
struct flock byte_lock(std::uint32_t slot) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = slot;
  lock.l_len = 1;
  return lock;
}

std::uint64_t this_boot() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  in >> id;
  return std::hash<std::string>()(id);
}

}  // namespace

// Zeroes are its defaults, so a page that was just made needs no further step that a crash could leave out.
struct Limits::Page {
  copy::Meter meter;
  std::atomic<std::uint64_t> boot{0};  // in which its time was measured
  std::atomic<std::uint32_t> esxi_connections{0};
  std::atomic<std::uint64_t> esxi_in_flight{0};
};

class Limits::Slots final : public copy::Permits {
 public:
  Slots(std::filesystem::path file, std::string host, std::shared_ptr<Page> page, bool urgent)
      : file_(std::move(file)), host_(std::move(host)), page_(std::move(page)), urgent_(urgent) {}

  std::unique_ptr<copy::Permit> ask(bool needed) override {
    const std::uint32_t limit = budget(*page_).connections;
    // A quarter is kept for copies that have none yet.
    const std::uint32_t end = !needed ? std::max(limit - limit / 4, 1U) : urgent_ ? limit + beyond : limit;
    Fd fd(open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) throw Error(Fault::config, fmt::format("{} cannot be opened: {}", file_.string(), strerror(errno)));
    for (std::uint32_t slot = 0; slot < end; ++slot) {
      struct flock lock = byte_lock(slot);
      if (fcntl(fd.get(), F_OFD_SETLK, &lock) == 0) return std::make_unique<Slot>(page_, std::move(fd), slot);
      if (errno != EAGAIN && errno != EACCES)
        throw Error(Fault::config, fmt::format("{} cannot be locked: {}", file_.string(), strerror(errno)));
    }
    return nullptr;
  }
  std::uint64_t bytes_under_way() const override { return budget(*page_).share(); }
  std::string reason() const override {
    return fmt::format("all {} connections to {} are in use by other copies (see `vmferry limits`)",
                       budget(*page_).connections, host_);
  }

  static EsxiBudget budget(const Page& page) {
    EsxiBudget budget;
    if (const std::uint32_t set = page.esxi_connections.load()) budget.connections = set;
    if (const std::uint64_t set = page.esxi_in_flight.load()) budget.in_flight = set;
    return budget;
  }

 private:
  class Slot final : public copy::Permit {
   public:
    Slot(std::shared_ptr<Page> page, Fd fd, std::uint32_t number)
        : page_(std::move(page)), fd_(std::move(fd)), number_(number) {}
    bool recalled() const override { return number_ >= budget(*page_).connections; }

   private:
    std::shared_ptr<Page> page_;
    Fd fd_;
    std::uint32_t number_;
  };

  const std::filesystem::path file_;
  const std::string host_;
  const std::shared_ptr<Page> page_;
  const bool urgent_;
};

Limits::Limits(std::filesystem::path folder) : folder_(std::move(folder)) {
  std::error_code problem;
  std::filesystem::create_directories(folder_, problem);
  if (problem) throw Error(Fault::config, fmt::format("{} cannot be made: {}", folder_.string(), problem.message()));
  std::filesystem::permissions(folder_, std::filesystem::perms::owner_all, problem);
  host_ = map("host");
  // The clock began anew, and a moment of before is far ahead.
  const std::uint64_t boot = this_boot();
  if (host_->boot.exchange(boot) != boot) host_->meter.forgive();
}

std::shared_ptr<Limits::Page> Limits::map(const std::string& name, bool create) const {
  const std::filesystem::path file = folder_ / name;
  const Fd fd(open(file.c_str(), O_RDWR | (create ? O_CREAT : 0) | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd && errno == ENOENT && !create) return nullptr;
  if (!fd) throw Error(Fault::config, fmt::format("{} cannot be opened: {}", file.string(), strerror(errno)));
  // Really there: a page of a file without room for it would end the process when it is touched. What it holds stays.
  if (const int error = posix_fallocate(fd.get(), 0, page_bytes); error != 0)
    throw Error(error == ENOSPC || error == EDQUOT ? Fault::quota : Fault::config,
                fmt::format("there is no room for {}: {}", file.string(), strerror(error)));
  void* memory = mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED)
    throw Error(Fault::config, fmt::format("{} cannot be mapped: {}", file.string(), strerror(errno)));
  static_assert(sizeof(Page) <= page_bytes && std::is_trivially_destructible_v<Page>);
  return {static_cast<Page*>(memory), [](Page* page) { munmap(page, page_bytes); }};
}

std::uint64_t Limits::bandwidth() const { return host_->meter.rate(); }
void Limits::set_bandwidth(std::uint64_t bytes_per_second) { host_->meter.set_rate(bytes_per_second); }
EsxiBudget Limits::esxi() const { return Slots::budget(*host_); }

void Limits::set_esxi(const EsxiBudget& budget) {
  host_->esxi_connections = budget.connections;
  host_->esxi_in_flight = budget.in_flight;
}

std::shared_ptr<copy::Meter> Limits::job(const JobId& job) {
  const std::shared_ptr<Page> page = map("job-" + job.value);
  return {page, &page->meter};
}

std::shared_ptr<copy::Meter> Limits::running(const JobId& job) {
  const std::shared_ptr<Page> page = map("job-" + job.value, false);
  return page ? std::shared_ptr<copy::Meter>(page, &page->meter) : nullptr;
}

void Limits::forget(const JobId& job) noexcept {
  std::error_code ignored;
  std::filesystem::remove(folder_ / ("job-" + job.value), ignored);
}

std::shared_ptr<copy::Throttle> Limits::throttle(const JobId& id) {
  return std::make_shared<copy::Throttle>(std::vector<std::shared_ptr<copy::Meter>>{job(id), {host_, &host_->meter}});
}

std::shared_ptr<copy::Permits> Limits::connections_to(const std::string& host, bool urgent) {
  return std::make_shared<Slots>(folder_ / file_name(host), host, host_, urgent);
}

std::map<std::string, int> Limits::in_use() const {
  std::map<std::string, int> used;
  std::error_code problem;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, problem)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(esxi_prefix)) continue;
    const Fd fd(open(entry.path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) continue;
    int& count = used[name.substr(std::string_view(esxi_prefix).size())];
    for (std::uint32_t slot = 0; slot < most + beyond; ++slot) {
      struct flock lock = byte_lock(slot);
      if (fcntl(fd.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK) ++count;
    }
  }
  return used;
}

}  // namespace vmferry::limits
