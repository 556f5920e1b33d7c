// Glance v2: the bytes of images. They come and go as streams, without the cloud's
// lock, and lie in files, as in a file store.
package openstack

import (
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func (c *Cloud) imageFile(id string) string { return filepath.Join(c.config.Dir, "images", id) }
func (c *Cloud) stagedFile(id string) string {
	return filepath.Join(c.config.Dir, "images", "staged-"+id)
}

func (c *Cloud) dropImageFiles(id string) {
	os.Remove(c.imageFile(id))
	os.Remove(c.stagedFile(id))
}

// imageUse is what image_size_total counts, in MiB as Keystone's limits have it.
func (c *Cloud) imageUse() int {
	bytes := 0
	for _, image := range c.images {
		size, _ := integer(image["size"])
		bytes += size
	}
	return bytes >> 20
}

// beginData moves an image from queued to another status, or says why not. Glance
// asks for the quota before the bytes come, and only whether it is used up
// (glance/quota/keystone.py, enforce_image_size_total with a delta of 0).
func beginData(q *request, status string) *reply {
	c := q.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind := q.http.Header.Get("Content-Type"); kind != "application/octet-stream" {
		bad := q.fail(http.StatusUnsupportedMediaType, "The server could not comply with the request since it is either malformed or otherwise incorrect.")
		return &bad
	}
	if limit := c.quota.ImageMiB; limit >= 0 && c.imageUse() > limit {
		bad := q.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("Project %s is over a limit for [Resource image_size_total is "+
			"over limit of %d due to current usage %d and delta 0]", c.ids.project, limit, c.imageUse()))
		return &bad
	}
	image, bad := q.thisImage()
	if bad != nil {
		return bad
	}
	if text(image["status"]) != "queued" {
		bad := q.fail(http.StatusConflict, fmt.Sprintf("Image status transition from %s to %s is not allowed", text(image["status"]), status))
		return &bad
	}
	image["status"] = status
	return nil
}

// takeData writes the body to a file, as fast as the settings allow. A body that
// breaks off is taken for what it is, like Glance does: nothing compares sizes.
func takeData(q *request, path string) (int64, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return 0, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	buffer := make([]byte, 256<<10)
	total := int64(0)
	for {
		n, err := q.http.Body.Read(buffer)
		if n > 0 {
			if _, failed := file.Write(buffer[:n]); failed != nil {
				return total, failed
			}
			total += int64(n)
			rate := 0
			q.cloud.locked(func() { rate = q.cloud.settings.ImageBytesPerS })
			if rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
			}
		}
		if err != nil {
			return total, nil
		}
	}
}

func uploadImage(q *request) reply {
	if bad := beginData(q, "saving"); bad != nil {
		return *bad
	}
	id := q.vars["image"]
	if _, err := takeData(q, q.cloud.imageFile(id)); err != nil {
		return q.fail(http.StatusInternalServerError, err.Error())
	}
	if !q.cloud.activate(id) {
		return q.fail(http.StatusGone, "Image "+id+" could not be found after upload. The image may have been deleted during the "+
			"upload, cleaning up the chunks uploaded.")
	}
	return answered(http.StatusNoContent, nil)
}

