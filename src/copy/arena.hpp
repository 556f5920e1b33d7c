// The memory of one copy: a fixed number of bytes, cut in pages, so that a small read takes little and the sum is
// bounded. First fit from the low end keeps the touched part small. One thread takes and gives back.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace vmferry::copy {

class Arena {
 public:
  explicit Arena(std::size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Contiguous and page-aligned; nothing when it does not fit now.
  std::optional<std::span<std::byte>> take(std::size_t bytes);
  void give(std::span<std::byte> block) noexcept;
  bool unused() const noexcept { return taken_ == 0; }

 private:
  std::byte* memory_ = nullptr;
  std::vector<bool> used_;  // one per page
  std::size_t taken_ = 0;   // pages
};

}  // namespace vmferry::copy
