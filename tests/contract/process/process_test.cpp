// SystemRunner with real children. The program is its own helper: with "role NAME" as arguments it plays a part.
#include "process/process.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <future>
#include <iostream>
#include <set>
#include <sstream>
#include <thread>

#include "base/error.hpp"
#include "support/lab.hpp"

namespace vmferry::process {
namespace {

using namespace std::chrono_literals;

Command shell(const std::string& script) {
  Command command;
  command.program = "sh";
  command.args = {"-c", script};
  return command;
}

Command role(const std::string& name) {
  Command command;
  command.program = std::filesystem::read_symlink("/proc/self/exe");
  command.args = {"role", name};
  return command;
}

// A pidfd of any process: becomes readable when it ends, whoever its parent is.
Fd watch(int pid) { return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U))); }

bool ends_within(const Fd& pidfd, std::chrono::milliseconds limit) {
  pollfd fd{pidfd.get(), POLLIN, 0};
  return ::poll(&fd, 1, static_cast<int>(limit.count())) == 1;
}

bool exists(int pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

// Lines as they come, to wait for.
class Lines {
 public:
  LineSink sink() {
    return [this](std::string_view line) {
      const std::scoped_lock lock(mutex_);
      lines_.emplace_back(line);
      more_.notify_all();
    };
  }
  std::string at(std::size_t index) {
    std::unique_lock lock(mutex_);
    if (!more_.wait_for(lock, 20s, [&] { return lines_.size() > index; }))
      throw std::runtime_error("no such line came");
    return lines_[index];
  }
  std::vector<std::string> all() {
    const std::scoped_lock lock(mutex_);
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable more_;
  std::vector<std::string> lines_;
};

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::set<std::string> split_nul(const std::string& text) {
  std::set<std::string> parts;
  std::stringstream in(text);
  for (std::string part; std::getline(in, part, '\0');) parts.insert(part);
  return parts;
}

class ProcessTest : public testing::Test {
 protected:
  Output run_it(const Command& command, std::chrono::milliseconds deadline = 30s) {
    return run(runner_, command, deadline, {});
  }
  std::string failure(const Command& command, Fault expected) {
    try {
      run_it(command);
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), expected) << e.what();
      return e.what();
    }
    ADD_FAILURE() << "started";
    return {};
  }
  SystemRunner runner_;
};

TEST_F(ProcessTest, CollectsOutputAndExitCode) {
  const Output output = run_it(shell("echo one; echo two >&2; printf three; exit 3"));
  EXPECT_EQ(output.out, "one\nthree\n");
  EXPECT_EQ(output.err, "two\n");
  EXPECT_EQ(output.status.code, 3);
  EXPECT_FALSE(output.status.ok());
  EXPECT_EQ(output.status.describe(), "exit code 3");
  EXPECT_TRUE(run_it(shell("true")).status.ok());
}

TEST_F(ProcessTest, TellsASignalFromAnExitCode) {
  const ExitStatus status = run_it(shell("kill -9 $$")).status;
  EXPECT_EQ(status.signal, 9);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.describe(), "killed by signal 9 (SIGKILL)");
}

TEST_F(ProcessTest, ArgumentsArriveAsTheyAreWithoutAnyShell) {
  Command command;
  command.program = "printf";
  command.args = {"[%s]", "a b", "$HOME", "'; rm x", "*", ""};
  EXPECT_EQ(run_it(command).out, "[a b][$HOME]['; rm x][*][]\n");
  EXPECT_EQ(describe(command), "'printf' '[%s]' 'a b' '$HOME' ''\\''; rm x' '*' ''");
}

TEST_F(ProcessTest, FeedsInputOfAnySize) {
  Command command = shell("wc -c");
  command.input = std::string(3 << 20, 'x');
  EXPECT_EQ(run_it(command).out, "3145728\n");
  command.input = "";
  EXPECT_EQ(run_it(command).out, "0\n");
  command.input.reset();
  EXPECT_EQ(run_it(command).out, "0\n") << "/dev/null";
}

