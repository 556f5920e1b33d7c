// Whether somebody speaks SSH at an address: a TCP connection and the line that the other side begins with. Nothing is
// ever sent, nobody logs in.
#pragma once

#include <chrono>
#include <functional>
#include <stop_token>
#include <string>

#include "base/clock.hpp"

namespace vmferry::target::openstack {

struct Address {
  std::string host;  // a name or a number, IPv6 without brackets
  int port = 22;
  std::string text() const;  // "192.0.2.5:22", "[2001:db8::5]:22"
};

// "HOST", "HOST:PORT", "[IPV6]:PORT", a bare IPv6. Error(usage) for another thing; without a port it is `port`.
Address parse_address(const std::string& text, int port);

struct Greeting {
  bool ssh = false;
  std::string said;  // the server's line ("SSH-2.0-OpenSSH_9.2p1 ..."), or why there is none
};

// One try, of that length at most.
Greeting ssh_greeting(const Address& address, std::chrono::milliseconds patience, std::stop_token stop);

// Tries until it is greeted; `saying` hears now and then what is in the way. The greeting, or the last failure.
Greeting await_ssh(const Address& address, std::chrono::seconds patience, Clock& clock,
                   const std::function<void(const std::string&)>& saying, std::stop_token stop);

}  // namespace vmferry::target::openstack
