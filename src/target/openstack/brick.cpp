// The child gets its program by a memory file and its request by standard input: neither is seen in the list of
// processes, and nothing is written to a disk.
#include "target/openstack/brick.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "target/openstack/brick_program.hpp"

namespace vmferry::target::openstack {

namespace {

using nlohmann::json;

constexpr int program_fd = 3;

Fd program() {
  Fd fd(::memfd_create("vmferry-brick", MFD_CLOEXEC));
  const ssize_t size = static_cast<ssize_t>(brick_program.size());
  if (!fd || ::write(fd.get(), brick_program.data(), brick_program.size()) != size)
    throw Error(Fault::quota,
                fmt::format("cannot make a memory file for the program that runs os-brick: {}", strerror(errno)));
  return fd;
}

std::string text(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// Keys, passwords and keyrings, wherever they stand; os-brick may put them into the words of an error.
void hide_secrets(const json& value, log::Redactor& redactor) {
  if (!value.is_structured()) return;
  for (const auto& [name, item] : value.items()) {
    if (item.is_string() &&
        (name.find("password") != std::string::npos || name.find("keyring") != std::string::npos || name == "secret"))
      redactor.add(Secret(item.get<std::string>()));
    hide_secrets(item, redactor);
  }
}

json parse(const std::string& connection_info, const VolumeId& volume) {
  json info = json::parse(connection_info, nullptr, false);
  if (!info.is_object() || text(info, "driver_volume_type").empty())
    throw Error(Fault::data,
                fmt::format("Cinder gave no connection_info with a driver_volume_type for volume {}", volume.value));
  return info;
}

void refuse_unwritable(const json& info, const VolumeId& volume) {
  std::string why;
  // Nova encrypts in the hypervisor what a server writes; here it would be written as it is.
  if (info.value("encrypted", json(false)) == json(true)) why = "it is encrypted";
  if (text(info, "access_mode") == "ro") why = "Cinder gives it out read-only";
  // After a snapshot of Cinder's NFS driver what is written belongs into an overlay.
  if (const std::string format = text(info, "format"); !format.empty() && format != "raw")
    why = fmt::format("it is a {} image (has it snapshots?), and only raw ones can be written", format);
  if (!why.empty())
    throw Error(Fault::unsupported,
                fmt::format("volume {} cannot be written with --attach brick: {}; use --attach nova, "
                            "or another volume type",
                            volume.value, why));
}

}  // namespace

Brick::Brick(BrickOptions options, process::Runner& runner, log::Log& log)
    : options_(std::move(options)), runner_(runner), log_(log) {}

std::string Brick::ask(const std::string& doing, std::string request, std::stop_token stop) const {
  if (::geteuid() != 0) throw Error(Fault::auth, fmt::format("cannot {}: --attach brick needs root", doing));
  const Fd code = program();
  process::Command command;
  command.program = options_.python;
  command.args = {"-I", fmt::format("/dev/fd/{}", program_fd)};
  command.fds = {{code.get(), program_fd}};
  command.input = std::move(request);
  const process::Output output = [&] {
    try {
      return process::run(runner_, command, options_.patience, stop);
    } catch (const Error& e) {
      if (e.fault() != Fault::timeout) throw;
      throw Error(Fault::timeout,
                  fmt::format("cannot {}: os-brick did not end within {} s", doing, options_.patience.count()));
    }
  }();
  if (!output.err.empty()) log_.debug("os-brick says", {{"doing", doing}, {"words", output.err}});
  const json answer = json::parse(output.out, nullptr, false);
  if (!answer.is_object())
    throw Error(Fault::tool, fmt::format("cannot {}: {} ended with {}: {}", doing, options_.python.string(),
                                         output.status.describe(), log_.redactor().clean(output.err)));
  if (answer.contains("missing"))
    throw Error(Fault::tool, fmt::format("cannot {}: {} has no os-brick ({}); install the package python3-os-brick, or "
                                         "name a Python that has it with --brick-python",
                                         doing, options_.python.string(), text(answer, "missing")));
  if (answer.contains("failed"))
    throw Error(Fault::unavailable,
                fmt::format("os-brick cannot {}: {}", doing, log_.redactor().clean(text(answer, "failed"))));
  return answer.at("done").dump();
}

std::string Brick::connector(const std::string& cinder, std::stop_token stop) const {
  return ask("tell this host's connector",
             json{{"do", "properties"},
                  {"locks", options_.locks.string()},
                  {"host", options_.host},
                  {"address", options_.address},
                  {"towards", cinder}}
                 .dump(),
             stop);
}

Connected Brick::connect(const VolumeId& volume, const std::string& connection_info, std::stop_token stop) const {
  const json info = parse(connection_info, volume);
  refuse_unwritable(info, volume);
  hide_secrets(info, log_.redactor());
  std::error_code ignored;
  std::filesystem::create_directories(options_.mounts, ignored);
  const std::string kind = text(info, "driver_volume_type");
  const json answer = json::parse(ask(fmt::format("connect volume {} ({})", volume.value, kind),
                                      json{{"do", "connect"},
                                           {"locks", options_.locks.string()},
                                           {"mounts", mounts_of(volume).string()},
                                           {"connection_info", info}}
                                          .dump(),
                                      stop));
  return {text(answer, "path"), kind, text(answer, "wwn"), text(info, "name")};
}

void Brick::disconnect(const VolumeId& volume, const std::optional<std::string>& connection_info,
                       std::stop_token stop) const {
  std::error_code ignored;
  json request{{"do", "disconnect"}, {"locks", options_.locks.string()}, {"mounts", mounts_of(volume).string()}};
  if (connection_info) {
    request["connection_info"] = parse(*connection_info, volume);
    hide_secrets(request["connection_info"], log_.redactor());
  } else if (!std::filesystem::exists(mounts_of(volume), ignored)) {
    return;
  }
  ask(fmt::format("disconnect volume {}", volume.value), request.dump(), stop);
}

}  // namespace vmferry::target::openstack
