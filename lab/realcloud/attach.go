// Devices of the conversion host's volumes: what Nova's driver asks for over a
// unix socket. The driver is python/vmferry_lab_driver.py.
package realcloud

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/devices"
)

// attached are the devices that there are, by volume.
type attached struct {
	folder devices.Folder
	shares map[string]string // NFS export to the folder it is

	mu  sync.Mutex
	all map[string]*attachedVolume
}

type attachedVolume struct {
	file   string
	device *devices.Device
}

// question is what the driver knows of a volume, out of its connection_info.
type question struct {
	VolumeID string `json:"volume_id"`
	Kind     string `json:"kind"`
	Export   string `json:"export"`
	Name     string `json:"name"`
	Format   string `json:"format"`
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`)

// file gives the volume's file and size. Which it is says the cloud, never a guess:
// a volume with a snapshot is another file, and no raw one.
func (a *attached) file(q question) (string, int64, error) {
	folder := a.shares[q.Export]
	switch {
	case !uuidForm.MatchString(q.VolumeID):
		return "", 0, fmt.Errorf("%q is no volume's id", q.VolumeID)
	case q.Kind != "nfs" || folder == "":
		return "", 0, fmt.Errorf("this host has no way to %s %s", q.Kind, q.Export)
	case q.Format != "raw":
		return "", 0, fmt.Errorf("its format is %q, and the lab's conversion host opens raw ones only", q.Format)
	case q.Name == "" || strings.Contains(q.Name, "/"):
		return "", 0, fmt.Errorf("%q is no file of %s", q.Name, q.Export)
	}
	path := filepath.Join(folder, q.Name)
	info, err := os.Lstat(path)
	if err != nil {
		return "", 0, err
	}
	if !info.Mode().IsRegular() {
		return "", 0, fmt.Errorf("%s is no plain file", path)
	}
	return path, info.Size(), nil
}

func (a *attached) handler() http.Handler {
	mux := http.NewServeMux()
	serve := func(path string, act func(question) error) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			var q question
			if err := calls.Decode(r, &q); err != nil {
				calls.Refuse(w, http.StatusBadRequest, err.Error())
				return
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if err := act(q); err != nil {
				calls.Refuse(w, http.StatusInternalServerError, err.Error())
				return
			}
			calls.Reply(w, http.StatusOK, obj{})
		})
	}
	serve("/attach", a.attach)
	serve("/detach", a.detach)
	serve("/extend", a.extend)
	return mux
}

func (a *attached) attach(q question) error {
	path, size, err := a.file(q)
	if err != nil {
		return err
	}
	if a.all[q.VolumeID] != nil {
		return nil // Nova asks again after a lost answer
	}
	made, err := a.folder.Attach(q.VolumeID, path, size)
	if err != nil {
		return err
	}
	a.all[q.VolumeID] = &attachedVolume{path, made}
	return nil
}

func (a *attached) detach(q question) error {
	if found := a.all[q.VolumeID]; found != nil {
		found.device.Detach()
		delete(a.all, q.VolumeID)
	}
	return nil
}

func (a *attached) extend(q question) error {
	_, size, err := a.file(q)
	if err != nil {
		return err
	}
	if found := a.all[q.VolumeID]; found != nil {
		return found.device.Grow(size)
	}
	return nil
}

// end gives every device back.
func (a *attached) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, found := range a.all {
		found.device.Detach()
		delete(a.all, id)
	}
}

// device is where a volume is attached, "" when it is not.
func (a *attached) device(volume string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if found := a.all[volume]; found != nil {
		return found.device.Path
	}
	return ""
}
