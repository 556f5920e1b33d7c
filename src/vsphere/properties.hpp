// The property collector: read properties of objects page by page, and wait until a property says what is hoped for.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "vsphere/session.hpp"

namespace vmferry::vsphere {

struct ObjectProperties {
  Moref object;
  std::map<std::string, Node> values;  // properties that are unset or may not be read are absent
  Node operator[](const std::string& path) const {
    const auto at = values.find(path);
    return at == values.end() ? Node() : at->second;
  }
};

// Properties of one object. FaultError "ManagedObjectNotFound" when it is gone.
ObjectProperties read(Session& session, const Moref& object, const std::vector<std::string>& paths,
                      std::stop_token stop);

// The same of several objects of one type; objects that went away in the meantime are left out.
std::vector<ObjectProperties> read_all(Session& session, const std::vector<Moref>& objects,
                                       const std::vector<std::string>& paths, std::stop_token stop);

struct Selection {
  std::string type;  // "VirtualMachine"
  std::vector<std::string> paths;
};

// Every object of these types in the whole inventory, through a container view, `page` objects a reply.
std::vector<ObjectProperties> read_inventory(Session& session, const std::vector<Selection>& selections, int page,
                                             std::stop_token stop);

// Follows `paths` of `object` through WaitForUpdatesEx until `enough` says so of their present values. False when
// `deadline` passes first. FaultError "ManagedObjectNotFound" when the object goes away.
bool wait_until(Session& session, const Moref& object, const std::vector<std::string>& paths,
                const std::function<bool(const ObjectProperties&)>& enough,
                std::optional<std::chrono::steady_clock::time_point> deadline, std::stop_token stop);

// Parsing, for tests and the fuzzer: a <returnval> with <objects>.
std::vector<ObjectProperties> parse_objects(const Node& result);

}  // namespace vmferry::vsphere
