// The property collector's calls. Views, collectors and page tokens live in one login: when that ends in the middle,
// the whole operation begins again.
#include "vsphere/properties.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace vmferry::vsphere {

namespace {

using namespace std::chrono_literals;

// Sessions that end this often within one operation are no accident.
constexpr int restarts = 4;
// How long the server may hold a WaitForUpdatesEx: short enough for proxies that cut silent connections after a minute.
constexpr std::chrono::seconds longest_wait{30};

template <class Operation>
auto restarting(Session& session, Operation operation) {
  for (int round = 1;; ++round) {
    try {
      return operation(session.login());
    } catch (const SessionRenewed&) {
      if (round == restarts)
        throw Error(Fault::auth,
                    fmt::format("{} ends the session again and again in the middle of a query: see its session limits "
                                "and whether something logs this user out",
                                session.server()));
    }
  }
}

void property_spec(Call& call, const std::string& type, const std::vector<std::string>& paths) {
  call.open("propSet").text("type", type);
  for (const std::string& path : paths) call.text("pathSet", path);
  call.close();
}

Node page(Session& session, const Call& call, std::uint64_t login, std::vector<ObjectProperties>& into,
          std::stop_token stop) {
  const Node result = session.call_bound(call, login, stop)["returnval"];
  for (ObjectProperties& object : parse_objects(result)) into.push_back(std::move(object));
  return result["token"];
}

std::vector<ObjectProperties> retrieve(Session& session, const Call& first, std::uint64_t login, std::stop_token stop) {
  std::vector<ObjectProperties> found;
  Node token = page(session, first, login, found, stop);
  while (token) {
    Call more("ContinueRetrievePropertiesEx", session.content().property_collector);
    more.text("token", token.text());
    try {
      token = page(session, more, login, found, stop);
    } catch (const FaultError& e) {
      // A page whose reply was lost is gone with its token: begin again rather than lose objects.
      if (e.name() == "InvalidArgument") throw SessionRenewed();
      throw;
    }
  }
  return found;
}

std::vector<ObjectProperties> read_several(Session& session, const std::vector<Moref>& objects,
                                           const std::vector<std::string>& paths, std::stop_token stop) {
  return restarting(session, [&](std::uint64_t login) {
    Call call("RetrievePropertiesEx", session.content().property_collector);
    call.open("specSet");
    property_spec(call, objects.front().type, paths);
    for (const Moref& object : objects) call.open("objectSet").object("obj", object).flag("skip", false).close();
    call.close().open("options").close();
    return retrieve(session, call, login, stop);
  });
}

}  // namespace

std::vector<ObjectProperties> parse_objects(const Node& result) {
  std::vector<ObjectProperties> objects;
  for (const Node& content : result.all("objects")) {
    ObjectProperties object;
    object.object = content["obj"].moref();
    for (const Node& property : content.all("propSet")) object.values[property["name"].text()] = property["val"];
    objects.push_back(std::move(object));
  }
  return objects;
}

ObjectProperties read(Session& session, const Moref& object, const std::vector<std::string>& paths,
                      std::stop_token stop) {
  std::vector<ObjectProperties> found = read_several(session, {object}, paths, stop);
  if (found.empty()) {
    SoapFault gone;
    gone.name = "ManagedObjectNotFound";
    throw FaultError(Fault::not_found, fmt::format("{} no longer has {}", session.server(), to_string(object)), gone);
  }
  return std::move(found.front());
}

std::vector<ObjectProperties> read_all(Session& session, const std::vector<Moref>& objects,
                                       const std::vector<std::string>& paths, std::stop_token stop) {
  if (objects.empty()) return {};
  try {
    return read_several(session, objects, paths, stop);
  } catch (const FaultError& e) {
    if (e.name() != "ManagedObjectNotFound") throw;
  }
  // One that is gone spoils the whole call: ask one by one.
  std::vector<ObjectProperties> found;
  for (const Moref& object : objects) {
    try {
      found.push_back(read(session, object, paths, stop));
    } catch (const FaultError& e) {
      if (e.name() != "ManagedObjectNotFound") throw;
    }
  }
  return found;
}

