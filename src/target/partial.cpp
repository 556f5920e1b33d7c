// "BYTES/CAPACITY UUID/NUMBER": one value of metadata, which may have 255 characters.
#include "target/partial.hpp"

#include <fmt/format.h>

#include <charconv>

#include "target/memory_keys.hpp"

namespace vmferry::target {

std::string encode(const Partial& partial) {
  return fmt::format("{}/{} {}", partial.bytes, partial.capacity, partial.change_id.text());
}

std::optional<Partial> partial_of(const Memory& memory) {
  const auto found = memory.find(memory_key::partial);
  if (found == memory.end()) return std::nullopt;
  const std::string& text = found->second;
  const char* const end = text.data() + text.size();
  Partial partial;
  const auto bytes = std::from_chars(text.data(), end, partial.bytes);
  if (bytes.ec != std::errc() || bytes.ptr == end || *bytes.ptr != '/') return std::nullopt;
  const auto capacity = std::from_chars(bytes.ptr + 1, end, partial.capacity);
  if (capacity.ec != std::errc() || capacity.ptr == end || *capacity.ptr != ' ') return std::nullopt;
  const auto change_id = model::ChangeId::parse(std::string(capacity.ptr + 1, end));
  if (!change_id || partial.bytes == 0 || partial.bytes > partial.capacity) return std::nullopt;
  partial.change_id = *change_id;
  return partial;
}

}  // namespace vmferry::target
