// What an open disk of the stand-in is made of: bytes that arrive sooner or later, and a map. The rules of the library
// are kept by entry.cpp, before anything comes here.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../../plugin/vddk/abi.hpp"

namespace lab {

// Thrown to the entry points, which give its code to the caller and its words to the caller's log.
struct Problem {
  vix::Error error;
  std::string words;
};

using Done = std::function<void(vix::Error)>;

class Disk {
 public:
  virtual ~Disk() = default;
  virtual std::uint64_t sectors() const = 0;
  virtual std::uint64_t read_limit() const = 0;  // bytes of one call
  // Never blocks for long; `done` is called once, in any thread.
  virtual void read(std::uint64_t sector, std::uint64_t sectors, unsigned char* buffer, Done done) = 0;
  // Allocated blocks of whole chunks, in order.
  virtual std::vector<vix::Block> map(std::uint64_t sector, std::uint64_t sectors, std::uint64_t chunk) = 0;
};

// Who asks whom, copied from the parameters of ConnectEx.
struct Login {
  std::string server, thumbprint, user, password, cookie;
  std::uint16_t port = 443;
};

// A session on the lab's vCenter; ends with the object.
class Session {
 public:
  explicit Session(Login login);
  ~Session();
  // `orders`: how the library was told to read, for the server's log.
  std::unique_ptr<Disk> open(const std::string& vm, const std::string& snapshot, const std::string& file,
                             const std::map<std::string, std::string>& orders) const;

 private:
  Login login_;
  bool ours_ = false;  // the session was opened here, so it is closed here
};

// A file of this machine. Only with the file lab-vddk.conf in the library's folder, which says `local=yes`.
std::unique_ptr<Disk> open_local(const std::string& file);

}  // namespace lab