TEST_F(ProcessTest, SurvivesAChildThatDoesNotReadItsInput) {
  ::signal(SIGPIPE, SIG_DFL);
  Command command = shell("exec <&-; sleep 0.1; echo done");
  command.input = std::string(3 << 20, 'x');
  EXPECT_EQ(run_it(command).out, "done\n");
}

TEST_F(ProcessTest, NamesThePackageOfAMissingProgram) {
  Command command;
  command.program = "no-such-program-here";
  EXPECT_NE(failure(command, Fault::tool).find("no-such-program-here was not found in PATH"), std::string::npos);
  command.program = "/nonexistent/bin/qemu-img";
  const std::string message = failure(command, Fault::tool);
  EXPECT_NE(message.find("/nonexistent/bin/qemu-img"), std::string::npos) << message;
  EXPECT_NE(message.find("qemu-utils"), std::string::npos) << message;
}

TEST_F(ProcessTest, SaysWhyAFileCannotBeRun) {
  const support::TemporaryDirectory tmp;
  Command command;
  command.program = tmp.path() / "tool";
  std::ofstream(command.program) << "neither script nor program";
  EXPECT_NE(failure(command, Fault::tool).find("not a program that we may execute"), std::string::npos);
  std::filesystem::permissions(command.program, std::filesystem::perms::owner_all);
  EXPECT_NE(failure(command, Fault::tool).find("Exec format error"), std::string::npos);
  std::ofstream(command.program) << "#!/nonexistent/interpreter\n";
  EXPECT_NE(failure(command, Fault::tool).find("No such file"), std::string::npos);
  command.program = tmp.path();
  EXPECT_NE(failure(command, Fault::tool).find("not a program"), std::string::npos) << "a folder";
}

TEST_F(ProcessTest, HandsOnlyTheNamedDescriptors) {
  // Leaky on purpose: neither is close-on-exec.
  const Fd leak1(::open("/dev/zero", O_RDONLY)), leak2(::open("/dev/zero", O_RDONLY)),
      high(::fcntl(leak1.get(), F_DUPFD, 500));
  ASSERT_TRUE(leak1 && leak2 && high);
  EXPECT_EQ(run_it(role("list-fds")).out, "0 1 2\n");
  Command command = role("list-fds");
  command.fds = {{leak1.get(), 3}, {leak2.get(), 9}, {high.get(), 700}};
  EXPECT_EQ(run_it(command).out, "0 1 2 3 9 700\n");
  command.input = "x";
  EXPECT_EQ(run_it(command).out, "0 1 2 3 9 700\n");
}

