// QueryChangedDiskAreas: answers in pages from what lab/disk tracked, with the
// faults of the real call, and wrong answers on request. It changes nothing.
package vcenter

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/disk"
)

// Wrong answers that a test may ask for: bugs that real hosts had.
const (
	wrongOff        = "off"
	wrongDropArea   = "drop-area"        // one changed area is missing (KB 2136854)
	wrongGrowth     = "growth-128g"      // after growth the new part is missing, from what is allocated too (KB 2090639)
	wrongEmptyFirst = "empty-first-page" // legal, but surprising: pages without areas before the end
)

func (s *Server) queryChangedCall(m *machine, c *soapCall) (interface{}, *fault) {
	req := c.body.(*types.QueryChangedDiskAreas)
	info, f := m.queryChanged(req, s.settings.get().PageAreas)
	if f != nil {
		return nil, f
	}
	return &types.QueryChangedDiskAreasResponse{Returnval: *info}, nil
}

func (m *machine) queryChanged(req *types.QueryChangedDiskAreas, pageAreas int) (*types.DiskChangeInfo, *fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, snapshot, f := m.queried(req)
	if f != nil {
		return nil, f
	}
	size := d.data.Size()
	if snapshot != "" {
		var err error
		if size, err = d.data.FrozenSize(snapshot); err != nil {
			return nil, notFound(*req.Snapshot)
		}
	}
	// The end itself is beyond it too: a loop that asks once more at startOffset ==
	// capacity gets InvalidArgument (pyvmomi issue 224).
	if req.StartOffset < 0 || req.StartOffset >= size {
		return nil, invalidArgument("startOffset")
	}
	areas, f := m.areas(d, snapshot, req.ChangeId)
	if f != nil {
		return nil, f
	}
	return page(areas, req.StartOffset, size, pageAreas, m.wrong == wrongEmptyFirst), nil
}

// queried finds the disk and the snapshot that a query names; mu is held.
func (m *machine) queried(req *types.QueryChangedDiskAreas) (*machineDisk, string, *fault) {
	if req.Snapshot == nil {
		d := m.findDisk(req.DeviceKey)
		if d == nil || d.data == nil {
			return nil, "", invalidArgument("deviceKey")
		}
		if m.on {
			// The live disk of a running VM is open by the VM.
			return nil, "", m.fileFault(d)
		}
		return d, "", nil
	}
	snap, _ := m.findSnapshot(*req.Snapshot)
	if snap == nil {
		return nil, "", notFound(*req.Snapshot)
	}
	for _, d := range snap.disks {
		if d.key != req.DeviceKey {
			continue
		}
		if !snap.frozenKeys[d.key] {
			return nil, "", m.fileFault(d)
		}
		return d, snap.ref.Value, nil
	}
	return nil, "", invalidArgument("deviceKey")
}

func (m *machine) fileFault(d *machineDisk) *fault {
	file := m.file(d.name + ".vmdk")
	return newFault(&types.FileFault{File: file}, "Error caused by file %s", file)
}

func (m *machine) areas(d *machineDisk, snapshot, changeID string) ([]disk.Area, *fault) {
	now, err := d.data.ChangeID(snapshot)
	if err != nil {
		return nil, systemError(err)
	}
	if now == "" {
		return nil, m.fileFault(d) // tracking was off when the snapshot was made
	}
	if changeID == "*" {
		areas, err := d.data.AllocatedAreas(snapshot)
		if err != nil {
			return nil, systemError(err)
		}
		if m.wrong == wrongGrowth {
			uuid, _, _ := strings.Cut(now, "/")
			for id, old := range m.rememberIDs {
				if strings.HasPrefix(id, uuid+"/") && old < d.data.Size() {
					areas = cut(areas, old)
				}
			}
		}
		return areas, nil
	}
	if !strings.Contains(changeID, "/") {
		return nil, invalidArgument("changeId")
	}
	areas, err := d.data.ChangedAreas(changeID, snapshot)
	switch {
	case errors.Is(err, disk.ErrTrackingOff):
		return nil, m.fileFault(d)
	case errors.Is(err, disk.ErrUnknownChangeID):
		return nil, invalidArgument("changeId")
	case err != nil:
		return nil, systemError(err)
	}
	if old, known := m.rememberIDs[changeID]; known && old != d.data.Size() {
		if m.wrong != wrongGrowth {
			return nil, invalidArgument("changeId")
		}
		areas = cut(areas, old)
	}
	if m.wrong == wrongDropArea && len(areas) > 0 {
		drop := len(areas) / 2
		areas = append(areas[:drop:drop], areas[drop+1:]...)
	}
	return areas, nil
}

// cut drops what lies at or beyond end.
func cut(areas []disk.Area, end int64) []disk.Area {
	var kept []disk.Area
	for _, a := range areas {
		if a.Start >= end {
			continue
		}
		if a.Start+a.Length > end {
			a.Length = end - a.Start
		}
		kept = append(kept, a)
	}
	return kept
}

// page describes the disk from start on: at most max areas, up to the last of
// them when more follow, else to the end. With gaps, each hole between areas is
// a page of its own.
func page(areas []disk.Area, start, size int64, max int, gaps bool) *types.DiskChangeInfo {
	info := &types.DiskChangeInfo{StartOffset: start}
	end, reached := size, start
	for _, a := range areas {
		if a.Start+a.Length <= start {
			continue
		}
		if a.Start < start {
			a.Length -= start - a.Start
			a.Start = start
		}
		if gaps && a.Start > reached {
			if end = reached; len(info.ChangedArea) == 0 {
				end = a.Start
			}
			break
		}
		if len(info.ChangedArea) == max {
			end = reached
			break
		}
		reached = a.Start + a.Length
		info.ChangedArea = append(info.ChangedArea, types.DiskChangeExtent{Start: a.Start, Length: a.Length})
	}
	info.Length = end - start
	return info
}

// resetTracking forgets the changes of one disk, or of all with key 0.
func (m *machine) resetTracking(key int32) error {
	found := false
	disks := m.diskList()
	err := m.group.Stun(func() error {
		for _, d := range disks {
			if d.data != nil && (key == 0 || d.key == key) {
				d.data.ResetTracking()
				found = true
			}
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("no disk with key %d", key)
	}
	m.publish()
	return err
}
