// Starts and ends the lab by its own program, as a user would.
#include "support/lab.hpp"

#include <fmt/format.h>
#include <stdlib.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "process/process.hpp"

namespace vmferry::support {

namespace {

std::string slurp(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error(fmt::format("cannot read {}", file.string()));
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string lab_program() { return std::string(VMFERRY_BIN_DIR) + "/vmferry-lab"; }

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
  std::vector<std::string> args{"up", "--dir", directory_.string()};
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

std::string Lab::control(const std::string& service, const std::string& method, const std::string& path,
                         const std::string& json) const {
  std::vector<std::string> args{"ctl", "--dir", directory_.string(), service, method, path};
  if (!json.empty()) args.push_back(json);
  const process::Output output = run_lab(args);
  if (!output.status.ok()) throw std::runtime_error("vmferry-lab ctl " + path + ": " + output.out + output.err);
  return output.out;
}

}  // namespace vmferry::support
