// The template. With external_id Heat makes, changes and deletes nothing: it looks whether the thing is there, and
// other resources of the stack can refer to it (hot_spec.rst of the Heat documentation, "Resources section"). Such
// resources may not depend on each other, and Heat reads no property of them, so none is written.
#include "report/heat.hpp"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "job/state.hpp"
#include "report/evidence.hpp"

namespace vmferry::report {

namespace {

// The first version of the template language that knows external_id for every resource; every later Heat reads it.
constexpr std::string_view version = "2016-10-14";

unsigned hexadecimal(std::string_view digits) {
  unsigned value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

void add(std::string& text, const std::string& name, std::string_view type, const std::string& id,
         const std::string& description) {
  text += fmt::format("  {}:\n    type: {}\n    description: {}\n    external_id: {}\n", name, type,
                      quoted_yaml(description), quoted_yaml(id));
}

void refuse_unless_moved(const Evidence& evidence) {
  const std::string& name = evidence.job.vm_name;
  if (evidence.job.target.starts_with("folder "))
    throw Error(Fault::unsupported,
                fmt::format("{} was copied to the {}: Heat describes what is in OpenStack", name, evidence.job.target));
  if (evidence.phase == "aborted")
    throw Error(Fault::conflict, fmt::format("the migration of {} was given up: there is no server to describe", name));
  if (!evidence.server || !evidence.done)
    throw Error(Fault::conflict,
                fmt::format("{} is not moved yet ({}): there is no server to describe before `vmferry cutover` is done",
                            name, evidence.phase));
}

}  // namespace

std::string quoted_yaml(const std::string& text) {
  // JSON's escapes are YAML's, but for what is beyond 16 bits: JSON writes it as two halves, YAML as one.
  const std::string json = nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  std::string out;
  for (std::size_t at = 0; at < json.size();) {
    if (json[at] != '\\') {
      out += json[at++];
      continue;
    }
    const unsigned unit = json[at + 1] == 'u' ? hexadecimal(std::string_view(json).substr(at + 2, 4)) : 0;
    if (unit >= 0xD800 && unit < 0xDC00) {
      const unsigned low = hexadecimal(std::string_view(json).substr(at + 8, 4));
      out += fmt::format("\\U{:08X}", 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
      at += 12;
      continue;
    }
    const std::size_t length = json[at + 1] == 'u' ? 6 : 2;
    out += json.substr(at, length);
    at += length;
  }
  return out;
}

std::string heat_template(std::span<const job::Fact> facts) {
  const Evidence evidence = evidence_of(facts);
  refuse_unless_moved(evidence);
  const std::string& name = evidence.job.vm_name;
  std::string text = fmt::format(
      "heat_template_version: {}\ndescription: {}\nresources:\n", version,
      quoted_yaml(fmt::format("{} ({}), moved from VMware by vmferry, job {}. All of it was there before the stack: "
                              "Heat refers to it and never deletes it.",
                              name, evidence.job.vm_path, evidence.job.job.value)));
  add(text, "server", "OS::Nova::Server", *evidence.server, name);
  int number = 0;
  for (const auto& [mac, port] : job::fold(facts).ports)
    add(text, fmt::format("port_{}", ++number), "OS::Neutron::Port", port.port.value, "network adapter " + mac);
  number = 0;
  for (const Disk& disk : evidence.disks)
    add(text, fmt::format("volume_{}", ++number), "OS::Cinder::Volume",
        disk.delivered.empty() ? disk.volume : disk.delivered,
        disk.file.empty() ? disk.name() : fmt::format("{}, {}", disk.name(), disk.file));
  text +=
      "outputs:\n"
      "  server_id:\n    value: { get_resource: server }\n"
      "  addresses:\n    description: \"of the server, by network\"\n    value: { get_attr: [server, addresses] }\n";
  return text;
}

}  // namespace vmferry::report
