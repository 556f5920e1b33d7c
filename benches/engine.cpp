// The copy engine as a command line, with everything beside it that a migration has: digests of what is written, made
// durable before and after, and checkpoints in a file. Several disks are copied at once, one thread each.
#include <fcntl.h>
#include <fmt/format.h>
#include <getopt.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/finally.hpp"
#include "copy/copy.hpp"
#include "copy/digests.hpp"

namespace {

using namespace vmferry;

constexpr const char* usage =
    "usage: engine --uri URI --target PATH [--areas FILE] [--digests FILE] [--uri URI --target PATH ...]\n"
    "              [--whole-disk] [--known-zero] [--no-digests] [--connections N] [--request BYTES]\n"
    "\n"
    "  --uri URI         an NBD export; begins the next disk, disks are copied at once\n"
    "  --target PATH     a block device or file, at least as large\n"
    "  --areas FILE      lines of OFFSET LENGTH: what to copy (default: all of it)\n"
    "  --digests FILE    keeps them there (default: in a file that is removed again)\n"
    "  --whole-disk      the areas are all data there is: the rest of the target becomes zero\n"
    "  --known-zero      the target reads as zeroes already\n"
    "  --no-digests      copies without them, and without checkpoints\n"
    "  --connections N   to each disk (default: the engine's own)\n"
    "  --request BYTES   the longest read (default: the engine's own)\n"
    "\n"
    "Prints one line of JSON: what was read and written, and the most memory it had (rss_kib).\n";

struct Disk {
  std::string uri, target, areas, digests;
};

struct Options {
  std::vector<Disk> disks;
  bool whole_disk = false;
  bool known_zero = false;
  bool digests = true;
  int connections = 0;        // 0: as the engine has it
  std::uint32_t request = 0;  // the same
};

class ExportSource final : public copy::Source {
 public:
  explicit ExportSource(std::string uri) : uri_{std::move(uri)}, bytes_(nbd::Handle(uri_).bytes()) {}
  std::uint64_t bytes() const override { return bytes_; }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    return std::make_unique<nbd::Handle>(uri_, stop);
  }

 private:
  nbd::Uri uri_;
  std::uint64_t bytes_;
};

// Opened like a volume of a migration, but nothing proves what it is.
class PathTarget final : public copy::Target {
 public:
  PathTarget(std::string path, bool known_zero) : path_(std::move(path)), known_zero_(known_zero) {
    struct stat status {};
    const bool block = stat(path_.c_str(), &status) == 0 && S_ISBLK(status.st_mode);
    fd_ = Fd(open(path_.c_str(), O_RDWR | O_CLOEXEC | (block ? O_EXCL : 0)));
    if (!fd_) throw Error(Fault::conflict, fmt::format("{} cannot be opened: {}", path_, strerror(errno)));
    bytes_ = static_cast<std::uint64_t>(status.st_size);
    if (!block) return;
    int sector = 0;
    if (ioctl(fd_.get(), BLKSSZGET, &sector) != 0 || ioctl(fd_.get(), BLKGETSIZE64, &bytes_) != 0)
      throw Error(Fault::conflict, fmt::format("{} does not tell its size: {}", path_, strerror(errno)));
    sector_ = static_cast<std::uint32_t>(sector);
  }
  std::string name() const override { return path_; }
  int fd() const override { return fd_.get(); }
  std::uint64_t bytes() const override { return bytes_; }
  std::uint32_t sector() const override { return sector_; }
  bool known_zero() const override { return known_zero_; }
  void check() const override {}

 private:
  std::string path_;
  bool known_zero_;
  Fd fd_;
  std::uint64_t bytes_ = 0;
  std::uint32_t sector_ = 512;
};

class Silent final : public copy::Progress {
 public:
  void advanced(std::uint64_t, std::uint64_t) noexcept override {}
};

// Stands for the journal: what a checkpoint says is durable when append() returns.
class Checkpoints {
 public:
  explicit Checkpoints(const std::string& file)
      : file_(file), fd_(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) {
    if (!fd_) throw Error(Fault::config, fmt::format("{} cannot be written: {}", file_, strerror(errno)));
  }
  void append(const RangeSet& ranges) {
    std::string text;
    for (const ByteRange& range : ranges.ranges()) text += fmt::format("{} {}\n", range.offset, range.length);
    if (write(fd_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) || fdatasync(fd_.get()) != 0)
      throw Error(Fault::unavailable, fmt::format("{} cannot be written: {}", file_, strerror(errno)));
  }

 private:
  std::string file_;
  Fd fd_;
};

RangeSet ranges_of(const Disk& disk, std::uint64_t bytes) {
  if (disk.areas.empty()) return RangeSet(std::vector<ByteRange>{{0, bytes}});
  std::ifstream in(disk.areas);
  if (!in) throw Error(Fault::config, fmt::format("{} cannot be read", disk.areas));
  std::vector<ByteRange> ranges;
  for (ByteRange range; in >> range.offset >> range.length;) ranges.push_back(range);
  if (!in.eof()) throw Error(Fault::config, fmt::format("{} has a line that is not OFFSET LENGTH", disk.areas));
  return RangeSet(ranges);
}

