// A JSON answer read field by field, leniently: an absent or null field is empty, a field of another kind is
// Error(data) that names it. The only reader of answers; knows no service.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace vmferry::openstack {

class Fields {
 public:
  // `what` is for messages: "Cinder's answer to GET /volumes". Throws Error(data) when it is not a JSON object.
  static Fields parse(std::string_view text, const std::string& what);

  bool has(std::string_view key) const;                                         // there and not null
  std::string text(std::string_view key) const;                                 // numbers and booleans as their text
  std::int64_t number(std::string_view key, std::int64_t otherwise = 0) const;  // also of a text that is a number
  bool flag(std::string_view key) const;                                        // true, "true", "True"
  Fields at(std::string_view key) const;                               // an object; absent = one with no fields
  Fields at_if_object(std::string_view key) const;                     // the same; something else = no fields, too
  std::vector<Fields> each(std::string_view key) const;                // a list of objects; absent = none
  std::vector<std::string> texts(std::string_view key) const;          // a list of texts
  std::map<std::string, std::string> map(std::string_view key) const;  // an object of texts
  std::vector<std::string> keys() const;
  std::string json(std::string_view key) const;  // an object as it came, to hand on; absent = empty

 private:
  struct Node;
  explicit Fields(std::shared_ptr<const Node> node);
  std::shared_ptr<const Node> node_;
};

}  // namespace vmferry::openstack
