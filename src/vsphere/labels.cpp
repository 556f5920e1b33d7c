// Two interfaces for one thing: attributes are properties of the machine, tags live in a service of their own.
#include "vsphere/labels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "vsphere/inventory.hpp"
#include "vsphere/properties.hpp"

namespace vmferry::vsphere {

namespace {

using nlohmann::json;

// The tags' REST API, developer.broadcom.com/xapis/vsphere-automation-api/latest/cis/tagging/. /rest came with 6.5,
// packs its answers in "value" and is called old since 7.0 U2, where /api came.
class TagService {
 public:
  TagService(http::Transport& transport, const SessionOptions& login, std::stop_token stop)
      : transport_(transport), base_("https://" + login.endpoint) {
    const std::string basic = "Basic " + http::base64(login.username + ":" + std::string(login.password.reveal()));
    for (const bool wrapped : {true, false}) {
      wrapped_ = wrapped;
      http::Response response = send("POST", "session", "", {{"Authorization", basic}}, stop);
      if (response.status == 404) continue;
      if (response.status == 401)
        throw Error(Fault::auth, fmt::format("{} refuses to log {} in to its REST API, which has the tags",
                                             login.endpoint, login.username));
      const json session = value_of(response, "the login to the REST API");
      if (!session.is_string()) throw Error(Fault::data, "the login to the REST API was answered without a session");
      session_ = session.get<std::string>();
      return;
    }
    throw Error(Fault::unsupported, fmt::format("{} has no REST API, so it has no tags", login.endpoint));
  }
  ~TagService() {
    try {
      send("DELETE", "session", "", {}, {});
    } catch (...) {
      // It ends by itself when it idles.
    }
  }
  TagService(const TagService&) = delete;
  TagService& operator=(const TagService&) = delete;

  std::vector<std::string> attached(const model::VmId& vm, std::stop_token stop) {
    const json object = {{"object_id", {{"id", vm.value}, {"type", "VirtualMachine"}}}};
    const std::string action = wrapped_ ? "?~action=" : "?action=";
    return value_of(send("POST", "tagging/tag-association" + action + "list-attached-tags", object.dump(), {}, stop),
                    "the list of tags");
  }
  // Of the "tag" or "category" with that id; nothing when it has gone or may not be read.
  std::optional<json> get(const std::string& kind, const std::string& id, std::stop_token stop) {
    const std::string place = wrapped_ ? "/id:" : "/";
    const http::Response response = send("GET", "tagging/" + kind + place + http::encode(id), "", {}, stop);
    if (response.status == 404 || response.status == 403) return std::nullopt;
    return value_of(response, "the " + kind + " " + id);
  }

 private:
  http::Response send(const std::string& method, const std::string& path, const std::string& body,
                      const http::Headers& more, std::stop_token stop) {
    http::Request request;
    request.method = method;
    const bool login = path == "session" && !wrapped_;
    request.url = base_ + (wrapped_ ? "/rest/com/vmware/cis/" : login ? "/api/" : "/api/cis/") + path;
    request.headers = more;
    request.headers.emplace_back("Accept", "application/json");
    if (!body.empty()) request.headers.emplace_back("Content-Type", "application/json");
    if (!session_.empty()) request.headers.emplace_back("vmware-api-session-id", session_);
    request.body = body;
    request.idempotent = true;  // one login more does no harm
    return transport_.send(request, stop);
  }
  json value_of(const http::Response& response, const std::string& what) const {
    if (response.status < 200 || response.status > 299)
      throw Error(Fault::unavailable, fmt::format("{} was answered with HTTP {}", what, response.status));
    try {
      const json answer = json::parse(response.body);
      return wrapped_ ? answer.at("value") : answer;
    } catch (const json::exception& e) {
      throw Error(Fault::data, fmt::format("{} cannot be understood: {}", what, e.what()));
    }
  }

  http::Transport& transport_;
  std::string base_;
  std::string session_;
  bool wrapped_ = true;
};

}  // namespace

std::map<std::string, std::string> custom_attributes(Session& session, const model::VmId& vm, std::stop_token stop) {
  const ObjectProperties properties = read(session, vm_ref(vm), {"availableField", "customValue"}, stop);
  std::map<std::int64_t, std::string> names;
  for (const Node& field : properties["availableField"].all("CustomFieldDef"))
    names[field["key"].integer_or(0)] = field["name"].text();
  std::map<std::string, std::string> attributes;
  for (const Node& value : properties["customValue"].all("CustomFieldValue")) {
    const auto name = names.find(value["key"].integer_or(0));
    if (name != names.end() && !value["value"].text().empty()) attributes[name->second] = value["value"].text();
  }
  return attributes;
}

std::map<std::string, std::vector<std::string>> tags(http::Transport& transport, const SessionOptions& login,
                                                     const model::VmId& vm, std::stop_token stop) {
  TagService service(transport, login, stop);
  std::map<std::string, std::vector<std::string>> found;
  try {
    for (const std::string& id : service.attached(vm, stop)) {
      const auto tag = service.get("tag", id, stop);
      if (!tag) continue;
      const auto category = service.get("category", tag->at("category_id").get<std::string>(), stop);
      if (category) found[category->at("name").get<std::string>()].push_back(tag->at("name").get<std::string>());
    }
  } catch (const json::exception& e) {
    throw Error(Fault::data, fmt::format("the tags of {} cannot be understood: {}", vm.value, e.what()));
  }
  for (auto& [category, names] : found) std::sort(names.begin(), names.end());
  return found;
}

}  // namespace vmferry::vsphere
