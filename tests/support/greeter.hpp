// A listener on 127.0.0.1 that greets as an SSH server does and hangs up, since nothing runs in the lab's servers; and
// a port where nobody listens.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/fd.hpp"

namespace vmferry::support {

// Held, so that no other process is given the port meanwhile; connections to it are refused.
class ClosedPort {
 public:
  ClosedPort() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    auto* const raw = reinterpret_cast<sockaddr*>(&at);
    if (::bind(socket_.get(), raw, size) != 0 || ::getsockname(socket_.get(), raw, &size) != 0)
      throw std::runtime_error("cannot have a port of 127.0.0.1");
    number_ = ntohs(at.sin_port);
  }
  int number() const { return number_; }
  int socket() const { return socket_.get(); }

 private:
  Fd socket_;
  int number_ = 0;
};

class Greeter {
 public:
  explicit Greeter(std::string words) : words_(std::move(words)) {
    if (::listen(at_.socket(), 8) != 0) throw std::runtime_error("cannot listen on 127.0.0.1");
    thread_ = std::thread([this] { serve(); });
  }
  ~Greeter() {
    over_ = true;
    thread_.join();
  }
  Greeter(const Greeter&) = delete;
  Greeter& operator=(const Greeter&) = delete;
  int port() const { return at_.number(); }

 private:
  void serve() {
    while (!over_) {
      pollfd wanted{at_.socket(), POLLIN, 0};
      if (::poll(&wanted, 1, 50) <= 0) continue;
      const Fd caller(::accept(at_.socket(), nullptr, nullptr));
      if (!caller) continue;
      [[maybe_unused]] const ssize_t sent = ::send(caller.get(), words_.data(), words_.size(), MSG_NOSIGNAL);
    }
  }

  std::string words_;
  ClosedPort at_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace vmferry::support
