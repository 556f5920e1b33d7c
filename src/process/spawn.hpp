// Makes child processes: the few lines between fork and exec, where only async-signal-safe calls are allowed, and the
// thread that does all the forking. Internal to process/; must not know of lines, deadlines or Child.
#pragma once

#include <signal.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "process/process.hpp"

namespace vmferry::process {

// Everything the child needs, made before the fork.
struct Launch {
  std::string program;               // a path that exists
  std::vector<std::string> argv;     // with argv[0]
  std::vector<std::string> environ;  // "NAME=value"
  int in = -1, out = -1, err = -1;   // become 0, 1, 2
  std::vector<PassedFd> fds;
  bool dies_with_us = true;
};

struct Launched {
  int pid = -1;
  Fd pidfd;
};

// The kernel sends PR_SET_PDEATHSIG when the *thread* that forked ends, not the process (prctl(2), BUGS): a child
// started from a worker thread would be killed as soon as that worker is done. So one thread does all forks and lives
// as long as the runner or any of its children.
class Spawner {
 public:
  Spawner() = default;
  ~Spawner();
  Spawner(const Spawner&) = delete;
  Spawner& operator=(const Spawner&) = delete;

  // Returns when the program runs. Throws Error(tool) when exec refused, Error(quota) when no process could be made.
  Launched launch(const Launch& launch);

 private:
  void run();
  int fork_there(const std::function<int()>& fork_one);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool ending_ = false;
  std::thread thread_;  // started at the first launch
};

// Blocks every signal in this thread for the scope, so that threads made in it never run a signal handler.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept;
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace vmferry::process
