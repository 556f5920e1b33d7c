// SOAP as vSphere speaks it: a call is written element by element, a reply is read through a small view of XML.
// Knows no method by name, no session and no transport. soap.cpp is the only file that sees the XML library.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hpp"

namespace vmferry::vsphere {

// A managed object reference: VirtualMachine:vm-42.
struct Moref {
  std::string type;
  std::string value;
  bool empty() const noexcept { return value.empty(); }
  auto operator<=>(const Moref&) const = default;
};
std::string to_string(const Moref& ref);

struct XmlTree;

// An element of a reply. Keeps the reply alive. A default-made or missing one is false, and empty in every answer, so
// that optional properties read without checks.
class Node {
 public:
  Node() = default;
  Node(std::shared_ptr<const XmlTree> tree, const void* element) : tree_(std::move(tree)), element_(element) {}
  explicit operator bool() const noexcept { return element_ != nullptr; }

  std::string name() const;  // without its namespace prefix
  std::string type() const;  // xsi:type without its prefix; a reference's "type" attribute when there is none
  std::string text() const;
  Node operator[](std::string_view child) const;  // first child element of that name
  std::vector<Node> all(std::string_view child) const;
  std::vector<Node> children() const;

  // Values. The optional forms are empty when the element is absent; text that is no such value is Error(data).
  std::optional<std::int64_t> integer() const;
  std::int64_t integer_or(std::int64_t otherwise) const { return integer().value_or(otherwise); }
  bool flag_or(bool otherwise) const;
  Moref moref() const;

 private:
  std::shared_ptr<const XmlTree> tree_;
  const void* element_ = nullptr;
};

// A request under construction.
class Call {
 public:
  Call(std::string method, Moref object);

  // All throw Error(usage) for text that XML cannot carry (control characters, bytes that are not UTF-8).
  Call& text(std::string_view name, std::string_view value, std::string_view xsi_type = {});
  Call& number(std::string_view name, std::int64_t value);
  Call& flag(std::string_view name, bool value);
  Call& object(std::string_view name, const Moref& ref);
  Call& open(std::string_view name, std::string_view xsi_type = {});
  Call& close();

  const std::string& method() const noexcept { return method_; }
  const Moref& on() const noexcept { return object_; }
  std::string envelope() const;  // the whole document
  void wipe() noexcept;          // for a call that carries a password

 private:
  std::string method_;
  Moref object_;
  std::string body_;
  std::vector<std::string> open_;
};

// What a server's fault says. `detail` has the fault's own fields.
struct SoapFault {
  std::string name;     // "InvalidLogin", "NoPermission"; "" when the server named none
  std::string message;  // the server's sentence
  Node detail;
};

struct Reply {
  Node value;                      // the <MethodResponse> element
  std::optional<SoapFault> fault;  // then value is missing
};

// Throws Error(data) when it is no SOAP envelope.
Reply decode_reply(std::string_view body);

// A LocalizedMethodFault (a task's error, a missing property's fault).
SoapFault localized_fault(const Node& node);

std::string escape_xml(std::string_view text);

}  // namespace vmferry::vsphere
