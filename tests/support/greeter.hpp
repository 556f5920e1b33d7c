// A listener on 127.0.0.1 that greets as an SSH server does and hangs up, since nothing runs in the lab's servers.
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

class Greeter {
 public:
  explicit Greeter(std::string words) : words_(std::move(words)), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    auto* const raw = reinterpret_cast<sockaddr*>(&at);
    if (::bind(listener_.get(), raw, size) != 0 || ::listen(listener_.get(), 8) != 0 ||
        ::getsockname(listener_.get(), raw, &size) != 0)
      throw std::runtime_error("cannot listen on 127.0.0.1");
    port_ = ntohs(at.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Greeter() {
    over_ = true;
    thread_.join();
  }
  Greeter(const Greeter&) = delete;
  Greeter& operator=(const Greeter&) = delete;
  int port() const { return port_; }

 private:
  void serve() {
    while (!over_) {
      pollfd wanted{listener_.get(), POLLIN, 0};
      if (::poll(&wanted, 1, 50) <= 0) continue;
      const Fd caller(::accept(listener_.get(), nullptr, nullptr));
      if (!caller) continue;
      [[maybe_unused]] const ssize_t sent = ::send(caller.get(), words_.data(), words_.size(), MSG_NOSIGNAL);
    }
  }

  std::string words_;
  Fd listener_;
  int port_ = 0;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace vmferry::support
