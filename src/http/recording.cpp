// The decorators that keep exchanges and play them back. What they keep never holds a secret.
#include <errno.h>
#include <fmt/format.h>

#include <string.h>
#include <sys/stat.h>
#include <cctype>

#include <mutex>

#include "http/exchange_file.hpp"
#include "http/http.hpp"

namespace vmferry::http {

namespace {

constexpr std::string_view mask = "***";

// An upload leaves its place, not its bytes; how many there are differs from run to run.
std::string body_of(const Request& request) {
  return request.upload != nullptr ? fmt::format("({} bytes)", mask) : request.body;
}

Headers clean(const log::Redactor& redactor, const Headers& headers) {
  Headers out;
  for (const auto& [name, value] : headers) {
    // Cleaned as the line it was, since it is the name that tells a secret value.
    const std::string line = redactor.clean(name + ": " + value);
    out.emplace_back(name, line.size() >= name.size() + 2 ? line.substr(name.size() + 2) : std::string(mask));
  }
  return out;
}

// A secret that a header hands out for the first time may stand in the body beside it as well (vSphere's references of
// objects of a session contain the session's key), so it is learned before anything is cleaned.
void learn(log::Redactor& redactor, const Headers& headers) {
  for (const auto& [name, value] : headers) {
    std::string lowered = name;
    for (char& c : lowered) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    std::string secret = value;
    if (lowered == "set-cookie") {
      secret = value.substr(0, value.find(';'));
      secret.erase(0, secret.find('=') + 1);
    } else if (lowered != "x-subject-token") {
      continue;
    }
    std::erase(secret, '"');
    if (!secret.empty()) redactor.add(Secret(std::move(secret)));
  }
}

class Recording final : public Transport {
 public:
  Recording(std::unique_ptr<Transport> inner, std::filesystem::path directory, std::string service, log::Log& log)
      : inner_(std::move(inner)), directory_(std::move(directory)), service_(std::move(service)), log_(log) {
    std::error_code error;
    std::filesystem::create_directories(directory_.parent_path(), error);
    if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST)
      throw Error(Fault::config,
                  fmt::format("cannot make the folder {} for the recording: {}", directory_.string(), strerror(errno)));
    if (::chmod(directory_.c_str(), 0700) != 0)
      throw Error(Fault::config,
                  fmt::format("cannot make the folder {} private: {}", directory_.string(), strerror(errno)));
  }

  Response send(const Request& request, std::stop_token stop) override {
    try {
      Response response = inner_->send(request, stop);
      keep(request, &response, nullptr);
      return response;
    } catch (const Broken& e) {
      keep(request, nullptr, &e);
      throw;
    }
  }

 private:
  // A full disk must not break the work that is being recorded.
  void keep(const Request& request, const Response* response, const Broken* broken) noexcept {
    try {
      log::Redactor& redactor = log_.redactor();
      if (response != nullptr) learn(redactor, response->headers);
      RecordedExchange x;
      x.service = service_;
      x.method = request.method;
      x.path = redactor.clean(path_and_query(request.url));
      x.request_headers = clean(redactor, request.headers);
      x.request_body = redactor.clean(body_of(request));
      if (response != nullptr) {
        x.response.status = response->status;
        x.response.headers = clean(redactor, response->headers);
        x.response.body = redactor.clean(response->body);
      }
      if (broken != nullptr)
        x.failure = RecordedFailure{broken->fault(), redactor.clean(broken->what()), broken->may_have_acted()};
      save(directory_, x);
    } catch (const std::exception& e) {
      log_.warning("an exchange could not be recorded", {{"reason", e.what()}});
    }
  }

  std::unique_ptr<Transport> inner_;
  const std::filesystem::path directory_;
  const std::string service_;
  log::Log& log_;
};

// "***" in the recorded text stands for any bytes: what was a known secret then need not be one now.
bool matches(std::string_view recorded, std::string_view actual) {
  std::size_t star = recorded.find(mask);
  if (star == std::string_view::npos) return recorded == actual;
  if (!actual.starts_with(recorded.substr(0, star))) return false;
  actual.remove_prefix(star);
  recorded.remove_prefix(star + mask.size());
  while ((star = recorded.find(mask)) != std::string_view::npos) {
    const std::string_view piece = recorded.substr(0, star);
    const std::size_t at = actual.find(piece);
    if (at == std::string_view::npos) return false;
    actual.remove_prefix(at + piece.size());
    recorded.remove_prefix(star + mask.size());
  }
  return actual.ends_with(recorded);
}

class Replaying final : public Transport {
 public:
  Replaying(const std::filesystem::path& directory, std::string service)
      : directory_(directory), service_(std::move(service)) {
    for (RecordedExchange& x : load(directory, service_)) exchanges_.push_back({std::move(x), false});
  }

  Response send(const Request& request, std::stop_token stop) override {
    if (stop.stop_requested()) throw Cancelled();
    const std::string path = redactor_.clean(path_and_query(request.url));
    const std::string body = redactor_.clean(body_of(request));
    const std::scoped_lock lock(mutex_);
    for (Item& item : exchanges_) {
      const RecordedExchange& x = item.exchange;
      if (item.used || x.method != request.method || !matches(x.path, path) || !matches(x.request_body, body)) continue;
      item.used = true;
      if (x.failure) throw Broken(x.failure->fault, x.failure->message, x.failure->acted);
      return x.response;
    }
    constexpr std::size_t shown = 300;
    throw Error(
        Fault::not_found,
        fmt::format("the recording in {} has no further answer of {} to {} {}{}", directory_.string(), service_,
                    request.method, path, body.empty() ? "" : fmt::format(" with the body {}", body.substr(0, shown))));
  }

 private:
  struct Item {
    RecordedExchange exchange;
    bool used;
  };
  const std::filesystem::path directory_;
  const std::string service_;
  const log::Redactor redactor_;
  std::mutex mutex_;
  std::vector<Item> exchanges_;
};

}  // namespace

std::unique_ptr<Transport> recording(std::unique_ptr<Transport> inner, std::filesystem::path directory,
                                     std::string service, log::Log& log) {
  return std::make_unique<Recording>(std::move(inner), std::move(directory), std::move(service), log);
}

std::unique_ptr<Transport> replaying(std::filesystem::path directory, std::string service) {
  return std::make_unique<Replaying>(directory, std::move(service));
}

}  // namespace vmferry::http
