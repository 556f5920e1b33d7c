// What is recorded can be played back and holds no secret; numbers never collide.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "http/http.hpp"
#include "support/lab.hpp"
#include "test_paths.hpp"

namespace vmferry::http {
namespace {

// Answers with what it is told to.
class Canned final : public Transport {
 public:
  explicit Canned(std::function<Response(const Request&)> answer) : answer_(std::move(answer)) {}
  Response send(const Request& request, std::stop_token) override { return answer_(request); }

 private:
  std::function<Response(const Request&)> answer_;
};

std::unique_ptr<Transport> canned(std::function<Response(const Request&)> answer) {
  return std::make_unique<Canned>(std::move(answer));
}

std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::string everything_in(const std::filesystem::path& folder) {
  std::stringstream text;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) text << std::ifstream(entry.path()).rdbuf();
  return text.str();
}

unsigned mode_of(const std::filesystem::path& path) {
  struct stat s {};
  EXPECT_EQ(::stat(path.c_str(), &s), 0) << path;
  return s.st_mode & 07777;
}

Request post(std::string url, std::string body, Headers headers = {}) {
  Request request;
  request.method = "POST";
  request.url = std::move(url);
  request.body = std::move(body);
  request.headers = std::move(headers);
  return request;
}

const std::string login = R"(<?xml version="1.0"?><soap:Envelope><Login><userName>root</userName><password>)";
const std::string login_end = "</password></Login></soap:Envelope>";

class Bytes final : public Upload {
 public:
  explicit Bytes(std::string text) : text_(std::move(text)) {}
  std::uint64_t bytes() const override { return text_.size(); }
  std::size_t read(std::uint64_t offset, char* into, std::size_t size) override {
    return text_.copy(into, size, offset);
  }

