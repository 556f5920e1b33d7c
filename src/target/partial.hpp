// How far a first copy has come, as a volume's own memory tells it to a host that has no journal of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/vm.hpp"
#include "target/cloud.hpp"

namespace vmferry::target {

struct Partial {
  std::uint64_t bytes = 0;     // from the disk's beginning on, as they are at change_id
  std::uint64_t capacity = 0;  // of the disk
  model::ChangeId change_id;
  bool operator==(const Partial&) const = default;
};

std::string encode(const Partial& partial);
// Nothing when the memory says nothing, or what cannot be understood.
std::optional<Partial> partial_of(const Memory& memory);

}  // namespace vmferry::target
