// A guest that is reached by ssh: a small shell script looks at its devices; an nbdkit there serves one of them on a
// unix socket, to which ssh forwards a socket here. The nbdkit ends when its ssh does, which ends when we do, however
// we end.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/id.hpp"
#include "base/sync.hpp"
#include "http/http.hpp"
#include "source/vmware/guest_disks.hpp"

namespace vmferry::source::vmware {

std::vector<std::string> ssh_arguments(const Ssh& ssh) {
  std::vector<std::string> words{"-T", "-p", std::to_string(ssh.port)};
  for (const char* option : {"BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15",
                             "ServerAliveInterval=15", "ServerAliveCountMax=4"})
    words.insert(words.end(), {"-o", option});
  if (!ssh.key.empty())
    words.insert(words.end(), {"-o", "IdentitiesOnly=yes", "-i", std::filesystem::absolute(ssh.key).string()});
  // ssh_config(5): the value is a list of files, and a name with blanks stands in quotes.
  if (!ssh.known_hosts.empty())
    words.insert(words.end(),
                 {"-o", fmt::format("UserKnownHostsFile=\"{}\"", std::filesystem::absolute(ssh.known_hosts).string()),
                  "-o", "GlobalKnownHostsFile=/dev/null"});
  return words;
}

std::string shell_word(const std::string& text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

namespace {

constexpr std::chrono::seconds answer{60};
constexpr std::chrono::seconds grace{5};
constexpr int lifeline = 9;  // in the ssh: its standard input, which ends when we do
constexpr std::size_t longest_words = 2000;
constexpr std::size_t longest_socket = 107;

// For `sh -s`: $1 is what stands for /, then a question and its arguments.
constexpr const char* script = R"sh(
root=${1%/}; question=$2; shift 2
case $question in
uuids)
  for file in product_serial product_uuid; do echo "$(cat "$root/sys/class/dmi/id/$file" 2>/dev/null)"; done ;;
look) # UUID DOMAIN-BUS-DEVICE-OF-BRIDGE DEVICE UNIT
  id= path= address=
  if [ -n "$1" ]; then
    for prefix in wwn-0x scsi-3; do [ -n "$id" ] || id=$(readlink -e "$root/dev/disk/by-id/$prefix$1"); done
  fi
  case $2 in
  none) ;;
  '') address=0000:00:$3.0 ;;
  *) for child in "$root/sys/bus/pci/devices/$2"/0000:??:"$3".0; do [ ! -e "$child" ] || address=${child##*/}; done ;;
  esac
  [ -z "$address" ] || path=$(readlink -e "$root/dev/disk/by-path/pci-$address-scsi-0:0:$4:0")
  printf '%s\n%s\n' "$id" "$path" ;;
size)
  if [ -b "$1" ]; then blockdev --getsize64 "$1"; else stat -Lc %s "$1"; fi ;;
busy)
  name=${1##*/}
  for holder in /sys/class/block/"$name"/holders/* /sys/class/block/"$name"/"$name"*/holders/*; do
    [ ! -e "$holder" ] || echo "${holder##*/}"
  done
  grep -E "^$1(p?[0-9]+)? " /proc/mounts | cut -d' ' -f2
  # Swap and the like: open(2) with O_EXCL fails with EBUSY. No shell can do that by itself.
  if [ -b "$1" ] && command -v perl >/dev/null; then
    perl -e 'sysopen(F, $ARGV[0], 0200) or $!{EBUSY} and print "a program\n"' "$1" 2>/dev/null
  elif [ -b "$1" ] && command -v python3 >/dev/null; then
    python3 -c 'import errno, os, sys
try: os.close(os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL))
except OSError as e: e.errno != errno.EBUSY or print("a program")' "$1" 2>/dev/null
  fi ;;
esac
exit 0
)sh";