// activate takes the image's file as its bytes; false when it is gone.
func (c *Cloud) activate(id string) bool {
	long, short, size := sha512.New(), md5.New(), int64(0)
	if file, err := os.Open(c.imageFile(id)); err == nil {
		size, _ = io.Copy(io.MultiWriter(long, short), file)
		file.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	image := c.image(id)
	if image == nil {
		c.dropImageFiles(id)
		return false
	}
	image["status"], image["size"] = "active", int(size)
	image["os_hash_algo"], image["os_hash_value"] = "sha512", hex.EncodeToString(long.Sum(nil))
	image["checksum"] = hex.EncodeToString(short.Sum(nil))
	image["updated_at"] = novaTime(time.Now().UTC())
	return true
}

func stageImage(q *request) reply {
	if bad := beginData(q, "uploading"); bad != nil {
		return *bad
	}
	id := q.vars["image"]
	size, err := takeData(q, q.cloud.stagedFile(id))
	if err != nil {
		return q.fail(http.StatusInternalServerError, err.Error())
	}
	q.cloud.locked(func() {
		if image := q.cloud.image(id); image != nil {
			image["size"] = int(size)
		} else {
			q.cloud.dropImageFiles(id)
		}
	})
	return answered(http.StatusNoContent, nil)
}

func importImage(q *request) reply {
	c := q.cloud
	image, bad := q.thisImage()
	if bad != nil {
		return *bad
	}
	method := text(object(q.body["method"])["name"])
	switch {
	case method != "glance-direct":
		return c.unmodelled(q.http, q.service, http.StatusNotImplemented, "importing by "+method)
	case !contains(c.settings.ImportMethods, method):
		return q.badRequest("Unknown import method name '%s'.", method)
	case text(image["status"]) == "active":
		return q.fail(http.StatusConflict, "Image with status active cannot be target for import")
	case text(image["status"]) != "uploading":
		return q.fail(http.StatusConflict, "Image needs to be staged before 'glance-direct' method can be used")
	}
	image["status"] = "importing"
	id, converts, fails := text(image["id"]), c.settings.ImportConverts, q.fate
	c.later(c.settings.CreateDelayMS, func() { c.finishImport(id, converts, fails) })
	return answered(http.StatusAccepted, nil)
}

// finishImport is the task: with converts the plugin image_conversion makes the
// image raw first.
func (c *Cloud) finishImport(id string, converts bool, fails *fate) {
	var err error
	if fails != nil {
		err = fmt.Errorf("%s", fails.message)
	} else if from := ""; converts {
		c.locked(func() { from = text(c.image(id)["disk_format"]) })
		err = convert(from, c.stagedFile(id), c.imageFile(id))
	} else {
		err = os.Rename(c.stagedFile(id), c.imageFile(id))
	}
	if err != nil {
		c.locked(func() {
			if image := c.image(id); image != nil {
				image["status"], image["size"], image["os_glance_failed_import"] = "queued", nil, "file1"
				c.failedImports[id] = err.Error()
			}
		})
		return
	}
	if converts {
		c.locked(func() {
			if image := c.image(id); image != nil {
				image["disk_format"] = "raw"
			}
		})
	}
	os.Remove(c.stagedFile(id))
	c.activate(id)
}

// convert makes a raw file of an image.
func convert(format, from, to string) error {
	if said, err := exec.Command("qemu-img", "convert", "-f", format, "-O", "raw", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img convert: %v: %s", err, strings.TrimSpace(string(said)))
	}
	return nil
}

func downloadImage(q *request) reply {
	var bad *reply
	status := ""
	q.cloud.locked(func() {
		var image obj
		if image, bad = q.thisImage(); bad == nil {
			status = text(image["status"])
		}
	})
	if bad != nil {
		return *bad
	}
	if status != "active" {
		return answered(http.StatusNoContent, nil)
	}
	return reply{status: http.StatusOK, file: q.cloud.imageFile(q.vars["image"])}
}

// patchImage applies a JSON patch of whole properties.
func patchImage(q *request) reply {
	c := q.cloud
	if q.http.Header.Get("Content-Type") != "application/openstack-images-v2.1-json-patch" {
		return q.fail(http.StatusUnsupportedMediaType, "Unsupported Content-Type")
	}
	var changes []struct {
		Op, Path string
		Value    interface{}
	}
	decoder := json.NewDecoder(io.LimitReader(q.http.Body, 1<<20))
	if err := decoder.Decode(&changes); err != nil {
		return q.badRequest("Request body must be a JSON array of operation objects.")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	image, bad := q.thisImage()
	if bad != nil {
		return *bad
	}
	next := copied(image)
	for _, change := range changes {
		name := strings.TrimPrefix(change.Path, "/")
		_, there := next[name]
		if change.Op == "remove" {
			if !there {
				return q.fail(http.StatusConflict, "Property "+name+" does not exist.")
			}
			delete(next, name)
			continue
		}
		if change.Op == "replace" && !there {
			return q.fail(http.StatusConflict, "Property "+name+" does not exist.")
		}
		if bad := q.checkImage(obj{name: change.Value}); bad != nil {
			return *bad
		}
		next[name] = change.Value
	}
	for name := range image {
		delete(image, name)
	}
	for name, value := range next {
		image[name] = value
	}
	return ok(next)
}

// planSource checks the image of a new volume as cinder/volume/volume_utils.py,
// check_image_metadata does; nil, nil without one.
func planSource(q *request, asked obj, size int) (obj, *reply) {
	id := text(asked["imageRef"])
	if id == "" {
		id = text(asked["image_id"])
	}
	if id == "" {
		return nil, nil
	}
	refuse := func(format string, a ...interface{}) (obj, *reply) {
		bad := q.badRequest(format, a...)
		return nil, &bad
	}
	image := q.cloud.image(id[strings.LastIndex(id, "/")+1:])
	if image == nil {
		return refuse("Invalid image identifier or unable to access requested image.")
	}
	if text(image["status"]) != "active" {
		return refuse("Invalid input received: Image %s is not active.", text(image["id"]))
	}
	stored, _ := integer(image["size"])
	if gib := (stored + 1<<30 - 1) >> 30; gib > size {
		return refuse("Invalid input received: Size of specified image %dGB is larger than volume size %dGB.", gib, size)
	}
	if least, _ := integer(image["min_disk"]); size < least {
		return refuse("Invalid input received: Volume size %dGB cannot be smaller than the image minDisk size %dGB.", size, least)
	}
	return image, nil
}

// imageToVolume is what Cinder keeps of an image beside a volume made from it
// (cinder/volume/volume_utils.py, get_volume_image_metadata).
func imageToVolume(image obj) obj {
	kept := obj{"image_id": image["id"]}
	if name := text(image["name"]); name != "" {
		kept["image_name"] = name
	}
	for _, name := range []string{"checksum", "container_format", "disk_format", "min_disk", "min_ram", "size"} {
		if value := image[name]; value != nil {
			kept[name] = fmt.Sprint(value)
		}
	}
	for name, value := range image {
		switch name {
		case "id", "name", "status", "visibility", "protected", "virtual_size", "os_hash_algo", "os_hash_value", "os_hidden", "owner",
			"tags", "created_at", "updated_at", "self", "file", "schema", "checksum", "container_format", "disk_format", "min_disk", "min_ram", "size":
		default:
			if property, is := value.(string); is {
				kept[name] = property
			}
		}
	}
	return kept
}

// fillFromImage puts an image's bytes into a new volume, without the lock.
func (c *Cloud) fillFromImage(v *volume, image obj) error {
	id, format, size, seeded := "", "", int64(0), false
	c.locked(func() {
		id, format, size = text(image["id"]), text(image["disk_format"]), v.bytes()
		seeded = id == text(c.images[0]["id"])
		v.setStatus("downloading")
	})
	// The seeded image has no bytes.
	if _, err := os.Stat(c.imageFile(id)); os.IsNotExist(err) && seeded {
		return nil
	}
	path := v.file + ".image"
	defer os.Remove(path)
	if err := convert(format, c.imageFile(id), path); err != nil {
		return err
	}
	held, err := os.Stat(path)
	if err != nil {
		return err
	}
	if held.Size() > size {
		return fmt.Errorf("image %s has a virtual size of %d bytes", id, held.Size())
	}
	if err := os.Truncate(path, size); err != nil {
		return err
	}
	log.Printf("volume %s holds image %s (%s)", v.id, id, format)
	return os.Rename(path, v.file)
}
