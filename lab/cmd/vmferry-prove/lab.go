// Finding the pairs in a running lab: the newest frozen set of a VM from the
// vCenter's control socket, the volumes from the OpenStack's.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// text is a JSON string or number.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	var number json.Number
	if err := json.Unmarshal(raw, &number); err == nil && len(raw) > 0 && raw[0] != '"' {
		*t = text(number)
		return nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	*t = text(s)
	return nil
}

type frozenSet struct {
	Snapshot string `json:"snapshot"`
	Name     string `json:"name"`
	Live     bool   `json:"live"`
	Disks    []struct {
		Key  text   `json:"key"`
		Path string `json:"path"`
	} `json:"disks"`
}

type volume struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Status   string            `json:"status"`
	Metadata map[string]string `json:"metadata"`
	File     string            `json:"file"`
}

// frozenPairs pairs the disks of a VM's newest frozen set (or of the snapshot
// named) with the lab's volumes, or with files: local maps a disk's key to one.
func frozenPairs(ctx context.Context, lab, vm, snapshot string, local map[string]string) ([]Pair, error) {
	vcenter := filepath.Join(lab, "vcenter.sock")
	var sets []frozenSet
	if err := get(ctx, vcenter, "/vms/"+url.PathEscape(vm)+"/frozen", &sets); err != nil {
		return nil, err
	}
	set, err := chooseSet(sets, vm, snapshot)
	if err != nil {
		return nil, err
	}
	pairs := []Pair{}
	if local != nil {
		for _, d := range set.Disks {
			path, ok := local[string(d.Key)]
			if !ok {
				return nil, fmt.Errorf("disk %s of %s has no KEY=PATH", d.Key, vm)
			}
			pairs = append(pairs, Pair{Disk: string(d.Key), Reference: d.Path, Target: path})
		}
		if len(pairs) != len(local) {
			return nil, fmt.Errorf("%d files are given for the %d disks of %s", len(local), len(pairs), vm)
		}
		return pairs, nil
	}
	var machine struct {
		Moref string `json:"moref"`
	}
	if err := get(ctx, vcenter, "/vms/"+url.PathEscape(vm), &machine); err != nil {
		return nil, err
	}
	var state struct {
		Volumes []volume `json:"volumes"`
	}
	if err := get(ctx, filepath.Join(lab, "openstack.sock"), "/state", &state); err != nil {
		return nil, err
	}
	for _, d := range set.Disks {
		v, err := volumeOf(state.Volumes, machine.Moref, string(d.Key))
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, Pair{Disk: string(d.Key), Reference: d.Path, Target: v.File})
	}
	return pairs, nil
}

func chooseSet(sets []frozenSet, vm, snapshot string) (*frozenSet, error) {
	for i := len(sets) - 1; i >= 0; i-- {
		if snapshot != "" && sets[i].Snapshot != snapshot {
			continue
		}
		if len(sets[i].Disks) == 0 {
			return nil, fmt.Errorf("the frozen set %s of %s has no disks", sets[i].Snapshot, vm)
		}
		return &sets[i], nil
	}
	if snapshot != "" {
		return nil, fmt.Errorf("the lab keeps no frozen disks of %s for %s", vm, snapshot)
	}
	return nil, fmt.Errorf("the lab keeps no frozen disks of %s: no snapshot was taken yet", vm)
}

// volumeOf finds the volume with metadata vm = moref and disk ending in the key.
func volumeOf(volumes []volume, moref, key string) (*volume, error) {
	var found *volume
	for i := range volumes {
		v := &volumes[i]
		disk := v.Metadata["disk"]
		if v.Metadata["vm"] != moref || disk != key && !strings.HasSuffix(disk, "-"+key) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("two volumes claim disk %s of %s: %s and %s", key, moref, found.ID, v.ID)
		}
		found = v
	}
	if found == nil {
		return nil, fmt.Errorf("no volume has the metadata of disk %s of %s", key, moref)
	}
	if found.File == "" {
		return nil, fmt.Errorf("the lab names no file for volume %s", found.ID)
	}
	return found, nil
}

// get reads JSON from a control socket.
func get(ctx context.Context, socket, path string, into interface{}) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	// Long enough for a lab that first has to finish a frozen copy.
	client := &http.Client{Transport: transport, Timeout: 2 * time.Minute}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://lab"+path, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("the lab does not answer on %s: %w", socket, err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", socket, path, err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s answers %s: %s", socket, path, response.Status, strings.TrimSpace(string(raw)))
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s %s: %w", socket, path, err)
	}
	return nil
}
