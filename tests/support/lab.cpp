// Starts and ends the lab by its own program, as a user would.
#include "support/lab.hpp"

#include <errno.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "base/fd.hpp"
#include "process/process.hpp"
#include "test_paths.hpp"

namespace vmferry::support {

namespace {

std::string slurp(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error(fmt::format("cannot read {}", file.string()));
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string lab_program() { return std::string(test::bin_directory) + "/vmferry-lab"; }

process::Output run_lab(std::vector<std::string> args) {
  process::SystemRunner runner;
  process::Command command;
  command.program = lab_program();
  command.args = std::move(args);
  command.dies_with_us = false;
  return process::run(runner, command, std::chrono::seconds(180), {});
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "vmferry-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Lab::Lab(const std::vector<std::string>& arguments) {
  if (const char* lent = std::getenv("VMFERRY_TEST_LAB")) {
    directory_ = lent;
    lent_ = true;
    lab_json_ = slurp(directory_ / "lab.json");
    return;
  }
  std::string name = (std::filesystem::temp_directory_path() / "vmferry-lab-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
  directory_ = name;
  std::vector<std::string> args{"up", "--dir", directory_.string(), "--deadline", "170s"};
  args.insert(args.end(), arguments.begin(), arguments.end());
  const process::Output output = run_lab(args);
  if (!output.status.ok()) {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
    throw std::runtime_error("vmferry-lab up: " + output.out + output.err);
  }
  lab_json_ = slurp(directory_ / "lab.json");
}

Lab::~Lab() {
  if (lent_) return;
  try {
    run_lab({"down", "--dir", directory_.string()});
  } catch (const std::exception&) {
    // The test's own verdict matters more; a lab that would not end shows in the next run.
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

bool Lab::real_openstack() const {
  return nlohmann::json::parse(lab_json_).at("openstack").value("kind", "stand-in") == "real";
}

std::string Lab::get(const std::string& path) const {
  std::string pointer = "/" + path;
  for (char& c : pointer)
    if (c == '.') c = '/';
  const nlohmann::json value = nlohmann::json::parse(lab_json_).at(nlohmann::json::json_pointer(pointer));
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string Lab::secret(const std::string& path) const {
  std::string text = slurp(get(path));
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

// What `vmferry-lab ctl` does, without a process for each of the hundreds of calls of a suite.
std::string Lab::control(const std::string& service, const std::string& method, const std::string& path,
                         const std::string& json) const {
  const std::string socket_path = get(service + ".control");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) throw std::runtime_error(socket_path + ": too long a path");
  memcpy(address.sun_path, socket_path.data(), socket_path.size());
  const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw std::runtime_error(fmt::format("{}: {}", socket_path, strerror(errno)));
  // HTTP/1.0: the answer ends with the connection.
  const std::string request =
      fmt::format("{} {} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}", method, path, json.size(), json);
  for (std::size_t sent = 0; sent < request.size();) {
    const ssize_t n = send(fd.get(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) throw std::runtime_error(fmt::format("{} {}: {}", method, path, strerror(errno)));
    sent += static_cast<std::size_t>(n);
  }
  std::string answer;
  for (char piece[65536];;) {
    const ssize_t n = recv(fd.get(), piece, sizeof piece, 0);
    if (n < 0) throw std::runtime_error(fmt::format("{} {}: {}", method, path, strerror(errno)));
    if (n == 0) break;
    answer.append(piece, static_cast<std::size_t>(n));
  }
  const auto end = answer.find("\r\n\r\n");
  const auto status = answer.find(' ');
  if (end == std::string::npos || status > end || answer[status + 1] != '2')
    throw std::runtime_error(fmt::format("{} {} of the lab's {}: {}", method, path, service, answer));
  return answer.substr(end + 4);
}

}  // namespace vmferry::support
