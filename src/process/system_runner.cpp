// Real children: started by the spawner, their output read by one thread each, ended with TERM then KILL, always
// reaped.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.hpp"
#include "process/process.hpp"
#include "process/spawn.hpp"

namespace vmferry::process {

namespace {

constexpr std::size_t longest_line = 1 << 20;  // a longer one is delivered in pieces
constexpr std::size_t chunk = 64 << 10;
// A pipe holds no more than this (fcntl(2), F_SETPIPE_SZ), so a child's own last words are within it even when its
// grandchildren go on writing.
constexpr std::size_t fullest_pipe = 1 << 20;

struct Package {
  std::string_view program;
  std::string_view debian;
  std::string_view fedora;
};
constexpr Package packages[] = {
    {"nbdkit", "nbdkit", "nbdkit"},
    {"nbdcopy", "libnbd-bin", "libnbd"},
    {"nbdinfo", "libnbd-bin", "libnbd"},
    {"qemu-img", "qemu-utils", "qemu-img"},
    {"qemu-nbd", "qemu-utils", "qemu-img"},
    {"qemu-io", "qemu-utils", "qemu-img"},
    {"qemu-storage-daemon", "qemu-system-common", "qemu-kvm-core"},
    {"qemu-system-x86_64", "qemu-system-x86", "qemu-kvm"},
    {"virt-v2v", "virt-v2v", "virt-v2v"},
    {"virt-v2v-in-place", "virt-v2v", "virt-v2v"},
    {"virt-v2v-inspector", "virt-v2v", "virt-v2v"},
    {"virt-customize", "guestfs-tools", "guestfs-tools"},
    {"virt-inspector", "guestfs-tools", "guestfs-tools"},
    {"virt-filesystems", "guestfs-tools", "guestfs-tools"},
    {"guestfish", "guestfish", "libguestfs"},
    {"libguestfs-test-tool", "libguestfs-tools", "libguestfs"},
    {"ssh", "openssh-client", "openssh-clients"},
    {"lsblk", "util-linux", "util-linux"},
    {"blkid", "util-linux", "util-linux"},
    {"blockdev", "fdisk", "util-linux"},
    {"losetup", "mount", "util-linux"},
    {"udevadm", "udev", "systemd-udev"},
    {"iscsiadm", "open-iscsi", "iscsi-initiator-utils"},
    {"multipath", "multipath-tools", "device-mapper-multipath"},
    {"nvme", "nvme-cli", "nvme-cli"},
    {"rbd", "ceph-common", "ceph-common"},
    {"mkfs.ext4", "e2fsprogs", "e2fsprogs"},
    {"sgdisk", "gdisk", "gdisk"},
    {"openssl", "openssl", "openssl"},
};

std::string package_hint(const std::string& program) {
  for (const Package& p : packages) {
    if (p.program != program) continue;
    if (p.debian == p.fedora) return fmt::format("install the package {}", p.debian);
    return fmt::format("install the package {} (Debian, Ubuntu) or {} (RHEL, Fedora)", p.debian, p.fedora);
  }
  return "install it or correct PATH";
}

std::string environment_or(const char* name, std::string otherwise) {
  const char* value = ::getenv(name);
  return value != nullptr && *value != '\0' ? std::string(value) : std::move(otherwise);
}

constexpr const char* usual_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

bool runnable(const std::filesystem::path& file) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(file, ignored) && ::access(file.c_str(), X_OK) == 0;
}

std::string find_program(const std::filesystem::path& program) {
  const std::string name = program.string();
  if (name.find('/') != std::string::npos) {
    if (runnable(program)) return name;
    std::error_code ignored;
    const bool there = std::filesystem::exists(program, ignored);
    throw Error(Fault::tool, there ? fmt::format("cannot run {}: it is not a program that we may execute", name)
                                   : fmt::format("cannot run {}: there is no such program; {}", name,
                                                 package_hint(program.filename().string())));
  }
  // The sbin folders are often missing from the PATH of an ordinary user, whose blkid is no less useful.
  const std::string path = environment_or("PATH", usual_path) + ":/usr/sbin:/sbin";
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t colon = std::min(path.find(':', at), path.size());
    const std::filesystem::path candidate = std::filesystem::path(path.substr(at, colon - at)) / name;
    if (colon > at && runnable(candidate)) return candidate.string();
    at = colon + 1;
  }
  throw Error(Fault::tool, fmt::format("the program {} was not found in PATH: {}", name, package_hint(name)));
}

std::vector<std::string> child_environment(const Command& command) {
  std::map<std::string, std::string> all{{"PATH", environment_or("PATH", usual_path)}, {"LANG", "C.UTF-8"}};
  for (const char* name : {"HOME", "TMPDIR"})
    if (const char* value = ::getenv(name)) all[name] = value;
  for (const auto& [name, value] : command.environment) all[name] = value;
  std::vector<std::string> out;
  for (const auto& [name, value] : all) out.push_back(name + "=" + value);
  return out;
}

std::pair<Fd, Fd> make_pipe(const std::string& program) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    throw Error(Fault::quota, fmt::format("cannot start {}: no more file descriptors: {}", program, strerror(errno)));
  return {Fd(ends[0]), Fd(ends[1])};
}

