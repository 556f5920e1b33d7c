// One log per job, mode 0600, every line redacted. The only module that includes spdlog.
// Logging never throws and never blocks longer than a write to its file.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/secret.hpp"

namespace vmferry::log {

enum class Level { debug, info, warning, error };

using Field = std::pair<std::string_view, std::string_view>;

// Replaces known secrets and everything that looks like a credential (cookies, tokens, passwords in headers, XML,
// JSON and URLs) by "***". Thread-safe. Shared by the log and by recordings.
class Redactor {
 public:
  Redactor();
  ~Redactor();
  Redactor(const Redactor&) = delete;
  Redactor& operator=(const Redactor&) = delete;
  // Its bytes, and their URL-, XML- and base64-encoded forms, never appear again. Very short secrets (under 4
  // bytes) are only hidden by pattern, since replacing them everywhere would destroy the text.
  void add(const Secret& secret);
  std::string clean(std::string_view text) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Log {
 public:
  // A log that goes nowhere (tests, `version`).
  Log();
  // Appends to `file` (created 0600, its folder 0700). With `echo`, lines of at least `echo_level` also go to stderr.
  Log(const std::filesystem::path& file, std::shared_ptr<Redactor> redactor, Level level, bool echo, Level echo_level);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void write(Level level, std::string_view message, std::initializer_list<Field> fields = {}) noexcept;
  void debug(std::string_view message, std::initializer_list<Field> fields = {}) noexcept {
    write(Level::debug, message, fields);
  }
  void info(std::string_view message, std::initializer_list<Field> fields = {}) noexcept {
    write(Level::info, message, fields);
  }
  void warning(std::string_view message, std::initializer_list<Field> fields = {}) noexcept {
    write(Level::warning, message, fields);
  }
  void error(std::string_view message, std::initializer_list<Field> fields = {}) noexcept {
    write(Level::error, message, fields);
  }

  // From here on into this file: a run's first lines are written before it is known which job they belong to.
  void continue_in(const std::filesystem::path& file);
  const std::filesystem::path& file() const noexcept;
  Redactor& redactor() noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vmferry::log