 private:
  std::string text_;
};

class RecordingTest : public testing::Test {
 protected:
  support::TemporaryDirectory tmp_;
  std::filesystem::path folder_ = tmp_.path() / "recordings" / "run1";
  log::Log log_;
};

TEST_F(RecordingTest, ASoapLoginIsKeptWithoutPasswordAndSession) {
  log_.redactor().add(Secret(std::string("n0t-in-a-pattern")));
  auto transport =
      recording(canned([](const Request&) {
                  return Response{200,
                                  {{"Set-Cookie", "vmware_soap_session=\"5e55104\"; Path=/; HttpOnly"}},
                                  "<returnval><key>52a5b3d2-0b1c-4d5e-8f90-123456789abc</key></returnval>"};
                }),
                folder_, "vsphere", log_);
  transport->send(post("https://vc/sdk", login + "hunter2" + login_end,
                       {{"Authorization", "Basic cm9vdDpodW50ZXIy"}, {"X-Note", "n0t-in-a-pattern"}}),
                  {});
  const std::string kept = everything_in(folder_);
  for (const char* secret : {"hunter2", "5e55104", "cm9vdDpodW50ZXIy", "n0t-in-a-pattern", "52a5b3d2"})
    EXPECT_EQ(kept.find(secret), std::string::npos) << secret;
  EXPECT_NE(kept.find("<userName>root"), std::string::npos);
  ASSERT_EQ(files_in(folder_).size(), 1U);
  EXPECT_EQ(files_in(folder_)[0].filename(), "000001-POST.json");
}

TEST_F(RecordingTest, FilesAreForTheOwnerOnly) {
  const mode_t before = ::umask(0);
  auto transport = recording(canned([](const Request&) { return Response{200, {}, ""}; }), folder_, "vsphere", log_);
  transport->send(Request{}, {});
  ::umask(before);
  EXPECT_EQ(mode_of(folder_), 0700U);
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    EXPECT_EQ(mode_of(entry.path()), 0600U) << entry.path();
}

TEST_F(RecordingTest, PlaysBackInOrderWithAnotherPasswordAndHost) {
  int count = 0;
  auto transport = recording(
      canned([&](const Request&) {
        return Response{200, {{"Set-Cookie", "vmware_soap_session=\"abc\"; Path=/"}}, std::to_string(++count)};
      }),
      folder_, "vsphere", log_);
  transport->send(post("https://vc:443/sdk?a=1", login + "first" + login_end), {});
  transport->send(post("https://vc:443/sdk?a=1", login + "first" + login_end), {});
  transport->send(post("https://vc:443/sdk?a=1", "<Other/>"), {});

  auto replay = replaying(folder_, "vsphere");
  EXPECT_EQ(replay->send(post("https://127.0.0.1:8989/sdk?a=1", "<Other/>"), {}).body, "3");
  const Response first = replay->send(post("https://127.0.0.1:8989/sdk?a=1", login + "another" + login_end), {});
  EXPECT_EQ(first.body, "1");
  EXPECT_EQ(first.status, 200);
  EXPECT_EQ(first.header("set-cookie"), "vmware_soap_session=***; Path=/");
  EXPECT_EQ(replay->send(post("http://x/sdk?a=1", login + "another" + login_end), {}).body, "2");
}

TEST_F(RecordingTest, SaysWhichCallTheRecordingLacks) {
  auto transport = recording(canned([](const Request&) { return Response{200, {}, "x"}; }), folder_, "openstack", log_);
  transport->send(post("https://c/v3/volumes", "{}"), {});
  auto replay = replaying(folder_, "openstack");
  replay->send(post("https://c/v3/volumes", "{}"), {});
  const auto lacks = [&](const Request& request) {
    try {
      replay->send(request, {});
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::not_found);
      return std::string(e.what());
    }
    return std::string("answered");
  };
  EXPECT_NE(lacks(post("https://c/v3/volumes", "{}")).find("POST /v3/volumes"), std::string::npos) << "used up";
  EXPECT_NE(lacks(post("https://c/v3/volumes?x=1", "{}")).find("/v3/volumes?x=1"), std::string::npos);
  EXPECT_NE(lacks(post("https://c/v3/volumes", R"({"password":"s3cret"})")).find(R"({"password":"***"})"),
            std::string::npos);
  Request get;
  get.url = "https://c/v3/volumes";
  EXPECT_NE(lacks(get).find("GET"), std::string::npos);
  EXPECT_THROW(replaying(folder_, "vsphere")->send(post("https://c/v3/volumes", "{}"), {}), Error) << "another service";
  EXPECT_THROW(replaying(folder_ / "no", "vsphere"), Error);
}

TEST_F(RecordingTest, ASecretKnownOnlyWhileRecordingStillMatches) {
  log_.redactor().add(Secret(std::string("deep-secret")));
  auto transport = recording(canned([](const Request&) { return Response{200, {}, "x"}; }), folder_, "s", log_);
  transport->send(post("https://h/a/deep-secret/b", "x deep-secret y"), {});
  auto replay = replaying(folder_, "s");
  EXPECT_THROW(replay->send(post("https://h/a/other/b", "x other z"), {}), Error);
  EXPECT_EQ(replay->send(post("https://h/a/other/b", "x other y"), {}).body, "x");
}

TEST_F(RecordingTest, KeepsBytesThatAreNoText) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  for (const std::size_t length : {256U, 255U, 254U, 0U}) {
    const std::filesystem::path folder = tmp_.path() / std::to_string(length);
    const std::string body = bytes.substr(256 - length);
    auto transport = recording(canned([&](const Request&) {
                                 return Response{206, {{"X", "\xff"}}, body};
                               }),
                               folder, "s", log_);
    transport->send(post("https://h/", body), {});
    const Response back = replaying(folder, "s")->send(post("https://h/", body), {});
    EXPECT_EQ(back.body, body) << length;
    EXPECT_EQ(back.header("X"), "\xff");
  }
}

