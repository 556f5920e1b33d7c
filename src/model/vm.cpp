// How the model's values read and parse.
#include "model/vm.hpp"

namespace vmferry::model {

std::string to_string(DiskKey key) { return std::to_string(key.value); }

std::optional<ChangeId> ChangeId::parse(const std::string& text) {
  const auto slash = text.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == text.size()) return std::nullopt;
  if (text.find('/', slash + 1) != std::string::npos) return std::nullopt;
  return ChangeId{text.substr(0, slash), text.substr(slash + 1)};
}

}  // namespace vmferry::model
