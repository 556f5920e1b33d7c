// When a request is worth another attempt: one pure function, and the decorator that obeys it.
#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "http/http.hpp"

namespace vmferry::http {

namespace {

using std::chrono::milliseconds;

bool repeatable(const Request& request) noexcept {
  if (request.upload != nullptr) return false;
  return request.idempotent || request.method == "GET" || request.method == "HEAD";
}

bool worth_repeating(const Request& request, const Response* response, const Broken* broken) {
  if (broken != nullptr) {
    // What could not be understood will not be understood the second time.
    if (broken->fault() == Fault::data) return false;
    return repeatable(request) || !broken->may_have_acted();
  }
  // What half an upload has left behind, and whether it is worth the hours, is for the caller to say.
  if (response == nullptr || request.upload != nullptr) return false;
  switch (response->status) {
    case 429:
    case 503:
      return true;
    case 500:
    case 502:
    case 504:
      return repeatable(request);
    default:
      return false;
  }
}

milliseconds backoff(const RetryPolicy& policy, int attempt) {
  milliseconds wait = policy.first_wait;
  for (int i = 1; i < attempt && wait < policy.longest_wait; ++i) wait *= 2;
  return std::min(wait, policy.longest_wait);
}

// RFC 9110, 10.2.3: a number of seconds or a date. Nothing when it is neither.
std::optional<std::chrono::seconds> retry_after(const std::string& value, std::chrono::system_clock::time_point now) {
  if (value.empty()) return std::nullopt;
  constexpr std::int64_t a_year = 366LL * 86400;
  if (value.find_first_not_of("0123456789") == std::string::npos) {
    std::int64_t seconds = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
    if (error == std::errc::result_out_of_range) return std::chrono::seconds(a_year);
    return std::chrono::seconds(std::min(seconds, a_year));
  }
  const time_t date = curl_getdate(value.c_str(), nullptr);
  if (date < 0) return std::nullopt;
  const std::int64_t today = std::chrono::ceil<std::chrono::seconds>(now.time_since_epoch()).count();
  return std::chrono::seconds(std::clamp<std::int64_t>(static_cast<std::int64_t>(date) - today, 0, a_year));
}

class Retrying final : public Transport {
 public:
  Retrying(std::unique_ptr<Transport> inner, RetryPolicy policy, Clock& clock, log::Log& log)
      : inner_(std::move(inner)), policy_(policy), clock_(clock), log_(log) {}

  Response send(const Request& request, std::stop_token stop) override {
    for (int attempt = 1;; ++attempt) {
      std::optional<Response> response;
      std::optional<Broken> broken;
      try {
        response = inner_->send(request, stop);
      } catch (const Broken& e) {
        broken = e;
      }
      const auto wait = retry_wait(policy_, request, attempt, response ? &*response : nullptr,
                                   broken ? &*broken : nullptr, clock_.wall());
      if (!wait && broken) throw Broken(*broken);
      if (!wait) return std::move(*response);
      log_.warning("request failed, trying again",
                   {{"method", request.method},
                    {"reason", broken ? std::string(broken->what()) : fmt::format("HTTP status {}", response->status)},
                    {"attempt", fmt::format("{} of {}", attempt, policy_.attempts)},
                    {"wait_ms", fmt::format("{}", wait->count())}});
      sleep_or_cancel(clock_, *wait, stop);
    }
  }

 private:
  std::unique_ptr<Transport> inner_;
  const RetryPolicy policy_;
  Clock& clock_;
  log::Log& log_;
};

}  // namespace

std::optional<milliseconds> retry_wait(const RetryPolicy& policy, const Request& request, int attempt,
                                       const Response* response, const Broken* broken,
                                       std::chrono::system_clock::time_point now) {
  if (attempt >= policy.attempts || !worth_repeating(request, response, broken)) return std::nullopt;
  const milliseconds own = backoff(policy, attempt);
  if (response == nullptr) return own;
  const auto asked = retry_after(response->header("Retry-After"), now);
  if (!asked) return own;
  // Coming back earlier than asked only makes a loaded service worse; the caller decides what a long refusal means.
  if (*asked > policy.longest_retry_after) return std::nullopt;
  return std::max(own, milliseconds(*asked));
}

std::unique_ptr<Transport> retrying(std::unique_ptr<Transport> inner, RetryPolicy policy, Clock& clock, log::Log& log) {
  return std::make_unique<Retrying>(std::move(inner), policy, clock, log);
}

}  // namespace vmferry::http
