// O_TMPFILE where the file system has it, else a file whose name is taken away at once.
#include "source/vmware/spool.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr std::chrono::seconds first_report{5}, between_reports{30};

double gib(std::uint64_t bytes) { return static_cast<double>(bytes) / (1ULL << 30); }

Fd nameless(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw Error(Fault::config, fmt::format("cannot make the folder {}: {}", folder.string(), error.message()));
  chmod(folder.c_str(), 0700);
  Fd fd(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd) return fd;
  std::string name = (folder / "disk-XXXXXX").string();
  fd = Fd(mkostemp(name.data(), O_CLOEXEC));
  if (!fd || unlink(name.c_str()) != 0)
    throw Error(Fault::config, fmt::format("cannot make a file in {}: {}", folder.string(), strerror(errno)));
  return fd;
}

}  // namespace

Spool::Spool(const std::filesystem::path& folder, std::uint64_t expected, std::uint64_t most, Clock& clock,
             std::function<void(const std::string&)> tell, std::function<void(std::uint64_t)> came)
    : folder_(folder),
      expected_(expected),
      most_(most),
      clock_(clock),
      tell_(std::move(tell)),
      came_(std::move(came)),
      fd_(nameless(folder)),
      began_(clock.mono()),
      next_report_(began_ + first_report) {
  const std::uint64_t needed = expected == 0 ? most : expected;
  std::error_code error;
  const auto space = std::filesystem::space(folder, error);
  if (!error && space.available < needed)
    throw Error(
        Fault::quota,
        fmt::format("the export of this disk needs {:.1f} GiB in {}, where {:.1f} GiB are free: make room, choose "
                    "another --state-dir, or leave other disks for a later run (--skip-disk)",
                    gib(needed), folder.string(), gib(space.available)));
}

void Spool::write(std::string_view piece) {
  // Whatever the other side sends: this folder's file system has the journal, too.
  if (bytes_ + piece.size() > most_ + most_ / 8 + (16 << 20))
    throw Error(Fault::data,
                fmt::format("the export of a disk is longer than the disk can be: {:.1f} GiB came, and {:.1f} "
                            "GiB would be all of it",
                            gib(bytes_ + piece.size()), gib(most_)));
  while (!piece.empty()) {
    const ssize_t wrote = pwrite(fd_.get(), piece.data(), piece.size(), static_cast<off_t>(bytes_));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0)
      throw Error(Fault::quota, fmt::format("cannot keep the export of a disk in {} after {:.1f} GiB: {}; make room "
                                            "there, or choose another --state-dir",
                                            folder_.string(), gib(bytes_), strerror(errno)));
    bytes_ += static_cast<std::uint64_t>(wrote);
    piece.remove_prefix(static_cast<std::size_t>(wrote));
  }
  came_(bytes_);
  if (clock_.mono() >= next_report_) report();
}

void Spool::report() {
  const auto now = clock_.mono();
  next_report_ = now + between_reports;
  const double seconds = std::chrono::duration<double>(now - began_).count();
  const double rate = seconds > 0 ? static_cast<double>(bytes_) / seconds : 0;
  std::string line = fmt::format("its export is downloaded: {:.2f} GiB", gib(bytes_));
  if (expected_ > 0) line += fmt::format(" of about {:.2f} GiB", gib(expected_));
  line += fmt::format(", {:.0f} MB/s", rate / 1e6);
  if (expected_ > bytes_ && rate > 0)
    line += fmt::format(", {:.0f} min left", static_cast<double>(expected_ - bytes_) / rate / 60);
  tell_(line);
}

}  // namespace vmferry::source::vmware
