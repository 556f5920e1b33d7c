// Facts as JSON. The names in the journal are the names of the types; they never change once released.
#include "job/fact.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace nlohmann {

template <class Tag>
struct adl_serializer<vmferry::Id<Tag>> {
  static void to_json(json& j, const vmferry::Id<Tag>& id) { j = id.value; }
  static void from_json(const json& j, vmferry::Id<Tag>& id) { id.value = j.get<std::string>(); }
};

template <>
struct adl_serializer<vmferry::model::DiskKey> {
  static void to_json(json& j, const vmferry::model::DiskKey& key) { j = key.value; }
  static void from_json(const json& j, vmferry::model::DiskKey& key) { key.value = j.get<std::int32_t>(); }
};

template <>
struct adl_serializer<std::optional<vmferry::model::ChangeId>> {
  static void to_json(json& j, const std::optional<vmferry::model::ChangeId>& id) {
    j = id ? json(id->text()) : json(nullptr);
  }
  static void from_json(const json& j, std::optional<vmferry::model::ChangeId>& id) {
    id = j.is_string() ? vmferry::model::ChangeId::parse(j.get<std::string>()) : std::nullopt;
  }
};

template <>
struct adl_serializer<std::optional<std::uint64_t>> {
  static void to_json(json& j, const std::optional<std::uint64_t>& count) { j = count ? json(*count) : json(nullptr); }
  static void from_json(const json& j, std::optional<std::uint64_t>& count) {
    count = j.is_null() ? std::nullopt : std::optional(j.get<std::uint64_t>());
  }
};

template <>
struct adl_serializer<vmferry::ByteRange> {
  static void to_json(json& j, const vmferry::ByteRange& range) { j = json::array({range.offset, range.length}); }
  static void from_json(const json& j, vmferry::ByteRange& range) {
    range = {j.at(0).get<std::uint64_t>(), j.at(1).get<std::uint64_t>()};
  }
};

}  // namespace nlohmann

namespace vmferry::job {

#define VMFERRY_FACT(Type, ...) NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Type, __VA_ARGS__)
VMFERRY_FACT(JobCreated, job, source, vm, vm_name, vm_path, target, instance_uuid, endpoint, guest)
VMFERRY_FACT(RunBegan, command, version)
VMFERRY_FACT(TrackingEnsured, available)
VMFERRY_FACT(VolumeAllocated, disk, volume, bytes, adopted, base, volume_name, label, file)
VMFERRY_FACT(CycleBegan, cycle, final)
VMFERRY_FACT(FrozenDiskFact, disk, capacity, change_id)
VMFERRY_FACT(SnapshotTaken, cycle, snapshot, consistency, remark, disks, unmerged_before)
VMFERRY_FACT(DiskProgressed, disk, snapshot, change_id, capacity, ranges)
VMFERRY_FACT(DiskCopied, cycle, disk, full, reason, read, written, seconds, capacity, change_id, conversion_kept, equal,
             zeroed, audited, strip, transport, transport_reason, transport_speed, transport_anew)
VMFERRY_FACT(DigestsRecorded, cycle, disk, bytes, chunk, algorithm, root, zero, unknown, strip)
VMFERRY_FACT(DiskRemembered, cycle, disk)
VMFERRY_FACT(SnapshotRemoved, cycle, snapshot)
VMFERRY_FACT(DiskAttaching, disk, volume)
VMFERRY_FACT(DiskDetached, disk, volume)
VMFERRY_FACT(CycleEnded, cycle)
VMFERRY_FACT(PortEnsured, mac, port, created)
VMFERRY_FACT(ShutdownBegan, at)
VMFERRY_FACT(ConversionCommitting, disk, ranges)
VMFERRY_FACT(GuestConverted, seconds, bytes)
VMFERRY_FACT(DamageFound, disk, ranges)
VMFERRY_FACT(DiskVerified, disk, read, unknown, different, seconds)
VMFERRY_FACT(TrackingDoubted, disk)
VMFERRY_FACT(ImageUploaded, disk, image, content, format, stored_as, bytes, seconds, algorithm, hash, remark)
VMFERRY_FACT(VolumeDelivered, disk, volume, image, content)
VMFERRY_FACT(ImagesRemoved, kept)
VMFERRY_FACT(ServerLaunched, server, state)
VMFERRY_FACT(CutoverDone, at, downtime_seconds)
VMFERRY_FACT(VolumeDiscarded, disk, volume)
VMFERRY_FACT(PortDiscarded, port)
VMFERRY_FACT(Aborted, volumes_deleted)
#undef VMFERRY_FACT
// Facts that are their name alone.
#define VMFERRY_BARE_FACT(Type)                                                  \
  void to_json(nlohmann::json& j, const Type&) { j = nlohmann::json::object(); } \
  void from_json(const nlohmann::json&, Type&) {}
VMFERRY_BARE_FACT(PoweredOff)
VMFERRY_BARE_FACT(PoweredOnAgain)
VMFERRY_BARE_FACT(FinalCopyDoubted)
VMFERRY_BARE_FACT(HandedOver)
VMFERRY_BARE_FACT(HandoverTakenBack)
#undef VMFERRY_BARE_FACT

namespace {

// In the order of Body's alternatives; the table test in tests/unit/job holds the two together.
constexpr std::string_view names[] = {
    "JobCreated",      "TrackingEnsured",  "VolumeAllocated", "CycleBegan",        "SnapshotTaken",
    "DiskProgressed",  "DiskCopied",       "DiskRemembered",  "SnapshotRemoved",   "DiskAttaching",
    "DiskDetached",    "CycleEnded",       "PortEnsured",     "ShutdownBegan",     "PoweredOff",
    "PoweredOnAgain",  "FinalCopyDoubted", "HandedOver",      "HandoverTakenBack", "ConversionCommitting",
    "GuestConverted",  "DamageFound",      "TrackingDoubted", "ServerLaunched",    "CutoverDone",
    "VolumeDiscarded", "PortDiscarded",    "Aborted",         "RunBegan",          "DigestsRecorded",
    "DiskVerified",    "ImageUploaded",    "VolumeDelivered", "ImagesRemoved"};
static_assert(std::size(names) == std::variant_size_v<Body>);

template <std::size_t index = 0>
Body decode_as(std::string_view wanted, const nlohmann::json& j) {
  if constexpr (index == std::variant_size_v<Body>) {
    throw Error(Fault::data, fmt::format("the journal holds a fact \"{}\" that this version of vmferry does not know; "
                                         "use the version that wrote it, or a newer one",
                                         wanted));
  } else {
    if (names[index] == wanted) return Body(j.get<std::variant_alternative_t<index, Body>>());
    return decode_as<index + 1>(wanted, j);
  }
}

}  // namespace

std::string_view name(const Body& body) noexcept { return names[body.index()]; }

std::string encode(const Body& body) {
  nlohmann::json j = std::visit([](const auto& fact) { return nlohmann::json(fact); }, body);
  j["fact"] = name(body);
  return j.dump();
}

Body decode(const std::string& text) {
  try {
    const nlohmann::json j = nlohmann::json::parse(text);
    return decode_as(j.at("fact").get<std::string>(), j);
  } catch (const nlohmann::json::exception& e) {
    throw Error(Fault::data,
                fmt::format("a fact in the journal cannot be read ({}): {}", e.what(), text.substr(0, 120)));
  }
}

}  // namespace vmferry::job