TEST_F(RecordingTest, ABrokenExchangeBreaksAgain) {
  auto transport = recording(canned([](const Request&) -> Response { throw Broken(Fault::timeout, "too slow", true); }),
                             folder_, "s", log_);
  EXPECT_THROW(transport->send(post("https://h/", "x"), {}), Broken);
  try {
    replaying(folder_, "s")->send(post("https://h/", "x"), {});
    FAIL() << "answered";
  } catch (const Broken& e) {
    EXPECT_EQ(e.fault(), Fault::timeout);
    EXPECT_TRUE(e.may_have_acted());
    EXPECT_STREQ(e.what(), "too slow");
  }
}

TEST_F(RecordingTest, NumbersOfThreadsAndProcessesDoNotCollide) {
  const auto record_some = [&] {
    log::Log quiet;
    auto transport = recording(canned([](const Request&) { return Response{200, {}, ""}; }), folder_, "s", quiet);
    for (int i = 0; i < 10; ++i) {
      Request request;
      request.method = i % 2 == 0 ? "GET" : "PUT";
      transport->send(request, {});
    }
  };
  std::vector<pid_t> children;
  for (int p = 0; p < 3; ++p) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      record_some();
      ::_exit(0);
    }
    children.push_back(pid);
  }
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 3; ++t) threads.emplace_back(record_some);
  }
  for (const pid_t pid : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  std::set<std::string> numbers;
  for (const auto& file : files_in(folder_)) numbers.insert(file.filename().string().substr(0, 6));
  EXPECT_EQ(files_in(folder_).size(), 60U);
  EXPECT_EQ(numbers.size(), 60U);
  EXPECT_EQ(*numbers.rbegin(), "000060");
}

TEST_F(RecordingTest, GoesOnAfterTheNumbersThatAreThere) {
  auto transport = recording(canned([](const Request&) { return Response{200, {}, ""}; }), folder_, "s", log_);
  transport->send(Request{}, {});
  transport->send(Request{}, {});
  std::ofstream(folder_ / ".sequence").close();  // a crash between making and writing it
  transport->send(Request{}, {});
  EXPECT_EQ(files_in(folder_).back().filename(), "000003-GET.json");
}

TEST_F(RecordingTest, AFolderThatCannotBeWrittenDoesNotBreakTheWork) {
  auto transport = recording(canned([](const Request&) { return Response{200, {}, "answer"}; }), folder_, "s", log_);
  std::filesystem::remove_all(folder_);
  EXPECT_EQ(transport->send(Request{}, {}).body, "answer");
}

TEST_F(RecordingTest, NamesADamagedFile) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "000001-GET.json") << "{\"service\": \"s\"";
  try {
    replaying(folder_, "s");
    FAIL() << "loaded";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::data);
    EXPECT_NE(std::string(e.what()).find("000001-GET.json"), std::string::npos);
  }
}

TEST_F(RecordingTest, PlaysARecordingFromDisk) {
  auto replay = replaying(std::filesystem::path(test::data_directory) / "http/recording", "openstack");
  Request request =
      post("https://cloud.example:5000/v3/auth/tokens",
           R"({"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"demo","password":"mine"}}}}})");
  const Response response = replay->send(request, {});
  EXPECT_EQ(response.status, 201);
  EXPECT_EQ(response.header("X-Subject-Token"), "***");
  EXPECT_EQ(nlohmann::json::parse(response.body).at("token").at("user").at("name"), "demo");
}

TEST_F(RecordingTest, AnUploadLeavesItsPlaceAndNotItsBytes) {
  Bytes first("the bytes of a disk"), other("of another length, and other bytes");
  Request request = post("https://cloud/v2/images/1/file", "");
  request.upload = &first;
  recording(canned([](const Request&) {
              return Response{204, {}, ""};
            }),
            folder_, "openstack", log_)
      ->send(request, {});
  EXPECT_EQ(everything_in(folder_).find("the bytes"), std::string::npos);
  request.upload = &other;
  EXPECT_EQ(replaying(folder_, "openstack")->send(request, {}).status, 204);
}

}  // namespace
}  // namespace vmferry::http
