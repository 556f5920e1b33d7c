// A vSphere server as a script: each method's next answers in order, the last one for good. Remembers what was asked.
#pragma once

#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "http/http.hpp"
#include "test_paths.hpp"

namespace vmferry::vsphere {

inline std::string golden(const std::string& name) {
  std::ifstream in(std::string(test::data_directory) + "/vsphere/" + name);
  if (!in) throw std::runtime_error("no golden file " + name);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

inline std::string envelope(const std::string& body) {
  return "<?xml version=\"1.0\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" "
         "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>" +
         body + "</soapenv:Body></soapenv:Envelope>";
}

class FakeServer final : public http::Transport {
 public:
  using Answer = std::function<http::Response(const http::Request&)>;

  static Answer xml(std::string body, int status = 200) {
    return [=](const http::Request&) { return http::Response{status, {}, body}; };
  }
  static Answer file(const std::string& name) { return xml(golden(name), name.starts_with("fault-") ? 500 : 200); }
  static Answer lost(bool acted) {
    return [=](const http::Request&) -> http::Response {
      throw http::Broken(Fault::unavailable, "the connection broke", acted);
    };
  }
  static Answer logged_in(const std::string& cookie) {
    return [=](const http::Request&) {
      return http::Response{200,
                            {{"Set-Cookie", "vmware_soap_session=\"" + cookie + "\"; Path=/; HttpOnly; Secure;"}},
                            golden("login.xml")};
    };
  }

  FakeServer() {
    on("RetrieveServiceContent", file("service-content.xml"));
    on("Login", logged_in("cookie-1"));
    on("Logout", xml(envelope("<LogoutResponse xmlns=\"urn:vim25\"/>")));
  }
  FakeServer& on(const std::string& method, Answer answer) {
    answers_[method] = {std::move(answer)};
    return *this;
  }
  FakeServer& then(const std::string& method, Answer answer) {
    answers_[method].push_back(std::move(answer));
    return *this;
  }

  http::Response send(const http::Request& request, std::stop_token) override {
    const std::string method = method_of(request.body);
    Answer answer;
    {
      const std::scoped_lock lock(mutex_);
      seen_.push_back({method, request});
      auto found = answers_.find(method);
      if (found == answers_.end()) throw std::runtime_error("the script has no answer to " + method);
      answer = found->second.front();
      if (found->second.size() > 1) found->second.erase(found->second.begin());
    }
    return answer(request);
  }

  int count(const std::string& method) const {
    const std::scoped_lock lock(mutex_);
    int n = 0;
    for (const auto& call : seen_) n += call.first == method;
    return n;
  }
  http::Request last(const std::string& method) const {
    const std::scoped_lock lock(mutex_);
    for (auto call = seen_.rbegin(); call != seen_.rend(); ++call)
      if (call->first == method) return call->second;
    throw std::runtime_error("never called: " + method);
  }

 private:
  static std::string method_of(const std::string& body) {
    const std::string begin = "<soapenv:Body><";
    const auto at = body.find(begin);
    if (at == std::string::npos) throw std::runtime_error("no SOAP: " + body);
    return body.substr(at + begin.size(), body.find(' ', at + begin.size()) - at - begin.size());
  }

  mutable std::mutex mutex_;
  std::map<std::string, std::vector<Answer>> answers_;
  std::vector<std::pair<std::string, http::Request>> seen_;
};

}  // namespace vmferry::vsphere
