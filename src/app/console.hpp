// What a run has around it: signals, the terminal, secrets asked for or read from files.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/secret.hpp"

namespace vmferry::app {

// Turns SIGINT, SIGTERM and SIGHUP into a stop request. A second SIGINT or SIGTERM ends the process at once, but not
// within the first second: `timeout` and a closing terminal send theirs twice. Make it before any other thread, so that
// all of them leave these signals to it.
class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  std::stop_token token() const noexcept { return stop_.get_token(); }
  // 128 + the signal's number once one came, else 0.
  int exit_code() const noexcept { return code_.load(); }

 private:
  std::stop_source stop_;
  std::atomic<int> code_{0};
  std::atomic<bool> over_{false};
  std::thread watcher_;
};

// The first line of a file. Error(config) when it cannot be read or is empty.
Secret read_secret_file(const std::filesystem::path& file);
// True when others than the owner may read it.
bool readable_by_others(const std::filesystem::path& file);
// Asks on the terminal without showing what is typed; nothing when there is no terminal.
std::optional<Secret> ask_secret(const std::string& question);

// A question that is answered with y or n on the terminal; nothing when standard input is none.
std::optional<bool> ask_yes(const std::string& question);

// This process's environment.
std::map<std::string, std::string> environment();

void print_out(const std::string& text);
void print_sentence(const std::string& text);  // likewise; on a terminal wrapped between words
void print_err(const std::string& text);       // on a terminal wrapped between words

// All of a file that a flag names. Error(config).
std::string read_file(const std::filesystem::path& file, const char* flag);
// The file of --user-data. Error(config) when it cannot be read or is larger than Nova takes.
std::string read_user_data(const std::filesystem::path& file);

}  // namespace vmferry::app
