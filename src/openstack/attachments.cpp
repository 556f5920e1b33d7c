// Nova's os-volume_attachments, docs.openstack.org/api-ref/compute/. What is true is read from both Nova and Cinder at
// each turn, so a lost reply needs no care of its own: the next look tells.
#include "openstack/attachments.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "openstack/errors.hpp"
#include "openstack/once.hpp"

namespace vmferry::openstack::attachments {

namespace {

std::string path_of(const ServerId& server) {
  if (server.empty()) throw Error(Fault::bug, "an instance without an id was asked for");
  return "/servers/" + http::encode(server.value) + "/os-volume_attachments";
}

bool attached_to(const Volume& volume, const ServerId& server) {
  return std::any_of(volume.attachments.begin(), volume.attachments.end(),
                     [&](const VolumeAttachment& a) { return a.server == server; });
}

// One attachment on its way: what was tried so far.
class Attaching {
 public:
  Attaching(Service& compute, Service& volume, const ServerId& server, const VolumeId& id, std::stop_token stop)
      : compute_(compute), volume_(volume), server_(server), id_(id), stop_(stop) {}

  // True once attached.
  bool step() {
    last_ = volumes::get(volume_, id_, stop_);
    if (attached_to(last_, server_) && last_.status == "in-use") return true;
    volumes::refuse_error(last_);
    if (last_.status == "in-use" && !attached_to(last_, server_)) {
      // Without any attachment it is between two of Cinder's writes.
      if (!last_.attachments.empty()) throw_elsewhere();
      return false;
    }
    if (volumes::is_passing(last_.status)) return false;
    if (last_.status != "available") {
      throw Error(Fault::conflict, fmt::format("volume {} ('{}') is {}: it must be available to be attached", id_.value,
                                               last_.name, last_.status));
    }
    post();
    return false;
  }
  std::string describe() const {
    std::string text = fmt::format("volume {} ('{}') is {}", id_.value, last_.name, last_.status);
    return refusal_.empty() ? text : fmt::format("{}; {}", text, refusal_);
  }

 private:
  [[noreturn]] void throw_elsewhere() const {
    const ServerId& other = last_.attachments.front().server;
    const std::string where = other.empty() ? "a host that is no instance" : "instance " + other.value;
    throw Error(Fault::conflict,
                fmt::format("volume {} ('{}') is attached to {}, not to this host's instance {}: detach it there first",
                            id_.value, last_.name, where, server_.value));
  }

  void post() {
    // Nova takes the call and fails afterwards: then the volume is available again, without a word.
    constexpr int most = 3;
    if (accepted_ >= most)
      throw Error(Fault::unavailable,
                  fmt::format("Nova took the attachment of volume {} to instance {} {} times and gave it up each time; "
                              "see: openstack server event list {}",
                              id_.value, server_.value, accepted_, server_.value));
    Call call;
    call.method = "POST";
    call.path = path_of(server_);
    call.body = nlohmann::json{{"volumeAttachment", {{"volumeId", id_.value}}}}.dump();
    call.doing = fmt::format("attach volume {} to instance {}", id_.value, server_.value);
    std::exception_ptr failure;
    try {
      compute_.call(call, stop_);
      ++accepted_;
      refusal_.clear();
      return;
    } catch (...) {
      failure = std::current_exception();
    }
    if (!worth_another_look(failure)) std::rethrow_exception(failure);
    judge(failure);
  }

  void judge(const std::exception_ptr& failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const Refused& refused) {
      refusal_ = refused.what();
      if (refused.status() != 400) return;
      // A 400 for another reason than the volume's state will not get better.
      const Volume now = volumes::get(volume_, id_, stop_);
      if (now.status == "available" && ++bad_requests_ > 1) throw;
    } catch (const Error& error) {
      refusal_ = error.what();
    }
  }

  Service& compute_;
  Service& volume_;
  const ServerId& server_;
  const VolumeId& id_;
  std::stop_token stop_;
  Volume last_;
  std::string refusal_;
  int accepted_ = 0;
  int bad_requests_ = 0;
};

// One detachment on its way.
class Detaching {
 public:
  Detaching(Service& compute, Service& volume, const ServerId& server, const VolumeId& id, std::stop_token stop)
      : compute_(compute), volume_(volume), server_(server), id_(id), stop_(stop) {}

