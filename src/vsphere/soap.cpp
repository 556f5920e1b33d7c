// Writing calls and reading replies. The only file that includes pugixml. Replies come from outside: nothing in here
// may trust their shape, and the fuzzer drives every function that reads one.
#include "vsphere/soap.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <pugixml.hpp>

#include "base/secret.hpp"

namespace vmferry::vsphere {

struct XmlTree {
  pugi::xml_document document;
};

namespace {

pugi::xml_node element_of(const void* element) noexcept {
  // pugixml hands its handles out and takes them back as non-const; Node only ever reads through them.
  return pugi::xml_node(static_cast<pugi::xml_node_struct*>(const_cast<void*>(element)));
}

std::string_view local(std::string_view qualified) noexcept {
  const auto colon = qualified.rfind(':');
  return colon == std::string_view::npos ? qualified : qualified.substr(colon + 1);
}

bool is_element(const pugi::xml_node& node) noexcept { return node.type() == pugi::node_element; }

std::string_view trimmed(std::string_view text) noexcept {
  constexpr std::string_view blank = " \t\r\n";
  const auto first = text.find_first_not_of(blank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blank) - first + 1);
}

// The length of the UTF-8 sequence that starts here, or 0 when it is none (RFC 3629: no overlong forms, no surrogates).
std::size_t utf8_length(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return tail(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    if (!tail(1) || !tail(2)) return 0;
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;
    if (lead == 0xed && byte(1) > 0x9f) return 0;
    return 3;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if (lead == 0xf0 && byte(1) < 0x90) return 0;
    if (lead == 0xf4 && byte(1) > 0x8f) return 0;
    return 4;
  }
  return 0;
}

std::string excerpt(std::string_view body) {
  std::string text(body.substr(0, 80));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = ' ';
  return text;
}

}  // namespace

std::string to_string(const Moref& ref) { return ref.type + ":" + ref.value; }

std::string Node::name() const { return std::string(local(element_of(element_).name())); }

std::string Node::type() const {
  const pugi::xml_node element = element_of(element_);
  for (const pugi::xml_attribute& attribute : element.attributes())
    if (std::string_view(attribute.name()).find(':') != std::string_view::npos && local(attribute.name()) == "type")
      return std::string(local(attribute.value()));
  return element.attribute("type").value();
}

std::string Node::text() const {
  std::string text;
  for (const pugi::xml_node& part : element_of(element_).children())
    if (part.type() == pugi::node_pcdata || part.type() == pugi::node_cdata) text += part.value();
  return text;
}

Node Node::operator[](std::string_view child) const {
  for (const pugi::xml_node& node : element_of(element_).children())
    if (is_element(node) && local(node.name()) == child) return Node(tree_, node.internal_object());
  return Node();
}

std::vector<Node> Node::all(std::string_view child) const {
  std::vector<Node> found;
  for (const pugi::xml_node& node : element_of(element_).children())
    if (is_element(node) && local(node.name()) == child) found.emplace_back(tree_, node.internal_object());
  return found;
}

std::vector<Node> Node::children() const {
  std::vector<Node> found;
  for (const pugi::xml_node& node : element_of(element_).children())
    if (is_element(node)) found.emplace_back(tree_, node.internal_object());
  return found;
}

std::optional<std::int64_t> Node::integer() const {
  if (!element_) return std::nullopt;
  const std::string whole = text();
  const std::string_view digits = trimmed(whole);
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (problem != std::errc() || end != digits.data() + digits.size())
    throw Error(Fault::data, fmt::format("the server's <{}> is not a number: '{}'", name(), excerpt(whole)));
  return value;
}

bool Node::flag_or(bool otherwise) const {
  if (!element_) return otherwise;
  const std::string whole = text();
  const std::string_view word = trimmed(whole);
  if (word == "true" || word == "1") return true;
  if (word == "false" || word == "0") return false;
  throw Error(Fault::data, fmt::format("the server's <{}> is neither true nor false: '{}'", name(), excerpt(whole)));
}

Moref Node::moref() const {
  if (!element_) return {};
  const std::string whole = text();
  // The plain "type" attribute names the object's type; xsi:type only says that this is a reference.
  return Moref{element_of(element_).attribute("type").value(), std::string(trimmed(whole))};
}

