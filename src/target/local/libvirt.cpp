// virsh's commands after https://www.libvirt.org/manpages/virsh.html: define replaces an inactive or running domain's
// configuration when name and UUID are the same, start refuses one that is active.
#include "target/local/libvirt.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <pugixml.hpp>
#include <sstream>

#include "base/error.hpp"
#include "target/local/domain_xml.hpp"

namespace vmferry::target::local {

namespace {

constexpr std::chrono::minutes patience{2};  // starting a machine takes seconds

std::string trimmed(std::string text) {
  const auto space = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  while (!text.empty() && space(text.back())) text.pop_back();
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), space));
  return text;
}

// "error: Failed to start domain 'x'\nerror: no network with matching name 'y'" as one sentence.
std::string words_of(const std::string& err) {
  std::istringstream lines(err);
  std::string all;
  for (std::string line; std::getline(lines, line);) {
    line = trimmed(std::move(line));
    if (line.starts_with("error: ")) line.erase(0, 7);
    if (!line.empty()) all += (all.empty() ? "" : ": ") + line;
  }
  return all.empty() ? "it gave no reason" : all;
}

}  // namespace

Libvirt::Libvirt(std::string uri, std::map<std::string, std::string> environment, process::Runner& runner)
    : uri_(std::move(uri)), environment_(std::move(environment)), runner_(runner) {}

process::Output Libvirt::ask(const std::vector<std::string>& args, std::stop_token stop) const {
  process::Command command;
  command.program = "virsh";
  command.args = {"--connect", uri_, "--quiet"};
  command.args.insert(command.args.end(), args.begin(), args.end());
  command.environment = environment_;
  return process::run(runner_, command, patience, stop);
}

std::string Libvirt::demand(const std::string& doing, const std::vector<std::string>& args,
                            std::stop_token stop) const {
  process::Output output = ask(args, stop);
  if (!output.status.ok())
    throw Error(Fault::unavailable, fmt::format("libvirt at {} could not {}: {}", uri_, doing, words_of(output.err)));
  return std::move(output.out);
}

void Libvirt::check(std::stop_token stop) const { static_cast<void>(demand("answer", {"version"}, stop)); }

bool Libvirt::has_kvm(std::stop_token stop) const {
  pugi::xml_document document;
  const std::string xml = demand("tell its capabilities", {"capabilities"}, stop);
  if (!document.load_buffer(xml.data(), xml.size())) return false;
  return !document.select_node("//guest/arch[@name='x86_64']/domain[@type='kvm']").node().empty();
}

std::optional<std::string> Libvirt::uuid_of(const std::string& name, std::stop_token stop) const {
  constexpr std::size_t uuid_length = 36;
  std::istringstream lines(demand("list its domains", {"list", "--all", "--uuid", "--name"}, stop));
  for (std::string line; std::getline(lines, line);) {
    line = trimmed(std::move(line));
    if (line.size() > uuid_length && trimmed(line.substr(uuid_length)) == name) return line.substr(0, uuid_length);
  }
  return std::nullopt;
}

// Says so when a domain of that name is not of the job.
std::optional<std::string> Libvirt::stranger(const std::string& name, const JobId& job, std::stop_token stop) const {
  const auto uuid = uuid_of(name, stop);
  if (!uuid || job_of_domain(demand("show domain " + name, {"dumpxml", "--inactive", *uuid}, stop)) == job)
    return std::nullopt;
  return fmt::format("libvirt at {} has a domain {} already, and it is not of job {}", uri_, name, job.value);
}

std::vector<plan::Finding> Libvirt::judge(const std::string& name, const JobId& job, model::Firmware firmware,
                                          const std::vector<std::string>& networks, std::stop_token stop) const {
  std::vector<plan::Finding> found;
  const auto problem = [&](std::string fact, std::string remedy, Fault fault) {
    found.push_back({plan::Level::problem, "libvirt at " + uri_, std::move(fact), std::move(remedy), fault});
  };
  if (const auto other = stranger(name, job, stop))
    problem(fmt::format("it has a domain {} already, which is not of this job", name), "rename or undefine it",
            Fault::conflict);
  for (const std::string& network : networks)
    if (!ask({"net-info", network}, stop).status.ok())
      problem(fmt::format("it has no network {}", network),
              "correct network-id= in --network-mapping: a network of libvirt, bridge:NAME, or user", Fault::config);
  if (firmware == model::Firmware::efi) {
    pugi::xml_document document;
    const process::Output output = ask({"domcapabilities"}, stop);
    const bool offers = document.load_buffer(output.out.data(), output.out.size()) &&
                        document.select_node("//os/enum[@name='firmware']/value[text()='efi']");
    if (output.status.ok() && !offers)
      problem("it offers no UEFI firmware, and the machine boots by it",
              "install the package that has it there (Debian: ovmf)", Fault::tool);
  }
  return found;
}

void Libvirt::ensure_running(const std::string& name, const std::filesystem::path& file, const JobId& job,
                             std::stop_token stop) const {
  const std::string what = fmt::format("domain {}", name);
  if (const auto other = stranger(name, job, stop))
    throw Error(Fault::conflict, *other + "; rename or undefine it, then run the same command again");
  const auto running = [&](const std::optional<std::string>& uuid) {
    return uuid && trimmed(demand("tell the state of " + what, {"domstate", *uuid}, stop)) == "running";
  };
  if (running(uuid_of(name, stop))) return;
  static_cast<void>(demand("define " + what, {"define", file.string()}, stop));
  const auto uuid = uuid_of(name, stop);
  if (!uuid) throw Error(Fault::unavailable, fmt::format("libvirt at {} forgot {} at once", uri_, what));
  const process::Output started = ask({"start", *uuid}, stop);
  if (running(uuid)) return;
  throw Error(Fault::unavailable,
              fmt::format("libvirt at {} could not start {}: {}", uri_, what,
                          started.status.ok() ? "it ended at once; see its log there" : words_of(started.err)));
}

std::map<std::string, std::string> libvirt_environment(const std::map<std::string, std::string>& ours) {
  std::map<std::string, std::string> kept;
  for (const char* name : {"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SSH_AUTH_SOCK", "LIBVIRT_AUTH_FILE",
                           "USER", "LOGNAME"})
    if (const auto found = ours.find(name); found != ours.end()) kept.insert(*found);
  return kept;
}

}  // namespace vmferry::target::local
