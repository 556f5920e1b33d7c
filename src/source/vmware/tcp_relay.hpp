// Carries bytes between clients of a unix socket and one TCP address, unseen (they are TLS). For a program that must
// call its server by a name that does not lead there.
#pragma once

#include <filesystem>
#include <list>
#include <mutex>
#include <string>
#include <thread>

#include "base/fd.hpp"
#include "log/log.hpp"

namespace vmferry::source::vmware {

class TcpRelay {
 public:
  // The socket lies in a 0700 folder of its own below `directory`.
  TcpRelay(const std::filesystem::path& directory, std::string host, std::string port, log::Log& log);
  ~TcpRelay();  // ends every connection
  TcpRelay(const TcpRelay&) = delete;
  TcpRelay& operator=(const TcpRelay&) = delete;
  std::filesystem::path socket() const { return folder_ / "s"; }

 private:
  struct Pair;
  void accept_clients();
  void carry(Pair& pair);
  void sweep(bool all);

  std::filesystem::path folder_;
  std::string host_, port_;
  log::Log& log_;
  Fd listener_;
  Fd ending_;  // an eventfd that stays readable once we end
  std::mutex mutex_;
  std::list<Pair> pairs_;
  std::thread acceptor_;
};

}  // namespace vmferry::source::vmware