copy::Report copy_disk(const Disk& disk, const Options& options) {
  ExportSource source(disk.uri);
  PathTarget target(disk.target, options.known_zero);
  const auto work = copy::work(ranges_of(disk, source.bytes()));
  copy::Tuning tuning;
  tuning.whole_disk = options.whole_disk;
  if (options.connections > 0) tuning.connections = options.connections;
  if (options.request > 0) tuning.request = options.request;
  Silent progress;
  SystemClock clock;
  log::Log log;
  if (!options.digests) return copy::run(source, target, *work, tuning, progress, clock, log, {});

  copy::Digests digests(disk.digests, disk.target, source.bytes());
  Checkpoints checkpoints(disk.digests + ".checkpoints");
  tuning.digests = &digests;
  tuning.checkpoint = [&](const RangeSet& ranges) { checkpoints.append(ranges); };
  digests.unsettle();
  if (options.whole_disk) digests.forget_all();
  const copy::Report report = copy::run(source, target, *work, tuning, progress, clock, log, {});
  digests.settle();
  return report;
}

Options read_options(int argc, char** argv) {
  enum Flag { uri = 1, target, areas, digests, whole_disk, known_zero, no_digests, connections, request, help };
  const option flags[] = {{"uri", required_argument, nullptr, uri},
                          {"target", required_argument, nullptr, target},
                          {"areas", required_argument, nullptr, areas},
                          {"digests", required_argument, nullptr, digests},
                          {"whole-disk", no_argument, nullptr, whole_disk},
                          {"known-zero", no_argument, nullptr, known_zero},
                          {"no-digests", no_argument, nullptr, no_digests},
                          {"connections", required_argument, nullptr, connections},
                          {"request", required_argument, nullptr, request},
                          {"help", no_argument, nullptr, help},
                          {nullptr, 0, nullptr, 0}};
  Options options;
  const auto disk = [&]() -> Disk& {
    if (options.disks.empty()) throw Error(Fault::usage, "--uri comes first: it begins a disk");
    return options.disks.back();
  };
  for (int flag; (flag = getopt_long(argc, argv, "", flags, nullptr)) != -1;) {
    switch (flag) {
      case uri:
        options.disks.push_back({optarg, "", "", ""});
        break;
      case target:
        disk().target = optarg;
        break;
      case areas:
        disk().areas = optarg;
        break;
      case digests:
        disk().digests = optarg;
        break;
      case whole_disk:
        options.whole_disk = true;
        break;
      case known_zero:
        options.known_zero = true;
        break;
      case no_digests:
        options.digests = false;
        break;
      case connections:
        options.connections = std::stoi(optarg);
        break;
      case request:
        options.request = static_cast<std::uint32_t>(std::stoul(optarg));
        break;
      case help:
        fmt::print("{}", usage);
        exit(0);
      default:
        throw Error(Fault::usage, "see engine --help");
    }
  }
  if (options.disks.empty() || optind != argc) throw Error(Fault::usage, "see engine --help");
  for (const Disk& each : options.disks)
    if (each.target.empty()) throw Error(Fault::usage, fmt::format("{} needs a --target", each.uri));
  return options;
}

// The address space's own: getrusage would remember what this process was before it became this program.
std::uint64_t peak_memory_kib() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6));
  return 0;
}

int run(int argc, char** argv) {
  Options options = read_options(argc, argv);
  std::string own_folder;
  const Finally remove([&] {
    std::error_code ignored;
    if (!own_folder.empty()) std::filesystem::remove_all(own_folder, ignored);
  });
  int number = 0;
  for (Disk& disk : options.disks) {
    if (!options.digests || !disk.digests.empty()) continue;
    if (own_folder.empty()) {
      own_folder = (std::filesystem::temp_directory_path() / "engine-XXXXXX").string();
      if (mkdtemp(own_folder.data()) == nullptr)
        throw Error(Fault::config, fmt::format("no folder {}: {}", own_folder, strerror(errno)));
    }
    disk.digests = fmt::format("{}/{}.digests", own_folder, ++number);
  }

  std::vector<copy::Report> reports(options.disks.size());
  std::vector<std::exception_ptr> failures(options.disks.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < options.disks.size(); ++i)
      threads.emplace_back([&, i] {
        try {
          reports[i] = copy_disk(options.disks[i], options);
        } catch (...) {
          failures[i] = std::current_exception();
        }
      });
  }
  for (const auto& failure : failures)
    if (failure) std::rethrow_exception(failure);
  copy::Report sum;
  for (const copy::Report& report : reports) {
    sum.read += report.read;
    sum.written += report.written;
    sum.zeroed += report.zeroed;
    sum.requests += report.requests;
    sum.retries += report.retries;
    sum.seconds = std::max(sum.seconds, report.seconds);
  }
  fmt::print(
      R"({{"read": {}, "written": {}, "zeroed": {}, "requests": {}, "retries": {}, "seconds": {:.3f}, "rss_kib": {}}})"
      "\n",
      sum.read, sum.written, sum.zeroed, sum.requests, sum.retries, sum.seconds, peak_memory_kib());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "engine: {}\n", error.explain());
    return exit_code(error.fault());
  } catch (const std::exception& error) {
    fmt::print(stderr, "engine: {}\n", error.what());
    return 1;
  }
}
