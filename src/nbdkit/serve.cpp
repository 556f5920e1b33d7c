// A running nbdkit: its command line, its private folder, the wait until it is ready, its last words, its end.
#include <errno.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <chrono>
#include <deque>
#include <functional>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/sync.hpp"
#include "nbdkit/nbdkit.hpp"

namespace vmferry::nbdkit {

namespace {

constexpr std::size_t kept_lines = 12;
constexpr std::size_t longest_line = 500;
constexpr std::chrono::seconds ready_deadline{60};  // a plugin may log in to something far away in its .get_ready

std::filesystem::path own_folder(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  std::string name = (directory / "nbd-XXXXXX").string();
  if (error || mkdtemp(name.data()) == nullptr)  // mkdtemp(3): mode 0700
    throw Error(Fault::config,
                fmt::format("cannot make a folder for nbdkit's socket in {}: {}; make that folder writable",
                            directory.string(), error ? error.message() : strerror(errno)));
  return name;
}

// nbdkit(1), --exit-with-parent: "may not be available on all operating systems"; --dump-config says.
bool can_exit_with_parent(process::Runner& runner, std::stop_token stop) {
  process::Command command;
  command.program = "nbdkit";
  command.args = {"--dump-config"};
  return process::run(runner, command, std::chrono::seconds(20), std::move(stop)).out.find("exit_with_parent=yes") !=
         std::string::npos;
}

// The URI's query value; folders may have any name.
std::string percent_encode(const std::string& text) {
  std::string encoded;
  for (const unsigned char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' ||
                       c == '-' || c == '_' || c == '.' || c == '~';
    encoded += plain ? std::string(1, static_cast<char>(c)) : fmt::format("%{:02X}", c);
  }
  return encoded;
}

}  // namespace

struct Export::State {
  std::string program;
  std::filesystem::path folder;
  nbd::Uri uri;
  std::chrono::milliseconds grace = Recipe().grace;
  Sync<std::deque<std::string>> words;
  log::Log* log = nullptr;
  std::unique_ptr<process::Child> child;

  ~State() {
    if (child != nullptr) {
      child->terminate(grace);
      child.reset();
    }
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }

  void said(std::string_view line) {
    std::string clean = log->redactor().clean(line.substr(0, longest_line));
    log->debug(program + ": " + clean);
    auto kept = words.lock();
    kept->push_back(std::move(clean));
    if (kept->size() > kept_lines) kept->pop_front();
  }

  std::string last_words() {
    std::string text;
    for (const std::string& line : *words.lock()) {
      if (!text.empty()) text += "; ";
      text += line;
    }
    return text;
  }

  void await_ready(const std::filesystem::path& pid_file, std::stop_token stop) {
    SystemClock clock;
    const auto give_up = clock.mono() + ready_deadline;
    // nbdkit(1), -P: the file is written when nbdkit is ready to accept connections; qemu-nbd does so too. Connecting
    // just to see would leave it with a client that vanished.
    std::error_code error;
    for (std::chrono::milliseconds wait{2}; !std::filesystem::exists(pid_file, error);
         wait = std::min(2 * wait, std::chrono::milliseconds(50))) {
      if (const auto ended = child->poll())
        throw Error(Fault::tool,
                    fmt::format("{} ended while starting ({}): {}", program, ended->describe(), last_words()));
      if (clock.mono() > give_up)
        throw Error(Fault::timeout,
                    fmt::format("{} was not ready within {} s: {}", program, ready_deadline.count(), last_words()));
      sleep_or_cancel(clock, wait, stop);
    }
  }
};

Export::Export(std::unique_ptr<State> state) : state_(std::move(state)) {}
Export::Export(Export&&) noexcept = default;
Export& Export::operator=(Export&&) noexcept = default;
Export::~Export() = default;

const nbd::Uri& Export::uri() const noexcept { return state_->uri; }
int Export::pid() const noexcept { return state_->child->pid(); }
bool Export::alive() const { return !state_->child->poll().has_value(); }
std::string Export::last_words() const { return state_->last_words(); }

// A server program of any kind, from its command line to the moment it is ready.
struct Server {
  using CommandLine = std::function<process::Command(const std::string& socket, const std::string& pid_file)>;

  static Export start(process::Runner& runner, const CommandLine& command_line, const std::filesystem::path& directory,
                      log::Log& log, std::stop_token stop, std::chrono::milliseconds grace = Recipe().grace) {
    auto state = std::make_unique<Export::State>();
    state->grace = grace;
    state->log = &log;
    state->folder = own_folder(directory);
    const std::filesystem::path socket = state->folder / "s", pid_file = state->folder / "pid";
    if (socket.string().size() >= sizeof(sockaddr_un::sun_path))
      throw Error(Fault::config,
                  fmt::format("the path {} is too long for a socket (at most {} bytes); choose a shorter run folder",
                              socket.string(), sizeof(sockaddr_un::sun_path) - 1));
    state->uri.text = "nbd+unix:///?socket=" + percent_encode(socket.string());
    const process::Command command = command_line(socket.string(), pid_file.string());
    state->program = command.program.string();
    log.debug("starting " + process::describe(command));
    Export::State* listener = state.get();
    const auto hear = [listener](std::string_view line) { listener->said(line); };
    try {
      state->child = runner.start(command, hear, hear);
    } catch (Error& error) {
      throw error.during(fmt::format("starting {} to serve a disk", state->program));
    }
    state->await_ready(pid_file, stop);
    return Export(std::move(state));
  }
};

Export serve(process::Runner& runner, const Recipe& recipe, const std::filesystem::path& directory, log::Log& log,
             std::stop_token stop) {
  const bool exits_with_us = can_exit_with_parent(runner, stop);
  const auto command_line = [&](const std::string& socket, const std::string& pid_file) {
    process::Command command;
    command.program = "nbdkit";
    command.args = {"--foreground", "--readonly", "--unix",
                    socket,         "--pidfile",  pid_file,
                    "--log=stderr", "--threads",  std::to_string(recipe.threads)};
    if (exits_with_us) command.args.push_back("--exit-with-parent");
    for (const std::string& filter : recipe.filters) command.args.push_back("--filter=" + filter);
    command.args.push_back(recipe.plugin);
    for (const auto& [key, value] : recipe.parameters) command.args.push_back(key + "=" + value);
    command.fds = recipe.fds;
    return command;
  };
  return Server::start(runner, command_line, directory, log, stop, recipe.grace);
}

Export serve_image(process::Runner& runner, const Image& image, const std::filesystem::path& directory, log::Log& log,
                   std::stop_token stop) {
  const auto command_line = [&](const std::string& socket, const std::string& pid_file) {
    process::Command command;
    command.program = "qemu-nbd";
    // qemu-nbd(8): without --persistent it ends with its first client; the pid file is written once it listens.
    command.args = {"--read-only",        "--persistent",           "--shared=16",      "--format=" + image.format,
                    "--socket=" + socket, "--pid-file=" + pid_file, image.file.string()};
    command.fds = image.fds;
    return command;
  };
  return Server::start(runner, command_line, directory, log, stop);
}

}  // namespace vmferry::nbdkit
