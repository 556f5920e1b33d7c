// Taking over what the back end has already, as Cinder's remote file system
// drivers do it (RemoteFSManageableVolumesMixin): a file of the share is renamed
// to the volume's name. Cinder's database says "managing" and "error_managing",
// its API "creating" and "error".
package openstack

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const managedHost = "storage@lab#lab"

func manageVolume(q *request) reply {
	c := q.cloud
	asked := object(q.body["volume"])
	host, ref := text(asked["host"]), object(asked["ref"])
	if asked == nil || host == "" || ref == nil {
		return q.badRequest("Invalid input for field/attribute volume. 'ref' is a required property")
	}
	if !c.settings.ManageByMembers {
		return q.fail(http.StatusForbidden, "Policy doesn't allow volume_extension:volume_manage to be performed.")
	}
	if host != managedHost {
		return q.badRequest("Service %s could not be found.", host)
	}
	metadata, bad := q.metadataIn(asked["metadata"])
	if bad != nil {
		return *bad
	}
	kind, bad := c.volumeTypeNamed(q, text(asked["volume_type"]))
	if bad != nil {
		return *bad
	}
	v := &volume{
		id: newUUID(), name: text(asked["name"]), description: asked["description"], status: "creating", size: 0,
		metadata: metadata, imageMetadata: obj{}, volumeType: kind, zone: zoneName, created: time.Now().UTC(), token: q.token,
	}
	c.volumes = append(c.volumes, v)
	name := text(ref["source-name"])
	c.later(c.settings.CreateDelayMS, func() { c.finishManage(v, name) })
	return answered(http.StatusAccepted, obj{"volume": c.volumeView(q, v)})
}

func (c *Cloud) finishManage(v *volume, name string) {
	c.locked(func() {
		file := strings.TrimPrefix(name, "127.0.0.1:")
		about, err := os.Stat(file)
		if err != nil || filepath.Dir(file) != c.volumesDir() || !about.Mode().IsRegular() {
			v.setStatus("error")
			return
		}
		path := filepath.Join(c.volumesDir(), "volume-"+v.id)
		if err := os.Rename(file, path); err != nil {
			v.setStatus("error")
			return
		}
		const gib = int64(1) << 30
		v.size, v.file = int((about.Size()+gib-1)/gib), path
		v.setStatus("available")
	})
}

// unmanageVolume leaves the file where it is, under the name that Cinder gave it.
func unmanageVolume(q *request) reply {
	c := q.cloud
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	if !c.settings.ManageByMembers {
		return q.fail(http.StatusForbidden, "Policy doesn't allow volume_extension:volume_unmanage to be performed.")
	}
	if !contains(deletable, v.status) || v.attachment != nil && v.attachment.attached {
		return q.badRequest("Invalid volume: Volume status must be available or error or error_restoring or " +
			"error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, " +
			"awaiting a transfer, or be disassociated from snapshots after volume transfer.")
	}
	v.file = ""
	c.startDelete(v, q.fate)
	return answered(http.StatusAccepted, nil)
}