Fd open_null(int flags) {
  Fd fd(::open("/dev/null", flags | O_CLOEXEC));
  if (!fd) throw Error(Fault::quota, fmt::format("cannot open /dev/null: {}", strerror(errno)));
  return fd;
}

Fd make_event() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) throw Error(Fault::quota, fmt::format("no more file descriptors: eventfd: {}", strerror(errno)));
  return fd;
}

void ring(const Fd& event) noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(event.get(), &one, sizeof one);
}

void set_nonblocking(const Fd& fd) noexcept { ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK); }

// One of the child's outputs, cut into lines.
class LineReader {
 public:
  LineReader() = default;
  LineReader(Fd fd, LineSink sink) : fd_(std::move(fd)), sink_(std::move(sink)) { set_nonblocking(fd_); }

  int fd() const noexcept { return fd_.get(); }
  // Reads what is there, at most `limit` bytes.
  void read_available(std::size_t limit) {
    std::string buffer(chunk, '\0');
    for (std::size_t total = 0; fd_ && total < limit;) {
      const ssize_t got = ::read(fd_.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) return;
      if (got <= 0) {
        finish();
        return;
      }
      total += static_cast<std::size_t>(got);
      take(std::string_view(buffer.data(), static_cast<std::size_t>(got)));
    }
  }
  void flush_partial() {
    if (!partial_.empty()) deliver(std::exchange(partial_, {}));
  }
  void finish() {
    flush_partial();
    fd_.close();
  }

 private:
  void take(std::string_view bytes) {
    for (std::size_t newline; (newline = bytes.find('\n')) != std::string_view::npos;
         bytes.remove_prefix(newline + 1)) {
      partial_.append(bytes.substr(0, newline));
      deliver(std::exchange(partial_, {}));
    }
    partial_.append(bytes);
    if (partial_.size() >= longest_line) flush_partial();
  }
  void deliver(const std::string& line) {
    if (!sink_) return;
    try {
      sink_(line);
    } catch (...) {
      // A sink that fails must not stop the child, which would hang on a full pipe: go on reading, without it.
      sink_ = nullptr;
    }
  }

  Fd fd_;
  LineSink sink_;
  std::string partial_;
};

class SystemChild final : public Child {
 public:
  SystemChild(std::shared_ptr<Spawner> spawner, Launched launched, LineReader out, LineReader err, Fd in,
              std::string input)
      : spawner_(std::move(spawner)),
        pid_(launched.pid),
        pidfd_(std::move(launched.pidfd)),
        quit_(make_event()),
        out_(std::move(out)),
        err_(std::move(err)),
        in_(std::move(in)),
        input_(std::move(input)) {
    if (in_) set_nonblocking(in_);
    const SignalsBlocked blocked;  // also makes a write to a child that closed its input give EPIPE instead of SIGPIPE
    pump_thread_ = std::thread([this] { pump(); });
  }

  ~SystemChild() override {
    terminate(std::chrono::seconds(2));
    ring(quit_);
    if (pump_thread_.joinable()) pump_thread_.join();
  }

  int pid() const noexcept override { return pid_; }

  std::optional<ExitStatus> poll() override {
    const std::optional<ExitStatus> status = reap();
    std::scoped_lock lock(mutex_);
    // An end that came by itself is told when its last words have been: they usually say why.
    return status && (drained_ || terminated_) ? status : std::nullopt;
  }

  ExitStatus wait(std::stop_token stop) override {
    const Fd stopped = make_event();
    const std::stop_callback on_stop(stop, [&] { ring(stopped); });
    for (;;) {
      if (const auto status = reap()) {
        std::unique_lock lock(mutex_);
        if (std::this_thread::get_id() != pump_thread_.get_id()) drained_now_.wait(lock, [this] { return drained_; });
        return *status;
      }
      if (stop.stop_requested()) throw Cancelled();
      pollfd fds[] = {{pidfd_.get(), POLLIN, 0}, {stopped.get(), POLLIN, 0}};
      ::poll(fds, 2, -1);
    }
  }

