// One thread per connection: a client (nbdkit) has a handful, each busy or idle for hours.
#include "source/vmware/tcp_relay.hpp"

#include <errno.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace vmferry::source::vmware {

namespace {

constexpr std::size_t buffer_bytes = 256 * 1024;
constexpr int pause_ms = 100;  // when there are no descriptors

// Tries every address of the name, in the resolver's order.
Fd connect_to(const std::string& host, const std::string& port) {
  const bool bracketed = host.size() > 2 && host.front() == '[';
  const std::string name = bracketed ? host.substr(1, host.size() - 2) : host;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(name.c_str(), port.c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, &freeaddrinfo);
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    Fd fd(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol));
    const int on = 1;
    const timeval patience{15, 0};  // socket(7): SO_SNDTIMEO bounds connect(2) as well
    if (fd) setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (fd && ::connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0) {
      setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
      return fd;
    }
  }
  return {};
}

// One direction: what was read and not yet written.
struct Stream {
  int from = -1, to = -1;
  std::vector<char> buffer = std::vector<char>(buffer_bytes);
  std::size_t begin = 0, end = 0;
  bool ended = false;  // the reading side said end of file and it was passed on

  bool full() const noexcept { return begin < end; }
  short wants_from() const noexcept { return !ended && !full() ? POLLIN : 0; }
  short wants_to() const noexcept { return full() ? POLLOUT : 0; }
  // False when the connection broke.
  bool pull() {
    const ssize_t got = recv(from, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) {
      ended = true;
      shutdown(to, SHUT_WR);
      return true;
    }
    begin = 0;
    end = static_cast<std::size_t>(got);
    return push();
  }
  bool push() {
    const ssize_t sent = send(to, buffer.data() + begin, end - begin, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    begin += static_cast<std::size_t>(sent);
    return true;
  }
};

}  // namespace

struct TcpRelay::Pair {
  Fd client;
  std::thread thread;
  std::atomic<bool> done{false};
};

TcpRelay::TcpRelay(const std::filesystem::path& directory, std::string host, std::string port, log::Log& log)
    : host_(std::move(host)), port_(std::move(port)), log_(log), ending_(eventfd(0, EFD_CLOEXEC)) {
  std::error_code ignored;
  std::filesystem::create_directories(directory, ignored);
  std::string name = (directory / "tcp-XXXXXX").string();
  if (!ending_ || mkdtemp(name.data()) == nullptr)
    throw Error(Fault::config, fmt::format("cannot make a folder for a relay's socket in {}: {}", directory.string(),
                                           strerror(errno)));
  folder_ = name;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = socket().string();
  listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (path.size() < sizeof address.sun_path) memcpy(address.sun_path, path.c_str(), path.size());
  if (!listener_ || path.size() >= sizeof address.sun_path ||
      bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_.get(), 16) != 0) {
    const int error = errno;
    std::filesystem::remove_all(folder_, ignored);
    throw Error(Fault::config,
                fmt::format("cannot listen on {}: {}; choose a shorter run folder", path, strerror(error)));
  }
  acceptor_ = std::thread([this] { accept_clients(); });
}

TcpRelay::~TcpRelay() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t wrote = write(ending_.get(), &one, sizeof one);
  acceptor_.join();
  sweep(true);
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void TcpRelay::sweep(bool all) {
  std::scoped_lock lock(mutex_);
  pairs_.remove_if([all](Pair& pair) {
    if (!all && !pair.done) return false;
    pair.thread.join();
    return true;
  });
}

void TcpRelay::accept_clients() {
  bool refused = false;
  for (;;) {
    pollfd fds[] = {{listener_.get(), POLLIN, 0}, {ending_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    if (fds[0].revents == 0) continue;
    sweep(false);  // of what has ended there may be descriptors that are missing
    Fd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) continue;
      // The client still waits, and would be there again at once.
      if (!std::exchange(refused, true))
        log_.warning(fmt::format("no connection to {}:{} can be taken now: {}", host_, port_, strerror(errno)));
      if (::poll(&fds[1], 1, pause_ms) > 0) return;
      continue;
    }
    refused = false;
    std::scoped_lock lock(mutex_);
    Pair& pair = pairs_.emplace_back();
    pair.client = std::move(client);
    try {
      pair.thread = std::thread([this, &pair] { carry(pair); });
    } catch (const std::system_error& error) {
      log_.warning(fmt::format("no thread for a connection to {}:{}: {}", host_, port_, error.what()));
      pairs_.pop_back();
    }
  }
}

void TcpRelay::carry(Pair& pair) {
  const Fd server = connect_to(host_, port_);
  if (!server) log_.warning(fmt::format("cannot reach {}:{} to read a disk: {}", host_, port_, strerror(errno)));
  Stream up{pair.client.get(), server.get()}, down{server.get(), pair.client.get()};
  bool broken = !server;
  while (!broken && !(up.ended && down.ended)) {
    pollfd fds[] = {{pair.client.get(), static_cast<short>(up.wants_from() | down.wants_to()), 0},
                    {server.get(), static_cast<short>(down.wants_from() | up.wants_to()), 0},
                    {ending_.get(), POLLIN, 0}};
    // poll() tells of a hang-up whether it was asked to or not. Where nothing can be done about it before the other end
    // has taken what is left, it is not looked at.
    if (fds[0].events == 0 && up.full()) fds[0].fd = -1;
    if (fds[1].events == 0 && down.full()) fds[1].fd = -1;
    if (::poll(fds, 3, -1) < 0 && errno != EINTR) break;
    if (fds[2].revents != 0) break;
    const short trouble = POLLERR | POLLNVAL;
    broken = ((fds[0].revents | fds[1].revents) & trouble) != 0;
    if (!broken && up.full() && (fds[1].revents & (POLLOUT | POLLHUP)) != 0) broken = !up.push();
    if (!broken && down.full() && (fds[0].revents & (POLLOUT | POLLHUP)) != 0) broken = !down.push();
    if (!broken && up.wants_from() != 0 && (fds[0].revents & (POLLIN | POLLHUP)) != 0) broken = !up.pull();
    if (!broken && down.wants_from() != 0 && (fds[1].revents & (POLLIN | POLLHUP)) != 0) broken = !down.pull();
    // One end is gone for good, and all that came from it was carried on.
    if (((fds[0].revents & POLLHUP) != 0 && up.ended) || ((fds[1].revents & POLLHUP) != 0 && down.ended)) break;
  }
  shutdown(pair.client.get(), SHUT_RDWR);
  pair.done = true;
}

}  // namespace vmferry::source::vmware
