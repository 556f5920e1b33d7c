// RFC 4253, section 4.2: the server sends a line that begins with "SSH-", and may send other lines before it.
#include "target/openstack/ssh_greeting.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vmferry::target::openstack {

namespace {

using std::chrono::milliseconds;
using SteadyTime = std::chrono::steady_clock::time_point;

// Waits for the socket in slices, so that a stop is felt. False = the time is up.
bool await(int fd, short events, SteadyTime end, std::stop_token stop) {
  for (;;) {
    if (stop.stop_requested()) throw Cancelled();
    const auto left = std::chrono::duration_cast<milliseconds>(end - std::chrono::steady_clock::now());
    if (left <= milliseconds(0)) return false;
    pollfd wanted{fd, events, 0};
    const int ready = ::poll(&wanted, 1, static_cast<int>(std::min(left, milliseconds(100)).count()));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

// The first line that begins with "SSH-"; what was read instead when there is none.
Greeting listen_to(int fd, SteadyTime end, std::stop_token stop) {
  constexpr std::size_t most = 8192;  // lines before the greeting are few
  std::string heard;
  while (heard.size() < most) {
    if (!await(fd, POLLIN, end, stop)) return {false, "it takes the connection and says nothing"};
    std::array<char, 512> buffer{};
    const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return {false, "it closes the connection without a greeting"};
    heard.append(buffer.data(), static_cast<std::size_t>(got));
    std::size_t begin = 0;
    for (std::size_t line = heard.find('\n'); line != std::string::npos; line = heard.find('\n', begin)) {
      std::string text = heard.substr(begin, line - begin);
      if (!text.empty() && text.back() == '\r') text.pop_back();
      if (text.starts_with("SSH-")) {
        // It is shown on a terminal.
        std::replace_if(
            text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c > 0x7e; }, '?');
        return {true, text};
      }
      begin = line + 1;
    }
  }
  return {false, "what answers there is no SSH server"};
}

Greeting greeting_of(const addrinfo& at, SteadyTime end, std::stop_token stop) {
  const Fd fd(::socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return {false, std::strerror(errno)};
  if (::connect(fd.get(), at.ai_addr, at.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return {false, std::strerror(errno)};
    if (!await(fd.get(), POLLOUT, end, stop)) return {false, "no answer"};
    int problem = 0;
    socklen_t size = sizeof problem;
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &problem, &size);
    if (problem != 0) return {false, std::strerror(problem)};
  }
  return listen_to(fd.get(), end, stop);
}

}  // namespace

std::string Address::text() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

Address parse_address(const std::string& text, int port) {
  Address address{text, port};
  std::string_view number;
  const std::size_t colon = text.rfind(':'), bracket = text.find(']');
  if (text.starts_with('[') && bracket != std::string::npos) {
    address.host = text.substr(1, bracket - 1);
    const std::string_view rest = std::string_view(text).substr(bracket + 1);
    if (!rest.empty()) number = rest.substr(rest.starts_with(':') ? 1 : 0);
    if (!rest.empty() && number.empty()) number = "?";
  } else if (colon != std::string::npos && text.find(':') == colon) {
    address.host = text.substr(0, colon);
    number = std::string_view(text).substr(colon + 1);
    if (number.empty()) number = "?";
  }
  const char* const end = number.data() + number.size();
  const bool bad_port = !number.empty() && (std::from_chars(number.data(), end, address.port).ptr != end ||
                                            address.port < 1 || address.port > 65535);
  if (bad_port || address.host.empty() || address.host.find_first_of("/ []@") != std::string::npos)
    throw Error(Fault::usage, fmt::format("--ssh-address {}: give HOST, HOST:PORT or [IPV6]:PORT", text));
  return address;
}

Greeting ssh_greeting(const Address& address, milliseconds patience, std::stop_token stop) {
  const SteadyTime end = std::chrono::steady_clock::now() + patience;
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int problem = ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &wanted, &list);
  if (problem != 0) return {false, ::gai_strerror(problem)};
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> kept(list, &::freeaddrinfo);
  Greeting last{false, "it has no address"};
  std::ptrdiff_t left = 0;
  for (const addrinfo* at = list; at != nullptr; at = at->ai_next) ++left;
  // Each its share of what is left: an address that answers nothing must not take the time of the next one.
  for (const addrinfo* at = list; at != nullptr; at = at->ai_next, --left) {
    const SteadyTime now = std::chrono::steady_clock::now();
    last = greeting_of(*at, now + (end - now) / left, stop);
    if (last.ssh) break;
  }
  return last;
}

Greeting await_ssh(const Address& address, std::chrono::seconds patience, Clock& clock,
                   const std::function<void(const std::string&)>& saying, std::stop_token stop) {
  constexpr milliseconds one_try(5000), longest(3000), between_words(10000);
  milliseconds pause(250);
  const auto begun = clock.mono();
  auto spoke = begun;
  for (;;) {
    Greeting greeting = ssh_greeting(address, one_try, stop);
    const auto now = clock.mono();
    if (greeting.ssh || now - begun >= patience) return greeting;
    if (now - spoke >= between_words) {
      saying(fmt::format("no SSH at {} yet, after {} s: {}", address.text(),
                         std::chrono::duration_cast<std::chrono::seconds>(now - begun).count(), greeting.said));
      spoke = now;
    }
    sleep_or_cancel(clock, pause, stop);
    pause = std::min(longest, pause + pause / 2);
  }
}

}  // namespace vmferry::target::openstack
