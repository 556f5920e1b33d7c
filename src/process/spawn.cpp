// fork and exec with nothing left to chance: descriptors, signals, process group, death signal.
#include "process/spawn.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <future>

#include "base/error.hpp"

namespace vmferry::process {

namespace {

struct Move {
  int from;
  int to;
  int parked;
};

// What the child reads after fork; plain arrays, since malloc is forbidden there.
struct Prepared {
  const char* program;
  std::vector<char*> argv;
  std::vector<char*> envp;
  std::vector<Move> moves;  // sorted by `to`
  int first_free;           // above every `to`
  int open_limit;           // for kernels without close_range
  pid_t parent;
  bool dies_with_us;
};

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

Prepared prepare(const Launch& launch) {
  Prepared p{launch.program.c_str(), pointers(launch.argv), pointers(launch.environ), {}, 3, 0, getpid(),
             launch.dies_with_us};
  p.moves = {{launch.in, 0, -1}, {launch.out, 1, -1}, {launch.err, 2, -1}};
  for (const PassedFd& fd : launch.fds) {
    if (fd.theirs <= 2 || fcntl(fd.ours, F_GETFD) < 0)
      throw Error(Fault::bug,
                  fmt::format("descriptor {} cannot be passed to {} as {}", fd.ours, launch.program, fd.theirs));
    p.moves.push_back({fd.ours, fd.theirs, -1});
    p.first_free = std::max(p.first_free, fd.theirs + 1);
  }
  std::sort(p.moves.begin(), p.moves.end(), [](const Move& a, const Move& b) { return a.to < b.to; });
  for (std::size_t i = 1; i < p.moves.size(); ++i)
    if (p.moves[i].to == p.moves[i - 1].to)
      throw Error(Fault::bug, fmt::format("two descriptors are passed to {} as {}", launch.program, p.moves[i].to));
  rlimit limit{};
  p.open_limit = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 1'000'000 ? static_cast<int>(limit.rlim_cur)
                                                                                     : 1'000'000;
  return p;
}

void close_between(int first, int last, int open_limit) noexcept {
  if (first > last) return;
  if (syscall(SYS_close_range, static_cast<unsigned>(first), static_cast<unsigned>(last), 0U) == 0) return;
  for (int fd = first; fd <= std::min(last, open_limit); ++fd) ::close(fd);
}

// In the child. Only async-signal-safe calls; returns only when something failed, with errno set.
void become(Prepared& p, int& report) noexcept {
  // Ignored signals would be inherited through exec: SIGPIPE, which we ignore for libcurl's and libnbd's sake, must end
  // a child whose reader has gone.
  struct sigaction plain {};
  plain.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &plain, nullptr);
  // A group of its own: Ctrl-C at the terminal is for us, and we end our children in order.
  if (::setpgid(0, 0) != 0) return;
  if (p.dies_with_us) {
    if (::prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) return;
    // We may have died before that line.
    if (::getppid() != p.parent) ::_exit(127);
  }
  // Park all sources above the targets first, so that no dup2 overwrites a source still needed.
  const int parked_report = ::fcntl(report, F_DUPFD_CLOEXEC, p.first_free);
  if (parked_report < 0) return;
  report = parked_report;
  for (Move& move : p.moves)
    if ((move.parked = ::fcntl(move.from, F_DUPFD_CLOEXEC, p.first_free)) < 0) return;
  for (const Move& move : p.moves)
    if (::dup2(move.parked, move.to) < 0) return;
  int low = 3;
  for (const Move& move : p.moves) {
    if (move.to < 3) continue;
    close_between(low, move.to - 1, p.open_limit);
    low = move.to + 1;
  }
  close_between(low, report - 1, p.open_limit);
  close_between(report + 1, 0x7fffffff, p.open_limit);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(p.program, p.argv.data(), p.envp.data());
}

int fork_child(Prepared& p, int report) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid < 0 ? -errno : pid;
  become(p, report);
  const int error = errno;
  [[maybe_unused]] const ssize_t told = ::write(report, &error, sizeof error);
  ::_exit(127);
}

void reap(int pid) noexcept {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

SignalsBlocked::SignalsBlocked() noexcept {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}

SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

Spawner::~Spawner() {
  {
    std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Spawner::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::function<void()> next = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    next();
    lock.lock();
  }
}

int Spawner::fork_there(const std::function<int()>& fork_one) {
  std::promise<int> answer;
  std::future<int> pid = answer.get_future();
  {
    std::scoped_lock lock(mutex_);
    if (!thread_.joinable()) {
      const SignalsBlocked blocked;
      thread_ = std::thread([this] { run(); });
    }
    queue_.push_back([&] { answer.set_value(fork_one()); });
  }
  wake_.notify_all();
  return pid.get();
}

Launched Spawner::launch(const Launch& launch) {
  Prepared prepared = prepare(launch);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw Error(Fault::quota,
                fmt::format("cannot start {}: no more file descriptors: {}", launch.program, strerror(errno)));
  Fd report_read(ends[0]), report_write(ends[1]);
  const int pid = fork_there([&] { return fork_child(prepared, report_write.get()); });
  if (pid < 0)
    throw Error(Fault::quota, fmt::format("cannot start {}: this host gives us no more processes: {}", launch.program,
                                          strerror(-pid)));
  report_write.close();
  int error = 0;
  ssize_t got;
  // End of file means that exec closed the other end: the program runs.
  while ((got = ::read(report_read.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (got == static_cast<ssize_t>(sizeof error)) {
    reap(pid);
    throw Error(Fault::tool, fmt::format("cannot start {}: {}", launch.program, strerror(error)));
  }
  Launched launched{pid, Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0U)))};
  if (!launched.pidfd) {
    const int why = errno;
    ::kill(pid, SIGKILL);
    reap(pid);
    throw Error(Fault::unsupported, fmt::format("cannot watch {}: pidfd_open: {} (Linux 5.3 or later is needed)",
                                                launch.program, strerror(why)));
  }
  return launched;
}

}  // namespace vmferry::process
