// The evidence for programs. A field's name and meaning stay once released, and new ones may come; another meaning is
// another "format".
#include <cmath>
#include <nlohmann/json.hpp>

#include "report/evidence.hpp"
#include "report/text.hpp"

namespace vmferry::report {

namespace {

using Json = nlohmann::ordered_json;

// In whole milliseconds, as the journal's times are: more digits than that nobody has measured.
double rounded(double seconds) { return std::round(seconds * 1000) / 1000; }

// What is not known is not there.
void put(Json& j, const char* key, const std::string& text) {
  if (!text.empty()) j[key] = text;
}
void put(Json& j, const char* key, const std::optional<std::uint64_t>& count) {
  if (count) j[key] = *count;
}
void put(Json& j, const char* key, const std::optional<model::ChangeId>& id) {
  if (id) j[key] = id->text();
}

Json of(const Run& run) {
  return {{"at", iso_time(run.at)}, {"command", run.command}, {"version", run.version}, {"resumed", run.resumed}};
}

Json of(const Root& root) {
  Json j = {{"algorithm", root.algorithm}, {"chunk", root.chunk}, {"bytes", root.bytes}, {"cycle", root.cycle}};
  put(j, "root", root.digest);
  j["after_conversion"] = root.converted;
  j["zero"] = root.zero;
  j["unknown"] = root.unknown;
  put(j, "strip", root.strip);
  return j;
}

Json of(const job::ImageUploaded& image) {
  Json j = {{"id", image.image.value},
            {"format", image.format},
            {"stored_as", image.stored_as},
            {"bytes", image.bytes},
            {"seconds", rounded(image.seconds)}};
  put(j, "content", image.content);
  put(j, "hash_algorithm", image.algorithm);
  put(j, "hash", image.hash);
  put(j, "remark", image.remark);
  return j;
}

Json of(const Disk& disk) {
  Json j = {{"key", disk.key.value}};
  put(j, "label", disk.label);
  put(j, "file", disk.file);
  put(j, "capacity", disk.capacity);
  put(j, "volume", disk.volume);
  put(j, "volume_name", disk.volume_name);
  j["volume_existed_before"] = disk.adopted;
  j["complete"] = disk.complete;
  j["read"] = disk.read;
  j["written"] = disk.written;
  put(j, "equal", disk.equal);
  put(j, "zeroed", disk.zeroed);
  put(j, "change_id", disk.change_id);
  put(j, "rewritten_by_conversion", disk.rewritten);
  j["damaged"] = disk.damaged;
  j["tracking_doubted"] = disk.tracking_doubted;
  if (disk.root) j["digests"] = of(*disk.root);
  put(j, "delivered_volume", disk.delivered);
  if (disk.image) j["image"] = of(*disk.image);
  put(j, "no_root_because", disk.no_root);
  return j;
}

Json of(const DiskCopy& copy) {
  Json j = {{"key", copy.disk.value},
            {"ended", iso_time(copy.ended)},
            {"seconds", rounded(copy.seconds)},
            {"kind", copy.conversion_kept ? "nothing"
                     : copy.full          ? "full"
                                          : "delta"}};
  put(j, "reason", copy.reason);
  j["read"] = copy.read;
  j["written"] = copy.written;
  put(j, "equal", copy.equal);
  put(j, "zeroed", copy.zeroed);
  put(j, "audited", copy.audited);
  put(j, "change_id_before", copy.before);
  put(j, "change_id", copy.after);
  put(j, "strip", copy.strip);
  put(j, "transport", copy.transport);
  put(j, "transport_reason", copy.transport_reason);
  return j;
}

Json of(const Cycle& cycle) {
  Json j = {{"number", cycle.number},
            {"final", cycle.final},
            {"abandoned", cycle.abandoned},
            {"began", iso_time(cycle.began)}};
  if (cycle.frozen) j["frozen"] = iso_time(*cycle.frozen);
  if (cycle.ended) j["ended"] = iso_time(*cycle.ended);
  put(j, "snapshot", cycle.snapshot);
  put(j, "consistency", cycle.consistency);
  put(j, "remark", cycle.remark);
  j["disks"] = Json::array();
  for (const DiskCopy& copy : cycle.copies) j["disks"].push_back(of(copy));
  return j;
}

Json of(const Phase& phase) {
  Json j = {{"name", phase.name}};
  if (phase.cycle != 0) j["cycle"] = phase.cycle;
  j["began"] = iso_time(phase.began);
  j["seconds"] = static_cast<double>(phase.ended - phase.began) / 1000;
  return j;
}

Json of(const Verification& found) {
  return {{"at", iso_time(found.at)}, {"key", found.disk.value},      {"read", found.read},
          {"unknown", found.unknown}, {"different", found.different}, {"seconds", rounded(found.seconds)}};
}

Json of(const job::Downtime& downtime) {
  return {{"seconds", rounded(downtime.whole())}, {"shutdown", downtime.shutdown}, {"copy", downtime.copy},
          {"conversion", downtime.conversion},    {"delivery", downtime.delivery}, {"server", downtime.server}};
}

template <class T>
Json list(const std::vector<T>& things) {
  Json j = Json::array();
  for (const T& thing : things) j.push_back(of(thing));
  return j;
}

}  // namespace

std::string as_json(const Evidence& told, std::string_view version, std::int64_t now) {
  Json machine = {{"name", told.job.vm_name}, {"id", told.job.vm.value}};
  put(machine, "path", told.job.vm_path);
  put(machine, "instance_uuid", told.job.instance_uuid);
  put(machine, "guest", told.job.guest);
  Json source = {{"id", told.job.source}};
  put(source, "endpoint", told.job.endpoint);
  Json j = {{"format", 1},
            {"written_by", "vmferry " + std::string(version)},
            {"written_at", iso_time(now)},
            {"summary", in_words(told)},
            {"job", told.job.job.value},
            {"phase", told.phase},
            {"machine", machine},
            {"source", source},
            {"target", told.job.target},
            {"created", iso_time(told.created)}};
  if (told.server) j["server"] = {{"id", *told.server}, {"state", told.server_state.value_or("")}};
  if (told.done) j["moved"] = iso_time(*told.done);
  if (told.downtime) j["downtime"] = of(*told.downtime);
  j["converted"] = told.converted;
  if (!told.images_kept.empty()) j["images_kept"] = told.images_kept;
  j["interruptions"] = told.interruptions;
  j["runs"] = list(told.runs);
  j["disks"] = list(told.disks);
  j["cycles"] = list(told.cycles);
  j["phases"] = list(told.phases);
  j["verifications"] = list(told.verifications);
  return j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace vmferry::report
