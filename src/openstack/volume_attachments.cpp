// Cinder's v3 API, "Attachments", docs.openstack.org/api-ref/block-storage/v3/#attachments-attachments; what an
// ordinary user sees of them is in cinder/api/v3/views/attachments.py. What is true is read anew at each turn.
#include "openstack/volume_attachments.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/machine.hpp"
#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::volume_attachments {

namespace {

using nlohmann::json;

// How long a reservation without a connection may be somebody's who is about to give it one.
constexpr std::chrono::seconds reservation_grace(15);
// Between two times that Cinder is given the same connector.
constexpr std::chrono::seconds connector_pause(5);

constexpr const char* delete_by_hand = "openstack --os-volume-api-version 3.44 volume attachment delete ";

std::string path_of(const std::string& id) {
  if (id.empty()) throw Error(Fault::bug, "an attachment without an id was asked for");
  return "/attachments/" + http::encode(id);
}

CinderAttachment read(const Fields& f) {
  // The format alone is told even of what has no connection yet (show() in cinder/api/v3/attachments.py).
  const bool connected = !f.at("connection_info").text("driver_volume_type").empty();
  return {f.text("id"), f.text("status"), ServerId{f.text("instance")}, VolumeId{f.text("volume_id")},
          connected ? f.json("connection_info") : std::string()};
}

// What the metadata say: the attachment's id and its host.
struct Record {
  std::string id, host;
};
Record record_of(const Volume& volume) {
  const auto found = volume.metadata.find(record_key);
  if (found == volume.metadata.end()) return {};
  const std::size_t space = found->second.find(' ');
  if (space == std::string::npos) return {};
  return {found->second.substr(0, space), found->second.substr(space + 1)};
}

// Nobody's yet: it names no instance and has no connection.
bool is_bare(const CinderAttachment& a) { return a.instance.empty() && a.status == "reserved"; }

// One volume's attachments, changed step by step.
class Acting {
 public:
  Acting(Service& service, const VolumeId& id, const std::string& host, std::stop_token stop)
      : service_(service), id_(id), host_(host), stop_(stop) {}

  std::string describe() const {
    std::string text = fmt::format("volume {} ('{}') is {}", id_.value, last_.name, last_.status);
    for (const CinderAttachment& a : all_)
      text += fmt::format("; attachment {} is {}{}", a.id, a.status,
                          a.instance.empty() ? "" : " to instance " + a.instance.value);
    return refusal_.empty() ? text : fmt::format("{}; {}", text, refusal_);
  }

 protected:
  // The one that is written down as ours, as the list has it.
  const CinderAttachment* ours() const {
    const Record record = record_of(last_);
    if (!same_machine(record.host, host_)) return nullptr;
    const auto found =
        std::find_if(all_.begin(), all_.end(), [&](const CinderAttachment& a) { return a.id == record.id; });
    return found == all_.end() ? nullptr : &*found;
  }

  // Runs a call that changes something. False = it may not have been done, look again.
  bool attempt(const std::function<void()>& call) {
    std::exception_ptr failure;
    try {
      call();
      refusal_.clear();
      return true;
    } catch (...) {
      failure = std::current_exception();
    }
    if (!worth_another_look(failure)) std::rethrow_exception(failure);
    try {
      std::rethrow_exception(failure);
    } catch (const Error& e) {
      refusal_ = e.what();
    }
    return false;
  }

  // Whether another host has written it down; asked after ours().
  bool is_anothers(const CinderAttachment& a) const { return record_of(last_).id == a.id; }

  // `repeat`: it is ours, so that its deletion may be repeated blindly when the reply is lost.
  void remove(const std::string& id, bool repeat = true) {
    attempt([&] {
      Call call;
      call.method = "DELETE";
      call.path = path_of(id);
      call.doing = fmt::format("delete attachment {} of volume {}", id, id_.value);
      call.idempotent = repeat;
      call.accept = {404};
      service_.call(call, stop_);
    });
  }

