// Cinder v3: volumes, their metadata and their life. Texts and status codes are
// those of Cinder 21 (Zed).
package openstack

import (
	"bytes"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

func volumeVersions(q *request) []obj {
	return []obj{{
		"id": "v3.0", "status": "CURRENT", "version": volumeRange[1].String(), "min_version": volumeRange[0].String(),
		"updated": "2022-08-31T00:00:00Z",
		"links": []obj{{"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
			{"rel": "self", "href": q.base + "/volume/v3/"}},
		"media-types": []obj{{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}},
	}}
}

func volumeRoot(q *request) reply {
	return answered(http.StatusMultipleChoices, obj{"versions": volumeVersions(q)})
}

func volumeVersionThree(q *request) reply { return ok(obj{"versions": volumeVersions(q)}) }

// thisVolume finds the volume of the path.
func (q *request) thisVolume() (*volume, *reply) {
	if v := q.cloud.volume(q.vars["volume"]); v != nil {
		return v, nil
	}
	bad := q.missing("Volume " + q.vars["volume"] + " could not be found.")
	return nil, &bad
}

func createVolume(q *request) reply {
	c := q.cloud
	asked := object(q.body["volume"])
	if asked == nil {
		return q.badRequest("Invalid input for field/attribute volume. 'volume' is a required property")
	}
	for _, source := range []string{"snapshot_id", "source_volid", "consistencygroup_id", "group_id", "backup_id"} {
		if asked[source] != nil {
			return c.unmodelled(q.http, q.service, http.StatusNotImplemented, "volumes made from "+source)
		}
	}
	if many, _ := boolean(asked["multiattach"]); many {
		return q.badRequest("multiattach parameter has been removed. The default behavior is to use multiattach enabled " +
			"volume types. Contact your administrator to create a multiattach enabled volume type and use it to create " +
			"multiattach volumes.")
	}
	size, valid := integer(asked["size"])
	if asked["size"] == nil {
		return q.badRequest("Invalid input received: Volume size 'None' must be an integer and greater than 0")
	}
	if !valid || size < 1 {
		return q.badRequest("Invalid input for field/attribute size. Value: %v. %v is less than the minimum of 1",
			asked["size"], asked["size"])
	}
	metadata, bad := q.metadataIn(asked["metadata"])
	if bad != nil {
		return *bad
	}
	kind, bad := c.volumeTypeNamed(q, text(asked["volume_type"]))
	if bad != nil {
		return *bad
	}
	zone := text(asked["availability_zone"])
	if zone == "" {
		zone = zoneName
	}
	if zone != zoneName {
		return q.badRequest("Availability zone '%s' is invalid.", zone)
	}
	image, bad := planSource(q, asked, size)
	if bad != nil {
		return *bad
	}
	if bad := q.volumeQuota(1, size); bad != nil {
		return *bad
	}
	v := &volume{
		id: newUUID(), name: text(asked["name"]), description: asked["description"], status: "creating", size: size,
		metadata: metadata, imageMetadata: obj{}, volumeType: kind, zone: zone, created: time.Now().UTC(), token: q.token,
	}
	c.volumes = append(c.volumes, v)
	fails := q.fate
	c.later(c.settings.CreateDelayMS, func() { c.finishCreate(v, image, fails) })
	return answered(http.StatusAccepted, obj{"volume": c.volumeView(q, v)})
}

func (c *Cloud) finishCreate(v *volume, image obj, fails *fate) {
	failed := false
	c.locked(func() {
		if v.status != "creating" {
			failed = true
			return
		}
		if v.volumeType.name == nowhere {
			c.tell(v, allocating, noBackEnd)
		}
		if fails != nil || v.volumeType.name == nowhere {
			v.setStatus("error")
			failed = true
			return
		}
		file, err := c.makeVolumeFile(v)
		if err != nil {
			log.Printf("volume %s cannot be made: %v", v.id, err)
			v.setStatus("error")
			failed = true
			return
		}
		v.file, v.export = file, c.volumesDir()
	})
	if failed {
		return
	}
	var err error
	if image != nil {
		err = c.fillFromImage(v, image)
	}
	c.locked(func() {
		if err != nil {
			log.Printf("volume %s cannot be made: %v", v.id, err)
			v.setStatus("error")
			return
		}
		if image != nil {
			// Cinder calls every volume from an image bootable.
			v.bootable, v.imageMetadata = true, imageToVolume(image)
		}
		v.setStatus("available")
	})
}

// metadataIn reads metadata as Cinder's schema has it: strings up to 255.
func (q *request) metadataIn(given interface{}) (obj, *reply) {
	read := obj{}
	for _, name := range keys(object(given)) {
		value, is := object(given)[name].(string)
		if !is {
			bad := q.badRequest("Invalid input for field/attribute %s. Value: %v. %v is not of type 'string'",
				name, object(given)[name], object(given)[name])
			return nil, &bad
		}
		if len(value) > 255 {
			bad := q.badRequest("Invalid input for field/attribute %s. Value: %s. '%s' is too long", name, value, value)
			return nil, &bad
		}
		if name == "" || len(name) > 255 {
			bad := q.badRequest("Invalid input for field/attribute metadata. Value: %s. "+
				"Additional properties are not allowed ('%s' was unexpected)", name, name)
			return nil, &bad
		}
		read[name] = value
	}
	return read, nil
}

// volumeUse is what the quotas count.
func (c *Cloud) volumeUse() (volumes, gigabytes int) {
	for _, v := range c.volumes {
		volumes, gigabytes = volumes+1, gigabytes+v.size
	}
	return volumes, gigabytes
}

// volumeQuota refuses what would go over: gigabytes are looked at first, as
// cinder/quota_utils.py does.
func (q *request) volumeQuota(volumes, gigabytes int) *reply {
	usedVolumes, usedGigabytes := q.cloud.volumeUse()
	limit := q.cloud.quota
	if over(limit.Gigabytes, usedGigabytes, gigabytes) {
		bad := q.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("VolumeSizeExceedsAvailableQuota: Requested volume or "+
			"snapshot exceeds allowed gigabytes quota. Requested %dG, quota is %dG and %dG has been consumed.",
			gigabytes, limit.Gigabytes, usedGigabytes))
		return &bad
	}
	if volumes > 0 && over(limit.Volumes, usedVolumes, volumes) {
		bad := q.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("VolumeLimitExceeded: Maximum number of volumes "+
			"allowed (%d) exceeded for quota 'volumes'.", limit.Volumes))
		return &bad
	}
	return nil
}

