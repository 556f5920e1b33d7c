// What every runner shares: waiting with a deadline, and how commands and their ends are told to people.
#include "process/process.hpp"

#include <fmt/format.h>
#include <string.h>

#include <atomic>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "process/spawn.hpp"

namespace vmferry::process {

namespace {

constexpr std::size_t most_output = 1 << 20;

LineSink collect(std::string& text) {
  return [&text](std::string_view line) {
    if (text.size() >= most_output) return;
    text.append(line.substr(0, most_output - text.size()));
    if (text.size() < most_output) text += '\n';
  };
}

std::string quoted(const std::string& word) {
  std::string out = "'";
  for (const char c : word) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out + "'";
}

}  // namespace

std::string ExitStatus::describe() const {
  if (signal == 0) return fmt::format("exit code {}", code);
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? fmt::format("killed by signal {} (SIG{})", signal, name)
                         : fmt::format("killed by signal {}", signal);
}

std::string describe(const Command& command) {
  std::string text = quoted(command.program.string());
  for (const std::string& arg : command.args) text += " " + quoted(arg);
  return text;
}

Output run(Runner& runner, const Command& command, std::chrono::milliseconds deadline, std::stop_token stop) {
  Output output;
  // The sinks write into `output` until the child is gone: it must be declared before the child.
  std::unique_ptr<Child> child = runner.start(command, collect(output.out), collect(output.err));
  std::stop_source enough;
  const std::stop_callback on_stop(stop, [&] { enough.request_stop(); });
  std::atomic<bool> expired = false;
  std::jthread timer;
  {
    const SignalsBlocked blocked;
    timer = std::jthread([&](std::stop_token done) {
      SystemClock clock;
      if (!clock.sleep(deadline, done)) return;
      expired = true;
      enough.request_stop();
    });
  }
  try {
    output.status = child->wait(enough.get_token());
  } catch (const Cancelled&) {
    if (stop.stop_requested() || !expired) throw;
    throw Error(Fault::timeout, fmt::format("{} did not end within {} s and was stopped", describe(command),
                                            std::chrono::duration<double>(deadline).count()));
  }
  child.reset();  // its reader has to be gone before `output` is read
  return output;
}

}  // namespace vmferry::process
