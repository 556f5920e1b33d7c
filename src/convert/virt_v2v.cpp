// qemu-img makes the overlays and says afterwards what they hold; virt-v2v-in-place works on them; qemu-nbd reads them.
#include "convert/virt_v2v.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/sync.hpp"
#include "nbdkit/nbdkit.hpp"
#include "plan/plan.hpp"

namespace vmferry::convert {

namespace {

using namespace std::chrono_literals;

constexpr std::size_t kept_lines = 8;
constexpr std::size_t longest_line = 400;

// Reads one overlay through its own qemu-nbd.
class Overlay final : public copy::Source {
 public:
  Overlay(nbdkit::Export served, std::uint64_t bytes) : served_(std::move(served)), bytes_(bytes) {}
  std::uint64_t bytes() const override { return bytes_; }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    return std::make_unique<nbd::Handle>(served_.uri(), stop);
  }

 private:
  nbdkit::Export served_;
  std::uint64_t bytes_;
};

class Overlays final : public Conversion {
 public:
  struct Entry {
    std::filesystem::path file;
    std::uint64_t bytes = 0;
    RangeSet changed;
  };
  Overlays(const VirtV2vOptions& options, process::Runner& runner, log::Log& log)
      : options_(options), runner_(runner), log_(log) {}
  ~Overlays() override {
    std::error_code ignored;
    std::filesystem::remove_all(options_.directory, ignored);
  }

  RangeSet changed(model::DiskKey disk) const override { return entries.at(disk).changed; }
  std::unique_ptr<copy::Source> open(model::DiskKey disk, std::stop_token stop) override {
    const Entry& entry = entries.at(disk);
    return std::make_unique<Overlay>(
        nbdkit::serve_image(runner_, {entry.file, "qcow2", {}}, options_.run_directory, log_, stop), entry.bytes);
  }

  std::map<model::DiskKey, Entry> entries;

 private:
  VirtV2vOptions options_;
  process::Runner& runner_;
  log::Log& log_;
};

class VirtV2v final : public Converter {
 public:
  VirtV2v(VirtV2vOptions options, process::Runner& runner, log::Log& log)
      : options_(std::move(options)), runner_(runner), log_(log) {
    options_.environment.try_emplace("LIBGUESTFS_BACKEND", "direct");
  }

  void check(const model::Vm& vm, std::stop_token stop) override;
  std::unique_ptr<Conversion> convert(const model::Vm& vm, const std::vector<Disk>& disks, const Saying& saying,
                                      std::stop_token stop) override;
  void clear() override;

 private:
  process::Command command(const char* program, std::vector<std::string> args) const;
  void make_overlay(const Disk& disk, const std::filesystem::path& file, std::stop_token stop);
  RangeSet allocated(const std::filesystem::path& overlay, std::uint64_t bytes, std::stop_token stop);
  void run_virt_v2v(const model::Vm& vm, const std::filesystem::path& xml, const Saying& saying, std::stop_token stop);