// over tells whether asking for more goes past a limit; -1 is no limit.
func over(limit, used, more int) bool { return limit >= 0 && used+more > limit }

func showVolume(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	return ok(obj{"volume": q.cloud.volumeView(q, v)})
}

func updateVolume(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	asked := object(q.body["volume"])
	if asked == nil || len(asked) == 0 && q.at(53) {
		return q.badRequest("Invalid input for field/attribute volume. Value: {}. {} does not have enough properties")
	}
	if given, is := asked["metadata"]; is {
		metadata, bad := q.metadataIn(given)
		if bad != nil {
			return *bad
		}
		v.metadata = metadata
	}
	if name, is := asked["name"]; is {
		v.name = text(name)
	}
	if description, is := asked["description"]; is {
		v.description = description
	}
	v.touch()
	return ok(obj{"volume": q.cloud.volumeView(q, v)})
}

var deletable = []string{"available", "error", "error_restoring", "error_extending", "error_managing"}

func deleteVolume(q *request) reply {
	c := q.cloud
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	if force, _ := boolean(q.query.Get("force")); force {
		return q.fail(http.StatusForbidden, "Policy doesn't allow volume:force_delete to be performed.")
	}
	if !contains(deletable, v.status) || v.attachment != nil && v.attachment.attached {
		return q.badRequest("Invalid volume: Volume status must be available or error or error_restoring or " +
			"error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, " +
			"awaiting a transfer, or be disassociated from snapshots after volume transfer.")
	}
	c.startDelete(v, q.fate)
	return answered(http.StatusAccepted, nil)
}

func (c *Cloud) startDelete(v *volume, fails *fate) {
	v.setStatus("deleting")
	c.later(c.settings.CreateDelayMS, func() {
		c.locked(func() {
			if fails != nil {
				v.setStatus("error_deleting")
				return
			}
			c.removeVolume(v)
		})
	})
}

func (c *Cloud) removeVolume(v *volume) {
	if v.file != "" {
		if err := os.Remove(v.file); err != nil {
			log.Printf("volume %s: %v", v.id, err)
		}
	}
	for i, other := range c.volumes {
		if other == v {
			c.volumes = append(c.volumes[:i:i], c.volumes[i+1:]...)
			return
		}
	}
}

func setBootable(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	value, valid := boolean(object(q.body["os-set_bootable"])["bootable"])
	if !valid {
		return q.badRequest("Invalid input for field/attribute bootable. Value: %v. %v is not of type 'boolean'",
			object(q.body["os-set_bootable"])["bootable"], object(q.body["os-set_bootable"])["bootable"])
	}
	v.bootable = value
	v.touch()
	return answered(http.StatusOK, nil)
}

func setImageMetadata(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	metadata, bad := q.metadataIn(object(q.body["os-set_image_metadata"])["metadata"])
	if bad != nil {
		return *bad
	}
	for name, value := range metadata {
		v.imageMetadata[name] = value
	}
	v.touch()
	return ok(obj{"metadata": copied(v.imageMetadata)})
}