TEST_F(ProcessTest, DescriptorsMaySwapNumbers) {
  int a[2], b[2];
  ASSERT_EQ(::pipe2(a, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(b, O_CLOEXEC), 0);
  Fd a_read(a[0]), a_write(a[1]), b_read(b[0]), b_write(b[1]);
  ASSERT_EQ(::write(a_write.get(), "from a\n", 7), 7);
  ASSERT_EQ(::write(b_write.get(), "from b\n", 7), 7);
  a_write.close();
  b_write.close();
  // dash takes one-digit descriptors only.
  ASSERT_LT(a_read.get(), 10);
  ASSERT_LT(b_read.get(), 10);
  Command command = shell(fmt::format("cat <&{}; cat <&{}", a_read.get(), b_read.get()));
  command.fds = {{a_read.get(), b_read.get()}, {b_read.get(), a_read.get()}};
  EXPECT_EQ(run_it(command).out, "from b\nfrom a\n");
  EXPECT_GE(::fcntl(a_read.get(), F_GETFD), 0) << "ours stays ours";
}

TEST_F(ProcessTest, RefusesDescriptorsThatMakeNoSense) {
  const Fd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  Command command = shell("true");
  command.fds = {{zero.get(), 1}};
  failure(command, Fault::bug);
  command.fds = {{zero.get(), 5}, {zero.get(), 5}};
  failure(command, Fault::bug);
  command.fds = {{4000, 5}};
  failure(command, Fault::bug);
}

TEST_F(ProcessTest, EnvironmentIsCleanAndNothingSecretIsInSight) {
  ::setenv("VMFERRY_TEST_PASSWORD", "hunter2", 1);
  Lines out;
  Command command = shell("echo ready; read line; echo $line");
  command.environment = {{"LIBGUESTFS_BACKEND", "direct"}};
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  Fd secret_read(ends[0]), secret_write(ends[1]);
  command.args[1] = "echo ready; read line <&7; echo got $line; sleep 60";
  command.fds = {{secret_read.get(), 7}};
  const auto child = runner_.start(command, out.sink(), {});
  EXPECT_EQ(out.at(0), "ready");
  ASSERT_EQ(::write(secret_write.get(), "s3cret\n", 7), 7);
  EXPECT_EQ(out.at(1), "got s3cret");
  const std::string folder = fmt::format("/proc/{}/", child->pid());
  std::set<std::string> names;
  for (const std::string& entry : split_nul(read_file(folder + "environ")))
    names.insert(entry.substr(0, entry.find('=')));
  for (const std::string& name : names)
    EXPECT_TRUE((std::set<std::string>{"PATH", "HOME", "LANG", "TMPDIR", "LIBGUESTFS_BACKEND"}.contains(name))) << name;
  EXPECT_TRUE(names.contains("PATH"));
  const std::string environment = read_file(folder + "environ");
  EXPECT_NE(environment.find("LANG=C.UTF-8"), std::string::npos);
  for (const char* secret : {"hunter2", "s3cret"}) {
    EXPECT_EQ(environment.find(secret), std::string::npos);
    EXPECT_EQ(read_file(folder + "cmdline").find(secret), std::string::npos);
  }
  ::unsetenv("VMFERRY_TEST_PASSWORD");
}

TEST_F(ProcessTest, ChildrenStartWithPlainSignals) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGINT, SIG_IGN);
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &term, &before);
  const std::string status = run_it(shell("exec cat /proc/self/status")).out;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::signal(SIGINT, SIG_DFL);
  EXPECT_NE(status.find("SigBlk:\t0000000000000000"), std::string::npos) << status;
  EXPECT_NE(status.find("SigIgn:\t0000000000000000"), std::string::npos) << status;
}

TEST_F(ProcessTest, CtrlCAtTheTerminalIsNotForChildren) {
  Lines out;
  const auto child = runner_.start(shell("echo ready; sleep 60"), out.sink(), {});
  out.at(0);
  EXPECT_EQ(::getpgid(child->pid()), child->pid());
  EXPECT_NE(::getpgid(child->pid()), ::getpgrp());
}

TEST_F(ProcessTest, WaitingCanBeStoppedAndTheChildGoesOn) {
  auto child = runner_.start(shell("sleep 60"), {}, {});
  const int pid = child->pid();
  std::stop_source stop;
  auto waiting = std::async(std::launch::async, [&] { return child->wait(stop.get_token()); });
  EXPECT_EQ(waiting.wait_for(100ms), std::future_status::timeout);
  stop.request_stop();
  ASSERT_EQ(waiting.wait_for(5s), std::future_status::ready);
  EXPECT_THROW(waiting.get(), Cancelled);
  EXPECT_EQ(child->poll(), std::nullopt);
  EXPECT_TRUE(exists(pid));
  child.reset();
  EXPECT_FALSE(exists(pid)) << "neither running nor a zombie";
}

TEST_F(ProcessTest, RunIsStoppedTogetherWithItsChild) {
  std::stop_source stop;
  const support::TemporaryDirectory tmp;
  const std::string pid_file = tmp.path() / "pid";
  auto running = std::async(std::launch::async, [&] {
    return run(runner_, shell("echo $$ > " + pid_file + "; exec sleep 60"), 50s, stop.get_token());
  });
  while (read_file(pid_file).empty()) std::this_thread::yield();
  stop.request_stop();
  ASSERT_EQ(running.wait_for(10s), std::future_status::ready);
  EXPECT_THROW(running.get(), Cancelled);
  EXPECT_FALSE(exists(std::stoi(read_file(pid_file))));
}