std::vector<ObjectProperties> read_inventory(Session& session, const std::vector<Selection>& selections, int page_size,
                                             std::stop_token stop) {
  return restarting(session, [&](std::uint64_t login) {
    Call create("CreateContainerView", session.content().view_manager);
    create.object("container", session.content().root_folder);
    for (const Selection& selection : selections) create.text("type", selection.type);
    create.flag("recursive", true);
    const Moref view = session.call_bound(create, login, stop)["returnval"].moref();

    Call call("RetrievePropertiesEx", session.content().property_collector);
    call.open("specSet");
    for (const Selection& selection : selections) property_spec(call, selection.type, selection.paths);
    call.open("objectSet").object("obj", view).flag("skip", true);
    call.open("selectSet", "TraversalSpec")
        .text("type", "ContainerView")
        .text("path", "view")
        .flag("skip", false)
        .close();
    call.close().close().open("options").number("maxObjects", page_size).close();
    std::vector<ObjectProperties> found = retrieve(session, call, login, stop);

    try {
      session.call_bound(Call("DestroyView", view), login, stop);
    } catch (const SessionRenewed&) {  // it went with its login
    } catch (const Error& e) {
      session.log().debug("a view was left behind", {{"reason", e.what()}});  // it goes with the login
    }
    return found;
  });
}

namespace {

// The present values of the one object that a wait follows.
struct Followed {
  ObjectProperties present;
  bool gone = false;

  void apply(const Node& update_set) {
    for (const Node& filter : update_set.all("filterSet"))
      for (const Node& update : filter.all("objectSet")) {
        if (update["kind"].text() == "leave") gone = true;
        for (const Node& change : update.all("changeSet")) {
          const std::string name = change["name"].text();
          const std::string operation = change["op"].text();
          if (operation == "remove" || operation == "indirectRemove" || !change["val"])
            present.values.erase(name);
          else
            present.values[name] = change["val"];
        }
      }
  }
};

[[noreturn]] void throw_gone(Session& session, const Moref& object) {
  SoapFault fault;
  fault.name = "ManagedObjectNotFound";
  throw FaultError(Fault::not_found, fmt::format("{} no longer has {}", session.server(), to_string(object)), fault);
}

// A collector of its own: two threads that wait on one collector cancel each other.
Moref follow(Session& session, const Moref& object, const std::vector<std::string>& paths, std::uint64_t login,
             std::stop_token stop) {
  const Call make("CreatePropertyCollector", session.content().property_collector);
  const Moref collector = session.call_bound(make, login, stop)["returnval"].moref();
  Call filter("CreateFilter", collector);
  filter.open("spec");
  property_spec(filter, object.type, paths);
  filter.open("objectSet").object("obj", object).flag("skip", false).close().close();
  filter.flag("partialUpdates", false);
  session.call_bound(filter, login, stop);
  return collector;
}

}  // namespace

bool wait_until(Session& session, const Moref& object, const std::vector<std::string>& paths,
                const std::function<bool(const ObjectProperties&)>& enough,
                std::optional<std::chrono::steady_clock::time_point> deadline, std::stop_token stop) {
  return restarting(session, [&](std::uint64_t login) {
    const Moref collector = follow(session, object, paths, login, stop);
    Followed followed;
    followed.present.object = object;
    std::string version;
    bool reached = false;
    for (bool last = false; !reached && !last;) {
      std::chrono::seconds wait = longest_wait;
      if (deadline) {
        const auto left = std::chrono::ceil<std::chrono::seconds>(*deadline - session.clock().mono());
        wait = std::clamp(left, 0s, longest_wait);
        last = left <= 0s;  // one last look
      }
      Call call("WaitForUpdatesEx", collector);
      call.text("version", version);
      call.open("options").number("maxWaitSeconds", wait.count()).close();
      Node news;
      try {
        news = session.call_bound(call, login, stop, wait)["returnval"];
      } catch (const FaultError& e) {
        // The collector moved with its object to another host, or a lost reply's version is forgotten: begin again.
        if (e.name() == "InvalidCollectorVersion") throw SessionRenewed();
        if (e.name() == "ManagedObjectNotFound" && e.detail().detail["obj"].moref() == collector)
          throw SessionRenewed();
        throw;
      }
      if (!news) continue;
      version = news["version"].text();
      followed.apply(news);
      if (followed.gone) throw_gone(session, object);
      if (!news["truncated"].flag_or(false)) reached = enough(followed.present);
    }
    try {
      session.call_bound(Call("DestroyPropertyCollector", collector), login, stop);
    } catch (const SessionRenewed&) {  // it went with its login
    } catch (const Error& e) {
      session.log().debug("a property collector was left behind", {{"reason", e.what()}});  // it goes with the login
    }
    return reached;
  });
}

}  // namespace vmferry::vsphere
