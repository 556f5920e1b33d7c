// The log on spdlog: one line an event, "message key=value ...", redacted before it reaches any sink.
#include "log/log.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/dist_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vmferry::log {

namespace {

spdlog::level::level_enum to_spdlog(Level level) noexcept {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

// A line stays a line, and a terminal is not steered by what a server wrote.
void append_printable(std::string& out, std::string_view text) {
  for (const char c : text) {
    if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += ' ';
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
}

std::string one_line(const Redactor& redactor, std::string_view message, std::initializer_list<Field> fields) {
  std::string line;
  append_printable(line, redactor.clean(message));
  for (const auto& [name, value] : fields) {
    // The pair is cleaned as a whole, so that a field named "password" hides its value.
    const std::string marked = redactor.clean(fmt::format("{}={}", name, value));
    const std::string clean = marked.size() >= name.size() + 1 ? marked.substr(name.size() + 1) : marked;
    line += ' ';
    append_printable(line, name);
    line += '=';
    const bool quote = clean.empty() || clean.find_first_of(" \t\n\"=") != std::string::npos;
    if (quote) line += '"';
    for (const char c : clean) {
      if (quote && c == '"') line += '\\';
      append_printable(line, std::string_view(&c, 1));
    }
    if (quote) line += '"';
  }
  return line;
}

void prepare_file(const std::filesystem::path& file) {
  const std::filesystem::path folder = file.parent_path();
  std::error_code error;
  if (!folder.empty() && !std::filesystem::exists(folder, error)) {
    std::filesystem::create_directories(folder.parent_path(), error);
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
      throw Error(Fault::config, fmt::format("cannot make the log folder {}: {}", folder.string(), strerror(errno)));
  }
  // Made here with its mode, since spdlog would make it with the umask's.
  const Fd fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) throw Error(Fault::config, fmt::format("cannot write the log {}: {}", file.string(), strerror(errno)));
  struct stat kind {};
  // Only a file of ours: a log sent to a device must leave the device's mode alone.
  if (::fstat(fd.get(), &kind) == 0 && S_ISREG(kind.st_mode) && ::fchmod(fd.get(), 0600) != 0)
    throw Error(Fault::config, fmt::format("cannot make the log {} private: {}", file.string(), strerror(errno)));
}

}  // namespace

struct Log::State {
  std::filesystem::path file;
  std::shared_ptr<Redactor> redactor;
  std::shared_ptr<spdlog::sinks::dist_sink_mt> files;  // one sink, exchanged under its lock by continue_in()
  Level level = Level::debug;
  std::unique_ptr<spdlog::logger> logger;  // none: goes nowhere
};

namespace {

spdlog::sink_ptr file_sink(const std::filesystem::path& file, Level level) {
  prepare_file(file);
  auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string(), false);
  sink->set_level(to_spdlog(level));
  sink->set_pattern("%Y-%m-%dT%H:%M:%S.%f%z %l %v");
  return sink;
}

}  // namespace

Log::Log() : state_(std::make_unique<State>()) { state_->redactor = std::make_shared<Redactor>(); }

Log::Log(const std::filesystem::path& file, std::shared_ptr<Redactor> redactor, Level level, bool echo,
         Level echo_level)
    : state_(std::make_unique<State>()) {
  state_->file = file;
  state_->redactor = redactor ? std::move(redactor) : std::make_shared<Redactor>();
  state_->level = level;
  try {
    state_->files = std::make_shared<spdlog::sinks::dist_sink_mt>();
    state_->files->set_sinks({file_sink(file, level)});
    std::vector<spdlog::sink_ptr> sinks{state_->files};
    if (echo) {
      auto to_stderr = std::make_shared<spdlog::sinks::stderr_sink_mt>();
      to_stderr->set_level(to_spdlog(echo_level));
      to_stderr->set_pattern("%H:%M:%S %l %v");
      sinks.push_back(to_stderr);
    }
    state_->logger = std::make_unique<spdlog::logger>("vmferry", sinks.begin(), sinks.end());
    state_->logger->set_level(spdlog::level::debug);
    // A full disk must not stop a migration, nor write an error to the terminal for each line.
    state_->logger->set_error_handler([](const std::string&) {});
    state_->logger->flush_on(spdlog::level::debug);
  } catch (const spdlog::spdlog_ex& e) {
    throw Error(Fault::config, fmt::format("cannot write the log {}: {}", file.string(), e.what()));
  }
}

Log::~Log() = default;

void Log::continue_in(const std::filesystem::path& file) {
  if (!state_->logger || file == state_->file) return;
  try {
    state_->files->set_sinks({file_sink(file, state_->level)});
  } catch (const spdlog::spdlog_ex& e) {
    throw Error(Fault::config, fmt::format("cannot write the log {}: {}", file.string(), e.what()));
  }
  state_->file = file;
}

void Log::write(Level level, std::string_view message, std::initializer_list<Field> fields) noexcept {
  if (!state_->logger) return;
  try {
    const auto wanted = to_spdlog(level);
    bool anybody = false;
    for (const auto& sink : state_->logger->sinks()) anybody = anybody || sink->should_log(wanted);
    if (!anybody) return;
    const std::string line = one_line(*state_->redactor, message, fields);
    state_->logger->log(wanted, spdlog::string_view_t(line.data(), line.size()));
  } catch (...) {
    // Out of memory: the line is lost, the work goes on.
  }
}

const std::filesystem::path& Log::file() const noexcept { return state_->file; }
Redactor& Log::redactor() noexcept { return *state_->redactor; }

}  // namespace vmferry::log