std::string escape_xml(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  while (!text.empty()) {
    const char c = text.front();
    const std::size_t length = utf8_length(text);
    const bool control = static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n' && c != '\r';
    if (length == 0 || control)
      throw Error(Fault::usage,
                  "a value for the vSphere API contains bytes that XML cannot carry (control characters or "
                  "text that is not UTF-8): correct it and start again");
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\r':
        safe += "&#13;";
        break;  // a bare one would be read back as a line feed
      default:
        safe.append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  return safe;
}

Call::Call(std::string method, Moref object) : method_(std::move(method)), object_(std::move(object)) {
  this->object("_this", object_);
}

Call& Call::text(std::string_view name, std::string_view value, std::string_view xsi_type) {
  std::string safe = escape_xml(value);
  body_ += fmt::format("<{}", name);
  if (!xsi_type.empty()) body_ += fmt::format(" xsi:type=\"{}\"", xsi_type);
  body_ += '>';
  body_ += safe;
  body_ += fmt::format("</{}>", name);
  vmferry::wipe(safe);
  return *this;
}

Call& Call::number(std::string_view name, std::int64_t value) {
  body_ += fmt::format("<{0}>{1}</{0}>", name, value);
  return *this;
}

Call& Call::flag(std::string_view name, bool value) {
  body_ += fmt::format("<{0}>{1}</{0}>", name, value ? "true" : "false");
  return *this;
}

Call& Call::object(std::string_view name, const Moref& ref) {
  body_ += fmt::format("<{0} type=\"{1}\">{2}</{0}>", name, escape_xml(ref.type), escape_xml(ref.value));
  return *this;
}

Call& Call::open(std::string_view name, std::string_view xsi_type) {
  body_ += fmt::format("<{}", name);
  if (!xsi_type.empty()) body_ += fmt::format(" xsi:type=\"{}\"", xsi_type);
  body_ += '>';
  open_.emplace_back(name);
  return *this;
}

Call& Call::close() {
  if (open_.empty())
    throw Error(Fault::bug, fmt::format("the call {} closes an element that it never opened", method_));
  body_ += fmt::format("</{}>", open_.back());
  open_.pop_back();
  return *this;
}

std::string Call::envelope() const {
  if (!open_.empty()) throw Error(Fault::bug, fmt::format("the call {} leaves <{}> open", method_, open_.back()));
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\""
      " xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">"
      "<soapenv:Body><{0} xmlns=\"urn:vim25\">{1}</{0}></soapenv:Body></soapenv:Envelope>",
      method_, body_);
}

void Call::wipe() noexcept { vmferry::wipe(body_); }

namespace {

// <detail><InvalidLoginFault xsi:type="InvalidLogin"/></detail>
SoapFault soap_fault(const Node& fault) {
  SoapFault read;
  read.message = fault["faultstring"].text();
  const std::vector<Node> details = fault["detail"].children();
  if (details.empty()) return read;
  read.detail = details.front();
  read.name = read.detail.type();
  if (read.name.empty()) {
    read.name = read.detail.name();
    if (read.name.size() > 5 && read.name.ends_with("Fault")) read.name.resize(read.name.size() - 5);
  }
  return read;
}

}  // namespace

SoapFault localized_fault(const Node& node) {
  SoapFault read;
  read.detail = node["fault"];
  read.name = read.detail.type();
  read.message = node["localizedMessage"].text();
  return read;
}

Reply decode_reply(std::string_view body) {
  auto tree = std::make_shared<XmlTree>();
  const pugi::xml_parse_result result =
      tree->document.load_buffer(body.data(), body.size(), pugi::parse_default, pugi::encoding_utf8);
  if (!result)
    throw Error(Fault::data, fmt::format("the answer is not XML ({} at byte {}): '{}'", result.description(),
                                         result.offset, excerpt(body)));
  const std::shared_ptr<const XmlTree> shared = std::move(tree);
  const Node document(shared, shared->document.internal_object());
  const std::vector<Node> inside = document["Envelope"]["Body"].children();
  if (inside.empty()) throw Error(Fault::data, fmt::format("the answer is not a SOAP envelope: '{}'", excerpt(body)));
  Reply reply;
  if (inside.front().name() == "Fault")
    reply.fault = soap_fault(inside.front());
  else
    reply.value = inside.front();
  return reply;
}

}  // namespace vmferry::vsphere
