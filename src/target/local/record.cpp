// Records as JSON. Unknown members are an older program's loss: they are not kept, so the version says when
// that matters.
#include "target/local/record.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "target/local/durable.hpp"
#include "target/memory_keys.hpp"

namespace vmferry::target::local {

namespace {

constexpr int version = 1;

nlohmann::json load(const std::filesystem::path& path, const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object())
    throw Error(Fault::data, fmt::format("{} is damaged: it is not the JSON that vmferry wrote", path.string()));
  const int written = json.value("vmferry", 0);
  if (written < 1 || written > version)
    throw Error(Fault::unsupported, fmt::format("{} has version {}, this vmferry knows up to {}: use a newer vmferry",
                                                path.string(), written, version));
  return json;
}

// VM names are the user's; a byte that is not UTF-8 must not make the record unwritable.
std::string dumped(const nlohmann::json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

class InodeIdentity final : public DeviceIdentity {
 public:
  std::optional<Identity> read(int fd) const override {
    struct statx status {};
    if (::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &status) != 0) return std::nullopt;
    if (!S_ISREG(status.stx_mode) || status.stx_nlink == 0) return std::nullopt;
    std::string serial = fmt::format("{}", status.stx_ino);
    if ((status.stx_mask & STATX_BTIME) != 0)
      serial += fmt::format("-{}.{:09}", status.stx_btime.tv_sec, status.stx_btime.tv_nsec);
    return Identity{std::move(serial), status.stx_size};
  }
};

}  // namespace

bool Record::tagged(const JobId& job) const {
  const auto tag = memory.find(memory_key::job);
  return tag != memory.end() && tag->second == job.value;
}

std::optional<Record> load_record(const std::filesystem::path& path) {
  const auto text = read_whole(path);
  if (!text) return std::nullopt;
  const nlohmann::json json = load(path, *text);
  try {
    Record record;
    record.vm = json.at("vm");
    record.vm_name = json.at("vm_name");
    record.disk_key = json.at("disk_key");
    record.bytes = json.at("bytes");
    record.boot = json.at("boot");
    record.image_properties = json.at("image_properties").get<std::map<std::string, std::string>>();
    record.serial = json.at("serial");
    record.memory = json.at("memory").get<Memory>();
    return record;
  } catch (const nlohmann::json::exception& e) {
    throw Error(Fault::data, fmt::format("{} is damaged: {}", path.string(), e.what()));
  }
}

void store(const std::filesystem::path& path, const Record& record) {
  write_durably(path, dumped({{"vmferry", version},
                              {"vm", record.vm},
                              {"vm_name", record.vm_name},
                              {"disk_key", record.disk_key},
                              {"bytes", record.bytes},
                              {"boot", record.boot},
                              {"image_properties", record.image_properties},
                              {"serial", record.serial},
                              {"memory", record.memory}}));
}

std::optional<PortRecord> load_port(const std::filesystem::path& path) {
  const auto text = read_whole(path);
  if (!text) return std::nullopt;
  const nlohmann::json json = load(path, *text);
  try {
    return PortRecord{json.at("job"), json.at("mac"), json.at("network")};
  } catch (const nlohmann::json::exception& e) {
    throw Error(Fault::data, fmt::format("{} is damaged: {}", path.string(), e.what()));
  }
}

void store(const std::filesystem::path& path, const PortRecord& port) {
  write_durably(path, dumped({{"vmferry", version}, {"job", port.job}, {"mac", port.mac}, {"network", port.network}}));
}

std::unique_ptr<DeviceIdentity> inode_identity() { return std::make_unique<InodeIdentity>(); }

}  // namespace vmferry::target::local
