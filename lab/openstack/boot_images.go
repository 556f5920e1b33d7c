// Nova v2.1: servers booted from an image, on a disk of the flavor's size or on
// a volume that Nova makes. No image has bytes here: the volume is empty.
package openstack

import (
	"fmt"
	"log"
	"net/http"
	"time"
)

// bootVolume is a block device from an image to a volume, not made yet.
type bootVolume struct {
	image     obj
	size      int
	kind      volumeType
	deleteToo bool
}

func (c *Cloud) image(id string) obj {
	for _, image := range c.images {
		if image["id"] == id {
			return image
		}
	}
	return nil
}

// planImage is imageRef: the root disk is the flavor's.
func planImage(q *request, asked obj, p *plan) *reply {
	refuse := func(bad reply) *reply { return &bad }
	id := text(asked["imageRef"])
	if id == "" {
		return nil
	}
	image := q.cloud.image(id)
	switch {
	case image == nil:
		return refuse(q.badRequest("Can not find requested image"))
	case image["status"] != "active":
		return refuse(q.badRequest("Image %s is not active.", id))
	case len(list(asked["block_device_mapping_v2"])) > 0:
		return refuse(q.cloud.unmodelled(q.http, q.service, http.StatusNotImplemented, "imageRef beside block_device_mapping_v2"))
	case p.server.flavor.disk == 0:
		// The default of os_compute_api:servers:create:zero_disk_flavor: administrators only.
		return refuse(q.fail(http.StatusForbidden, "Only volume-backed servers are allowed for flavors with zero disk."))
	}
	p.server.image = id
	return nil
}

// planBootVolume takes the one mapping of a server whose volume is made from an
// image; nil, nil when the mappings are something else.
func planBootVolume(q *request, mappings []interface{}) (*bootVolume, *reply) {
	refuse := func(format string, a ...interface{}) (*bootVolume, *reply) {
		bad := q.badRequest(format, a...)
		return nil, &bad
	}
	mapping := object(mappings[0])
	if text(mapping["source_type"]) != "image" || text(mapping["destination_type"]) != "volume" || len(mappings) > 1 {
		return nil, nil
	}
	image := q.cloud.image(text(mapping["uuid"]))
	if image == nil {
		return refuse("Block Device Mapping is Invalid: failed to get image %s.", text(mapping["uuid"]))
	}
	if index, valid := integer(mapping["boot_index"]); !valid || index != 0 {
		return refuse("Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping " +
			"combination is not valid.")
	}
	size, valid := integer(mapping["volume_size"])
	if !valid || size < 1 {
		return refuse("Block Device Mapping is Invalid: Images with destination_type 'volume' need to have a non-zero size specified")
	}
	kind, bad := q.cloud.volumeTypeNamed(q, text(mapping["volume_type"]))
	if bad != nil {
		return refuse("Volume type %s could not be found.", text(mapping["volume_type"]))
	}
	made := &bootVolume{image: image, size: size, kind: kind}
	made.deleteToo, _ = boolean(mapping["delete_on_termination"])
	return made, nil
}

// makeBootVolume is what the compute host does first of all.
func (c *Cloud) makeBootVolume(b *bootVolume, s *server) *fate {
	volumes, gigabytes := c.volumeUse()
	if over(c.quota.Volumes, volumes, 1) || over(c.quota.Gigabytes, gigabytes, b.size) {
		return &fate{message: fmt.Sprintf("Build of instance %s aborted: Block Device Mapping is Invalid.", s.id)}
	}
	v := &volume{id: newUUID(), description: "", size: b.size, metadata: obj{}, volumeType: b.kind, zone: zoneName,
		imageMetadata: obj{"image_id": b.image["id"], "image_name": b.image["name"]}, bootable: true, created: time.Now().UTC()}
	file, err := c.makeVolumeFile(v)
	if err != nil {
		log.Printf("volume %s cannot be made: %v", v.id, err)
		return &fate{message: "Build of instance " + s.id + " aborted: " + err.Error()}
	}
	v.file, v.export = file, c.volumesDir()
	a := &attachment{id: newUUID(), mapping: newUUID(), volume: v, server: s, bootIndex: 0, deleteToo: b.deleteToo, device: deviceName(0)}
	v.attachment = a
	v.setStatus("attaching")
	c.volumes = append(c.volumes, v)
	s.attachments = append(s.attachments, a)
	return nil
}