  VirtV2vOptions options_;
  process::Runner& runner_;
  log::Log& log_;
};

process::Command VirtV2v::command(const char* program, std::vector<std::string> args) const {
  process::Command command;
  command.program = program;
  command.args = std::move(args);
  return command;
}

void VirtV2v::check(const model::Vm& vm, std::stop_token stop) {
  for (const char* program : {"virt-v2v-in-place", "qemu-img", "qemu-nbd"}) {
    const process::Output output = process::run(runner_, command(program, {"--version"}), 60s, stop);
    if (!output.status.ok())
      throw Error(Fault::tool,
                  fmt::format("{} does not work here ({}): {}", program, output.status.describe(), output.err));
  }
  if (!plan::is_windows(vm)) return;
  // virt-v2v(1), VIRTIO_WIN: a folder or an ISO image. Without the drivers it converts to IDE and a network card that
  // a cloud does not offer.
  const auto given = options_.environment.find("VIRTIO_WIN");
  const std::filesystem::path drivers = given == options_.environment.end() ? "/usr/share/virtio-win" : given->second;
  if (!std::filesystem::exists(drivers))
    throw Error(
        Fault::tool,
        fmt::format(
            "{} runs Windows, and its drivers for KVM are not on this host ({}): install the package virtio-win, "
            "or download virtio-win.iso and name it in the variable VIRTIO_WIN",
            vm.name, drivers.string()));
}

void VirtV2v::clear() {
  std::error_code problem;
  std::filesystem::remove_all(options_.directory, problem);
  if (problem)
    log_.warning("an old overlay is still there",
                 {{"directory", options_.directory.string()}, {"reason", problem.message()}});
}

void VirtV2v::make_overlay(const Disk& disk, const std::filesystem::path& file, std::stop_token stop) {
  // We hold the base ourselves, an image file under an exclusive lock: QEMU's own locks (image locking, qemu(1)) would
  // refuse it.
  const bool block = std::filesystem::is_block_file(disk.base);
  const nlohmann::json below = {
      {"driver", "raw"},
      {"file", {{"driver", block ? "host_device" : "file"}, {"filename", disk.base.string()}, {"locking", "off"}}}};
  const process::Output output =
      process::run(runner_,
                   command("qemu-img", {"create", "-q", "-f", "qcow2", "-F", "raw", "-b", "json:" + below.dump(),
                                        file.string(), std::to_string(disk.bytes)}),
                   1min, stop);
  if (!output.status.ok())
    throw Error(Fault::tool,
                fmt::format("qemu-img could not make an overlay ({}): {}", output.status.describe(), output.err));
}

// What the overlay itself holds (depth 0), not what shines through from below.
RangeSet VirtV2v::allocated(const std::filesystem::path& overlay, std::uint64_t bytes, std::stop_token stop) {
  RangeSet ranges;
  std::string complaint;
  std::uint64_t seen = 0;
  // One entry a line, as qemu-img has always printed it; the list may be longer than one would like to hold as text.
  const auto entry = [&](std::string_view line) {
    const auto begin = line.find('{'), end = line.rfind('}');
    if (begin == std::string_view::npos || end == std::string_view::npos) return;
    const nlohmann::json json = nlohmann::json::parse(line.substr(begin, end - begin + 1), nullptr, false);
    if (!json.is_object() || !json.contains("depth") || json.value("start", seen + 1) != seen) {
      complaint = std::string(line.substr(0, longest_line));
      return;
    }
    const ByteRange range{seen, json.value("length", std::uint64_t{0})};
    seen = range.end();
    if (json["depth"] == 0) ranges.add(range);
  };
  const auto child =
      runner_.start(command("qemu-img", {"map", "--output=json", "-f", "qcow2", overlay.string()}), entry, nullptr);
  const process::ExitStatus status = child->wait(stop);
  if (!status.ok() || !complaint.empty() || seen != bytes)
    throw Error(Fault::tool, fmt::format("qemu-img could not list what the conversion changed: {}, {} of {} bytes {}",
                                         status.describe(), seen, bytes, complaint));
  return ranges;
}

std::unique_ptr<Conversion> VirtV2v::convert(const model::Vm& vm, const std::vector<Disk>& disks, const Saying& saying,
                                             std::stop_token stop) {
  clear();
  std::error_code problem;
  const std::filesystem::path of_all_jobs = options_.directory.parent_path();
  std::filesystem::create_directories(of_all_jobs.parent_path(), problem);
  ::mkdir(of_all_jobs.c_str(), 0700);  // if it cannot be made, the next one says so
  if (::mkdir(options_.directory.c_str(), 0700) != 0)
    throw Error(Fault::config, fmt::format("cannot make {} for the conversion ({}): choose another --state-dir",
                                           options_.directory.string(), std::strerror(errno)));
  auto conversion = std::make_unique<Overlays>(options_, runner_, log_);
  std::vector<std::filesystem::path> files;
  for (const Disk& disk : disks) {
    const std::filesystem::path file = options_.directory / fmt::format("{}.qcow2", disk.key.value);
    make_overlay(disk, file, stop);
    files.push_back(file);
    conversion->entries[disk.key] = {file, disk.bytes, {}};
  }
  const std::filesystem::path xml = options_.directory / "guest.xml";
  std::ofstream(xml) << guest_xml(vm, files);
  run_virt_v2v(vm, xml, saying, stop);
  for (auto& [key, entry] : conversion->entries) entry.changed = allocated(entry.file, entry.bytes, stop);
  return conversion;
}

void VirtV2v::run_virt_v2v(const model::Vm& vm, const std::filesystem::path& xml, const Saying& saying,
                           std::stop_token stop) {
  process::Command run = command("virt-v2v-in-place", {"-i", "libvirtxml", xml.string()});
  run.environment = options_.environment;
  run.environment["TMPDIR"] = options_.directory.string();
  Sync<std::deque<std::string>> words;
  const auto hear = [&](std::string_view line) {
    std::string clean = log_.redactor().clean(line.substr(0, longest_line));
    log_.info("virt-v2v-in-place: " + clean);
    // "[   5.0] Opening the source VM" is progress; the rest is what a failure leaves to read.
    const auto bracket = clean.find("] ");
    if (clean.starts_with("[") && bracket != std::string::npos) {
      saying(clean.substr(bracket + 2));
      return;
    }
    auto kept = words.lock();
    kept->push_back(std::move(clean));
    if (kept->size() > kept_lines) kept->pop_front();
  };
  log_.debug("starting " + process::describe(run));
  const process::ExitStatus status = runner_.start(run, hear, hear)->wait(stop);
  if (status.ok()) return;
  std::string said;
  for (const std::string& line : *words.lock()) said += "\n  " + line;
  throw Error(
      Fault::tool,
      fmt::format("virt-v2v-in-place could not convert {} ({}); its disks stay as they were copied. Its last words:{}",
                  vm.name, status.describe(), said));
}

}  // namespace

std::unique_ptr<Converter> virt_v2v(VirtV2vOptions options, process::Runner& runner, log::Log& log) {
  return std::make_unique<VirtV2v>(std::move(options), runner, log);
}

std::map<std::string, std::string> conversion_environment(const std::map<std::string, std::string>& environment) {
  std::map<std::string, std::string> kept;
  for (const auto& [name, value] : environment)
    if (name.starts_with("LIBGUESTFS_") || name.starts_with("VIRT_") || name == "VIRTIO_WIN" ||
        name.starts_with("SUPERMIN_"))
      kept[name] = value;
  return kept;
}

}  // namespace vmferry::convert
