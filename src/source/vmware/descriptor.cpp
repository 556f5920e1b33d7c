// After VMware's "Virtual Disk Format 5.0" (descriptor file, extent description).
#include "source/vmware/descriptor.hpp"

#include <algorithm>
#include <cctype>
#include <sstream>

namespace vmferry::source::vmware {

namespace {

std::string unquoted(std::string text) {
  while (!text.empty() && (std::isspace(static_cast<unsigned char>(text.back())) != 0 || text.back() == '"'))
    text.pop_back();
  const auto first = text.find_first_not_of(" \t\"");
  return first == std::string::npos ? std::string() : text.substr(first);
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// RW 4192256 VMFS "web01-flat.vmdk" [offset]
bool parse_extent(const std::string& line, DescriptorExtent& extent) {
  std::istringstream words(line);
  if (!(words >> extent.access >> extent.sectors >> extent.kind)) return false;
  const auto open = line.find('"'), close = line.rfind('"');
  if (open == std::string::npos || close <= open) return extent.kind == "ZERO";
  extent.file = line.substr(open + 1, close - open - 1);
  std::istringstream rest(line.substr(close + 1));
  rest >> extent.offset;
  return true;
}

}  // namespace

Descriptor parse_descriptor(std::string_view text) {
  Descriptor result;
  std::string cid;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    line = line.substr(std::min(line.find_first_not_of(" \t"), line.size()));
    if (line.empty() || line.front() == '#') continue;
    DescriptorExtent extent;
    const bool is_extent = line.starts_with("RW ") || line.starts_with("RDONLY ") || line.starts_with("NOACCESS ");
    if (is_extent && parse_extent(line, extent)) {
      result.extents.push_back(std::move(extent));
      continue;
    }
    const auto equals = line.find('=');
    if (equals == std::string::npos) continue;
    const std::string key = lower(unquoted(line.substr(0, equals))), value = unquoted(line.substr(equals + 1));
    if (key == "createtype") result.create_type = value;
    if (key == "parentcid" && lower(value) != "ffffffff") result.has_parent = true;
    if (key == "parentfilenamehint" && !value.empty()) result.has_parent = true;
    if (const std::string digits = hex_digits(value); digits.size() == 32) {
      if (key == "ddb.uuid") result.uuid = digits;
      if (key == "ddb.longcontentid") result.content_id = digits;
    }
    // ffffffff is none, fffffffe what stands in a new disk.
    if (key == "cid" && value.size() == 8 && !lower(value).starts_with("fffffff")) cid = hex_digits(value);
  }
  if (result.content_id.empty()) result.content_id = cid;
  return result;
}

std::string hex_digits(std::string_view text) {
  std::string digits;
  for (const char c : text)
    if (std::isxdigit(static_cast<unsigned char>(c)) != 0)
      digits += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return digits;
}

}  // namespace vmferry::source::vmware
