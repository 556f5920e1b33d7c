// Hides known secrets in every form they travel in, and what looks like a credential although nobody named it.
// Must not depend on where the text goes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "log/log.hpp"

namespace vmferry::log {

namespace {

constexpr std::string_view mask = "***";
constexpr std::size_t shortest_known = 4;  // bytes

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_word(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}
bool is_blank(char c) noexcept { return c == ' ' || c == '\t'; }
bool is_line_end(char c) noexcept { return c == '\r' || c == '\n'; }

bool same_word(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

// ---- the forms of a known secret

std::string percent_encoded(std::string_view text, bool plus, bool upper) {
  std::string out;
  for (const char c : text) {
    const bool plain = (is_word(c) || c == '.' || c == '~');
    if (plain)
      out += c;
    else if (plus && c == ' ')
      out += '+';
    else
      out += upper ? fmt::format("%{:02X}", static_cast<unsigned char>(c))
                   : fmt::format("%{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string xml_escaped(std::string_view text, bool quotes) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"' && quotes)
      out += "&quot;";
    else if (c == '\'' && quotes)
      out += "&apos;";
    else
      out += c;
  }
  return out;
}

std::string json_escaped(std::string_view text, bool slashes) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '/':
        out += slashes ? "\\/" : "/";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        else
          out += c;
    }
  }
  return out;
}

// base64(... text ...) when `before` bytes precede it: what is seen of a password in "Basic base64(user:password)". The
// first is what depends on the text alone, whatever follows; the second what it is when nothing follows.
std::array<std::string, 2> base64_cores(std::string_view text, std::size_t before) {
  static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes(before, '\0');
  bytes += text;
  const std::size_t bits = bytes.size() * 8;
  bytes.append(2, '\0');
  const auto digit = [&](std::size_t n) {
    const std::size_t bit = n * 6, byte = bit / 8;
    const unsigned two = static_cast<unsigned>(static_cast<unsigned char>(bytes[byte])) << 8 |
                         static_cast<unsigned char>(bytes[byte + 1]);
    return digits[(two >> (10 - bit % 8)) & 63];
  };
  std::string fixed, ended;
  // A digit that holds a bit of the preceding or following bytes is not fixed.
  for (std::size_t n = (before * 8 + 5) / 6; n * 6 < bits; ++n) {
    if (n * 6 + 6 <= bits) fixed += digit(n);
    ended += digit(n);
  }
  wipe(bytes);
  return {fixed, ended};
}

std::vector<std::string> forms_of(std::string_view secret) {
  std::vector<std::string> forms{std::string(secret)};
  for (const bool plus : {false, true})
    for (const bool upper : {false, true}) forms.push_back(percent_encoded(secret, plus, upper));
  for (const bool flag : {false, true}) {
    forms.push_back(xml_escaped(secret, flag));
    forms.push_back(json_escaped(secret, flag));
  }
  // Both at once: a value escaped for XML inside JSON and the other way round.
  forms.push_back(json_escaped(xml_escaped(secret, true), false));
  forms.push_back(xml_escaped(json_escaped(secret, false), true));
  for (const std::size_t before : {0U, 1U, 2U}) {
    for (const std::string& core : base64_cores(secret, before)) {
      if (core.size() < 5) continue;  // would hide innocent text
      forms.push_back(core);
      std::string url_safe = core;
      std::replace(url_safe.begin(), url_safe.end(), '+', '-');
      std::replace(url_safe.begin(), url_safe.end(), '/', '_');
      forms.push_back(url_safe);
    }
  }
  return forms;
}

// ---- what looks like a credential

// Words whose value is secret, wherever they stand: <word>value</word>, "word": "value", word=value, Word: value.
constexpr std::array<std::string_view, 33> secret_words = {"password",
                                                           "user_data",  // cloud-init's, often with passwords
                                                           "passwd",
                                                           "passphrase",
                                                           "secret",
                                                           "client_secret",
                                                           "adminpass",
                                                           "admin_pass",
                                                           "original_password",
                                                           "authorization",
                                                           "proxy-authorization",
                                                           "cookie",
                                                           "set-cookie",
                                                           "x-auth-token",
                                                           "x-subject-token",
                                                           "x-service-token",
                                                           "x-storage-token",
                                                           "x-vmware-session",
                                                           "vmware-api-session-id",
                                                           "vmware_soap_session",
                                                           "vmware_cgi_ticket",
                                                           "auth_password",
                                                           "cloneticket",
                                                           "sessionid",
                                                           "access_token",
                                                           "refresh_token",
                                                           "api_key",
                                                           "auth_token",
                                                           "ticket",
                                                           "sessionticket",
                                                           "licensekey",
                                                           "keyring",
                                                           "servertoken"};

bool is_secret_word(std::string_view word) noexcept {
  if (std::any_of(secret_words.begin(), secret_words.end(), [&](std::string_view w) { return same_word(w, word); }))
    return true;
  // os_password, guestPassword, vcenter-password, application_credential_secret...
  for (const std::string_view tail :
       {std::string_view("password"), std::string_view("secret"), std::string_view("passwd")})
    if (word.size() > tail.size() && same_word(word.substr(word.size() - tail.size()), tail)) return true;
  return false;
}
// In headers the whole rest of the line is the value; elsewhere a value ends at a blank.
bool is_header_word(std::string_view word) noexcept {
  for (const std::string_view w :
       {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-auth-token", "x-subject-token",
        "x-service-token", "x-storage-token", "x-vmware-session", "vmware-api-session-id"})
    if (same_word(w, word)) return true;
  return false;
}

class Cleaner {
 public:
  explicit Cleaner(std::string_view text) : text_(text) { out_.reserve(text.size()); }