func unsetImageMetadata(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	key := text(object(q.body["os-unset_image_metadata"])["key"])
	if _, known := v.imageMetadata[key]; !known {
		return q.missing("Glance metadata for volume/snapshot " + v.id + " cannot be found.")
	}
	delete(v.imageMetadata, key)
	v.touch()
	return answered(http.StatusOK, nil)
}

func showImageMetadata(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	return ok(obj{"metadata": copied(v.imageMetadata)})
}

func extendVolume(q *request) reply {
	c := q.cloud
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	size, valid := integer(object(q.body["os-extend"])["new_size"])
	if !valid || size < 1 {
		return q.badRequest("Invalid input for field/attribute new_size. Value: %v. %v is not of type 'integer'",
			object(q.body["os-extend"])["new_size"], object(q.body["os-extend"])["new_size"])
	}
	before := v.status
	expected := "available"
	if q.at(42) && before == "in-use" {
		expected = "in-use"
	}
	if size <= v.size {
		return q.badRequest("Invalid input received: New size for extend must be greater than current size. "+
			"(current: %d, extended: %d).", v.size, size)
	}
	if before != expected {
		return q.badRequest("Invalid volume: Volume %s status must be '{'status': '%s'}' to extend, currently %s.",
			v.id, expected, before)
	}
	if bad := q.volumeQuota(0, size-v.size); bad != nil {
		return *bad
	}
	v.setStatus("extending")
	fails := q.fate
	c.later(c.settings.CreateDelayMS, func() { c.finishExtend(v, size, before, fails) })
	return answered(http.StatusAccepted, nil)
}

func (c *Cloud) finishExtend(v *volume, size int, before string, fails *fate) {
	c.locked(func() {
		if v.status != "extending" {
			return
		}
		err := os.Truncate(v.file, int64(size)<<30)
		if err != nil || fails != nil {
			log.Printf("volume %s is not extended: %v", v.id, err)
			v.setStatus("error_extending")
			return
		}
		v.size = size
		if v.attachment != nil && v.attachment.block != nil {
			if err := v.attachment.block.Grow(v.bytes()); err != nil {
				log.Print(err)
			}
		}
		v.setStatus(before)
	})
}

func listMetadata(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	return ok(obj{"metadata": copied(v.metadata)})
}

func mergeMetadata(q *request) reply   { return changeMetadata(q, false) }
func replaceMetadata(q *request) reply { return changeMetadata(q, true) }

func changeMetadata(q *request, replace bool) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	if _, given := q.body["metadata"].(obj); !given {
		return q.badRequest("Invalid input for field/attribute metadata. 'metadata' is a required property")
	}
	metadata, bad := q.metadataIn(q.body["metadata"])
	if bad != nil {
		return *bad
	}
	if replace {
		v.metadata = obj{}
	}
	for name, value := range metadata {
		v.metadata[name] = value
	}
	v.touch()
	return ok(obj{"metadata": copied(v.metadata)})
}

func showMetadataKey(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	value, known := v.metadata[q.vars["key"]]
	if !known {
		return q.noMetadataKey(v)
	}
	return ok(obj{"meta": obj{q.vars["key"]: value}})
}

func (q *request) noMetadataKey(v *volume) reply {
	return q.missing(fmt.Sprintf("Volume %s has no metadata with key %s.", v.id, q.vars["key"]))
}

func putMetadataKey(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	meta, bad := q.metadataIn(q.body["meta"])
	if bad != nil {
		return *bad
	}
	value, named := meta[q.vars["key"]]
	if !named {
		return q.badRequest("Request body and URI mismatch")
	}
	if len(meta) > 1 {
		return q.badRequest("Request body contains too many items")
	}
	v.metadata[q.vars["key"]] = value
	v.touch()
	return ok(obj{"meta": meta})
}

func deleteMetadataKey(q *request) reply {
	v, bad := q.thisVolume()
	if bad != nil {
		return *bad
	}
	if _, known := v.metadata[q.vars["key"]]; !known {
		return q.noMetadataKey(v)
	}
	delete(v.metadata, q.vars["key"])
	v.touch()
	return answered(http.StatusOK, nil)
}

func (c *Cloud) volumesDir() string { return filepath.Join(c.config.Dir, "volumes") }

// makeVolumeFile makes the sparse file of a volume.
func (c *Cloud) makeVolumeFile(v *volume) (string, error) {
	path, size := filepath.Join(c.volumesDir(), "volume-"+v.id), v.bytes()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	if err := file.Truncate(size); err != nil {
		file.Close()
		os.Remove(path)
		return "", fmt.Errorf("%s of %s bytes: %w", path, strconv.FormatInt(size, 10), err)
	}
	if v.volumeType.encrypted { // zeroes on the storage are noise to who has the key
		noise := bytes.Repeat([]byte{0xa5}, 1<<20)
		for i := int64(0); i < 64; i++ {
			if _, err := file.WriteAt(noise, i<<20); err != nil {
				file.Close()
				return "", err
			}
		}
	}
	return path, file.Close()
}