// For `sh -c`: $1 is the folder of the socket, which nobody has yet, $2 the device. Says "ready" when nbdkit listens,
// and ends it when standard input does, which is when the connection is closed or lost. A lost one may also be noticed
// by the word, which is then a SIGPIPE; a shell that a signal ends runs no EXIT trap.
constexpr const char* server_script = R"sh(
mkdir -m 700 "$1" || exit 1
trap 'exit 1' HUP INT PIPE TERM
trap 'kill $server 2>/dev/null; rm -rf "$1"' EXIT
nbdkit --exit-with-parent --readonly --log=stderr --unix "$1/s" file "file=$2" </dev/null & server=$!
while [ ! -S "$1/s" ]; do
  kill -0 $server 2>/dev/null || exit 1
  sleep 0.1
done
echo ready
cat >/dev/null
)sh";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

std::string one_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return text;
}

// The ssh with its forwarded socket.
class Forwarded final : public DeviceServer {
 public:
  Forwarded(const std::string& destination, std::vector<std::string> arguments, const std::string& remote_folder,
            const std::string& device, const std::filesystem::path& directory, process::Runner& runner, log::Log& log,
            const std::stop_token& stop)
      : log_(log) {
    folder_.make(directory);
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0)
      throw Error(Fault::tool, fmt::format("no pipe can be made: {}", strerror(errno)));
    const Fd theirs(ends[0]);
    ours_ = Fd(ends[1]);
    const std::filesystem::path socket = folder_.path / "s";
    uri_.text = fmt::format("nbd+unix:///?socket={}", http::encode(socket.string()));
    process::Command command;
    command.program = "sh";
    command.args = {"-c", fmt::format("exec ssh \"$@\" <&{}", lifeline), "ssh"};
    command.args.insert(command.args.end(), arguments.begin(), arguments.end());
    command.args.insert(command.args.end(), {"-o", "ExitOnForwardFailure=yes", "-L",
                                             fmt::format("{}:{}/s", socket.string(), remote_folder), "--", destination,
                                             fmt::format("sh -c {} sh {} {}", shell_word(server_script),
                                                         shell_word(remote_folder), shell_word(device))});
    command.fds = {{theirs.get(), lifeline}};
    log_.debug("starting " + process::describe(command));
    child_ = runner.start(
        command, [this](std::string_view line) { ready_ = ready_ || line == "ready"; },
        [this](std::string_view line) { said(line); });
    await_ready(destination, stop);
  }
  ~Forwarded() override {
    ours_ = Fd();  // the script at the other end cleans up
    if (child_ != nullptr) child_->terminate(grace);
  }
  const nbd::Uri& uri() const override { return uri_; }
  bool alive() const override { return !child_->poll().has_value(); }
  std::string last_words() const override { return *words_.lock(); }

 private:
  struct Folder {
    std::filesystem::path path;
    ~Folder() {
      std::error_code ignored;
      if (!path.empty()) std::filesystem::remove_all(path, ignored);
    }
    void make(const std::filesystem::path& directory) {
      std::error_code error;
      std::filesystem::create_directories(directory, error);
      std::string name = (directory / "ssh-XXXXXX").string();
      if (error || name.size() + 2 > longest_socket || mkdtemp(name.data()) == nullptr)  // mkdtemp(3): mode 0700
        throw Error(Fault::config,
                    fmt::format("no folder for a socket can be made in {}: {}; make it writable, and its "
                                "path shorter than 90 bytes",
                                directory.string(), error ? error.message() : strerror(errno)));
      path = name;
    }
  };

  void said(std::string_view line) {
    std::string clean = log_.redactor().clean(line);
    log_.debug("ssh: " + clean);
    auto words = words_.lock();
    if (words->size() < longest_words) *words += (words->empty() ? "" : "; ") + clean;
  }

  void await_ready(const std::string& destination, const std::stop_token& stop) {
    SystemClock clock;
    const auto give_up = clock.mono() + answer;
    while (!ready_) {
      if (const auto ended = child_->poll())
        throw Error(Fault::tool,
                    fmt::format("no disk can be served on {} ({}): {}; nbdkit must be installed there, and "
                                "its sshd must allow to forward unix sockets",
                                destination, ended->describe(), last_words()));
      if (clock.mono() > give_up)
        throw Error(Fault::timeout, fmt::format("nbdkit on {} was not ready within {} s: {}", destination,
                                                answer.count(), last_words()));
      sleep_or_cancel(clock, std::chrono::milliseconds(20), stop);
    }
  }

  log::Log& log_;
  Folder folder_;
  Fd ours_;
  nbd::Uri uri_;
  std::atomic<bool> ready_ = false;
  mutable Sync<std::string> words_;
  std::unique_ptr<process::Child> child_;  // last: it calls the sinks
};

