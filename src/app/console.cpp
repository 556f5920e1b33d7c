// Signals by sigwait in a thread of their own; the terminal by termios.
#include "app/console.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/finally.hpp"
#include "term/text.hpp"

extern char** environ;

namespace vmferry::app {

namespace {

sigset_t watched() {
  sigset_t set;
  sigemptyset(&set);
  for (const int s : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, s);
  return set;
}

}  // namespace

Signals::Signals() {
  const sigset_t set = watched();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  watcher_ = std::thread([this, set] {
    std::chrono::steady_clock::time_point first;
    for (;;) {
      int number = 0;
      if (sigwait(&set, &number) != 0) continue;
      if (over_) return;
      if (code_ != 0) {
        if (number == SIGHUP || std::chrono::steady_clock::now() - first < std::chrono::seconds(1)) continue;
        print_err("leaving at once; `vmferry abort` or the next run cleans up\n");
        _exit(code_);
      }
      first = std::chrono::steady_clock::now();
      code_ = 128 + number;
      print_err("\nstopping: finishing requests and cleaning up (once more to leave at once)\n");
      stop_.request_stop();
    }
  });
}

Signals::~Signals() {
  over_ = true;
  pthread_kill(watcher_.native_handle(), SIGTERM);
  watcher_.join();
}

Secret read_secret_file(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  if (!in || !std::getline(in, line))
    throw Error(
        Fault::config,
        fmt::format(
            "cannot read a password from {}: it must exist, be readable and have the password as its first line",
            file.string()));
  if (!line.empty() && line.back() == '\r') line.pop_back();
  if (line.empty())
    throw Error(Fault::config, fmt::format("the first line of {} is empty: it must be the password", file.string()));
  return Secret(std::move(line));
}

bool readable_by_others(const std::filesystem::path& file) {
  struct stat s {};
  return ::stat(file.c_str(), &s) == 0 && (s.st_mode & 0077) != 0 && S_ISREG(s.st_mode);
}

std::optional<Secret> ask_secret(const std::string& question) {
  const Fd tty(::open("/dev/tty", O_RDWR | O_CLOEXEC));
  if (!tty) return std::nullopt;
  termios before{};
  if (::tcgetattr(tty.get(), &before) != 0) return std::nullopt;
  termios silent = before;
  silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  ::tcsetattr(tty.get(), TCSAFLUSH, &silent);
  const Finally restore([&] { ::tcsetattr(tty.get(), TCSAFLUSH, &before); });
  if (::write(tty.get(), question.data(), question.size()) < 0) return std::nullopt;
  std::string line;
  for (char c = 0; ::read(tty.get(), &c, 1) == 1 && c != '\n';) line += c;
  [[maybe_unused]] const ssize_t newline = ::write(tty.get(), "\n", 1);
  return Secret(std::move(line));
}

std::optional<bool> ask_yes(const std::string& question) {
  if (::isatty(STDIN_FILENO) != 1) return std::nullopt;
  print_err(question + " [y/N] ");
  std::string line;
  for (char c = 0; ::read(STDIN_FILENO, &c, 1) == 1 && c != '\n';) line += c;
  return line == "y" || line == "Y" || line == "yes";
}

std::map<std::string, std::string> environment() {
  std::map<std::string, std::string> all;
  for (char** entry = environ; *entry; ++entry)
    if (const char* equals = std::strchr(*entry, '='))
      all.emplace(std::string(*entry, static_cast<std::size_t>(equals - *entry)), equals + 1);
  return all;
}

void print_out(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void print_sentence(const std::string& sentence) {
  print_out(term::wrapped(sentence, term::screen_of(STDOUT_FILENO).width()));
}

void print_err(const std::string& sentence) {
  const term::Screen screen = term::screen_of(STDERR_FILENO);
  const std::string text = term::wrapped(sentence, screen.width());
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

std::string read_file(const std::filesystem::path& file, const char* flag) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  // What cannot be read (a folder is opened all the same) makes this fail, as an empty file does.
  if (!in || !(text << in.rdbuf()))
    throw Error(Fault::config, fmt::format("{} {}: the file cannot be read, or is empty", flag, file.string()));
  return text.str();
}

std::string read_user_data(const std::filesystem::path& file) {
  std::string text = read_file(file, "--user-data");
  // Nova takes 65535 bytes of base64 (docs.openstack.org/api-ref/compute/#create-server).
  constexpr std::size_t most = 65535 / 4 * 3;
  if (text.size() > most)
    throw Error(Fault::config,
                fmt::format("--user-data {} has {} bytes, and Nova takes {}", file.string(), text.size(), most));
  return text;
}

}  // namespace vmferry::app
