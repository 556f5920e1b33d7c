// The wording and classing of refused calls: one table over status and the service's own words.
#include "openstack/errors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string_view>

namespace vmferry::openstack {

namespace {

using nlohmann::json;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// One line, without control characters, of bounded length: an answer is shown to a person.
std::string one_line(std::string_view text) {
  constexpr std::size_t longest = 500;
  std::string out;
  for (const char c : text) {
    const bool space = static_cast<unsigned char>(c) <= ' ' || c == 0x7f;
    if (space && (out.empty() || out.back() == ' ')) continue;
    out.push_back(space ? ' ' : c);
    if (out.size() >= longest) {
      out += "...";
      break;
    }
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

// A gateway's HTML page as its words.
std::string without_markup(std::string_view html) {
  std::string out;
  bool inside = false;
  for (const char c : html) {
    if (c == '<') inside = true;
    if (!inside) out.push_back(c);
    if (c == '>') {
      inside = false;
      out.push_back(' ');
    }
  }
  return out;
}

std::string text_at(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

struct Words {
  std::string name;
  std::string message;
};

// The bodies there are: {"error":{"code","title","message"}} (Keystone), {"itemNotFound":{"code","message"}} (Nova,
// Cinder),
// {"NeutronError":{"type","message","detail"}} (Neutron, also as a plain text), {"message","code"} and {"faultstring"}
// (pecan), {"errors":[{"detail"}]} (microversion and Placement errors).
Words words(const std::string& body) {
  const json document = json::parse(body, nullptr, false);
  if (!document.is_object()) return {};
  if (const std::string plain = text_at(document, "faultstring"); !plain.empty()) return {"", plain};
  if (const std::string plain = text_at(document, "message"); !plain.empty()) return {"", plain};
  if (const auto list = document.find("errors");
      list != document.end() && list->is_array() && !list->empty() && list->front().is_object()) {
    const json& first = list->front();
    const std::string detail = text_at(first, "detail");
    return {text_at(first, "code"), detail.empty() ? text_at(first, "title") : detail};
  }
  for (const auto& [name, value] : document.items()) {
    if (value.is_string()) return {name, value.get<std::string>()};
    if (!value.is_object()) continue;
    const std::string type = text_at(value, "type");
    const std::string title = text_at(value, "title");
    return {!type.empty() ? type : (name == "error" ? title : name), text_at(value, "message")};
  }
  return {};
}

struct Verdict {
  Fault fault;
  std::string_view remedy;  // what to do, or empty
};

bool speaks_of_quota(const std::string& name, const std::string& message) {
  const std::string all = lower(name + " " + message);
  constexpr std::array<std::string_view, 4> marks{"quota", "overlimit", "maximum number of ports exceeded",
                                                  "limit exceeded"};
  return std::any_of(marks.begin(), marks.end(),
                     [&](std::string_view mark) { return all.find(mark) != std::string::npos; });
}

Verdict verdict(int status, const Words& said) {
  const bool quota = speaks_of_quota(said.name, said.message);
  switch (status) {
    case 401:
      return {Fault::auth, "check the user, project and password or application credential"};
    case 403:
      if (quota) return {Fault::quota, "free some, or have the project's quota raised"};
      return {Fault::auth, "the user's roles in this project do not allow it: ask the cloud's operator"};
    case 404:
      return {Fault::not_found, ""};
    case 409:
      // Neutron answers OverQuota with 409, Nova and Cinder with 403 and 413.
      if (quota && lower(said.name).find("inuse") == std::string::npos)
        return {Fault::quota, "free some, or have the project's quota raised"};
      return {Fault::conflict, ""};
    case 413:
      return {Fault::quota, "free some, or have the project's quota raised"};
    case 429:
      return {Fault::unavailable, "the cloud limits the rate of calls: try again later"};
    case 406:
    case 501:
    case 405:
      return {Fault::unsupported, ""};
    default:
      break;
  }
  // Cinder's and Nova's words for "not in this state" come as 400 as well: "Volume status must be available ...".
  if (status == 400 && lower(said.message).find("status must be") != std::string::npos) return {Fault::conflict, ""};
  if (status >= 500)
    return {Fault::unavailable, "try again later; if it stays, give the request id to the cloud's operator"};
  return {Fault::config, ""};
}

}  // namespace

std::string error_text(const http::Response& response) {
  std::string message = words(response.body).message;
  // WebOb puts Glance's sentences into JSON with the line breaks of its HTML.
  if (message.find("<br") != std::string::npos) message = without_markup(message);
  message = one_line(message);
  if (message.empty() && json::parse(response.body, nullptr, false).is_discarded())
    message = one_line(without_markup(response.body));
  return message.empty() ? fmt::format("no reason given (HTTP status {})", response.status) : message;
}

std::string error_name(const http::Response& response) { return one_line(words(response.body).name); }

std::string request_id(const http::Response& response) {
  // Nova, Cinder and Keystone send the first; older ones the second.
  std::string id = response.header("x-openstack-request-id");
  if (id.empty()) id = response.header("x-compute-request-id");
  return one_line(id);
}

Refused refusal(const std::string& service, const std::string& doing, const http::Response& response) {
  const Words said = words(response.body);
  const Verdict judged = verdict(response.status, said);
  std::string text = error_text(response);
  while (!text.empty() && text.back() == '.') text.pop_back();
  std::string message = fmt::format("{} refused to {}: {} (HTTP {}", service, doing, text, response.status);
  if (response.status >= 500)
    message = fmt::format("{} failed to {}: {} (HTTP {}", service, doing, text, response.status);
  if (const std::string id = request_id(response); !id.empty()) message += ", " + id;
  message += ")";
  if (!judged.remedy.empty()) message += fmt::format("; {}", judged.remedy);
  return Refused(judged.fault, message, one_line(said.name), response.status);
}

bool worth_another_look(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Refused& refused) {
    // 409 while the volume or instance is in the middle of something; 400 also for a volume's wrong status.
    return refused.status() == 409 || refused.status() == 400 || refused.status() >= 500;
  } catch (const http::Broken& broken) {
    return broken.may_have_acted();
  } catch (...) {
    return false;
  }
}

}  // namespace vmferry::openstack
