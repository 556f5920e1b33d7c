// Frozen sets: plain raw copies of what each snapshot froze, for the proof that
// compares them with the targets. The last ones are kept after their snapshot
// has gone. It changes nothing of the virtual machine.
package vcenter

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"vmferry.dev/lab/disk"
)

// keptSets: the newest snapshots whose bytes stay after removal.
const keptSets = 3

const poweredOffID = "powered-off"

// frozenSet is one snapshot's bytes; live while the snapshot exists.
type frozenSet struct {
	Snapshot string       `json:"snapshot"`
	Name     string       `json:"name"`
	At       time.Time    `json:"at"`
	Live     bool         `json:"live"`
	Disks    []frozenDisk `json:"disks"`

	folder string
	copied bool
	from   []*machineDisk
}

type frozenDisk struct {
	Key   int32  `json:"key"`
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

func newFrozenSet(snap *snapshotRecord, dir string) *frozenSet {
	set := &frozenSet{Snapshot: snap.ref.Value, Name: snap.name, At: snap.created, Live: true, Disks: []frozenDisk{},
		folder: filepath.Join(dir, snap.ref.Value)}
	for _, d := range snap.disks {
		if snap.frozenKeys[d.key] {
			set.from = append(set.from, d)
		}
	}
	return set
}

// copyOut writes the copies; frozenMu is held, the snapshot still exists.
func (set *frozenSet) copyOut() error {
	if set.copied {
		return nil
	}
	if err := os.MkdirAll(set.folder, 0o700); err != nil {
		return err
	}
	disks := []frozenDisk{}
	for _, d := range set.from {
		path := filepath.Join(set.folder, fmt.Sprintf("%d.img", d.key))
		if err := d.data.FrozenCopy(set.Snapshot, path); err != nil {
			return err
		}
		bytes, err := d.data.FrozenSize(set.Snapshot)
		if err != nil {
			return err
		}
		disks = append(disks, frozenDisk{Key: d.key, Path: path, Bytes: bytes})
	}
	set.Disks, set.copied = disks, true
	return nil
}

// keepFrozen copies a snapshot's bytes before the snapshot goes.
func (m *machine) keepFrozen(id string) error {
	m.frozenMu.Lock()
	defer m.frozenMu.Unlock()
	for _, set := range m.frozenList() {
		if set.Snapshot != id {
			continue
		}
		if err := set.copyOut(); err != nil {
			return err
		}
		set.Live = false
	}
	return nil
}

func (m *machine) frozenList() []*frozenSet {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*frozenSet(nil), m.frozen...)
}

// trimFrozen drops the copies of all but the newest sets; live ones stay.
func (m *machine) trimFrozen() {
	m.frozenMu.Lock()
	defer m.frozenMu.Unlock()
	m.mu.Lock()
	var kept, dropped []*frozenSet
	for i, set := range m.frozen {
		if set.Live || i >= len(m.frozen)-keptSets {
			kept = append(kept, set)
		} else {
			dropped = append(dropped, set)
		}
	}
	m.frozen = kept
	m.mu.Unlock()
	for _, set := range dropped {
		os.RemoveAll(set.folder)
	}
}

// showFrozen completes the copies and lists the sets, newest last; the state of
// a powered-off VM comes last of all.
func (m *machine) showFrozen() ([]frozenSet, error) {
	m.frozenMu.Lock()
	defer m.frozenMu.Unlock()
	shown := []frozenSet{}
	for _, set := range m.frozenList() {
		if err := set.copyOut(); err != nil {
			return nil, err
		}
		shown = append(shown, *set)
	}
	m.mu.Lock()
	off, since := !m.on, m.poweredOff
	disks := append([]*machineDisk(nil), m.disks...)
	m.mu.Unlock()
	if !off {
		return shown, nil
	}
	set := frozenSet{Snapshot: poweredOffID, Name: poweredOffID, At: since, Live: true, Disks: []frozenDisk{}}
	for _, d := range disks {
		if d.data == nil {
			continue
		}
		path, err := m.imageWhenOff(d)
		if err != nil {
			return nil, err
		}
		set.Disks = append(set.Disks, frozenDisk{Key: d.key, Path: path, Bytes: d.data.Size()})
	}
	return append(shown, set), nil
}

// imageWhenOff is a plain raw image of a powered-off VM's disk: its flat file
// when nothing lies above it, else a copy of the live view.
func (m *machine) imageWhenOff(d *machineDisk) (string, error) {
	files, err := d.data.Files("")
	if err != nil {
		return "", err
	}
	if len(files.Parents) == 0 {
		return files.Path, nil
	}
	folder := filepath.Join(m.s.config.FrozenDir, poweredOffID)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(folder, fmt.Sprintf("%d.img", d.key))
	return path, copyLive(d.data, path)
}

func copyLive(d *disk.Disk, path string) error {
	areas, err := d.AllocatedAreas("")
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path+".part", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(path + ".part") // gone already when all went well
	err = file.Truncate(d.Size())
	for _, area := range areas {
		if err != nil {
			break
		}
		if _, err = file.Seek(area.Start, io.SeekStart); err == nil {
			_, err = io.Copy(file, io.NewSectionReader(d, area.Start, area.Length))
		}
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("copy of %s: %w", d.Name(), err)
	}
	return os.Rename(path+".part", path)
}