  // A reservation that nobody wrote down goes when its maker had time to give it a connection, or at once.
  void remove_stale(const CinderAttachment& bare, bool at_once) {
    const auto now = service_.clock().mono();
    const auto seen = bare_since_.emplace(bare.id, now).first->second;
    if (!at_once && now - seen < reservation_grace) return;
    // The metadata were read before the list: its maker may have written it down in between.
    if (record_of(volumes::get(service_, id_, stop_)).id == bare.id) return;
    service_.log().info("deleting a reservation that nobody went on with",
                        {{"volume", id_.value}, {"attachment", bare.id}});
    remove(bare.id, false);
  }

  Service& service_;
  const VolumeId& id_;
  const std::string& host_;
  std::stop_token stop_;
  Volume last_;
  std::vector<CinderAttachment> all_;
  std::string refusal_;

 private:
  std::map<std::string, std::chrono::steady_clock::time_point> bare_since_;
};

class Claiming : public Acting {
 public:
  Claiming(Service& service, const VolumeId& id, const std::string& host, const std::string& connector,
           std::stop_token stop)
      : Acting(service, id, host, stop), connector_(connector) {}

  // True once it is ours and has a connection: see claimed().
  bool step() {
    last_ = volumes::get(service_, id_, stop_);
    all_ = list(service_, id_, stop_);
    if (const CinderAttachment* mine = ours()) return go_on(*mine);
    volumes::refuse_error(last_);
    for (const CinderAttachment& other : all_) judge(other);
    if (!all_.empty() || volumes::is_passing(last_.status)) return false;
    if (last_.status == "in-use") return false;  // between two of Cinder's writes
    if (last_.status != "available")
      throw Error(Fault::conflict, fmt::format("volume {} ('{}') is {}: it must be available to be attached", id_.value,
                                               last_.name, last_.status));
    reserve();
    return false;
  }
  CinderAttachment claimed() && { return std::move(claimed_); }

 private:
  [[noreturn]] void throw_elsewhere(const CinderAttachment& other) const {
    const Record record = record_of(last_);
    std::string where = "a host that is no instance";
    if (!other.instance.empty()) where = "instance " + other.instance.value;
    if (record.id == other.id) where = "host " + record.host;
    throw Error(Fault::conflict,
                fmt::format("volume {} ('{}') is attached to {} (attachment {}), not to this host ({}): detach it "
                            "there first, with the command that attached it{}",
                            id_.value, last_.name, where, other.id, host_,
                            other.instance.empty()
                                ? fmt::format("; if that host is gone for good: {}{}", delete_by_hand, other.id)
                                : ""));
  }

  void judge(const CinderAttachment& other) {
    if (is_bare(other) && !is_anothers(other)) return remove_stale(other, std::exchange(reply_lost_, false));
    if (other.status == "error_attaching" && other.instance.empty()) return remove(other.id);
    // Nova's may be coming or going; another host's stays until that host ends it.
    if (!other.instance.empty() && volumes::is_passing(last_.status)) return;
    throw_elsewhere(other);
  }

  bool go_on(const CinderAttachment& mine) {
    // Only a volume that may be attached several times gets here.
    for (const CinderAttachment& other : all_)
      if (other.id != mine.id) {
        if (mine.status == "reserved") remove(mine.id);
        throw_elsewhere(other);
      }
    const auto now = look_up(service_, mine.id, stop_);
    if (!now) return false;
    if (now->status == "error_attaching") {
      remove(now->id);
      return false;
    }
    // Cinder's manager says "attaching" before its API has the connection: when that gave up waiting (an RPC timeout),
    // it stays so (attachment_update in cinder/volume/manager.py and api.py).
    if (now->connection_info.empty()) return give_connector(*now);
    claimed_ = *now;
    return true;
  }

