// qemu-img sees both files by this process's descriptors.
#include "target/image/qcow2.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace vmferry::target::image {

namespace {

using namespace std::chrono_literals;

std::string path_of(int fd) { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd); }

process::Command qemu_img(std::vector<std::string> args) {
  process::Command command;
  command.program = "qemu-img";
  command.args = std::move(args);
  return command;
}

// We hold the image under an exclusive lock, which QEMU's own locks would refuse.
std::string source_of(int raw) {
  return "json:" + nlohmann::json{{"driver", "raw"},
                                  {"file", {{"driver", "file"}, {"filename", path_of(raw)}, {"locking", "off"}}}}
                       .dump();
}

Fd nameless(const std::filesystem::path& directory) {
  Fd fd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd) return fd;
  // NFS and others have none: a name for a moment.
  std::string name = (directory / ".vmferry-upload-XXXXXX").string();
  fd = Fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd)
    throw Error(Fault::config, fmt::format("cannot make a file in {} for the qcow2 image: {}", directory.string(),
                                           std::strerror(errno)));
  ::unlink(name.c_str());
  return fd;
}

std::uint64_t required(process::Runner& runner, int raw, std::stop_token stop) {
  const process::Output output =
      process::run(runner, qemu_img({"measure", "--output", "json", "-O", "qcow2", source_of(raw)}), 30min, stop);
  const nlohmann::json measured = nlohmann::json::parse(output.out, nullptr, false);
  if (!output.status.ok() || !measured.is_object() || !measured.contains("required"))
    throw Error(Fault::tool, fmt::format("qemu-img could not tell how large an image becomes ({}): {}",
                                         output.status.describe(), output.err));
  return measured.at("required").get<std::uint64_t>();
}

}  // namespace

Room::Room(std::filesystem::path directory)
    : directory_(std::move(directory)), free_([this] {
        struct statvfs space {};
        // What cannot be asked for is not refused.
        return ::statvfs(directory_.c_str(), &space) == 0 ? space.f_bavail * space.f_frsize
                                                          : std::numeric_limits<std::uint64_t>::max();
      }) {}

Room::Share Room::take(std::uint64_t bytes, std::stop_token stop) {
  std::unique_lock lock(mutex_);
  // Files that grow take from what is free now, not from what was: the sum of their shares is held against that.
  const auto fits = [&] { return shares_ == 0 || (all_ >= taken_ && bytes <= all_ - taken_); };
  if (!given_back_.wait(lock, stop, fits)) throw Cancelled();
  if (shares_ == 0) all_ = free_();
  if (bytes > all_ - taken_)
    throw Error(Fault::quota,
                fmt::format("the qcow2 image needs {} bytes in {}, and {} are free: make room, or send the "
                            "disks as they are (--image-format raw)",
                            bytes, directory_.string(), all_));
  ++shares_;
  taken_ += bytes;
  return {*this, bytes};
}

void Room::give_back(std::uint64_t bytes) noexcept {
  const std::scoped_lock lock(mutex_);
  --shares_;
  taken_ -= bytes;
  given_back_.notify_all();
}

Qcow2 make_qcow2(process::Runner& runner, int raw, Room& room, std::stop_token stop) {
  Qcow2 made;
  made.share = room.take(required(runner, raw, stop), stop);
  made.fd = nameless(room.directory());
  std::string complaint;
  const auto child = runner.start(qemu_img({"convert", "-O", "qcow2", source_of(raw), path_of(made.fd.get())}), nullptr,
                                  [&](std::string_view line) { complaint = line; });
  const process::ExitStatus status = child->wait(stop);
  struct stat file {};
  if (!status.ok() || ::fstat(made.fd.get(), &file) != 0 || file.st_size == 0)
    throw Error(Fault::tool,
                fmt::format("qemu-img could not make the qcow2 image ({}): {}", status.describe(), complaint));
  made.bytes = static_cast<std::uint64_t>(file.st_size);
  return made;
}

void check_qemu_img(process::Runner& runner, std::stop_token stop) {
  const process::Output output = process::run(runner, qemu_img({"--version"}), 1min, stop);
  if (!output.status.ok())
    throw Error(Fault::tool, fmt::format("qemu-img does not work here ({}): {}", output.status.describe(), output.err));
}

}  // namespace vmferry::target::image