TEST_F(ProcessTest, RunEndsAtItsDeadline) {
  const auto before = std::chrono::steady_clock::now();
  try {
    run_it(shell("exec sleep 60"), 200ms);
    FAIL() << "ended";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::timeout);
    EXPECT_NE(std::string(e.what()).find("sleep 60"), std::string::npos) << e.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - before, 10s);
}

TEST_F(ProcessTest, TerminateAsksFirst) {
  Lines out;
  const auto child =
      runner_.start(shell("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"), out.sink(), {});
  out.at(0);
  child->terminate(20s);
  EXPECT_EQ(child->wait({}).code, 7);
  EXPECT_EQ(out.at(1), "bye");
  child->terminate(20s);
  EXPECT_EQ(child->wait({}).code, 7) << "idempotent";
}

TEST_F(ProcessTest, TerminateEndsTheDeafAndTheirChildren) {
  Lines out;
  const auto child =
      runner_.start(shell("trap '' TERM; sleep 60 & echo $!; while :; do sleep 0.05; done"), out.sink(), {});
  const Fd grandchild = watch(std::stoi(out.at(0)));
  ASSERT_TRUE(grandchild);
  child->terminate(200ms);
  EXPECT_EQ(child->poll().value_or(ExitStatus{}).signal, SIGKILL);
  EXPECT_TRUE(ends_within(grandchild, 10s));
}

TEST_F(ProcessTest, TerminateAndWaitMayMeet) {
  for (int i = 0; i < 20; ++i) {
    const auto child = runner_.start(shell("exec sleep 60"), {}, {});
    auto waiting = std::async(std::launch::async, [&] { return child->wait({}); });
    child->terminate(10s);
    ASSERT_EQ(waiting.wait_for(10s), std::future_status::ready);
    EXPECT_EQ(waiting.get().signal, SIGTERM);
  }
}

TEST_F(ProcessTest, NoZombieIsLeft) {
  for (int i = 0; i < 5; ++i) run_it(shell("true"));
  { const auto ended_by_us = runner_.start(shell("exec sleep 60"), {}, {}); }
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(ProcessTest, AllOutputIsThereWhenWaitReturns) {
  for (int i = 0; i < 30; ++i) {
    Lines err;
    const auto child =
        runner_.start(shell("for i in 1 2 3 4 5; do echo $i >&2; done; printf last >&2"), {}, err.sink());
    child->wait({});
    EXPECT_EQ(err.all(), (std::vector<std::string>{"1", "2", "3", "4", "5", "last"}));
  }
}

TEST_F(ProcessTest, HugeStderrNeitherBlocksNorGrows) {
  std::atomic<std::size_t> bytes = 0, lines = 0;
  const auto child =
      runner_.start(shell("yes 0123456789012345678901234567890 | head -c 9600000 >&2"), {}, [&](std::string_view line) {
        bytes += line.size() + 1;
        ++lines;
      });
  EXPECT_TRUE(child->wait({}).ok());
  EXPECT_EQ(bytes, 9'600'000U);
  EXPECT_EQ(lines, 300'000U);
}

TEST_F(ProcessTest, RunKeepsAtMostOneMebibyteOfEach) {
  const Output output =
      run_it(shell("head -c 1200000 /dev/zero | tr '\\0' x; head -c 1200000 /dev/zero | tr '\\0' '\\n' >&2"));
  EXPECT_EQ(output.out.size(), 1U << 20);
  EXPECT_EQ(output.err.size(), 1U << 20);
}

TEST_F(ProcessTest, ALineLongerThanMemoryAllowsComesInPieces) {
  Lines out;
  const auto child = runner_.start(shell("head -c 5000000 /dev/zero | tr '\\0' x"), out.sink(), {});
  EXPECT_TRUE(child->wait({}).ok());
  std::size_t total = 0;
  for (const std::string& line : out.all()) {
    EXPECT_LE(line.size(), (1U << 20) + (64U << 10));
    total += line.size();
  }
  EXPECT_EQ(total, 5'000'000U);
}

TEST_F(ProcessTest, AFailingSinkDoesNotHangTheChild) {
  const auto child = runner_.start(shell("head -c 300000 /dev/zero | tr '\\0' '\\n'"),
                                   [](std::string_view) { throw std::runtime_error("the reader fell over"); }, {});
  EXPECT_TRUE(child->wait({}).ok());
}

TEST_F(ProcessTest, DoesNotWaitForDaemonsThatKeepThePipe) {
  const auto before = std::chrono::steady_clock::now();
  const Output output = run_it(shell("sleep 8 & echo started"));
  EXPECT_EQ(output.out, "started\n");
  EXPECT_LT(std::chrono::steady_clock::now() - before, 5s);
}

TEST_F(ProcessTest, StartsFromManyThreadsAtOnce) {
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 6; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 10; ++i)
          if (run_it(shell(fmt::format("echo {}-{}", t, i))).out == fmt::format("{}-{}\n", t, i)) ++good;
      });
  }
  EXPECT_EQ(good, 60);
}

