// Tags through the newer of the two REST dialects, and what is said when there is none. (The older is the lab's.)
#include <gtest/gtest.h>

#include <functional>

#include "vsphere/labels.hpp"

namespace vmferry::vsphere {
namespace {

class Scripted final : public http::Transport {
 public:
  using Act = std::function<http::Response(const http::Request&)>;
  explicit Scripted(Act act) : act_(std::move(act)) {}
  http::Response send(const http::Request& request, std::stop_token) override {
    seen.push_back(request.method + " " + request.url.substr(request.url.find('/', 8)));
    return act_(request);
  }
  std::vector<std::string> seen;

 private:
  Act act_;
};

SessionOptions login() {
  SessionOptions options;
  options.endpoint = "vcenter:443";
  options.username = "user";
  options.password = Secret(std::string("password"));
  return options;
}

http::Response answer(int status, const std::string& body) { return {status, {}, body}; }

TEST(Tags, ComeFromTheNewDialectWhereTheOldOneIsGone) {
  Scripted server([](const http::Request& request) {
    const std::string path = request.url.substr(request.url.find('/', 8));
    if (path.starts_with("/rest/")) return answer(404, "");
    if (path == "/api/session") return answer(201, R"("token-1")");
    if (path.ends_with("list-attached-tags")) return answer(200, R"(["urn:a","urn:gone"])");
    if (path.ends_with("tag/urn%3Aa")) return answer(200, R"({"name":"daily","category_id":"urn:c"})");
    if (path.ends_with("category/urn%3Ac")) return answer(200, R"({"name":"backup"})");
    return answer(404, "");
  });
  const std::map<std::string, std::vector<std::string>> want = {{"backup", {"daily"}}};
  EXPECT_EQ(tags(server, login(), model::VmId{"vm-7"}, {}), want);
  const std::vector<std::string> seen = {"POST /rest/com/vmware/cis/session",
                                         "POST /api/session",
                                         "POST /api/cis/tagging/tag-association?action=list-attached-tags",
                                         "GET /api/cis/tagging/tag/urn%3Aa",
                                         "GET /api/cis/tagging/category/urn%3Ac",
                                         "GET /api/cis/tagging/tag/urn%3Agone",
                                         "DELETE /api/session"};
  EXPECT_EQ(server.seen, seen);
}

TEST(Tags, ErrorsSayWhat) {
  const auto fault_of = [](int status, const std::string& body) {
    Scripted server([&](const http::Request&) { return answer(status, body); });
    try {
      tags(server, login(), model::VmId{"vm-7"}, {});
    } catch (const Error& e) {
      return e.fault();
    }
    return Fault::bug;
  };
  EXPECT_EQ(fault_of(404, ""), Fault::unsupported);
  EXPECT_EQ(fault_of(401, ""), Fault::auth);
  EXPECT_EQ(fault_of(500, ""), Fault::unavailable);
  EXPECT_EQ(fault_of(200, "<html>"), Fault::data);
  EXPECT_EQ(fault_of(200, R"({"value":7})"), Fault::data);
}

}  // namespace
}  // namespace vmferry::vsphere
