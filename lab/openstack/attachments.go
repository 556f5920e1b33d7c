// Nova v2.1: volumes attached to servers, and for the conversion host the
// devices that this makes appear.
package openstack

import (
	"fmt"
	"log"
	"net/http"
	"time"

	"vmferry.dev/lab/devices"
)

// reserveRefusal is Cinder's refusal to reserve a volume, "" if it agrees.
func reserveRefusal(v *volume) string {
	if v.status == "available" {
		return ""
	}
	return fmt.Sprintf("Invalid volume: Volume %s status must be available or downloading to reserve, "+
		"but the current status is %s.", v.id, v.status)
}

// attachable are the states of a server in which Nova attaches and detaches.
var attachable = []string{"active", "paused", "stopped", "resized"}

func (q *request) attachmentView(a *attachment) obj {
	view := obj{"volumeId": a.volume.id, "serverId": a.server.id, "device": a.device}
	if !q.at(89) {
		view["id"] = a.volume.id
	}
	if q.at(70) {
		view["tag"] = a.tag
	}
	if q.at(79) {
		view["delete_on_termination"] = a.deleteToo
	}
	if q.at(89) {
		view["attachment_id"], view["bdm_uuid"] = a.id, a.mapping
	}
	return view
}

func listAttachments(q *request) reply {
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	start, end, _, bad := q.page(len(s.attachments), func(i int) string { return s.attachments[i].volume.id },
		func(marker string) reply { return q.badRequest("marker [%s] not found", marker) })
	if bad != nil {
		return *bad
	}
	views := []obj{}
	for _, a := range s.attachments[start:end] {
		views = append(views, q.attachmentView(a))
	}
	return ok(obj{"volumeAttachments": views})
}

func (s *server) attachmentOf(volumeID string) *attachment {
	for _, a := range s.attachments {
		if a.volume.id == volumeID {
			return a
		}
	}
	return nil
}

func showAttachment(q *request) reply {
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	a := s.attachmentOf(q.vars["volume"])
	if a == nil {
		return q.notAttached(s)
	}
	return ok(obj{"volumeAttachment": q.attachmentView(a)})
}

func (q *request) notAttached(s *server) reply {
	return q.missing("Instance " + s.id + " is not attached to volume " + q.vars["volume"])
}

func createAttachment(q *request) reply {
	c := q.cloud
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	asked := object(q.body["volumeAttachment"])
	id := text(asked["volumeId"])
	if !looksLikeUUID(id) {
		return q.badRequest("Invalid input for field/attribute volumeId. Value: %v. %v is not a 'uuid'", asked["volumeId"], asked["volumeId"])
	}
	if bad := q.serverState(s, "attach_volume", attachable...); bad != nil {
		return *bad
	}
	v := c.volume(id)
	if v == nil {
		return q.missing("Volume " + id + " could not be found.")
	}
	if s.attachmentOf(id) != nil {
		return q.badRequest("Invalid volume: volume %s already attached", id)
	}
	if v.attachment != nil && v.attachment.server != nil {
		return q.badRequest("Invalid volume: volume %s is already attached to instances: %s", id, v.attachment.server.id)
	}
	if refusal := reserveRefusal(v); refusal != "" {
		return q.badRequest("Invalid input received: %s (HTTP 400) (Request-ID: %s)", refusal, requestIDMark)
	}
	// check_max_disk_devices_to_attach of nova/compute/utils.py counts the root disk, too.
	disks := len(s.attachments) + 1
	if s.image != nil {
		disks++
	}
	if most := c.settings.MaxDiskDevices; most >= 0 && disks > most {
		return q.fail(http.StatusForbidden, fmt.Sprintf(
			"The maximum allowed number of disk devices (%d) to attach to a single instance has been exceeded.", most))
	}
	a := &attachment{id: newUUID(), mapping: newUUID(), volume: v, server: s, tag: asked["tag"], device: s.freeDevice()}
	a.deleteToo, _ = boolean(asked["delete_on_termination"])
	s.attachments = append(s.attachments, a)
	v.attachment = a
	v.setStatus("reserved")
	fails := q.fate
	part := c.settings.AttachDelayMS / 3
	c.later(part, func() {
		c.locked(func() {
			if v.attachment == a {
				v.setStatus("attaching")
			}
		})
		c.later(c.settings.AttachDelayMS-part, func() { c.finishAttach(a, fails) })
	})
	view := obj{"id": id, "volumeId": id, "serverId": s.id, "device": a.device}
	if q.at(70) {
		view["tag"] = a.tag
	}
	if q.at(79) {
		view["delete_on_termination"] = a.deleteToo
	}
	return ok(obj{"volumeAttachment": view})
}

// freeDevice names the next device. Like Nova's libvirt driver it takes no
// notice of a name the caller asks for. The first is the root disk's.
func (s *server) freeDevice() string {
	for i := 1; ; i++ {
		name, used := deviceName(i), false
		for _, a := range s.attachments {
			used = used || a.device == name
		}
		if !used {
			return name
		}
	}
}

// finishAttach makes the device appear, outside the lock since losetup takes
// its time, and then ends the attachment well or badly. A failed one leaves the
// volume available, as Nova's compute manager does.
func (c *Cloud) finishAttach(a *attachment, fails *fate) {
	c.mu.Lock()
	gone := a.volume.attachment != a || a.server.deleted
	here := a.server.id == c.ids.instance
	file, size := a.volume.file, a.volume.bytes()
	c.mu.Unlock()
	if gone {
		return
	}
	var block *devices.Device
	if fails == nil && here {
		var err error
		if block, err = c.devices.Attach(a.volume.id, file, size); err != nil {
			log.Printf("volume %s cannot be attached: %v", a.volume.id, err)
			fails = &fate{message: err.Error()}
		}
	}
	c.locked(func() {
		if a.volume.attachment != a || a.server.deleted {
			if block != nil {
				block.Detach()
			}
			return
		}
		if fails != nil {
			c.unplug(a)
			a.server.dropAttachment(a)
			return
		}
		a.block, a.attached, a.at = block, true, time.Now().UTC()
		a.volume.setStatus("in-use")
	})
}

func (s *server) dropAttachment(a *attachment) {
	for i, other := range s.attachments {
		if other == a {
			s.attachments = append(s.attachments[:i:i], s.attachments[i+1:]...)
			return
		}
	}
}

func deleteAttachment(q *request) reply {
	c := q.cloud
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	v := c.volume(q.vars["volume"])
	if v == nil {
		return q.missing("Volume " + q.vars["volume"] + " could not be found.")
	}
	a := s.attachmentOf(v.id)
	if a == nil {
		return q.notAttached(s)
	}
	if index, is := a.bootIndex.(int); is && index == 0 {
		return q.badRequest("Cannot detach a root device volume")
	}
	if bad := q.serverState(s, "detach_volume", attachable...); bad != nil {
		return *bad
	}
	if v.status != "in-use" || !a.attached {
		return q.badRequest("Invalid input received: Invalid volume: Unable to detach volume. Volume status must be 'in-use' "+
			"and attach_status must be 'attached' to detach. (HTTP 400) (Request-ID: %s)", requestIDMark)
	}
	v.setStatus("detaching")
	fails := q.fate
	c.later(c.settings.AttachDelayMS, func() {
		c.locked(func() {
			if v.attachment != a {
				return
			}
			if fails != nil { // the guest did not let go
				v.setStatus("in-use")
				return
			}
			c.unplug(a)
			s.dropAttachment(a)
		})
	})
	return answered(http.StatusAccepted, nil)
}
