// Names and paths of what a vCenter holds. Everything but a moref and an exact path is answered from one listing.
#include "vsphere/inventory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "vsphere/machine_config.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::vsphere {

namespace {

constexpr int objects_per_page = 200;
constexpr std::size_t shown_paths = 50;
constexpr std::size_t shown_near = 5;
constexpr int deepest_folder = 64;

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

bool all_of(const std::string& text, const char* allowed) {
  return !text.empty() && text.find_first_not_of(allowed) == std::string::npos;
}

// "vm-42" of a vCenter, "42" of an ESXi host.
bool looks_like_moref(const std::string& text) {
  return all_of(text.starts_with("vm-") ? text.substr(3) : text, "0123456789");
}

bool looks_like_uuid(const std::string& text) {
  if (text.size() != 36 || !all_of(lower(text), "0123456789abcdef-")) return false;
  return text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-';
}

// A path as it can be compared: each name unescaped, no slash in front or behind, a slash in a name told from one
// between names.
std::string comparable(const std::string& path) {
  std::string text;
  std::size_t from = 0;
  while (from <= path.size()) {
    const std::size_t to = std::min(path.find('/', from), path.size());
    if (to > from) text += '\n' + unescape_name(path.substr(from, to - from));
    from = to + 1;
  }
  return text;
}

int edit_distance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

struct Place {
  std::string name;
  Moref parent;
};
using Places = std::map<Moref, Place>;

// The path from the inventory's root to this object, root excluded (it has no parent).
std::string path_of(const Places& places, const Moref& object, const std::string& name) {
  std::string path = "/" + name;
  Moref at = object;
  for (int depth = 0; depth < deepest_folder && !at.empty(); ++depth) {
    const auto place = places.find(at);
    if (place == places.end() || place->second.parent.empty()) break;
    path = "/" + place->second.name + path;
    at = place->second.parent;
  }
  return path;
}

// A VM lives in a folder or, instead, in a vApp; a vApp in a folder or in another vApp.
Moref parent_of(const ObjectProperties& object) {
  for (const char* property : {"parentVApp", "parentFolder", "parent"})
    if (const Moref parent = object[property].moref(); !parent.empty()) {
      // A nested vApp's own parent may be a resource pool, which is no part of a path.
      if (parent.type != "ResourcePool") return parent;
    }
  return {};
}

ListedVm listed(const ObjectProperties& object) {
  ListedVm vm;
  vm.id.value = object.object.value;
  vm.name = unescape_name(object["name"].text());
  const std::string power = object["runtime.powerState"].text();
  vm.power = power == "poweredOn"   ? model::Power::on
             : power == "suspended" ? model::Power::suspended
                                    : model::Power::off;
  for (const model::Disk& disk : parse_disks(object["config.hardware.device"].children())) {
    ++vm.disks;
    vm.bytes += disk.capacity;
  }
  vm.tracking_enabled = object["config.changeTrackingEnabled"].flag_or(false);
  vm.is_template = object["config.template"].flag_or(false);
  vm.guest = object["config.guestFullName"].text();
  vm.uuid = object["config.uuid"].text();
  vm.instance_uuid = object["config.instanceUuid"].text();
  return vm;
}

}  // namespace

Moref vm_ref(const model::VmId& vm) { return {"VirtualMachine", vm.value}; }

std::vector<ListedVm> list(Session& session, std::stop_token stop) {
  std::vector<Selection> selections{
      {"VirtualMachine",
       {"name", "parent", "parentVApp", "runtime.powerState", "config.hardware.device", "config.changeTrackingEnabled",
        "config.template", "config.guestFullName", "config.uuid", "config.instanceUuid"}},
      {"Folder", {"name", "parent"}},
      {"Datacenter", {"name", "parent"}}};
  // A bare host has no vApps of the kind that hold machines.
  if (session.content().is_vcenter)
    selections.push_back({"VirtualApp", {"name", "parent", "parentFolder", "parentVApp"}});
  const std::vector<ObjectProperties> objects = read_inventory(session, selections, objects_per_page, stop);
  Places places;
  for (const ObjectProperties& object : objects)
    if (object.object.type != "VirtualMachine") places[object.object] = {object["name"].text(), parent_of(object)};
  places.erase(session.content().root_folder);  // paths begin below it
  std::vector<ListedVm> all;
  for (const ObjectProperties& object : objects) {
    if (object.object.type != "VirtualMachine") continue;
    ListedVm vm = listed(object);
    const Moref parent = parent_of(object);
    const auto place = places.find(parent);
    vm.path = "/" + object["name"].text();
    if (place != places.end()) vm.path = path_of(places, place->second.parent, place->second.name) + vm.path;
    all.push_back(std::move(vm));
  }
  std::sort(all.begin(), all.end(),
            [](const ListedVm& a, const ListedVm& b) { return std::tie(a.path, a.id) < std::tie(b.path, b.id); });
  return all;
}