  std::string clean() {
    while (at_ < text_.size()) {
      if (text_[at_] == ':' && text_.substr(at_).starts_with("://")) {
        url_credentials();
      } else if (is_word(text_[at_]) && (at_ == 0 || !is_word(text_[at_ - 1]))) {
        word();
      } else {
        out_ += text_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  // ://user:pass@host: everything between the scheme and the last @ of the authority.
  void url_credentials() {
    out_ += "://";
    at_ += 3;
    std::size_t end = at_, at_sign = std::string_view::npos;
    while (end < text_.size() && std::strchr("/?# \t\r\n\"'<>", text_[end]) == nullptr) {
      if (text_[end] == '@') at_sign = end;
      ++end;
    }
    if (at_sign == std::string_view::npos) return;
    const std::size_t colon = text_.substr(at_, at_sign - at_).find(':');
    if (colon == std::string_view::npos) return;  // user@host: no secret in it
    out_ += text_.substr(at_, colon + 1);
    out_ += mask;
    at_ = at_sign;
  }

  void word() {
    std::size_t end = at_;
    while (end < text_.size() && is_word(text_[end])) ++end;
    const std::string_view found = text_.substr(at_, end - at_);
    const bool in_tag = at_ > 0 && (text_[at_ - 1] == '<' || (text_[at_ - 1] == ':' && inside_open_tag()));
    out_ += found;
    at_ = end;
    if (same_word(found, "basic") || same_word(found, "bearer")) {
      scheme_value();
      return;
    }
    if (same_word(found, "token") && token_object()) return;
    if (in_tag && same_word(found, "key")) {
      session_key();
      return;
    }
    if (!is_secret_word(found)) return;
    if (in_tag)
      element_value();
    else
      named_value(found);
  }

  // <ns:password>: the word follows a prefix in an opening tag.
  bool inside_open_tag() const noexcept {
    std::size_t i = at_ - 1;
    while (i > 0 && is_word(text_[i - 1])) --i;
    return i > 0 && text_[i - 1] == '<';
  }

  // <password xsi:type="xsd:string">value</password>
  void element_value() {
    const std::size_t close = text_.find('>', at_);
    if (close == std::string_view::npos || text_[close - 1] == '/') return;
    const std::size_t next = std::min(text_.find('<', close), text_.size());
    out_ += text_.substr(at_, close + 1 - at_);
    if (next > close + 1) out_ += mask;
    at_ = next;
  }

  // <key> of a session is as good as its cookie with some servers; keys of devices and tasks are short.
  void session_key() {
    const std::size_t close = text_.find('>', at_);
    if (close == std::string_view::npos) return;
    const std::size_t next = std::min(text_.find('<', close), text_.size());
    const std::string_view value = text_.substr(close + 1, next - close - 1);
    if (value.size() >= 32 && value.find_first_not_of("0123456789abcdefABCDEF-") == std::string_view::npos)
      element_value();
  }

  // "word" : "value" (also as \"word\":\"value\" inside another string), word=value, Word: value.
  void named_value(std::string_view name) {
    std::size_t i = at_;
    const auto skip_blanks = [&] {
      while (i < text_.size() && is_blank(text_[i])) ++i;
    };
    while (i < text_.size() && (text_[i] == '\\' || text_[i] == '"' || text_[i] == '\'')) ++i;
    skip_blanks();
    if (i >= text_.size() || (text_[i] != ':' && text_[i] != '=')) return;
    ++i;
    skip_blanks();
    std::size_t escapes = 0;
    while (i + escapes < text_.size() && text_[i + escapes] == '\\') ++escapes;
    const std::size_t quote = i + escapes;
    if (quote < text_.size() && (text_[quote] == '"' || text_[quote] == '\'')) {
      const std::size_t start = quote + 1;
      replace(start, quoted_end(start, text_[quote], escapes));
      return;
    }
    if (i < text_.size() && std::strchr("{[", text_[i]) != nullptr) return;  // an object: its members are looked at
    if (same_word(name, "cookie") || same_word(name, "set-cookie")) {
      cookies(i);
      return;
    }
    std::size_t end = i;
    if (is_header_word(name)) {
      while (end < text_.size() && !is_line_end(text_[end])) ++end;
    } else {
      while (end < text_.size() && std::strchr(" \t\r\n&;,\"'<>}])", text_[end]) == nullptr) ++end;
    }
    const std::string_view value = text_.substr(i, end - i);
    // Prose speaks of tokens too: "token: expired".
    if (same_word(name, "token") && value.size() < 16) return;
    for (const std::string_view harmless : {"null", "true", "false"})
      if (value == harmless) return;
    replace(i, end);
  }

  // name=value; name=value; Path=/: names and attributes stay, so that a replayed answer still parses.
  void cookies(std::size_t i) {
    out_ += text_.substr(at_, i - at_);
    at_ = i;
    std::size_t line_end = i;
    while (line_end < text_.size() && !is_line_end(text_[line_end])) ++line_end;
    if (text_.substr(i, line_end - i).find('=') == std::string_view::npos) {
      replace(at_, line_end);
      return;
    }
    while (at_ < line_end) {
      const std::size_t end = std::min(text_.find(';', at_), line_end);
      const std::string_view part = text_.substr(at_, end - at_);
      const std::size_t name_end = std::min(part.find('='), part.size());
      if (is_cookie_attribute(part.substr(0, name_end))) {
        out_ += part;
      } else {
        out_ += part.substr(0, std::min(name_end + 1, part.size()));
        out_ += mask;
      }
      if (end < line_end) out_ += ';';
      at_ = std::min(end + 1, line_end);
    }
  }
  static bool is_cookie_attribute(std::string_view name) noexcept {
    while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
    for (const std::string_view a : {"", "path", "expires", "max-age", "domain", "samesite", "secure", "httponly"})
      if (same_word(a, name)) return true;
    return false;
  }

  // A quote preceded by exactly as many backslashes as the opening one had ends the value.
  std::size_t quoted_end(std::size_t start, char quote, std::size_t escapes) const noexcept {
    for (std::size_t i = start, backslashes = 0; i < text_.size(); ++i) {
      if (text_[i] == '\\') {
        ++backslashes;
        continue;
      }
      if (text_[i] == quote && (backslashes == escapes || (escapes == 0 && backslashes % 2 == 0))) return i - escapes;
      backslashes = 0;
    }
    return text_.size();
  }

  void replace(std::size_t start, std::size_t end) {
    out_ += text_.substr(at_, start - at_);
    if (end > start) out_ += mask;
    at_ = std::max(end, start);
  }

  // Basic dXNlcjpwYXNz, Bearer eyJ...
  void scheme_value() {
    std::size_t i = at_;
    while (i < text_.size() && is_blank(text_[i])) ++i;
    std::size_t end = i;
    while (end < text_.size() && (is_word(text_[end]) || std::strchr("+/=.~", text_[end]) != nullptr)) ++end;
    // Prose has short words after "basic"; a credential has at least "a:b" in base64.
    if (i == at_ || end - i < 8) return;
    replace(i, end);
  }

  // "token":{"id":"gAAAA..."} of Keystone's requests, and "token":"...".
  bool token_object() {
    std::size_t i = at_;
    const auto skip = [&](std::string_view any) {
      while (i < text_.size() && any.find(text_[i]) != std::string_view::npos) ++i;
    };
    skip("\\\"'");
    skip(" \t\r\n");
    if (i >= text_.size() || (text_[i] != ':' && text_[i] != '=')) return false;
    ++i;
    skip(" \t\r\n");
    if (i >= text_.size()) return false;
    if (text_[i] != '{') {
      named_value("token");
      return true;
    }
    // Keystone's answers have {"token":{"methods":...}} without an id at the front; requests have only the id.
    std::size_t j = i + 1;
    while (j < text_.size() && std::strchr(" \t\r\n\\\"", text_[j]) != nullptr) ++j;
    if (!text_.substr(j).starts_with("id")) return false;
    out_ += text_.substr(at_, j + 2 - at_);
    at_ = j + 2;
    named_value("id");
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::string out_;
};

void replace_all(std::string& text, const std::string& what) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += mask.size())
    text.replace(at, what.size(), mask);
}

}  // namespace

struct Redactor::State {
  mutable std::shared_mutex mutex;
  std::vector<std::string> known;  // longest first, so that no form is cut by a shorter one

  ~State() {
    for (std::string& form : known) wipe(form);
  }
};

Redactor::Redactor() : state_(std::make_unique<State>()) {}
Redactor::~Redactor() = default;

void Redactor::add(const Secret& secret) {
  if (secret.reveal().size() < shortest_known) return;
  std::vector<std::string> forms = forms_of(secret.reveal());
  const std::unique_lock lock(state_->mutex);
  for (std::string& form : forms) {
    if (std::find(state_->known.begin(), state_->known.end(), form) == state_->known.end())
      state_->known.push_back(form);
    wipe(form);
  }
  std::stable_sort(state_->known.begin(), state_->known.end(),
                   [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

std::string Redactor::clean(std::string_view text) const {
  std::string known_gone(text);
  {
    const std::shared_lock lock(state_->mutex);
    for (const std::string& form : state_->known) replace_all(known_gone, form);
  }
  return Cleaner(known_gone).clean();
}

}  // namespace vmferry::log
