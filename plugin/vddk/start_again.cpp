// The second start of nbdkit with VDDK's folder in LD_LIBRARY_PATH.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string_view>

#include "library.hpp"
#include "nbdkit.hpp"

namespace vddk {

namespace {

// What LD_LIBRARY_PATH was at the first start; that it is there says that this is the second one.
constexpr char before[] = "NBDKIT_VDDK_LIBRARY_PATH_BEFORE";
constexpr char library_path[] = "LD_LIBRARY_PATH";
bool second_start = false;

[[noreturn]] void give_up(const char* what) {
  nbdkit_error("nbdkit cannot start itself again, which VDDK's libraries need: %s: %s", what, strerror(errno));
  exit(EXIT_FAILURE);
}

std::vector<std::string> own_arguments() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<std::string> arguments;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    arguments.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return arguments;
}

// A descriptor that the next program inherits, from which `value` can be read once.
int in_memory(const std::string& value) {
  const int fd = memfd_create("nbdkit-vddk", 0);
  if (fd < 0) give_up("memfd_create");
  if (write(fd, value.data(), value.size()) != static_cast<ssize_t>(value.size()) || lseek(fd, 0, SEEK_SET) != 0)
    give_up("writing to memory");
  return fd;
}

bool contains(const std::string& paths, const std::string& folder) {
  return (":" + paths + ":").find(":" + folder + ":") != std::string::npos;
}

}  // namespace

void start_again_with(const std::string& folder, const std::vector<std::pair<std::string, std::string>>& secrets) {
  const char* set = getenv(library_path);
  const std::string paths = set != nullptr ? set : "";
  if (second_start || contains(paths, folder)) return;
  std::vector<std::string> arguments = own_arguments();
  if (arguments.empty()) give_up("/proc/self/cmdline");
  for (const auto& [key, value] : secrets) {
    std::erase_if(arguments, [&](const std::string& argument) { return argument.starts_with(key + "="); });
    arguments.push_back(key + "=-" + std::to_string(in_memory(value)));
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string longer = paths.empty() ? folder : folder + ":" + paths;
  if (setenv(before, paths.c_str(), 1) != 0 || setenv(library_path, longer.c_str(), 1) != 0) give_up("setenv");
  nbdkit_debug("starting again with %s=%s", library_path, longer.c_str());
  // What --dump-plugin has said so far lies in stdout's buffer and goes with it: the second start says it again.
  execv("/proc/self/exe", argv.data());
  give_up("exec");
}

void restore_environment() {
  const char* was = getenv(before);
  if (was == nullptr) return;
  second_start = true;
  if (*was != '\0')
    setenv(library_path, was, 1);
  else
    unsetenv(library_path);
  unsetenv(before);
}

}  // namespace vddk