// PR_SET_PDEATHSIG follows the thread that forked: with a fork in the caller's thread this child would be dead at once.
TEST_F(ProcessTest, AChildOutlivesTheThreadThatStartedIt) {
  std::unique_ptr<Child> child;
  std::thread([&] { child = runner_.start(shell("exec sleep 60"), {}, {}); }).join();
  EXPECT_FALSE(ends_within(watch(child->pid()), 300ms));
}

TEST_F(ProcessTest, AChildOutlivesTheRunnerThatStartedIt) {
  std::unique_ptr<Child> child = SystemRunner().start(shell("exec sleep 60"), {}, {});
  EXPECT_FALSE(ends_within(watch(child->pid()), 300ms));
}

class KilledParent : public ProcessTest, public testing::WithParamInterface<std::string> {};

TEST_P(KilledParent, LeavesNoChild) {
  Lines out;
  const auto parent = runner_.start(role(GetParam()), out.sink(), {});
  const Fd child = watch(std::stoi(out.at(0)));
  ASSERT_TRUE(child);
  EXPECT_FALSE(ends_within(child, 200ms));
  ASSERT_EQ(::kill(parent->pid(), SIGKILL), 0);
  EXPECT_TRUE(ends_within(child, 10s));
  EXPECT_EQ(parent->wait({}).signal, SIGKILL);
}

INSTANTIATE_TEST_SUITE_P(From, KilledParent, testing::Values("parent", "parent-with-short-thread"));

TEST_F(ProcessTest, AChildMayBeAllowedToOutliveUs) {
  Lines out;
  const auto parent = runner_.start(role("careless-parent"), out.sink(), {});
  const int pid = std::stoi(out.at(0));
  const Fd child = watch(pid);
  ASSERT_TRUE(child);
  ASSERT_EQ(::kill(parent->pid(), SIGKILL), 0);
  parent->wait({});
  EXPECT_FALSE(ends_within(child, 300ms));
  EXPECT_EQ(::kill(pid, SIGKILL), 0);
  EXPECT_TRUE(ends_within(child, 10s));
}

// ---- the parts this program plays

int list_fds() {
  std::string list;
  for (int fd = 0; fd < 1024; ++fd)
    if (::fcntl(fd, F_GETFD) >= 0) list += fmt::format("{}{}", list.empty() ? "" : " ", fd);
  std::cout << list << std::endl;
  return 0;
}

int be_parent(bool in_short_thread, bool dies_with_us) {
  SystemRunner runner;
  Command command = shell("exec sleep 120");
  command.dies_with_us = dies_with_us;
  std::unique_ptr<Child> child;
  const auto start = [&] { child = runner.start(command, {}, {}); };
  if (in_short_thread)
    std::thread(start).join();
  else
    start();
  std::cout << child->pid() << std::endl;
  child->wait({});
  return 0;
}

}  // namespace

int play(const std::string& name) {
  if (name == "list-fds") return list_fds();
  if (name == "parent") return be_parent(false, true);
  if (name == "parent-with-short-thread") return be_parent(true, true);
  if (name == "careless-parent") return be_parent(false, false);
  return 99;
}

}  // namespace vmferry::process

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "role") return vmferry::process::play(argv[2]);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
