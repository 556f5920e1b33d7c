// Tests of images: their life, their bytes, and the volumes made of them.
package openstack

import (
	"crypto/sha512"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

const raw = `{"name":"disk","disk_format":"raw","container_format":"bare","vmferry_job":"j","min_disk":1}`

// put sends bytes as a client of Glance does.
func (b *bench) put(path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPut, path, strings.NewReader(body))
	r.Header.Set("X-Auth-Token", b.token)
	r.Header.Set("Content-Type", "application/octet-stream")
	w := httptest.NewRecorder()
	b.front.ServeHTTP(w, r)
	return w
}

func (b *bench) status(id string) string {
	return text(b.want(http.StatusOK, "GET", "/image/v2/images/"+id, "", "")["status"])
}

func (b *bench) await(id, status string) {
	b.Helper()
	for i := 0; i < 6000; i++ {
		if b.status(id) == status {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatalf("image %s is %s, not %s", id, b.status(id), status)
}

func TestAnImageTakesItsBytesOnce(t *testing.T) {
	b := newBench(t)
	id := text(b.want(http.StatusCreated, "POST", "/image/v2/images", "", raw)["id"])
	if found := list(b.want(http.StatusOK, "GET", "/image/v2/images?vmferry_job=j", "", "")["images"]); len(found) != 1 {
		t.Fatalf("%d images have the property", len(found))
	}
	if found := list(b.want(http.StatusOK, "GET", "/image/v2/images?vmferry_job=k", "", "")["images"]); len(found) != 0 {
		t.Fatalf("%d images have a property that none has", len(found))
	}
	if answer := b.put("/image/v2/images/"+id+"/file", "bytes"); answer.Code != http.StatusNoContent {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	image := b.want(http.StatusOK, "GET", "/image/v2/images/"+id, "", "")
	sum := sha512.Sum512([]byte("bytes"))
	if image["status"] != "active" || image["os_hash_value"] != hex.EncodeToString(sum[:]) {
		t.Fatalf("%v", image)
	}
	if answer := b.put("/image/v2/images/"+id+"/file", "more"); answer.Code != http.StatusConflict {
		t.Fatalf("a second time: %d", answer.Code)
	}
	if answer := b.call("GET", "/image/v2/images/"+id+"/file", "", ""); answer.Body.String() != "bytes" {
		t.Fatalf("%q came back", answer.Body)
	}
	b.want(http.StatusNoContent, "DELETE", "/image/v2/images/"+id, "", "")
	if _, err := os.Stat(b.cloud.imageFile(id)); !os.IsNotExist(err) {
		t.Fatalf("the file stays: %v", err)
	}
}

func TestAnImageIsStagedAndImported(t *testing.T) {
	b := newBench(t)
	b.cloud.settings.ImportMethods = []string{"glance-direct"}
	id := text(b.want(http.StatusCreated, "POST", "/image/v2/images", "", raw)["id"])
	method := `{"method":{"name":"glance-direct"}}`
	b.want(http.StatusConflict, "POST", "/image/v2/images/"+id+"/import", "", method)
	if answer := b.put("/image/v2/images/"+id+"/stage", "bytes"); answer.Code != http.StatusNoContent {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	if b.status(id) != "uploading" {
		t.Fatalf("it is %s", b.status(id))
	}
	b.want(http.StatusAccepted, "POST", "/image/v2/images/"+id+"/import", "", method)
	b.await(id, "active")
}

func TestNobodySetsWhatGlanceDoes(t *testing.T) {
	b := newBench(t)
	b.want(http.StatusForbidden, "POST", "/image/v2/images", "", `{"name":"x","status":"active"}`)
	b.want(http.StatusForbidden, "POST", "/image/v2/images", "", `{"name":"x","os_glance_failed_import":"y"}`)
	b.want(http.StatusForbidden, "POST", "/image/v2/images", "", `{"name":"x","visibility":"public"}`)
	b.want(http.StatusBadRequest, "POST", "/image/v2/images", "", `{"name":"x","disk_format":"floppy"}`)
}

func TestAFullImageStore(t *testing.T) {
	b := newBench(t)
	b.cloud.quota.ImageMiB = 0
	b.cloud.images[0]["size"] = 2 << 20
	id := text(b.want(http.StatusCreated, "POST", "/image/v2/images", "", raw)["id"])
	answer := b.put("/image/v2/images/"+id+"/file", "bytes")
	if answer.Code != http.StatusRequestEntityTooLarge || !strings.Contains(answer.Body.String(), "over a limit") {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	if b.status(id) != "queued" {
		t.Fatalf("it is %s", b.status(id))
	}
}

func TestAVolumeHoldsItsImage(t *testing.T) {
	b := newBench(t)
	id := text(b.want(http.StatusCreated, "POST", "/image/v2/images", "", raw)["id"])
	volume := `{"volume":{"size":1,"imageRef":"` + id + `"}}`
	b.want(http.StatusBadRequest, "POST", "/volume/v3/volumes", "", volume)
	b.put("/image/v2/images/"+id+"/file", strings.Repeat("b", 4096))
	made := object(b.want(http.StatusAccepted, "POST", "/volume/v3/volumes", "", volume)["volume"])
	var v obj
	for i := 0; i < 6000 && text(v["status"]) != "available"; i++ {
		time.Sleep(10 * time.Millisecond)
		v = object(b.want(http.StatusOK, "GET", "/volume/v3/volumes/"+text(made["id"]), "", "")["volume"])
	}
	if v["bootable"] != "true" || object(v["volume_image_metadata"])["vmferry_job"] != "j" {
		t.Fatalf("%v", v)
	}
	file, err := os.Open(b.cloud.volume(text(made["id"])).file)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	held := make([]byte, 8192)
	if _, err := file.ReadAt(held, 0); err != nil || held[4095] != 'b' || held[4096] != 0 {
		t.Fatalf("other bytes: %v", err)
	}
	if size, _ := file.Seek(0, 2); size != 1<<30 {
		t.Fatalf("%d bytes", size)
	}
	b.want(http.StatusBadRequest, "POST", "/volume/v3/volumes", "", `{"volume":{"size":1,"imageRef":"`+newUUID()+`"}}`)
}