  // True once neither Nova nor Cinder knows of it.
  bool step() {
    const std::optional<Volume> now = volumes::look_up(volume_, id_, stop_);
    if (!now) return true;
    last_ = *now;
    nova_has_it_ = nova_has_it();
    const bool passing = volumes::is_passing(last_.status);
    // An attachment that an earlier run asked for may still be arriving: Cinder knows before Nova shows it.
    if (!nova_has_it_ && !attached_to(last_, server_))
      return last_.status != "detaching" && last_.status != "attaching" && last_.status != "reserved";
    if (!nova_has_it_) volumes::refuse_error(last_);
    if (passing || !nova_has_it_) return false;
    remove();
    return false;
  }
  std::string describe() const {
    std::string text = fmt::format(
        "volume {} ('{}') is {}{}", id_.value, last_.name, last_.status,
        nova_has_it_ ? "" : "; Nova no longer has the attachment, but Cinder does: ask the cloud's operator");
    return refusal_.empty() ? text : fmt::format("{}; {}", text, refusal_);
  }

 private:
  bool nova_has_it() {
    Call call;
    call.path = path_of(server_) + "/" + http::encode(id_.value);
    call.doing = fmt::format("show the attachment of volume {}", id_.value);
    call.accept = {404};
    return compute_.call(call, stop_).status != 404;
  }

  void remove() {
    Call call;
    call.method = "DELETE";
    call.path = path_of(server_) + "/" + http::encode(id_.value);
    call.doing = fmt::format("detach volume {} from instance {}", id_.value, server_.value);
    call.idempotent = true;
    call.accept = {404};
    std::exception_ptr failure;
    try {
      compute_.call(call, stop_);
      refusal_.clear();
      return;
    } catch (...) {
      failure = std::current_exception();
    }
    if (!worth_another_look(failure)) std::rethrow_exception(failure);
    try {
      std::rethrow_exception(failure);
    } catch (const Refused& refused) {
      refusal_ = refused.what();
      // "Cannot detach a root device volume" and its like: a state that stays although nothing is in the middle.
      if (refused.status() == 400 && volumes::get(volume_, id_, stop_).status == "in-use" && ++bad_requests_ > 1) throw;
    } catch (const Error& error) {
      refusal_ = error.what();
    }
  }

  Service& compute_;
  Service& volume_;
  const ServerId& server_;
  const VolumeId& id_;
  std::stop_token stop_;
  Volume last_;
  bool nova_has_it_ = false;
  std::string refusal_;
  int bad_requests_ = 0;
};

}  // namespace

std::vector<Attached> list(Service& compute, const ServerId& server, std::stop_token stop) {
  std::vector<Attached> all;
  for (const Fields& item : compute.list(path_of(server), "volumeAttachments",
                                         fmt::format("list the volumes of instance {}", server.value), stop))
    all.push_back({VolumeId{item.text("volumeId")}, ServerId{item.text("serverId")}, item.text("device"),
                   item.flag("delete_on_termination")});
  return all;
}

void attach(Service& compute, Service& volume, const ServerId& server, const VolumeId& id,
            std::chrono::seconds patience, std::stop_token stop) {
  Attaching attaching(compute, volume, server, id, stop);
  if (poll(
          compute, patience, [&] { return attaching.step(); }, stop))
    return;
  throw Error(Fault::timeout, fmt::format("volume {} is not attached to instance {} after {} s: {}", id.value,
                                          server.value, patience.count(), attaching.describe()));
}

void detach(Service& compute, Service& volume, const ServerId& server, const VolumeId& id,
            std::chrono::seconds patience, std::stop_token stop) {
  Detaching detaching(compute, volume, server, id, stop);
  if (poll(
          compute, patience, [&] { return detaching.step(); }, stop))
    return;
  throw Error(Fault::timeout, fmt::format("volume {} is not detached from instance {} after {} s: {}", id.value,
                                          server.value, patience.count(), detaching.describe()));
}

}  // namespace vmferry::openstack::attachments
