// Cinder v3: attachments, which a user can make without any instance
// (cinder/api/v3/attachments.py, cinder/volume/api.py). Storage is reached as with
// the NFS driver: the export is this machine's folder of volumes.
package openstack

import (
	"net/http"
	"time"
)

func volumeAttachmentRoutes() []route {
	const s = "volume"
	all, one := "/v3/attachments", "/v3/attachments/{attachment}"
	filters := []string{"volume_id", "instance_id"}
	return []route{
		{service: s, method: "GET", path: all, query: filters, about: "list attachments (3.27)", act: listVolumeAttachments},
		{service: s, method: "GET", path: all + "/detail", query: filters, about: "list them in detail (3.27)", act: detailVolumeAttachments},
		{service: s, method: "POST", path: all, fields: []string{"attachment.volume_uuid", "attachment.instance_uuid", "attachment.connector.*",
			"attachment.mode@3.54"}, about: "reserve a volume, with a connector also connect it (3.27)", act: createVolumeAttachment},
		{service: s, method: "GET", path: one, about: "show one with its connection_info (3.27)", act: showVolumeAttachment},
		{service: s, method: "PUT", path: one, fields: []string{"attachment.connector.*"}, about: "give the connector (3.27)", act: updateVolumeAttachment},
		{service: s, method: "DELETE", path: one, about: "delete one; Nova's are refused (3.27)", act: deleteVolumeAttachment},
		{service: s, method: "POST", path: one + "/action", action: "os-complete", fields: []string{"os-complete.*"},
			about: "say that it is connected (3.44)", act: completeVolumeAttachment},
	}
}

// tooOld refuses what the call's microversion does not have.
func (q *request) tooOld(since int) *reply {
	if q.at(since) {
		return nil
	}
	bad := q.missing("API version " + q.version.String() + " is not supported on this method.")
	return &bad
}

// instance is who has the volume, nil for a host that is no instance.
func (a *attachment) instance() interface{} {
	if a.server != nil {
		return a.server.id
	}
	return a.named
}

// status is Cinder's attach_status. Of Nova's attachments it follows from the volume's.
func (a *attachment) status() string {
	switch {
	case a.attached:
		return "attached"
	case a.connection != nil || a.server != nil && a.volume.status != "reserved":
		return "attaching"
	}
	return "reserved"
}

func (a *attachment) summary() obj {
	return obj{"id": a.id, "status": a.status(), "instance": a.instance(), "volume_id": a.volume.id}
}

func (a *attachment) detail() obj {
	view := a.summary()
	view["attached_at"], view["detached_at"], view["attach_mode"] = "", "", "null"
	if !a.at.IsZero() {
		view["attached_at"], view["attach_mode"] = cinderTime(a.at), "rw"
	}
	connection := copied(a.connection)
	if a.server != nil && a.status() != "reserved" {
		connection = a.volume.connection(a)
	}
	view["connection_info"] = connection
	return view
}

// connection is what the NFS driver says of a volume, with what the volume manager adds.
func (v *volume) connection(a *attachment) obj {
	return obj{
		"driver_volume_type": "nfs", "export": "127.0.0.1:" + v.export, "name": "volume-" + v.id, "options": nil, "format": "raw",
		"mount_point_base": "/var/lib/cinder/mnt", "qos_specs": nil, "access_mode": "rw", "encrypted": false, "cacheable": false,
		"attachment_id": a.id,
	}
}

// thisAttachment finds the attachment of the path.
func (q *request) thisAttachment(since int) (*attachment, *reply) {
	if bad := q.tooOld(since); bad != nil {
		return nil, bad
	}
	for _, v := range q.cloud.volumes {
		if v.attachment != nil && v.attachment.id == q.vars["attachment"] {
			return v.attachment, nil
		}
	}
	bad := q.missing("Volume attachment could not be found with filter: attachment_id = " + q.vars["attachment"] + ".")
	return nil, &bad
}

func listVolumeAttachments(q *request) reply   { return q.volumeAttachments((*attachment).summary) }
func detailVolumeAttachments(q *request) reply { return q.volumeAttachments((*attachment).detail) }

func (q *request) volumeAttachments(view func(*attachment) obj) reply {
	if bad := q.tooOld(27); bad != nil {
		return *bad
	}
	views := []obj{}
	for _, v := range q.cloud.volumes {
		a := v.attachment
		if a == nil || q.query.Has("volume_id") && q.query.Get("volume_id") != v.id ||
			q.query.Has("instance_id") && q.query.Get("instance_id") != a.instance() {
			continue
		}
		views = append(views, view(a))
	}
	return ok(obj{"attachments": views})
}

func createVolumeAttachment(q *request) reply {
	if bad := q.tooOld(27); bad != nil {
		return *bad
	}
	asked := object(q.body["attachment"])
	id := text(asked["volume_uuid"])
	if !looksLikeUUID(id) {
		return q.badRequest("Invalid input for field/attribute volume_uuid. Value: %v. %v is not a 'uuid'", asked["volume_uuid"], asked["volume_uuid"])
	}
	v := q.cloud.volume(id)
	if v == nil {
		return q.missing("Volume " + id + " could not be found.")
	}
	if refusal := reserveRefusal(v); refusal != "" {
		return q.badRequest("%s", refusal)
	}
	v.attachment = &attachment{id: newUUID(), volume: v, named: asked["instance_uuid"], device: "na"}
	v.setStatus("reserved")
	if connector := object(asked["connector"]); len(connector) > 0 {
		v.attachment.connect(connector)
	}
	return ok(obj{"attachment": v.attachment.detail()})
}

func (a *attachment) connect(connector obj) {
	a.connection, a.at = a.volume.connection(a), time.Now().UTC()
	if mountpoint := text(connector["mountpoint"]); mountpoint != "" {
		a.device = mountpoint
	}
	a.attached = false
	a.volume.setStatus("attaching")
}

func showVolumeAttachment(q *request) reply {
	a, bad := q.thisAttachment(27)
	if bad != nil {
		return *bad
	}
	view := a.detail()
	object(view["connection_info"])["format"] = "raw" // from the volume's admin metadata, connected or not
	return ok(obj{"attachment": view})
}

func updateVolumeAttachment(q *request) reply {
	a, bad := q.thisAttachment(27)
	if bad != nil {
		return *bad
	}
	connector := object(object(q.body["attachment"])["connector"])
	if len(connector) == 0 {
		return q.badRequest("Invalid input for field/attribute connector. Value: {}. {} does not have enough properties")
	}
	a.connect(connector)
	return ok(obj{"attachment": a.detail()})
}

// deleteVolumeAttachment: for an attachment that names an instance Cinder asks Nova with the user's
// token (attachment_deletion_allowed in cinder/volume/api.py).
func deleteVolumeAttachment(q *request) reply {
	a, bad := q.thisAttachment(27)
	if bad != nil {
		return *bad
	}
	if a.instance() != nil && a.status() != "reserved" {
		if q.token.appCred != nil {
			return q.fail(http.StatusInternalServerError, "The server has either erred or is incapable of performing the requested operation.")
		}
		if a.server != nil {
			return q.fail(http.StatusConflict, "Detach volume from instance "+a.server.id+" using the Compute API")
		}
	}
	if a.server != nil {
		a.server.dropAttachment(a)
	}
	q.cloud.unplug(a)
	return ok(obj{"attachments": []obj{}})
}

func completeVolumeAttachment(q *request) reply {
	a, bad := q.thisAttachment(44)
	if bad != nil {
		return *bad
	}
	a.attached = true
	a.volume.setStatus("in-use")
	return answered(http.StatusNoContent, nil)
}