model::VmId choose(const std::string& wanted, const std::vector<ListedVm>& all) {
  std::vector<const ListedVm*> found;
  const auto collect = [&](const std::function<bool(const ListedVm&)>& fits) {
    if (!found.empty()) return;
    for (const ListedVm& vm : all)
      if (fits(vm)) found.push_back(&vm);
  };
  if (looks_like_uuid(wanted)) {
    const std::string uuid = lower(wanted);
    collect([&](const ListedVm& vm) { return lower(vm.uuid) == uuid || lower(vm.instance_uuid) == uuid; });
  }
  if (wanted.find('/') != std::string::npos) {
    const std::string path = comparable(wanted);
    collect([&](const ListedVm& vm) { return comparable(vm.path) == path; });
  }
  collect([&](const ListedVm& vm) { return vm.name == wanted || vm.name == unescape_name(wanted); });
  if (looks_like_moref(wanted)) collect([&](const ListedVm& vm) { return vm.id.value == wanted; });
  if (found.empty()) return {};
  if (found.size() == 1) return found.front()->id;
  std::string message =
      fmt::format("'{}' fits {} virtual machines; name one of them by its path or moref:", wanted, found.size());
  for (std::size_t i = 0; i < found.size() && i < shown_paths; ++i)
    message += fmt::format("\n  {} ({})", found[i]->path, found[i]->id.value);
  if (found.size() > shown_paths) message += fmt::format("\n  and {} more", found.size() - shown_paths);
  throw Error(Fault::conflict, message);
}

