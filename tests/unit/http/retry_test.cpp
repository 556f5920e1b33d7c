// The rules of repetition, as a table, and the decorator that follows them.
#include <gtest/gtest.h>

#include <deque>

#include "http/http.hpp"
#include "support/fake_clock.hpp"

namespace vmferry::http {
namespace {

using namespace std::chrono_literals;
using Wait = std::optional<std::chrono::milliseconds>;

// 2027-01-15 08:00:00 UTC, as FakeClock has it.
const std::chrono::system_clock::time_point now{std::chrono::seconds(1'800'000'000)};

struct Row {
  const char* what;
  const char* method;
  bool idempotent;
  int attempt;
  int status;               // 0: Broken
  bool acted;               // for Broken
  const char* retry_after;  // "" = absent
  Wait wait;
};

class RetryWait : public testing::TestWithParam<Row> {};

TEST_P(RetryWait, FollowsTheTable) {
  const Row& row = GetParam();
  Request request;
  request.method = row.method;
  request.idempotent = row.idempotent;
  Response response;
  response.status = row.status;
  if (*row.retry_after != '\0') response.headers = {{"retry-after", row.retry_after}};
  const Broken broken(Fault::unavailable, "x", row.acted);
  EXPECT_EQ(retry_wait({}, request, row.attempt, row.status != 0 ? &response : nullptr,
                       row.status == 0 ? &broken : nullptr, now),
            row.wait)
      << row.what;
}

class NoBytes final : public Upload {
 public:
  std::uint64_t bytes() const override { return 0; }
  std::size_t read(std::uint64_t, char*, std::size_t) override { return 0; }
};

TEST(RetryOfAnUpload, OnlyWhenNobodyCanHaveSeenIt) {
  NoBytes upload;
  Request request;
  request.method = "PUT";
  request.idempotent = true;
  request.upload = &upload;
  const Broken unseen(Fault::unavailable, "x", false), seen(Fault::unavailable, "x", true);
  EXPECT_EQ(retry_wait({}, request, 1, nullptr, &unseen, now), Wait(500ms));
  EXPECT_EQ(retry_wait({}, request, 1, nullptr, &seen, now), Wait());
  for (const int status : {429, 500, 503}) {
    Response response;
    response.status = status;
    EXPECT_EQ(retry_wait({}, request, 1, &response, nullptr, now), Wait()) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(Broken, RetryWait,
                         testing::Values(Row{"a lost reply to GET", "GET", false, 1, 0, true, "", 500ms},
                                         Row{"HEAD too", "HEAD", false, 1, 0, true, "", 500ms},
                                         Row{"a lost reply to a marked POST", "POST", true, 1, 0, true, "", 500ms},
                                         Row{"a lost reply to any other POST", "POST", false, 1, 0, true, "", {}},
                                         Row{"a lost reply to DELETE", "DELETE", false, 1, 0, true, "", {}},
                                         Row{"a POST that never left", "POST", false, 1, 0, false, "", 500ms}));

INSTANTIATE_TEST_SUITE_P(Statuses, RetryWait,
                         testing::Values(Row{"success", "GET", true, 1, 200, false, "", {}},
                                         Row{"not found", "GET", true, 1, 404, false, "", {}},
                                         Row{"conflict", "POST", true, 1, 409, false, "", {}},
                                         Row{"quota", "POST", true, 1, 413, false, "", {}},
                                         Row{"unauthorized", "GET", true, 1, 401, false, "", {}},
                                         Row{"500 on GET", "GET", false, 1, 500, false, "", 500ms},
                                         Row{"500 on POST", "POST", false, 1, 500, false, "", {}},
                                         Row{"500 on a marked POST", "POST", true, 1, 500, false, "", 500ms},
                                         Row{"501", "GET", true, 1, 501, false, "", {}},
                                         Row{"502 on POST", "POST", false, 1, 502, false, "", {}},
                                         Row{"502 on GET", "GET", false, 1, 502, false, "", 500ms},
                                         Row{"504 on POST", "POST", false, 1, 504, false, "", {}},
                                         Row{"504 on GET", "GET", false, 1, 504, false, "", 500ms},
                                         Row{"503 on POST", "POST", false, 1, 503, false, "", 500ms},
                                         Row{"429 on POST", "POST", false, 1, 429, false, "", 500ms}));

INSTANTIATE_TEST_SUITE_P(Attempts, RetryWait,
                         testing::Values(Row{"second", "GET", false, 2, 500, false, "", 1000ms},
                                         Row{"third", "GET", false, 3, 500, false, "", 2000ms},
                                         Row{"fourth", "GET", false, 4, 500, false, "", 4000ms},
                                         Row{"the fifth was the last", "GET", false, 5, 500, false, "", {}},
                                         Row{"the last, broken", "GET", false, 5, 0, true, "", {}}));

INSTANTIATE_TEST_SUITE_P(
    RetryAfter, RetryWait,
    testing::Values(Row{"seconds", "POST", false, 1, 429, false, "7", 7000ms},
                    Row{"zero is not at once", "GET", false, 1, 503, false, "0", 500ms},
                    Row{"shorter than our own wait", "GET", false, 4, 503, false, "1", 4000ms},
                    Row{"a date", "GET", false, 1, 503, false, "Fri, 15 Jan 2027 08:00:30 GMT", 30000ms},
                    Row{"a date in RFC 850 form", "GET", false, 1, 503, false, "Friday, 15-Jan-27 08:00:30 GMT",
                        30000ms},
                    Row{"a date in the past", "GET", false, 1, 503, false, "Fri, 15 Jan 2027 07:00:00 GMT", 500ms},
                    Row{"nonsense", "GET", false, 1, 503, false, "soon", 500ms},
                    Row{"negative", "GET", false, 1, 503, false, "-5", 500ms},
                    Row{"the longest", "GET", false, 1, 503, false, "120", 120000ms},
                    Row{"longer than we wait", "GET", false, 1, 503, false, "121", {}},
                    Row{"a date too far", "GET", false, 1, 503, false, "Fri, 15 Jan 2027 09:00:00 GMT", {}},
                    Row{"absurd", "GET", false, 1, 429, false, "99999999999999999999999", {}}));

TEST(RetryWaitTable, NeverWaitsLongerThanThePolicySays) {
  RetryPolicy policy;
  policy.attempts = 100;
  Response response;
  response.status = 500;
  for (int attempt = 6; attempt < 100; ++attempt)
    EXPECT_LE(retry_wait(policy, Request{}, attempt, &response, nullptr, now).value(), policy.longest_wait);
}

TEST(RetryWaitTable, AnAnswerThatMakesNoSenseIsNotAskedForAgain) {
  const Broken broken(Fault::data, "too large", true);
  EXPECT_EQ(retry_wait({}, Request{}, 1, nullptr, &broken, now), std::nullopt);
}

// Gives the scripted outcomes one by one and remembers what it was asked.
class Script final : public Transport {
 public:
  using Outcome = std::function<Response()>;
  explicit Script(std::deque<Outcome> outcomes) : outcomes_(std::move(outcomes)) {}
  Response send(const Request& request, std::stop_token) override {
    bodies.push_back(request.body);
    Outcome next = outcomes_.front();
    outcomes_.pop_front();
    return next();
  }
  std::vector<std::string> bodies;

 private:
  std::deque<Outcome> outcomes_;
};

Script::Outcome status(int code, Headers headers = {}) {
  return [=] { return Response{code, headers, "body"}; };
}
Script::Outcome lost(bool acted) {
  return [=]() -> Response { throw Broken(Fault::unavailable, "lost", acted); };
}

struct Rig {
  support::FakeClock clock;
  log::Log log;
  Script* script = nullptr;
  std::unique_ptr<Transport> transport;
  explicit Rig(std::deque<Script::Outcome> outcomes) {
    auto inner = std::make_unique<Script>(std::move(outcomes));
    script = inner.get();
    transport = retrying(std::move(inner), {}, clock, log);
  }
};

TEST(Retrying, RepeatsTheSameRequestUntilItSucceeds) {
  Rig rig({status(503, {{"Retry-After", "3"}}), lost(true), status(200)});
  Request request;
  request.body = "same";
  EXPECT_EQ(rig.transport->send(request, {}).status, 200);
  EXPECT_EQ(rig.script->bodies, (std::vector<std::string>{"same", "same", "same"}));
  EXPECT_EQ(rig.clock.sleeps(), (std::vector<std::chrono::nanoseconds>{3s, 1s}));
}

TEST(Retrying, GivesTheLastAnswerWhenPatienceEnds) {
  Rig rig({status(500), status(500), status(500), status(500), status(502)});
  EXPECT_EQ(rig.transport->send(Request{}, {}).status, 502);
}

TEST(Retrying, HandsOnTheLastBreakWithWhatItKnows) {
  Rig rig({lost(true)});
  Request post;
  post.method = "POST";
  try {
    rig.transport->send(post, {});
    FAIL() << "no break";
  } catch (const Broken& e) {
    EXPECT_TRUE(e.may_have_acted());
    EXPECT_EQ(e.fault(), Fault::unavailable);
  }
  EXPECT_EQ(rig.script->bodies.size(), 1U);
}

TEST(Retrying, OtherErrorsAreNotItsBusiness) {
  Rig rig({[]() -> Response { throw Error(Fault::auth, "certificate"); }});
  EXPECT_THROW(rig.transport->send(Request{}, {}), Error);
  EXPECT_EQ(rig.script->bodies.size(), 1U);
}

TEST(Retrying, StopsWaitingWhenToldTo) {
  std::stop_source stop;
  Rig rig({[&]() -> Response {
    stop.request_stop();
    throw Broken(Fault::unavailable, "lost", false);
  }});
  EXPECT_THROW(rig.transport->send(Request{}, stop.get_token()), Cancelled);
}

TEST(Message, HeadersAreFoundWhateverTheirCase) {
  const Response response{200, {{"Content-Type", "a"}, {"X-Subject-Token", "b"}, {"content-type", "c"}}, ""};
  EXPECT_EQ(response.header("content-TYPE"), "a");
  EXPECT_EQ(response.header("x-subject-token"), "b");
  EXPECT_EQ(response.header("X-Subject"), "");
}

TEST(Message, EncodesOnePathSegment) {
  EXPECT_EQ(encode("DC 1/[ds] vm+a&b=ü~x_y-z.vmdk"), "DC%201%2F%5Bds%5D%20vm%2Ba%26b%3D%C3%BC~x_y-z.vmdk");
  EXPECT_EQ(encode(""), "");
  EXPECT_EQ(encode(std::string_view("\0%", 2)), "%00%25");
}

}  // namespace
}  // namespace vmferry::http
