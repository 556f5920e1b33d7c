// clouds.yaml and secure.yaml as text to flat settings ("auth.password", "region_name"). Knows the shape of the file,
// not the meaning of its keys.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "openstack/cloud_config.hpp"

namespace vmferry::openstack {

// Keys have '_' for '-'; those below auth: begin with "auth.". May hold secrets: wiped by its destructor.
class Settings {
 public:
  Settings() = default;
  ~Settings();
  Settings(Settings&&) noexcept = default;
  Settings& operator=(Settings&&) noexcept = default;
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;

  void set(const std::string& key, std::string value) { values_[key] = std::move(value); }
  void erase(const std::string& key) { values_.erase(key); }
  bool has(const std::string& key) const { return values_.count(key) > 0; }
  // The first of these keys that is there; empty when none is.
  std::string get(std::initializer_list<const char*> keys) const;
  const std::map<std::string, std::string>& values() const noexcept { return values_; }

 private:
  std::map<std::string, std::string> values_;
};

// Error(config) with file and line when it is not YAML or has another shape.
std::vector<std::string> cloud_names(const TextFile& file);
std::optional<Settings> cloud_settings(const TextFile& file, const std::string& cloud);

}  // namespace vmferry::openstack
