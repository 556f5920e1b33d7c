// Decorators around what a job is watched through; the job knows nothing of them.
#include "app/crash_points.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include "base/fd.hpp"
#include "base/sync.hpp"

namespace vmferry::app {

struct CrashPoints::State {
  struct Passing {
    std::string step = "outside";
    std::map<std::string, int> times;
  };
  std::string dies_at;
  Fd list;
  Sync<Passing> passing;

  void enter(std::string_view step) { passing.lock()->step = step; }
  void pass(const std::string& moment) {
    auto now = passing.lock();
    std::string name = fmt::format("{}|{}", now->step, moment);
    if (const int times = ++now->times[name]; times > 1) name += fmt::format("#{}", times);
    if (list.get() >= 0) {
      const std::string line = name + "\n";
      if (::write(list.get(), line.data(), line.size()) < 0) ::abort();
    }
    if (name == dies_at) {
      ::kill(::getpid(), SIGKILL);
      for (;;) ::pause();
    }
  }
};

class CrashPoints::WatchedObserver final : public job::Observer {
 public:
  WatchedObserver(State& state, job::Observer& inner) : state_(state), inner_(inner) {}
  void step_started(std::string_view step) noexcept override {
    inner_.step_started(step);
    state_.enter(step);
    state_.pass("before");
  }
  void step_finished(std::string_view step, const std::exception* problem) noexcept override {
    if (!problem) state_.pass("after");
    inner_.step_finished(step, problem);
    state_.enter("outside");
  }
  void copied(model::DiskKey disk, std::string_view label, std::uint64_t done, std::uint64_t total) noexcept override {
    inner_.copied(disk, label, done, total);
  }
  void disk_finished(model::DiskKey disk, std::string_view label, bool full, std::uint64_t read, std::uint64_t written,
                     double seconds) noexcept override {
    inner_.disk_finished(disk, label, full, read, written, seconds);
  }
  void said(std::string_view sentence) noexcept override { inner_.said(sentence); }
  void warned(std::string_view sentence) noexcept override { inner_.warned(sentence); }

 private:
  State& state_;
  job::Observer& inner_;
};

class CrashPoints::WatchedJournal final : public job::Journal {
 public:
  WatchedJournal(State& state, job::Journal& inner) : state_(state), inner_(inner) {}
  void append(const job::Body& body) override {
    state_.pass(fmt::format("before {}", job::name(body)));
    inner_.append(body);
    state_.pass(fmt::format("after {}", job::name(body)));
  }
  std::vector<job::Fact> facts() const override { return inner_.facts(); }

 private:
  State& state_;
  job::Journal& inner_;
};

CrashPoints::CrashPoints() : state_(std::make_unique<State>()) {}
CrashPoints::~CrashPoints() = default;

std::unique_ptr<CrashPoints> CrashPoints::wanted(const std::map<std::string, std::string>& environment) {
  const auto at = environment.find("VMFERRY_CRASH_AT"), list = environment.find("VMFERRY_CRASH_POINTS");
  if (at == environment.end() && list == environment.end()) return nullptr;
  std::unique_ptr<CrashPoints> points(new CrashPoints());
  if (at != environment.end()) points->state_->dies_at = at->second;
  if (list != environment.end())
    points->state_->list = Fd(::open(list->second.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  return points;
}

std::unique_ptr<job::Observer> CrashPoints::watching(job::Observer& inner) {
  return std::make_unique<WatchedObserver>(*state_, inner);
}

std::unique_ptr<job::Journal> CrashPoints::watching(job::Journal& inner) {
  return std::make_unique<WatchedJournal>(*state_, inner);
}

}  // namespace vmferry::app
