// What must never be read in a log or a recording, and what must stay readable.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "log/log.hpp"

namespace vmferry::log {
namespace {

struct Case {
  const char* text;
  const char* cleaned;
};

class Patterns : public testing::TestWithParam<Case> {};

TEST_P(Patterns, AreHidden) {
  const Redactor redactor;
  EXPECT_EQ(redactor.clean(GetParam().text), GetParam().cleaned);
  // Cleaning twice (a line of a child that already cleaned it) changes nothing more.
  EXPECT_EQ(redactor.clean(redactor.clean(GetParam().text)), redactor.clean(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(
    Headers, Patterns,
    testing::Values(Case{"Authorization: Basic dXNlcjpwYXNz", "Authorization: ***"},
                    Case{"authorization: Bearer abc.def.ghi\r\nAccept: x", "authorization: ***\r\nAccept: x"},
                    Case{"Proxy-Authorization: Basic dXNlcjpwYXNz", "Proxy-Authorization: ***"},
                    Case{"X-Auth-Token: gAAAAABk", "X-Auth-Token: ***"},
                    Case{"X-Subject-Token:gAAAAABk", "X-Subject-Token:***"},
                    Case{"vmware-api-session-id: 1234", "vmware-api-session-id: ***"},
                    Case{"Cookie: vmware_soap_session=\"abc\"; lang=en", "Cookie: vmware_soap_session=***; lang=***"},
                    Case{"Set-Cookie: vmware_soap_session=\"52ab\"; Path=/; HttpOnly; Secure; SameSite=Strict",
                         "Set-Cookie: vmware_soap_session=***; Path=/; HttpOnly; Secure; SameSite=Strict"},
                    Case{"Cookie: opaque", "Cookie: ***"},
                    Case{"got vmware_soap_session=abcdef in it", "got vmware_soap_session=*** in it"},
                    Case{"sent Basic dXNlcjpwYXNzd29yZA== there", "sent Basic *** there"}));

INSTANTIATE_TEST_SUITE_P(Xml, Patterns,
                         testing::Values(Case{"<userName>root</userName><password>hunter2</password>",
                                              "<userName>root</userName><password>***</password>"},
                                         Case{"<vim:password xsi:type=\"xsd:string\">a b</vim:password>",
                                              "<vim:password xsi:type=\"xsd:string\">***</vim:password>"},
                                         Case{"<password/>", "<password/>"},
                                         Case{"<password></password>", "<password></password>"},
                                         Case{"<guestPassword>x</guestPassword>", "<guestPassword>***</guestPassword>"},
                                         Case{"<key>52a5b3d2-0b1c-4d5e-8f90-123456789abc</key>", "<key>***</key>"},
                                         Case{"<key>2000</key><token>1</token>", "<key>2000</key><token>1</token>"}));

INSTANTIATE_TEST_SUITE_P(
    Json, Patterns,
    testing::Values(
        Case{R"({"user":{"name":"a","password":"x\"y"},"k":1})", R"({"user":{"name":"a","password":"***"},"k":1})"},
        Case{R"({"password" : "x" , "b": 2})", R"({"password" : "***" , "b": 2})"},
        Case{R"({"methods":["password"],"password":{"user":{"password":"x"}}})",
             R"({"methods":["password"],"password":{"user":{"password":"***"}}})"},
        Case{R"({"application_credential":{"id":"a1","secret":"zzz"}})",
             R"({"application_credential":{"id":"a1","secret":"***"}})"},
        Case{R"({"methods":["token"],"token":{"id":"gAAAA"}})", R"({"methods":["token"],"token":{"id":"***"}})"},
        Case{R"({"token":{"methods":["password"],"expires_at":"2030"}})",
             R"({"token":{"methods":["password"],"expires_at":"2030"}})"},
        Case{R"({"adminPass":"x"})", R"({"adminPass":"***"})"},
        Case{R"({"discovery_auth_password":"x","keyring":"[client.cinder] key = y"})",
             R"({"discovery_auth_password":"***","keyring":"***"})"},
        Case{R"({"password_expires_at":null,"secret":null})", R"({"password_expires_at":null,"secret":null})"},
        Case{R"(body {\"password\":\"x\",\"n\":1})", R"(body {\"password\":\"***\",\"n\":1})"},
        Case{R"({"password":"ends with backslash\\","n":1})", R"({"password":"***","n":1})"}));

INSTANTIATE_TEST_SUITE_P(
    Text, Patterns,
    testing::Values(Case{"https://admin:pa@ss@vc.example:443/sdk?x=a@b", "https://admin:***@vc.example:443/sdk?x=a@b"},
                    Case{"ssh://root@host/x and nbd://localhost:10809", "ssh://root@host/x and nbd://localhost:10809"},
                    Case{"password=hunter2 user=root", "password=*** user=root"},
                    Case{"--vcenter-password: abc", "--vcenter-password: ***"},
                    Case{"the password was refused; invalid token: expired",
                         "the password was refused; invalid token: expired"},
                    Case{"token=gAAAAABkabcdefghijkl", "token=***"},
                    Case{"a basic check of bearer tokens", "a basic check of bearer tokens"}, Case{"", ""},
                    Case{"password=", "password="}));

TEST(Redactor, HidesAKnownSecretInEveryFormItTravelsIn) {
  Redactor redactor;
  redactor.add(Secret(std::string("p&s <w>\"ö/\\9'")));
  for (const char* form : {"p&s <w>\"ö/\\9'", "p%26s%20%3Cw%3E%22%C3%B6%2F%5C9%27", "p%26s+%3cw%3e%22%c3%b6%2f%5c9%27",
                           "p&amp;s &lt;w&gt;\"ö/\\9'", "p&amp;s &lt;w&gt;&quot;ö/\\9&apos;", "p&s <w>\\\"ö/\\\\9'",
                           "p&s <w>\\\"ö\\/\\\\9'"})
    EXPECT_EQ(redactor.clean(std::string("before ") + form + " after"), "before *** after") << form;
}

TEST(Redactor, HidesAKnownSecretInsideBase64) {
  Redactor redactor;
  redactor.add(Secret(std::string("correct horse")));
  // base64 of "correct horse", "u:correct horse", "me:correct horse", "root:correct horse!"
  for (const char* text :
       {"Y29ycmVjdCBob3JzZQ==", "dTpjb3JyZWN0IGhvcnNl", "bWU6Y29ycmVjdCBob3JzZQ==", "cm9vdDpjb3JyZWN0IGhvcnNlIQ=="}) {
    const std::string cleaned = redactor.clean(std::string("x ") + text);
    EXPECT_NE(cleaned.find("***"), std::string::npos) << text << " -> " << cleaned;
    EXPECT_EQ(cleaned.find("JyZWN0"), std::string::npos) << cleaned;
    EXPECT_EQ(cleaned.find("ycmVjd"), std::string::npos) << cleaned;
    EXPECT_EQ(cleaned.find("vcnNl"), std::string::npos) << cleaned;
  }
}

TEST(Redactor, LeavesTextWholeForSecretsTooShortToReplace) {
  Redactor redactor;
  redactor.add(Secret(std::string("abc")));
  redactor.add(Secret(std::string()));
  EXPECT_EQ(redactor.clean("abc abcd password=abc"), "abc abcd password=***");
}

TEST(Redactor, ALongerSecretIsNotCutByAShorterOne) {
  Redactor redactor;
  redactor.add(Secret(std::string("hunter")));
  redactor.add(Secret(std::string("hunter22-extended")));
  EXPECT_EQ(redactor.clean("[hunter22-extended] [hunter]"), "[***] [***]");
}

RC_GTEST_PROP(RedactorProperty, NoTextMakesItFailOrShowTheSecret,
              (const std::string& before, const std::string& after)) {
  Redactor redactor;
  const std::string secret = "S3cr3t-Value!";
  redactor.add(Secret(std::string(secret)));
  RC_ASSERT(redactor.clean(before + secret + after).find(secret) == std::string::npos);
}

RC_GTEST_PROP(RedactorProperty, StructuresOfAnyShapeAreSurvived, ()) {
  const auto pieces = *rc::gen::container<std::vector<std::string>>(
      rc::gen::element<std::string>("password", "\"", "\\", ":", "=", "<", ">", "/", "://", "@", "Cookie", "token", "{",
                                    "id", " ", "\n", "Basic", "abcdefghijkl", ";", "key", "null"));
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  const Redactor redactor;
  const std::string once = redactor.clean(text);
  RC_ASSERT(once.size() <= text.size() + 3 * pieces.size());
}

}  // namespace
}  // namespace vmferry::log
