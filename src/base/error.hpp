// What ends an operation: one exception type whose Fault says who can act. Retry policy, exit code and the wording
// around a message are tables over Fault, never over message text. A caller that wants to branch on a failure uses
// optional or tl::expected instead.
#pragma once

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace vmferry {

enum class Fault {
  usage,        // the command line asks for something that makes no sense
  config,       // a setting, file or environment variable is wrong
  auth,         // refused: wrong password, expired and not renewable, missing privilege
  not_found,    // the named thing does not exist
  conflict,     // somebody else holds it, or its state forbids the call
  quota,        // a limit of the cloud or of this host
  unavailable,  // the other side cannot be reached or is overloaded: later may work
  timeout,      // waited as long as was allowed
  unsupported,  // this disk, host or version cannot do it
  tool,         // a program we run (nbdkit, virt-v2v...) failed
  data,         // the other side answered something that cannot be understood, or bytes differ
  bug           // our own invariant broke
};

std::string_view to_string(Fault fault) noexcept;

// Stable exit codes, documented in docs/exit-codes.md. 0 is success, 130 and 143 are SIGINT and SIGTERM.
int exit_code(Fault fault) noexcept;

class Error : public std::runtime_error {
 public:
  // `message` is one sentence for a tired operator: what failed, on which object, what to do.
  Error(Fault fault, const std::string& message);
  // `name` is the other side's own word for it ("RestrictedVersion", "overLimit"), for logs and for callers that
  // know that vocabulary; empty when there is none.
  Error(Fault fault, const std::string& message, std::string name);

  Fault fault() const noexcept { return fault_; }
  const std::string& name() const noexcept { return name_; }
  // Adds "while doing X" on the way up: catch (Error& e) { e.during("copying disk 2000"); throw; }
  Error& during(std::string activity);
  std::span<const std::string> trail() const noexcept { return trail_; }
  // The message followed by its trail, for the last line a user sees.
  std::string explain() const;

 private:
  Fault fault_;
  std::string name_;
  std::vector<std::string> trail_;
};

// The user or the surroundings asked us to stop. Deliberately not an Error: nobody retries it or reports it as one.
class Cancelled : public std::exception {
 public:
  const char* what() const noexcept override { return "cancelled"; }
};

}  // namespace vmferry
