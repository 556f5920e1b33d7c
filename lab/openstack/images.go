// Glance v2: images and what is known of them. Texts and status codes are those of
// Glance 25 (Zed); the bytes are in image_data.go.
package openstack

import (
	"net/http"
	"strings"
	"time"
)

func imageVersions(q *request) reply {
	versions := []obj{}
	for i, id := range []string{"v2.15", "v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"} {
		status := "SUPPORTED"
		if i == 0 {
			status = "CURRENT"
		}
		versions = append(versions, obj{"id": id, "status": status,
			"links": []obj{{"rel": "self", "href": q.base + "/image/v2/"}}})
	}
	return answered(http.StatusMultipleChoices, obj{"versions": versions})
}

// What a client may not set (glance/api/v2/images.py, RequestDeserializer).
var readonlyImage = []string{"created_at", "updated_at", "status", "checksum", "size", "virtual_size", "direct_url", "self",
	"file", "schema", "os_hash_algo", "os_hash_value", "stores"}

// Everything else that is asked for is a property of the images.
var imageQuery = []string{"limit", "marker", "member_status", "sort_key", "sort_dir", "sort", "*"}

func listImages(q *request) reply {
	found := []obj{}
	for _, image := range q.cloud.images {
		fits := true
		for name := range q.query {
			switch name {
			case "limit", "marker", "member_status", "sort_key", "sort_dir", "sort":
			default:
				fits = fits && text(image[name]) == q.query.Get(name)
			}
		}
		if fits {
			found = append(found, image)
		}
	}
	start, end, full, bad := q.page(len(found), func(i int) string { return text(found[i]["id"]) }, func(marker string) reply {
		return q.badRequest("Invalid marker. Image %s could not be found.", marker)
	})
	if bad != nil {
		return *bad
	}
	body := obj{"images": append([]obj{}, found[start:end]...), "first": "/v2/images", "schema": "/v2/schemas/images"}
	if full {
		next := map[string][]string{}
		for name, values := range q.query {
			next[name] = values
		}
		next["marker"] = []string{text(found[end-1]["id"])}
		body["next"] = "/v2/images?" + encodeQuery(next)
	}
	return ok(body)
}

// thisImage finds the image of the path.
func (q *request) thisImage() (obj, *reply) {
	if image := q.cloud.image(q.vars["image"]); image != nil {
		return image, nil
	}
	bad := q.missing("No image found with ID " + q.vars["image"])
	return nil, &bad
}

func showImage(q *request) reply {
	image, bad := q.thisImage()
	if bad != nil {
		return *bad
	}
	return ok(copied(image))
}

// newImage is an image without bytes.
func (c *Cloud) newImage(id string, set obj) obj {
	now := novaTime(time.Now().UTC())
	image := obj{"id": id, "name": nil, "status": "queued", "visibility": "shared", "protected": false, "disk_format": nil,
		"container_format": nil, "size": nil, "virtual_size": nil, "min_disk": 0, "min_ram": 0, "checksum": nil, "os_hash_algo": nil,
		"os_hash_value": nil, "os_hidden": false, "owner": c.ids.project, "tags": []string{}, "created_at": now, "updated_at": now,
		"self": "/v2/images/" + id, "file": "/v2/images/" + id + "/file", "schema": "/v2/schemas/image"}
	for name, value := range set {
		image[name] = value
	}
	return image
}

// checkImage refuses what may not be set, or has the wrong form.
func (q *request) checkImage(set obj) *reply {
	refuse := func(status int, message string) *reply { bad := q.fail(status, message); return &bad }
	for _, name := range keys(set) {
		value := set[name]
		switch {
		case contains(readonlyImage, name):
			return refuse(http.StatusForbidden, "Attribute '"+name+"' is read-only.")
		case strings.HasPrefix(name, "os_glance") || name == "location" || name == "deleted" || name == "deleted_at":
			return refuse(http.StatusForbidden, "Attribute '"+name+"' is reserved.")
		case name == "disk_format" && !contains([]string{"ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"}, text(value)),
			name == "container_format" && !contains([]string{"ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"}, text(value)),
			name == "visibility" && !contains([]string{"community", "public", "private", "shared"}, text(value)):
			return refuse(http.StatusBadRequest, "Provided object does not match schema 'image': '"+text(value)+"' is not one of the enumerated values")
		case name == "min_disk" || name == "min_ram":
			number, valid := integer(value)
			if !valid || number < 0 {
				return refuse(http.StatusBadRequest, "Provided object does not match schema 'image': "+name+" is not of type 'integer'")
			}
			set[name] = number
		case name == "protected" || name == "os_hidden" || name == "tags":
		default:
			if _, is := value.(string); !is {
				return refuse(http.StatusBadRequest, "Provided object does not match schema 'image': "+name+" is not of type 'string'")
			}
		}
	}
	if text(set["visibility"]) == "public" {
		return refuse(http.StatusForbidden, "You are not authorized to complete publicize_image action.")
	}
	return nil
}

func createImage(q *request) reply {
	c := q.cloud
	if bad := q.checkImage(q.body); bad != nil {
		return *bad
	}
	id := newUUID()
	if given := text(q.body["id"]); given != "" {
		if id = given; !looksLikeUUID(id) {
			return q.badRequest("Provided object does not match schema 'image': '%s' does not match the pattern", id)
		}
		if c.image(id) != nil {
			return q.fail(http.StatusConflict, "Image ID "+id+" already exists!")
		}
	}
	image := c.newImage(id, q.body)
	c.images = append(c.images, image)
	return answered(http.StatusCreated, copied(image)).with("Location", q.base+"/image/v2/images/"+id).
		with("OpenStack-image-import-methods", strings.Join(c.settings.ImportMethods, ","))
}

func deleteImage(q *request) reply {
	c := q.cloud
	image, bad := q.thisImage()
	if bad != nil {
		return *bad
	}
	if protected, _ := boolean(image["protected"]); protected {
		return q.fail(http.StatusForbidden, "Image "+text(image["id"])+" is protected and cannot be deleted.")
	}
	for i, other := range c.images {
		if text(other["id"]) == text(image["id"]) {
			c.images = append(c.images[:i:i], c.images[i+1:]...)
			break
		}
	}
	c.dropImageFiles(text(image["id"]))
	return answered(http.StatusNoContent, nil)
}

func importInfo(q *request) reply {
	return ok(obj{"import-methods": obj{"description": "Import methods available.", "type": "array", "value": q.cloud.settings.ImportMethods}})
}

func imageTasks(q *request) reply {
	if _, bad := q.thisImage(); bad != nil {
		return *bad
	}
	tasks := []obj{}
	if message := q.cloud.failedImports[q.vars["image"]]; message != "" {
		tasks = append(tasks, obj{"id": stableUUID(1), "type": "api_image_import", "status": "failure", "image_id": q.vars["image"], "message": message})
	}
	return ok(obj{"tasks": tasks})
}
