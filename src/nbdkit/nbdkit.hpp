// nbdkit as a value: what is installed (Probe), what to serve (Recipe), and a running server (Export) that lives as
// long as its owner. Nobody else builds a command line of nbdkit or qemu-nbd.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/secret.hpp"
#include "log/log.hpp"
#include "nbd/nbd.hpp"
#include "process/process.hpp"

namespace vmferry::nbdkit {

struct Probe {
  std::string version;                         // "1.32.5"; empty = nbdkit is not there
  bool plugin(const std::string& name) const;  // asks nbdkit --dump-plugin once per name
  bool filter(const std::string& name) const;
  process::Runner* runner = nullptr;
  struct Answers;  // what was asked already
  std::shared_ptr<Answers> answers;
};
// Error(tool) with the package to install when nbdkit is missing.
Probe probe(process::Runner& runner, std::stop_token stop);

// A secret that changes while the server runs (a session cookie). It lives in a memfd that the child inherits; set()
// replaces it in one write. nbdkit's *-script parameters read it through /dev/fd/N.
class LiveSecret {
 public:
  LiveSecret();
  void set(const Secret& value);
  int fd() const noexcept { return fd_.get(); }

 private:
  Fd fd_;
};

struct Recipe {
  std::string plugin;                                           // "curl", "file"
  std::vector<std::string> filters;                             // outermost first
  std::vector<std::pair<std::string, std::string>> parameters;  // key=value, never a secret
  std::chrono::milliseconds grace{2000};                        // to close what it has open, once it is told to end
  int threads = 16;                                             // nbdkit -t: requests served at once per connection
  std::vector<process::PassedFd> fds;                           // descriptors the parameters name
};

// A running server on a unix socket in its own 0700 folder; ends (TERM, then KILL) with its owner.
class Export {
 public:
  Export(Export&&) noexcept;
  Export& operator=(Export&&) noexcept;
  ~Export();
  const nbd::Uri& uri() const noexcept;
  int pid() const noexcept;
  bool alive() const;
  // The last lines it wrote to stderr (redacted), for a failure message.
  std::string last_words() const;

 private:
  struct State;
  friend struct Server;
  explicit Export(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Starts it below `directory` (the job's run folder, 0700; socket paths are limited to 107 bytes, so keep it short) and
// waits until it accepts connections. Error(tool) with nbdkit's own words when it does not.
Export serve(process::Runner& runner, const Recipe& recipe, const std::filesystem::path& directory, log::Log& log,
             std::stop_token stop);

// An image that nbdkit has no plugin for: qcow2 with what lies below it, VMDK.
struct Image {
  std::filesystem::path file;  // "/dev/fd/N" for a descriptor in `fds`
  std::string format;
  std::vector<process::PassedFd> fds;
};
// The same for it, by qemu-nbd.
Export serve_image(process::Runner& runner, const Image& image, const std::filesystem::path& directory, log::Log& log,
                   std::stop_token stop);

}  // namespace vmferry::nbdkit