  void terminate(std::chrono::milliseconds grace) noexcept override {
    if (reap()) return;
    signal_child(SIGTERM);
    const auto deadline = std::chrono::steady_clock::now() + grace;
    while (!ended()) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
      if (left <= 0) break;
      pollfd fd{pidfd_.get(), POLLIN, 0};
      ::poll(&fd, 1, static_cast<int>(std::min<long long>(left + 1, 60'000)));
    }
    signal_group(SIGKILL);
    {
      std::scoped_lock lock(mutex_);
      terminated_ = true;
    }
    while (!reap()) {
      pollfd fd{pidfd_.get(), POLLIN, 0};
      ::poll(&fd, 1, -1);
    }
  }

 private:
  bool ended() const noexcept {
    pollfd fd{pidfd_.get(), POLLIN, 0};
    return ::poll(&fd, 1, 0) > 0;
  }

  // Until it is reaped its number cannot belong to anybody else; afterwards no signal is sent.
  void signal_child(int signal) noexcept {
    std::scoped_lock lock(mutex_);
    if (!status_) ::kill(pid_, signal);
  }
  // Also what the child itself started and left behind.
  void signal_group(int signal) noexcept {
    std::scoped_lock lock(mutex_);
    if (status_) return;
    ::kill(-pid_, signal);
    ::kill(pid_, signal);  // it may have moved to another group
  }

  std::optional<ExitStatus> reap() noexcept {
    std::scoped_lock lock(mutex_);
    if (status_) return status_;
    int raw = 0;
    pid_t got;
    while ((got = ::waitpid(pid_, &raw, WNOHANG)) < 0 && errno == EINTR) {
    }
    if (got == 0) return std::nullopt;
    ExitStatus status;
    if (got < 0)
      status.code =
          127;  // somebody set SIGCHLD to be ignored: the kernel threw the status away; never call that success
    else if (WIFSIGNALED(raw))
      status.signal = WTERMSIG(raw);
    else
      status.code = WEXITSTATUS(raw);
    status_ = status;
    return status_;
  }

  void feed() {
    while (in_ && !input_.empty()) {
      const ssize_t put = ::write(in_.get(), input_.data() + fed_, input_.size() - fed_);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0 && errno == EAGAIN) return;
      if (put < 0) break;  // EPIPE: it does not want the rest
      fed_ += static_cast<std::size_t>(put);
      if (fed_ == input_.size()) break;
    }
    in_.close();
  }

  void mark_drained() {
    {
      std::scoped_lock lock(mutex_);
      drained_ = true;
    }
    drained_now_.notify_all();
  }

  // Reads until both outputs end. When the child has ended but its own children still hold the pipe, what the child
  // wrote is delivered first, then reading goes on until this object goes.
  void pump() {
    bool gone = false;
    for (;;) {
      if (gone && out_.fd() < 0 && err_.fd() < 0) return;
      // poll skips negative descriptors.
      pollfd fds[] = {{quit_.get(), POLLIN, 0},
                      {gone ? -1 : pidfd_.get(), POLLIN, 0},
                      {out_.fd(), POLLIN, 0},
                      {err_.fd(), POLLIN, 0},
                      {in_ ? in_.get() : -1, POLLOUT, 0}};
      if (::poll(fds, 5, -1) < 0) continue;
      if (fds[4].revents != 0) feed();
      if (fds[2].revents != 0) out_.read_available(chunk);
      if (fds[3].revents != 0) err_.read_available(chunk);
      const bool quitting = fds[0].revents != 0;
      if (!gone && (fds[1].revents != 0 || quitting)) {
        out_.read_available(fullest_pipe);
        err_.read_available(fullest_pipe);
        out_.flush_partial();
        err_.flush_partial();
        in_.close();
        gone = true;
        mark_drained();
      }
      if (quitting) return;
    }
  }

  std::shared_ptr<Spawner> spawner_;  // the thread whose end would kill the child
  const int pid_;
  Fd pidfd_;
  Fd quit_;
  LineReader out_, err_;  // the pump's, like in_ and input_
  Fd in_;
  std::string input_;
  std::size_t fed_ = 0;
  std::mutex mutex_;
  std::condition_variable drained_now_;
  std::optional<ExitStatus> status_;
  bool drained_ = false;
  bool terminated_ = false;
  std::thread pump_thread_;
};

}  // namespace

SystemRunner::SystemRunner() : spawner_(std::make_shared<Spawner>()) {}
SystemRunner::~SystemRunner() = default;

std::unique_ptr<Child> SystemRunner::start(const Command& command, LineSink out, LineSink err) {
  Launch launch;
  launch.program = find_program(command.program);
  launch.argv.push_back(command.program.string());
  launch.argv.insert(launch.argv.end(), command.args.begin(), command.args.end());
  launch.environ = child_environment(command);
  launch.fds = command.fds;
  launch.dies_with_us = command.dies_with_us;

  Fd in_theirs, in_ours, out_theirs, err_theirs;
  LineReader out_reader, err_reader;
  if (command.input)
    std::tie(in_theirs, in_ours) = make_pipe(launch.program);
  else
    in_theirs = open_null(O_RDONLY);
  const auto output = [&](Fd& theirs, LineReader& reader, LineSink sink) {
    if (!sink) {
      theirs = open_null(O_WRONLY);
      return;
    }
    Fd ours;
    std::tie(ours, theirs) = make_pipe(launch.program);
    reader = LineReader(std::move(ours), std::move(sink));
  };
  output(out_theirs, out_reader, std::move(out));
  output(err_theirs, err_reader, std::move(err));
  launch.in = in_theirs.get();
  launch.out = out_theirs.get();
  launch.err = err_theirs.get();
  Launched launched = spawner_->launch(launch);
  const int pid = launched.pid;
  try {
    return std::make_unique<SystemChild>(spawner_, std::move(launched), std::move(out_reader), std::move(err_reader),
                                         std::move(in_ours), command.input.value_or(""));
  } catch (...) {
    // No thread or descriptor was left to watch it.
    ::kill(-pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    throw;
  }
}

}  // namespace vmferry::process