class SshGuest final : public Guest {
 public:
  SshGuest(Ssh ssh, std::filesystem::path root, process::Runner& runner, std::filesystem::path run_directory,
           log::Log& log)
      : ssh_(std::move(ssh)),
        root_(std::move(root)),
        runner_(runner),
        run_directory_(std::move(run_directory)),
        log_(log) {}

  std::string name() const override { return ssh_.destination; }

  std::vector<std::string> uuids(std::stop_token stop) override {
    std::vector<std::string> said = ask({"uuids"}, stop);
    said.resize(2);
    return smbios_uuids(said[0], said[1]);
  }

  DiskLinks look(const DiskPlace& place, std::stop_token stop) override {
    std::vector<std::string> said =
        ask({"look", place.uuid, place.pci ? place.pci->bridge : "none",
             fmt::format("{:02x}", place.pci ? place.pci->device : 0), std::to_string(place.unit)},
            stop);
    said.resize(2);
    return {said[0], said[1]};
  }

  std::uint64_t bytes_of(const std::string& device, std::stop_token stop) override {
    const std::vector<std::string> said = ask({"size", device}, stop);
    std::uint64_t bytes = 0;
    const std::string text = said.empty() ? std::string() : said.front();
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), bytes);
    if (problem != std::errc() || end != text.data() + text.size() || text.empty())
      throw Error(Fault::tool,
                  fmt::format("the size of {} on {} cannot be read (it says '{}'): the user must be able to "
                              "read disks there, as root or in the group disk",
                              device, ssh_.destination, text));
    return bytes;
  }

  std::optional<std::string> in_use(const std::string& device, std::stop_token stop) override {
    const std::vector<std::string> holders = ask({"busy", device}, stop);
    if (holders.empty()) return std::nullopt;
    return fmt::format(
        "{} is held on {} by {}: release it there (for LVM `vgchange -an`), and keep such programs from "
        "disks that are not that machine's",
        device, ssh_.destination, holders.front());
  }

  std::unique_ptr<DeviceServer> serve(const std::string& device, std::stop_token stop) override {
    return std::make_unique<Forwarded>(ssh_.destination, ssh_arguments(ssh_), "/tmp/vmferry-nbd-" + random_uuid(),
                                       device, run_directory_, runner_, log_, stop);
  }

 private:
  std::vector<std::string> ask(const std::vector<std::string>& question, std::stop_token stop) {
    process::Command command;
    command.program = "ssh";
    command.args = ssh_arguments(ssh_);
    std::string remote = "sh -s -- " + shell_word(root_.string());
    for (const std::string& word : question) remote += " " + shell_word(word);
    command.args.insert(command.args.end(), {"--", ssh_.destination, remote});
    command.input = script;
    const process::Output output = process::run(runner_, command, answer, std::move(stop));
    // ssh(1): "exits with the exit status of the remote command or with 255 if an error occurred".
    if (!output.status.ok())
      throw Error(output.status.code == 255 ? Fault::unavailable : Fault::tool,
                  fmt::format("{} cannot be asked by ssh ({}): {}; see that `ssh {}` works without a password and that "
                              "its host key is known",
                              ssh_.destination, output.status.describe(), one_line(output.err), ssh_.destination));
    return lines_of(output.out);
  }

  const Ssh ssh_;
  const std::filesystem::path root_;
  process::Runner& runner_;
  const std::filesystem::path run_directory_;
  log::Log& log_;
};

}  // namespace

std::unique_ptr<Guest> ssh_guest(Ssh ssh, std::filesystem::path root, process::Runner& runner,
                                 std::filesystem::path run_directory, log::Log& log) {
  return std::make_unique<SshGuest>(std::move(ssh), std::move(root), runner, std::move(run_directory), log);
}

}  // namespace vmferry::source::vmware