  void reserve() {
    constexpr int most = 5;
    if (++reserved_ > most)
      throw Error(Fault::unavailable,
                  fmt::format("volume {} could not be reserved in {} attempts: {}", id_.value, most, describe()));
    Call call;
    call.method = "POST";
    call.path = "/attachments";
    // No instance_uuid: see docs/adr/0011.
    call.body = json{{"attachment", {{"volume_uuid", id_.value}}}}.dump();
    call.doing = fmt::format("reserve volume {} for this host", id_.value);
    std::string made;
    const bool replied = attempt([&] {
      try {
        made = Fields::parse(service_.call(call, stop_).body, "Cinder's answer").at("attachment").text("id");
      } catch (...) {
        reply_lost_ = reply_lost_ || may_have_acted(std::current_exception());
        throw;
      }
    });
    // Written down before anybody can connect by it.
    if (replied) volumes::update_metadata(service_, id_, {{record_key, made + " " + host_}}, stop_);
  }

  bool give_connector(const CinderAttachment& mine) {
    constexpr int most = 3;
    const auto now = service_.clock().mono();
    if (offered_ > 0 && now - offered_at_ < connector_pause) return false;
    if (++offered_ > most) {
      const std::string why = describe();
      remove(mine.id);
      throw Error(Fault::unavailable,
                  fmt::format("Cinder does not connect volume {} to this host: {}", id_.value, why));
    }
    Call call;
    call.method = "PUT";
    call.path = path_of(mine.id);
    call.body = json{{"attachment", {{"connector", json::parse(connector_)}}}}.dump();
    call.doing = fmt::format("connect volume {} to this host", id_.value);
    call.accept = {404};  // somebody deleted the reservation: the next look begins anew
    attempt([&] { service_.call(call, stop_); });
    offered_at_ = service_.clock().mono();
    return false;
  }

  const std::string& connector_;
  CinderAttachment claimed_;
  bool reply_lost_ = false;
  int reserved_ = 0;
  int offered_ = 0;
  std::chrono::steady_clock::time_point offered_at_;
};

class Releasing : public Acting {
 public:
  Releasing(Service& service, const VolumeId& id, const std::string& host,
            const std::function<void(const CinderAttachment*)>& disconnect, std::stop_token stop)
      : Acting(service, id, host, stop), disconnect_(disconnect) {}

  // True once nothing of ours is left.
  bool step() {
    const auto now = volumes::look_up(service_, id_, stop_);
    if (!now) {
      disconnect_once(nullptr);
      return true;
    }
    last_ = *now;
    all_ = list(service_, id_, stop_);
    if (const CinderAttachment* mine = ours()) {
      if (const auto whole = look_up(service_, mine->id, stop_)) {
        disconnect_once(&*whole);
        remove(whole->id);
      }
      return false;
    }
    disconnect_once(nullptr);
    for (const CinderAttachment& other : all_) {
      if (!other.instance.empty() || is_anothers(other)) continue;
      if (!is_bare(other)) throw_nobodys(other);
      remove_stale(other, false);
      return false;
    }
    if (all_.empty() && (last_.status == "detaching" || last_.status == "attaching" || last_.status == "reserved"))
      return false;
    if (same_machine(record_of(last_).host, host_)) volumes::remove_metadata(service_, id_, record_key, stop_);
    return true;
  }

 private:
  [[noreturn]] void throw_nobodys(const CinderAttachment& other) const {
    throw Error(Fault::conflict,
                fmt::format("volume {} ('{}') is attached to a host that is no instance (attachment {}), and its "
                            "metadata do not say which: it may be this one. When it is connected nowhere: {}{}",
                            id_.value, last_.name, other.id, delete_by_hand, other.id));
  }
  void disconnect_once(const CinderAttachment* attachment) {
    if (!disconnected_) disconnect_(attachment);
    disconnected_ = true;
  }

  const std::function<void(const CinderAttachment*)>& disconnect_;
  bool disconnected_ = false;
};

}  // namespace

