// A value that must not be seen: it cannot be printed, copied by accident or compared, and its memory is wiped.
// It reaches other processes by an inherited file descriptor or a 0600 file only.
#pragma once

#include <memory>
#include <ostream>
#include <string>
#include <string_view>

namespace vmferry {

class Secret {
 public:
  Secret() = default;
  // Takes the bytes over and wipes the string they came in.
  explicit Secret(std::string&& plain);
  Secret(Secret&&) noexcept = default;
  Secret& operator=(Secret&&) noexcept = default;
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;

  // A second owner of the same bytes (shared, not copied).
  Secret share() const;
  bool empty() const noexcept;
  // The only way to the bytes: search for this word to see every place a secret is used.
  std::string_view reveal() const noexcept;

  friend std::ostream& operator<<(std::ostream&, const Secret&) = delete;

 private:
  struct Bytes;
  std::shared_ptr<const Bytes> bytes_;
};

// Overwrites memory in a way the optimizer keeps.
void wipe(std::string& text) noexcept;

}  // namespace vmferry
