// Exchanges as JSON files, numbered under a lock.
#include "http/exchange_file.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/fd.hpp"

namespace vmferry::http {

namespace {

using nlohmann::json;

Error cannot(const std::string& what, const std::filesystem::path& path) {
  return Error(Fault::config, fmt::format("cannot {} the recording {}: {}", what, path.string(), strerror(errno)));
}

void write_all(const Fd& fd, std::string_view text, const std::filesystem::path& path) {
  while (!text.empty()) {
    const ssize_t put = ::write(fd.get(), text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw cannot("write", path);
    text.remove_prefix(static_cast<std::size_t>(put));
  }
}

unsigned number_of(const std::filesystem::path& file) {
  const std::string name = file.filename().string();
  unsigned number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && file.extension() == ".json" ? number : 0;
}

std::vector<std::filesystem::path> numbered_files(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (number_of(entry.path()) != 0) files.push_back(entry.path());
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return std::pair(number_of(a), a.string()) < std::pair(number_of(b), b.string());
  });
  return files;
}

// The counter is a file under flock: several processes and threads record into one folder.
unsigned next_number(const std::filesystem::path& directory) {
  const std::filesystem::path counter = directory / ".sequence";
  const Fd fd(::open(counter.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) throw cannot("number", counter);
  while (::flock(fd.get(), LOCK_EX) != 0)
    if (errno != EINTR) throw cannot("lock", counter);
  char text[16] = {};
  const ssize_t got = ::pread(fd.get(), text, sizeof text - 1, 0);
  unsigned last = 0;
  if (got > 0) std::from_chars(text, text + got, last);
  if (last == 0) {
    // New, or emptied by a crash: go on after what is there.
    const auto files = numbered_files(directory);
    if (!files.empty()) last = number_of(files.back());
  }
  const std::string next = fmt::format("{}", last + 1);
  if (::pwrite(fd.get(), next.data(), next.size(), 0) != static_cast<ssize_t>(next.size()))
    throw cannot("number", counter);
  return last + 1;
}

json text_or_bytes(const std::string& bytes) {
  try {
    json text = bytes;
    [[maybe_unused]] const std::string checks_utf8 = text.dump();
    return text;
  } catch (const json::exception&) {
    return json{{"base64", base64(bytes)}};
  }
}

std::string from_text_or_bytes(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  const std::string encoded = value.at("base64").get<std::string>();
  std::string bytes(encoded.size(), '\0');
  const int length =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                      reinterpret_cast<const unsigned char*>(encoded.data()), static_cast<int>(encoded.size()));
  if (length < 0) throw Error(Fault::data, "not base64");
  const auto padding = static_cast<std::size_t>(
      std::count(encoded.end() - std::min<long>(2, static_cast<long>(encoded.size())), encoded.end(), '='));
  bytes.resize(static_cast<std::size_t>(length) - padding);
  return bytes;
}

json headers_to_json(const Headers& headers) {
  json list = json::array();
  for (const auto& [name, value] : headers) list.push_back(json::array({text_or_bytes(name), text_or_bytes(value)}));
  return list;
}

Headers headers_from_json(const json& list) {
  Headers headers;
  for (const json& pair : list) headers.emplace_back(from_text_or_bytes(pair.at(0)), from_text_or_bytes(pair.at(1)));
  return headers;
}

Fault fault_named(const std::string& name) {
  for (const Fault fault : {Fault::auth, Fault::unavailable, Fault::timeout, Fault::data})
    if (to_string(fault) == name) return fault;
  throw Error(Fault::data, fmt::format("unknown fault '{}'", name));
}

RecordedExchange parse(const std::string& text) {
  const json file = json::parse(text);
  RecordedExchange x;
  x.service = file.at("service").get<std::string>();
  x.method = file.at("method").get<std::string>();
  x.path = from_text_or_bytes(file.at("path"));
  x.request_headers = headers_from_json(file.at("request").at("headers"));
  x.request_body = from_text_or_bytes(file.at("request").at("body"));
  if (file.contains("failure")) {
    const json& failure = file.at("failure");
    x.failure = RecordedFailure{fault_named(failure.at("fault").get<std::string>()),
                                from_text_or_bytes(failure.at("message")), failure.at("may_have_acted").get<bool>()};
    return x;
  }
  x.response.status = file.at("response").at("status").get<int>();
  x.response.headers = headers_from_json(file.at("response").at("headers"));
  x.response.body = from_text_or_bytes(file.at("response").at("body"));
  return x;
}

std::string slurp(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw cannot("read", file);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

std::string path_and_query(const std::string& url) {
  const std::size_t scheme = url.find("://");
  const std::size_t slash = url.find_first_of("/?#", scheme == std::string::npos ? 0 : scheme + 3);
  if (slash == std::string::npos) return "/";
  std::string path = url.substr(slash, url.find('#', slash) - slash);
  return path.starts_with('/') ? path : "/" + path;
}

void save(const std::filesystem::path& directory, const RecordedExchange& x) {
  json file{{"service", x.service},
            {"method", x.method},
            {"path", text_or_bytes(x.path)},
            {"request", {{"headers", headers_to_json(x.request_headers)}, {"body", text_or_bytes(x.request_body)}}}};
  if (x.failure)
    file["failure"] = {{"fault", to_string(x.failure->fault)},
                       {"message", text_or_bytes(x.failure->message)},
                       {"may_have_acted", x.failure->acted}};
  else
    file["response"] = {{"status", x.response.status},
                        {"headers", headers_to_json(x.response.headers)},
                        {"body", text_or_bytes(x.response.body)}};
  const std::string name = fmt::format("{:06}-{}.json", next_number(directory), x.method);
  // Renamed when complete, so that a reader never sees half an exchange.
  const std::filesystem::path unfinished = directory / ("." + name + ".part");
  const Fd fd(::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) throw cannot("write", unfinished);
  write_all(fd, file.dump(1) + "\n", unfinished);
  if (::rename(unfinished.c_str(), (directory / name).c_str()) != 0) throw cannot("finish", unfinished);
}

std::vector<RecordedExchange> load(const std::filesystem::path& directory, const std::string& service) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error))
    throw Error(Fault::not_found, fmt::format("there is no recording in {}", directory.string()));
  std::vector<RecordedExchange> exchanges;
  for (const std::filesystem::path& file : numbered_files(directory)) {
    try {
      RecordedExchange x = parse(slurp(file));
      if (x.service == service) exchanges.push_back(std::move(x));
    } catch (const json::exception& e) {
      throw Error(Fault::data, fmt::format("{} is not a recorded exchange: {}", file.string(), e.what()));
    } catch (Error& e) {
      throw e.during("reading " + file.string());
    }
  }
  return exchanges;
}

}  // namespace vmferry::http
