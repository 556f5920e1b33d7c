// Leave to hold a connection to something that others read from too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.hpp"

namespace vmferry::copy {

// Given back by its destructor, and by the end of the process, however that comes.
class Permit {
 public:
  virtual ~Permit() = default;
  // The limit was lowered since: it should be given back when that does not stop the copy.
  virtual bool recalled() const = 0;
};

// Thrown by Source::connect() in the place of a first connection that needs a permit where none did before: the
// source's way is counted from now on, and the next call, which comes with a permit, may connect.
class PermitNeeded : public Error {
 public:
  using Error::Error;
};

// Thread-safe; nothing blocks.
class Permits {
 public:
  virtual ~Permits() = default;
  // Null: not now, ask again later. What a copy needs to go on, its first connection, is granted before further ones of
  // others, which are only for speed.
  virtual std::unique_ptr<Permit> ask(bool needed) = 0;
  // How much may be under way on one connection, bytes.
  virtual std::uint64_t bytes_under_way() const = 0;
  // For people: why a copy waits.
  virtual std::string reason() const = 0;
};

}  // namespace vmferry::copy
