// Cinder's own attachments: volumes attached to a host that need not be an instance, by whom the storage is reached.
// Whose an attachment is is written into the volume's metadata, since Cinder does not tell an ordinary user; see
// docs/adr/0011. Knows nothing of devices on this host.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/id.hpp"
#include "openstack/service.hpp"
#include "openstack/volumes.hpp"

namespace vmferry::openstack {

struct CinderAttachment {
  std::string id;
  std::string status;  // reserved, attaching, attached, detached, error_attaching
  ServerId instance;   // empty = none
  VolumeId volume;
  std::string connection_info;  // JSON for os-brick; may hold secrets; empty in lists and while it is reserved
};

namespace volume_attachments {

// The first API version that has all of this (os-complete); of the Queens release.
inline constexpr Microversion needed{3, 44};
// Metadata of a volume: "<attachment id> <host>", written by the host that made the attachment. A host is
// "<name>/<machine>", without a space; the machine alone says whose it is, since a host may be renamed.
inline constexpr const char* record_key = "vmferry_attachment";
bool same_machine(const std::string& host, const std::string& other);

// Those of one volume, without connection_info.
std::vector<CinderAttachment> list(Service& volume, const VolumeId& id, std::stop_token stop);
std::optional<CinderAttachment> look_up(Service& volume, const std::string& id, std::stop_token stop);

// The attachment that the volume's metadata name, with its connection_info, as long as it is there; and its host.
struct Recorded {
  CinderAttachment attachment;
  std::string host;
};
std::optional<Recorded> recorded(Service& volume, const Volume& of, std::stop_token stop);
// The same when it is this host's.
std::optional<CinderAttachment> find(Service& volume, const Volume& of, const std::string& host, std::stop_token stop);
// Who has the volume, for messages: "instance 5f3a...", "host ferry1 (attachment 77aa...)".
std::string holder(const Volume& volume);

// Makes the attachment of this host, exactly one, and gives Cinder the connector (JSON). `host` names this host among
// all that may want the volume. An attachment that is there already is gone on with. The
// volume is "attaching" then, or "in-use" when it was completed before. Error(conflict) naming who else has it; a
// volume in the middle of another change is waited for.
CinderAttachment claim(Service& volume, const VolumeId& id, const std::string& host, const std::string& connector,
                       std::chrono::seconds patience, std::stop_token stop);
// Says that it is connected and waits until the volume is in-use. May be repeated.
void complete(Service& volume, const CinderAttachment& attachment, std::chrono::seconds patience, std::stop_token stop);
// Calls `disconnect` with this host's attachment (nothing when there is none, or no volume any more), deletes it, and
// waits until Cinder agrees. What `disconnect` throws ends it before anything is deleted. Attachments of servers
// and of other hosts are left alone; none is success. Error(conflict) when one without a server remains that is
// nobody's by the metadata: it may be this host's.
void release(Service& volume, const VolumeId& id, const std::string& host,
             const std::function<void(const CinderAttachment*)>& disconnect, std::chrono::seconds patience,
             std::stop_token stop);

}  // namespace volume_attachments
}  // namespace vmferry::openstack
