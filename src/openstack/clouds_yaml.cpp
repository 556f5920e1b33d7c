// yaml-cpp stays in this file. Its messages are not passed on whole: they can quote a part of a line, and lines of
// this file hold passwords.
#include "openstack/clouds_yaml.hpp"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "base/error.hpp"

namespace vmferry::openstack {

namespace {

constexpr std::size_t longest_file = 1024 * 1024;
// '<<' may refer to what refers to others: without a bound a short file could ask for endless work.
constexpr int most_merges = 1000;

[[noreturn]] void wrong(const TextFile& file, const YAML::Mark& mark, const std::string& why) {
  const std::string where =
      mark.is_null() ? file.path.string() : fmt::format("{}:{}", file.path.string(), mark.line + 1);
  throw Error(Fault::config, fmt::format("{}: {}", where, why));
}

YAML::Node load(const TextFile& file) {
  if (file.text.size() > longest_file)
    wrong(file, YAML::Mark::null_mark(), "larger than 1 MiB: this is not a clouds.yaml");
  try {
    return YAML::Load(file.text);
  } catch (const YAML::Exception& e) {
    const bool quotes_text =
        e.msg.find("anchor") != std::string::npos || e.msg.find("bad conversion") != std::string::npos;
    wrong(file, e.mark,
          quotes_text ? "not valid YAML: a value that begins with '*' or '&' must be in quotes"
                      : "not valid YAML: " + e.msg);
  }
}

std::string key_of(const TextFile& file, const YAML::Node& key) {
  if (!key.IsScalar()) wrong(file, key.Mark(), "a key must be a plain text");
  return key.Scalar();
}

std::string normalized(std::string key) {
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

// Pairs of a mapping, with "<<" merged in below its own keys.
void collect(const TextFile& file, const YAML::Node& map, const std::string& prefix, int& merges, Settings& into);

void collect_merged(const TextFile& file, const YAML::Node& merged, const std::string& prefix, int& merges,
                    Settings& into) {
  if (++merges > most_merges) wrong(file, merged.Mark(), "too many '<<' merges");
  if (merged.IsSequence()) {
    // The first of a list wins, so the last is laid down first.
    for (std::size_t i = merged.size(); i > 0; --i) collect_merged(file, merged[i - 1], prefix, merges, into);
  } else if (merged.IsMap()) {
    collect(file, merged, prefix, merges, into);
  } else {
    wrong(file, merged.Mark(), "'<<' needs a mapping");
  }
}

void collect_regions(const TextFile& file, const YAML::Node& regions, Settings& into) {
  if (!regions.IsSequence() || regions.size() == 0) return;
  const YAML::Node first = regions[0];
  if (first.IsScalar()) into.set("regions", first.Scalar());
  if (!first.IsMap()) return;
  const YAML::Node name = first["name"];
  if (!name || !name.IsScalar()) wrong(file, first.Mark(), "an entry of 'regions' needs a name");
  into.set("regions", name.Scalar());
}

void collect(const TextFile& file, const YAML::Node& map, const std::string& prefix, int& merges, Settings& into) {
  for (const auto& pair : map)
    if (pair.first.IsScalar() && pair.first.Scalar() == "<<") collect_merged(file, pair.second, prefix, merges, into);
  for (const auto& pair : map) {
    const std::string key = normalized(key_of(file, pair.first));
    const YAML::Node& value = pair.second;
    if (key == "<<") continue;
    if (value.IsNull() || !value.IsDefined()) {
      into.erase(prefix + key);
    } else if (prefix.empty() && key == "auth") {
      if (!value.IsMap()) wrong(file, value.Mark(), "'auth' must be a mapping");
      collect(file, value, "auth.", merges, into);
    } else if (prefix.empty() && key == "regions") {
      collect_regions(file, value, into);
    } else if (value.IsScalar()) {
      into.set(prefix + key, value.Scalar());
    } else if (!prefix.empty()) {
      wrong(file, value.Mark(), fmt::format("'{}' must be a plain text", key));
    }
    // Lists and mappings elsewhere (networks:, image_format lists...) are settings of other programs.
  }
}

YAML::Node clouds_of(const TextFile& file, const YAML::Node& root) {
  if (!root.IsDefined() || root.IsNull()) return YAML::Node(YAML::NodeType::Undefined);
  if (!root.IsMap()) wrong(file, root.Mark(), "must be a mapping with the key 'clouds'");
  for (const auto& pair : root) {
    if (!pair.first.IsScalar() || pair.first.Scalar() != "clouds") continue;
    if (pair.second.IsNull()) break;
    if (!pair.second.IsMap()) wrong(file, pair.second.Mark(), "'clouds' must be a mapping of names to clouds");
    return pair.second;
  }
  return YAML::Node(YAML::NodeType::Undefined);
}

// Every use of yaml-cpp goes through here: whatever it throws names the file.
template <class F>
auto reading(const TextFile& file, F f) {
  try {
    return f(clouds_of(file, load(file)));
  } catch (const YAML::Exception& e) {
    wrong(file, e.mark, "has a shape that a clouds.yaml must not have");
  }
}

}  // namespace

Settings::~Settings() {
  for (auto& [key, value] : values_) wipe(value);
}

std::string Settings::get(std::initializer_list<const char*> keys) const {
  for (const char* key : keys)
    if (const auto found = values_.find(key); found != values_.end() && !found->second.empty()) return found->second;
  return {};
}

std::vector<std::string> cloud_names(const TextFile& file) {
  return reading(file, [&](const YAML::Node& clouds) {
    std::vector<std::string> names;
    if (clouds.IsMap())
      for (const auto& pair : clouds) names.push_back(key_of(file, pair.first));
    return names;
  });
}

std::optional<Settings> cloud_settings(const TextFile& file, const std::string& cloud) {
  return reading(file, [&](const YAML::Node& clouds) -> std::optional<Settings> {
    if (!clouds.IsMap()) return std::nullopt;
    for (const auto& pair : clouds) {
      if (key_of(file, pair.first) != cloud) continue;
      Settings settings;
      if (pair.second.IsNull()) return settings;
      if (!pair.second.IsMap()) wrong(file, pair.second.Mark(), fmt::format("cloud '{}' must be a mapping", cloud));
      int merges = 0;
      collect(file, pair.second, "", merges, settings);
      return settings;
    }
    return std::nullopt;
  });
}

}  // namespace vmferry::openstack