std::string explain_miss(const std::string& wanted, const std::vector<ListedVm>& all) {
  std::string message = fmt::format("there is no virtual machine '{}'", wanted);
  if (all.empty())
    return message +
           ": this user sees no virtual machine at all. Check its role, and that it propagates to the folders.";
  const std::string name = lower(unescape_name(wanted.substr(wanted.rfind('/') + 1)));
  std::vector<std::pair<int, const ListedVm*>> near;
  for (const ListedVm& vm : all) {
    const std::string other = lower(vm.name);
    int distance = edit_distance(name.substr(0, 200), other.substr(0, 200));
    const bool part = !name.empty() && !other.empty() &&
                      (other.find(name) != std::string::npos || name.find(other) != std::string::npos);
    if (part) distance = std::min(distance, 1);
    if (distance <= std::max<int>(2, static_cast<int>(name.size()) / 3)) near.emplace_back(distance, &vm);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  if (!near.empty()) message += ". Near it:";
  for (std::size_t i = 0; i < near.size() && i < shown_near; ++i)
    message += fmt::format("\n  {}", near[i].second->path);
  message += near.empty() ? ". There are:" : "\nThere are:";
  for (std::size_t i = 0; i < all.size() && i < shown_paths; ++i) message += fmt::format("\n  {}", all[i].path);
  if (all.size() > shown_paths) message += fmt::format("\n  and {} more", all.size() - shown_paths);
  return message;
}

model::VmId find(Session& session, const std::string& wanted, std::stop_token stop) {
  if (wanted.empty())
    throw Error(Fault::usage, "no virtual machine is named: give its inventory path, moref, UUID or name");
  if (wanted.starts_with("vm-") && looks_like_moref(wanted)) {
    try {
      read(session, vm_ref({wanted}), {"name"}, stop);
      return {wanted};
    } catch (const FaultError& e) {
      if (e.name() != "ManagedObjectNotFound") throw;  // it may still be a name
    }
  }
  if (wanted.find('/') != std::string::npos && !session.content().search_index.empty()) {
    // The server's own index answers at once however large the inventory is. It wants no slash in front.
    Call call("FindByInventoryPath", session.content().search_index);
    call.text("inventoryPath", wanted.substr(std::min(wanted.find_first_not_of('/'), wanted.size())));
    const Moref found = session.call(call, Repeat::freely, stop)["returnval"].moref();
    if (found.type == "VirtualMachine") return {found.value};
  }
  const std::vector<ListedVm> all = list(session, stop);
  const model::VmId found = choose(wanted, all);
  if (found.empty()) throw Error(Fault::not_found, explain_miss(wanted, all));
  return found;
}

namespace {

struct Ancestors {
  std::string path;  // "/DC0/vm/folder", without the object itself
  Datacenter datacenter;
};

// Up the tree, object by object: a lone VM does not deserve a listing of everything.
Ancestors ancestors(Session& session, const Moref& object, std::stop_token stop) {
  Ancestors found;
  const auto parents = [&](const Moref& of) -> std::vector<std::string> {
    if (of.type == "VirtualMachine") return {"parent", "parentVApp"};
    if (of.type == "VirtualApp") return {"name", "parent", "parentFolder", "parentVApp"};
    return {"name", "parent"};
  };
  const Moref& root = session.content().root_folder;
  Moref at = parent_of(read(session, object, parents(object), stop));
  for (int depth = 0; depth < deepest_folder && !at.empty() && at != root; ++depth) {
    const ObjectProperties place = read(session, at, parents(at), stop);
    const std::string name = place["name"].text();
    found.path = "/" + name + found.path;
    if (at.type == "Datacenter")
      found.datacenter = {at, name};
    else if (!found.datacenter.path.empty())
      found.datacenter.path = name + "/" + found.datacenter.path;
    at = parent_of(place);
  }
  return found;
}

// Distributed port groups are named by key in a VM's configuration; a user knows their names.
void name_networks(Session& session, std::vector<model::Nic>& nics, std::stop_token stop) {
  for (model::Nic& nic : nics) {
    if (!nic.network.starts_with("dvportgroup-")) continue;
    try {
      const std::string name =
          read(session, Moref{"DistributedVirtualPortgroup", nic.network}, {"name"}, stop)["name"].text();
      if (!name.empty()) nic.network = unescape_name(name);
    } catch (const FaultError& e) {
      session.log().debug("the name of a port group cannot be read",
                          {{"portgroup", nic.network}, {"reason", e.what()}});
    }
  }
}

[[noreturn]] void throw_no_such(Session& session, const model::VmId& vm) {
  throw Error(Fault::not_found,
              fmt::format("{} no longer has the virtual machine {}: it was removed, or registered anew under "
                          "another id. Look it up by path with 'vmferry inventory'.",
                          session.server(), vm.value),
              "ManagedObjectNotFound");
}

}  // namespace

model::Vm describe(Session& session, const model::VmId& vm, std::stop_token stop) {
  try {
    const ObjectProperties properties = read(session, vm_ref(vm), machine_properties(), stop);
    model::Vm found = parse_machine(properties);
    found.path = ancestors(session, vm_ref(vm), stop).path + "/" + properties["name"].text();
    const Moref host = properties["runtime.host"].moref();
    if (!host.empty()) found.host = read(session, host, {"name"}, stop)["name"].text();
    name_networks(session, found.nics, stop);
    return found;
  } catch (const FaultError& e) {
    if (e.name() == "ManagedObjectNotFound") throw_no_such(session, vm);
    throw;
  }
}

std::vector<Datastore> datastores_of(Session& session, const model::VmId& vm, std::stop_token stop) {
  std::vector<Moref> refs;
  for (const Node& node : read(session, vm_ref(vm), {"datastore"}, stop)["datastore"].all("ManagedObjectReference"))
    refs.push_back(node.moref());
  std::vector<Datastore> found;
  for (const ObjectProperties& store : read_all(session, refs, {"name"}, stop))
    found.push_back({store.object, store["name"].text()});
  return found;
}

Datacenter datacenter_of(Session& session, const model::VmId& vm, std::stop_token stop) {
  try {
    const Datacenter found = ancestors(session, vm_ref(vm), stop).datacenter;
    if (found.path.empty())
      throw Error(Fault::not_found,
                  fmt::format("{} shows no datacenter above {}: the user lacks System.View on it, which reading its "
                              "datastore over https needs",
                              session.server(), vm.value));
    return found;
  } catch (const FaultError& e) {
    if (e.name() == "ManagedObjectNotFound") throw_no_such(session, vm);
    throw;
  }
}

}  // namespace vmferry::vsphere
