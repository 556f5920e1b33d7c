// Starts `vmferry-lab esxi-ssh` and waits until it is ready.
#include "support/esxi_ssh.hpp"

#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "test_paths.hpp"

namespace vmferry::support {

EsxiSsh::EsxiSsh(process::Runner& runner) {
  const std::filesystem::path ready = folder_.path() / "ready";
  process::Command command;
  command.program = std::string(test::bin_directory) + "/vmferry-lab";
  command.args = {"esxi-ssh", "--dir", folder_.path() / "esxi", "--ready-file", ready};
  child_ = runner.start(command, {}, [words = words_](std::string_view line) { *words->lock() += line; });
  for (int tries = 0; !std::filesystem::exists(ready); ++tries) {
    if (child_->poll() || tries > 17000) {
      child_.reset();  // then its words are complete
      throw std::runtime_error("vmferry-lab esxi-ssh did not start: " + *words_->lock());
    }
    usleep(10000);
  }
  const std::string address = nlohmann::json::parse(std::ifstream(ready)).at("address");
  port_ = std::stoi(address.substr(address.rfind(':') + 1));
}

std::string EsxiSsh::log() const {
  std::ifstream in(folder_.path() / "esxi/log");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

int EsxiSsh::end_sessions() const {
  int ended = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path() / "root", gone) == folder_.path() / "esxi/root" &&
        kill(std::stoi(name), SIGKILL) == 0)
      ++ended;
  }
  return ended;
}

}  // namespace vmferry::support