std::vector<CinderAttachment> list(Service& service, const VolumeId& id, std::stop_token stop) {
  const std::string doing = fmt::format("list the attachments of volume {}", id.value);
  std::vector<Fields> items;
  try {
    items = service.list("/attachments?volume_id=" + http::encode(id.value), "attachments", doing, stop);
  } catch (const Refused& refused) {
    // An operator can switch the filter off (resource_query_filters_file); then all are looked at.
    if (refused.status() != 400) throw;
    items = service.list("/attachments", "attachments", doing, stop);
  }
  std::vector<CinderAttachment> all;
  for (const Fields& item : items) {
    CinderAttachment attachment = read(item);
    if (attachment.volume == id && attachment.status != "detached") all.push_back(std::move(attachment));
  }
  return all;
}

std::optional<CinderAttachment> look_up(Service& service, const std::string& id, std::stop_token stop) {
  Call call;
  call.path = path_of(id);
  call.doing = fmt::format("show attachment {}", id);
  call.accept = {404};
  const http::Response response = service.call(call, stop);
  if (response.status == 404) return std::nullopt;
  return read(Fields::parse(response.body, "Cinder's answer").at("attachment"));
}

bool same_machine(const std::string& host, const std::string& other) {
  const auto machine = [](const std::string& text) { return text.substr(text.rfind('/') + 1); };
  return same_machine_mark(machine(host), machine(other));
}

std::optional<Recorded> recorded(Service& service, const Volume& of, std::stop_token stop) {
  const Record record = record_of(of);
  if (record.id.empty()) return std::nullopt;
  const auto attachment = look_up(service, record.id, stop);
  if (!attachment || attachment->volume != of.id || attachment->status == "detached") return std::nullopt;
  return Recorded{*attachment, record.host};
}

std::optional<CinderAttachment> find(Service& service, const Volume& of, const std::string& host,
                                     std::stop_token stop) {
  if (!same_machine(record_of(of).host, host)) return std::nullopt;
  const auto found = recorded(service, of, stop);
  if (!found) return std::nullopt;
  return found->attachment;
}

std::string holder(const Volume& volume) {
  if (volume.attachments.empty()) return "nobody";
  const VolumeAttachment& first = volume.attachments.front();
  if (!first.server.empty()) return "instance " + first.server.value;
  const Record record = record_of(volume);
  return fmt::format("{} (attachment {})", record.id == first.id ? "host " + record.host : "a host that is no instance",
                     first.id);
}

CinderAttachment claim(Service& service, const VolumeId& id, const std::string& host, const std::string& connector,
                       std::chrono::seconds patience, std::stop_token stop) {
  Claiming claiming(service, id, host, connector, stop);
  if (poll(
          service, patience, [&] { return claiming.step(); }, stop))
    return std::move(claiming).claimed();
  throw Error(Fault::timeout, fmt::format("volume {} is not attached to this host after {} s: {}", id.value,
                                          patience.count(), claiming.describe()));
}

void complete(Service& service, const CinderAttachment& attachment, std::chrono::seconds patience,
              std::stop_token stop) {
  if (attachment.status != "attached") {
    Call call;
    call.method = "POST";
    call.path = path_of(attachment.id) + "/action";
    call.body = R"({"os-complete":{}})";
    call.doing = fmt::format("say that volume {} is connected", attachment.volume.value);
    call.idempotent = true;
    service.call(call, stop);
  }
  volumes::wait_for(service, attachment.volume, {"in-use"}, patience, stop);
}

void release(Service& service, const VolumeId& id, const std::string& host,
             const std::function<void(const CinderAttachment*)>& disconnect, std::chrono::seconds patience,
             std::stop_token stop) {
  Releasing releasing(service, id, host, disconnect, stop);
  if (poll(
          service, patience, [&] { return releasing.step(); }, stop))
    return;
  throw Error(Fault::timeout, fmt::format("volume {} is not detached from this host after {} s: {}", id.value,
                                          patience.count(), releasing.describe()));
}

}  // namespace vmferry::openstack::volume_attachments
