// How earlier tools copy a delta, as a twin of their loop: area by area in pieces of at most 64 MiB, each into a fresh
// buffer, one blocking read and then one blocking O_DIRECT write, nothing in flight meanwhile. Like them it does not
// flush. Shares no code with the copy engine.
#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

namespace {

constexpr std::uint64_t most_at_once = 64ULL << 20;  // libnbd's own limit of a read
constexpr std::uint64_t alignment = 4096;

[[noreturn]] void give_up(const char* what, const char* why) {
  std::cerr << "serial_loop: " << what << ": " << why << "\n";
  exit(1);
}

std::vector<std::pair<std::uint64_t, std::uint64_t>> areas_in(const char* file) {
  std::ifstream in(file);
  if (!in) give_up(file, "cannot be read");
  std::vector<std::pair<std::uint64_t, std::uint64_t>> areas;
  for (std::uint64_t offset = 0, length = 0; in >> offset >> length;) {
    if (offset % alignment != 0 || length % alignment != 0) give_up(file, "an area is not aligned to 4096 bytes");
    areas.emplace_back(offset, length);
  }
  if (!in.eof()) give_up(file, "a line is not OFFSET LENGTH");
  return areas;
}

void copy_piece(nbd_handle* nbd, int target, std::uint64_t offset, std::uint64_t length) {
  const std::unique_ptr<void, void (*)(void*)> buffer(aligned_alloc(alignment, length), free);
  if (!buffer) give_up("buffer", strerror(errno));
  if (nbd_pread(nbd, buffer.get(), length, offset, 0) != 0) give_up("reading", nbd_get_error());
  for (std::uint64_t done = 0; done < length;) {
    const ssize_t n =
        pwrite(target, static_cast<char*>(buffer.get()) + done, length - done, static_cast<off_t>(offset + done));
    if (n <= 0) give_up("writing", n == 0 ? "no room" : strerror(errno));
    done += static_cast<std::uint64_t>(n);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: serial_loop URI TARGET AREAS-FILE   (lines of OFFSET LENGTH)\n";
    return 64;
  }
  const auto areas = areas_in(argv[3]);
  const std::unique_ptr<nbd_handle, void (*)(nbd_handle*)> nbd(nbd_create(), nbd_close);
  if (!nbd || nbd_connect_uri(nbd.get(), argv[1]) != 0) give_up("connecting", nbd_get_error());
  const int target = open(argv[2], O_RDWR | O_DIRECT | O_CLOEXEC);
  if (target < 0) give_up(argv[2], strerror(errno));
  for (const auto& [offset, length] : areas)
    for (std::uint64_t done = 0; done < length; done += most_at_once)
      copy_piece(nbd.get(), target, offset + done, std::min(most_at_once, length - done));
  nbd_shutdown(nbd.get(), 0);
  close(target);
  return 0;
}
