// Lenient reading of JSON: absent is empty, another kind is an error that names the field and the call.
#include "openstack/fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace vmferry::openstack {

// A part of a parsed document, which it keeps alive.
struct Fields::Node {
  std::shared_ptr<const nlohmann::json> document;
  const nlohmann::json* value;
  std::string what;

  // Nothing when absent or null.
  const nlohmann::json* child(std::string_view key) const {
    const auto found = value->find(std::string(key));
    return found == value->end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void wrong(std::string_view key, std::string_view wanted) const {
    throw Error(Fault::data, fmt::format("{} has a field '{}' that is not {}", what, key, wanted));
  }
};

namespace {

std::string as_text(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
  if (value.is_number()) return value.dump();
  return {};
}

bool is_scalar(const nlohmann::json& value) { return value.is_string() || value.is_boolean() || value.is_number(); }

}  // namespace

Fields::Fields(std::shared_ptr<const Node> node) : node_(std::move(node)) {}

Fields Fields::parse(std::string_view text, const std::string& what) {
  auto document = std::make_shared<const nlohmann::json>(nlohmann::json::parse(text, nullptr, false));
  if (document->is_discarded() || !document->is_object())
    throw Error(
        Fault::data,
        fmt::format("{} is not a JSON object: is the URL the right one, and is there a proxy in between?", what));
  const nlohmann::json* root = document.get();
  return Fields(std::make_shared<const Node>(Node{std::move(document), root, what}));
}

bool Fields::has(std::string_view key) const { return node_->child(key) != nullptr; }

std::string Fields::text(std::string_view key) const {
  const nlohmann::json* value = node_->child(key);
  if (value == nullptr) return {};
  if (!is_scalar(*value)) node_->wrong(key, "a text");
  return as_text(*value);
}

std::int64_t Fields::number(std::string_view key, std::int64_t otherwise) const {
  const nlohmann::json* value = node_->child(key);
  if (value == nullptr) return otherwise;
  // A subnet of IPv6 has more addresses than fit here: then it is as many as do.
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  if (value->is_number_unsigned())
    return static_cast<std::int64_t>(std::min<std::uint64_t>(value->get<std::uint64_t>(), most));
  if (value->is_number_float() && value->get<double>() >= 0x1p63) return most;
  if (value->is_number_integer()) return value->get<std::int64_t>();
  if (value->is_string()) {
    const std::string& text = value->get_ref<const std::string&>();
    std::int64_t parsed = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
    if (error == std::errc() && end == text.data() + text.size()) return parsed;
  }
  node_->wrong(key, "a whole number");
}

bool Fields::flag(std::string_view key) const {
  const std::string value = text(key);
  return value == "true" || value == "True";
}

Fields Fields::at(std::string_view key) const {
  const nlohmann::json* value = node_->child(key);
  if (value != nullptr && !value->is_object()) node_->wrong(key, "an object");
  return at_if_object(key);
}

Fields Fields::at_if_object(std::string_view key) const {
  static const nlohmann::json none = nlohmann::json::object();
  const nlohmann::json* value = node_->child(key);
  if (value == nullptr || !value->is_object()) value = &none;
  return Fields(std::make_shared<const Node>(Node{node_->document, value, node_->what}));
}

std::vector<Fields> Fields::each(std::string_view key) const {
  std::vector<Fields> items;
  const nlohmann::json* value = node_->child(key);
  if (value == nullptr) return items;
  if (!value->is_array()) node_->wrong(key, "a list");
  for (const nlohmann::json& item : *value) {
    if (!item.is_object()) node_->wrong(key, "a list of objects");
    items.push_back(Fields(std::make_shared<const Node>(Node{node_->document, &item, node_->what})));
  }
  return items;
}

std::vector<std::string> Fields::texts(std::string_view key) const {
  std::vector<std::string> items;
  const nlohmann::json* value = node_->child(key);
  if (value == nullptr) return items;
  if (!value->is_array()) node_->wrong(key, "a list");
  for (const nlohmann::json& item : *value) {
    if (!is_scalar(item)) node_->wrong(key, "a list of texts");
    items.push_back(as_text(item));
  }
  return items;
}

std::map<std::string, std::string> Fields::map(std::string_view key) const {
  std::map<std::string, std::string> pairs;
  const nlohmann::json* value = node_->child(key);
  if (value == nullptr) return pairs;
  if (!value->is_object()) node_->wrong(key, "an object");
  for (const auto& [name, item] : value->items()) {
    if (item.is_null()) continue;
    // Metadata is anybody's: a value of another kind is kept as its JSON.
    pairs.emplace(
        name, is_scalar(item) ? as_text(item) : item.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return pairs;
}

std::string Fields::json(std::string_view key) const {
  const nlohmann::json* value = node_->child(key);
  if (value == nullptr) return {};
  if (!value->is_object()) node_->wrong(key, "an object");
  return value->dump();
}

std::vector<std::string> Fields::keys() const {
  std::vector<std::string> names;
  for (const auto& [name, item] : node_->value->items()) names.push_back(name);
  return names;
}

}  // namespace vmferry::openstack
