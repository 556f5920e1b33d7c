// Runs child programs: argv vectors only (no shell), a clean environment, named descriptors, stderr line by line,
// TERM then KILL. Knows nothing of what the programs do.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/fd.hpp"

namespace vmferry::process {

struct PassedFd {
  int ours = -1;    // stays ours; the child gets a duplicate
  int theirs = -1;  // its number in the child, > 2
};

struct Command {
  std::filesystem::path program;  // looked up in PATH when it has no slash
  std::vector<std::string> args;  // without argv[0]; never a secret
  // The child's whole environment apart from PATH, HOME, LANG=C.UTF-8 and TMPDIR, which are handed on. Never a secret.
  std::map<std::string, std::string> environment;
  std::vector<PassedFd> fds;
  std::optional<std::string> input;  // its standard input; /dev/null when absent
  // The child is sent SIGTERM when we die, however we die (PR_SET_PDEATHSIG), so that kill -9 of us leaves no server.
  bool dies_with_us = true;
};

struct ExitStatus {
  int code = 0;  // meaningful when signal == 0
  int signal = 0;
  bool ok() const noexcept { return code == 0 && signal == 0; }
  std::string describe() const;  // "exit code 1", "killed by signal 9 (SIGKILL)"
};

// Called from a reader thread with one line, without its newline.
using LineSink = std::function<void(std::string_view)>;

class Child {
 public:
  virtual ~Child() = default;  // ends the child (TERM, 2 s, KILL) and reaps it
  virtual int pid() const noexcept = 0;
  virtual std::optional<ExitStatus> poll() = 0;
  // Blocks until it ends or `stop` is used (then throws Cancelled; the child goes on until destruction).
  virtual ExitStatus wait(std::stop_token stop) = 0;
  // TERM, then KILL after `grace`. Idempotent; returns when it is reaped.
  virtual void terminate(std::chrono::milliseconds grace) noexcept = 0;
};

class Runner {
 public:
  virtual ~Runner() = default;
  // Both sinks may be empty (output is then discarded). Throws Error(tool) naming the program and the package that
  // usually has it when it cannot be started.
  virtual std::unique_ptr<Child> start(const Command& command, LineSink out, LineSink err) = 0;
};

class Spawner;

class SystemRunner final : public Runner {
 public:
  SystemRunner();
  ~SystemRunner() override;
  std::unique_ptr<Child> start(const Command& command, LineSink out, LineSink err) override;

 private:
  std::shared_ptr<Spawner> spawner_;  // one thread does all forks: see spawn.hpp
};

struct Output {
  ExitStatus status;
  std::string out;
  std::string err;
};
// Runs to the end and collects what it printed (at most 1 MiB each). Throws Error(timeout) after `deadline`.
Output run(Runner& runner, const Command& command, std::chrono::milliseconds deadline, std::stop_token stop);

// "'nbdkit' '--foreground' ...": for logs; quoting is for the reader's eye.
std::string describe(const Command& command);

}  // namespace vmferry::process
