// Areas: change tracking by epoch, allocated areas, and raw copies of a frozen
// view. An epoch ends with each freeze; a change id "uuid/N" names the end of
// epoch N, so "changed since uuid/N up to snapshot S" is the union of the epochs
// N+1 to S's own. Blocks are reported whole, clamped to the capacity.
package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// TrackingBlock is the unit of change tracking and of allocated areas.
const TrackingBlock = 64 << 10

// Area is a part of a disk in bytes.
type Area struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
}

// blockSet is a growing set of block numbers.
type blockSet []uint64

func (s *blockSet) add(block int64) {
	for int64(len(*s)) <= block/64 {
		*s = append(*s, 0)
	}
	(*s)[block/64] |= 1 << uint(block%64)
}

func (s blockSet) has(block int64) bool {
	return block/64 < int64(len(s)) && s[block/64]&(1<<uint(block%64)) != 0
}

func (s *blockSet) join(other blockSet) {
	for len(*s) < len(other) {
		*s = append(*s, 0)
	}
	for i, word := range other {
		(*s)[i] |= word
	}
}

// areas merges neighbours and clamps the last one to size.
func (s blockSet) areas(size int64) []Area {
	found := []Area{}
	for block := int64(0); block*TrackingBlock < size; block++ {
		if !s.has(block) {
			continue
		}
		start, end := block*TrackingBlock, (block+1)*TrackingBlock
		if end > size {
			end = size
		}
		if n := len(found); n > 0 && found[n-1].Start+found[n-1].Length == start {
			found[n-1].Length += end - start
		} else {
			found = append(found, Area{start, end - start})
		}
	}
	return found
}

// tracking is guarded by the disk's mutex.
type tracking struct {
	on     bool
	uuid   string
	epochs []blockSet // epochs[i] = blocks written in epoch i+1; the last is open
}

func (t *tracking) reset() {
	t.uuid = randomUUID()
	t.epochs = []blockSet{nil}
}

func (t *tracking) mark(off, length int64) {
	if !t.on || length <= 0 {
		return
	}
	open := &t.epochs[len(t.epochs)-1]
	for block := off / TrackingBlock; block*TrackingBlock < off+length; block++ {
		open.add(block)
	}
}

// close ends the epoch and notes in the snapshot which one it was.
func (t *tracking) close(s *snapshot) {
	if !t.on {
		return
	}
	s.epoch = uint64(len(t.epochs))
	s.uuid = t.uuid
	s.changeID = changeID(t.uuid, s.epoch)
	t.epochs = append(t.epochs, nil)
}

func changeID(uuid string, epoch uint64) string {
	// Real ids look like "52 3c ec 11 9e 2c 4c 3d-87 4a c3 4e 85 f2 ea 95/4".
	return spacedUUID(uuid) + "/" + strconv.FormatUint(epoch, 10)
}

// SetTracking turns change tracking on or off. Turning it on starts with a new
// uuid; turning it on twice changes nothing. Like Freeze it belongs in a stun.
func (d *Disk) SetTracking(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on == d.track.on {
		return
	}
	d.track = tracking{on: on}
	if on {
		d.track.reset()
	}
}

// Tracking tells whether change tracking is on.
func (d *Disk) Tracking() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.track.on
}

// ResetTracking forgets all changes and gives a new uuid, as a lost .ctk file
// does: change ids given out before are unknown from now on.
func (d *Disk) ResetTracking() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.track.on {
		d.track.reset()
	}
}

// ChangeID of a snapshot, or of the live disk when snapshotID is "". It is ""
// when tracking was off. The live disk's id names the last freeze, never the
// present moment: blocks written since then belong to what changed after it.
func (d *Disk) ChangeID(snapshotID string) (string, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if snapshotID == "" {
		if !d.track.on {
			return "", nil
		}
		return changeID(d.track.uuid, uint64(len(d.track.epochs)-1)), nil
	}
	at, err := d.find(snapshotID)
	if err != nil {
		return "", err
	}
	return d.layers[at].snap.changeID, nil
}

// ChangedAreas gives what was written after sinceChangeID and is in the
// snapshot (in the live disk when snapshotID is ""), merged, in 64 KiB units
// clamped to the capacity. It may name more than really differs, never less.
// A change id of another uuid, of a later snapshot or of a reset tracking is
// ErrUnknownChangeID.
func (d *Disk) ChangedAreas(sinceChangeID, snapshotID string) ([]Area, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	size, uuid, upTo := d.size, d.track.uuid, uint64(len(d.track.epochs))
	if snapshotID != "" {
		at, err := d.find(snapshotID)
		if err != nil {
			return nil, err
		}
		s := d.layers[at].snap
		size, uuid, upTo = s.size, s.uuid, s.epoch
	}
	if !d.track.on || uuid == "" {
		return nil, fmt.Errorf("disk %s: %w", d.name, ErrTrackingOff)
	}
	slash := strings.LastIndexByte(sinceChangeID, '/')
	if slash < 0 {
		return nil, fmt.Errorf("disk %s: %q: %w", d.name, sinceChangeID, ErrUnknownChangeID)
	}
	since, err := strconv.ParseUint(sinceChangeID[slash+1:], 10, 64)
	if err != nil || since > upTo || uuid != d.track.uuid || sinceChangeID[:slash] != spacedUUID(uuid) {
		return nil, fmt.Errorf("disk %s: %q: %w", d.name, sinceChangeID, ErrUnknownChangeID)
	}
	var union blockSet
	for epoch := since + 1; epoch <= upTo; epoch++ {
		union.join(d.track.epochs[epoch-1])
	}
	return union.areas(size), nil
}

// AllocatedAreas gives the parts of a view that hold data (maybe zeroes) in some
// layer, merged, in 64 KiB units clamped to the capacity.
func (d *Disk) AllocatedAreas(snapshotID string) ([]Area, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	top, size := len(d.layers)-1, d.size
	if snapshotID != "" {
		at, err := d.find(snapshotID)
		if err != nil {
			return nil, err
		}
		top, size = at, d.layers[at].snap.size
	}
	if d.closed {
		return nil, fmt.Errorf("disk %s: %w", d.name, ErrClosed)
	}
	var blocks blockSet
	err := eachDataRange(d.layers[0].file, size, func(start, end int64) {
		for block := start / TrackingBlock; block*TrackingBlock < end; block++ {
			blocks.add(block)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("disk %s: allocated areas: %w", d.name, err)
	}
	for _, l := range d.layers[1 : top+1] {
		for word, bits := range l.grains {
			for bit := int64(0); bits != 0; bit, bits = bit+1, bits>>1 {
				if bits&1 != 0 {
					blocks.add((int64(word)*64 + bit) * grainSize / TrackingBlock)
				}
			}
		}
	}
	return blocks.areas(size), nil
}

const (
	seekData = 3 // SEEK_DATA and SEEK_HOLE of lseek(2) on Linux
	seekHole = 4
)

// eachDataRange calls found for each part of the file that is not a hole.
func eachDataRange(file *os.File, size int64, found func(start, end int64)) error {
	for at := int64(0); at < size; {
		start, err := file.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil // only a hole up to the end
		}
		if errors.Is(err, syscall.EINVAL) && at == 0 {
			found(0, size) // a file system that knows no holes
			return nil
		}
		if err != nil {
			return err
		}
		if start >= size {
			return nil
		}
		end, err := file.Seek(start, seekHole)
		if err != nil {
			return err
		}
		if end > size {
			end = size
		}
		found(start, end)
		at = end
	}
	return nil
}

// FrozenCopy writes the frozen view of a snapshot to path as a plain sparse raw
// file of the frozen capacity. The file appears under its name only when it is
// complete. Writers and other readers go on meanwhile.
func (d *Disk) FrozenCopy(snapshotID, path string) error {
	view, err := d.FrozenReader(snapshotID)
	if err != nil {
		return err
	}
	areas, err := d.AllocatedAreas(snapshotID)
	if err != nil {
		return err
	}
	temporary := path + ".part"
	file, err := os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("disk %s: copy of %s: %w", d.name, snapshotID, err)
	}
	err = sparseCopy(file, view, view.Size(), areas)
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
		return fmt.Errorf("disk %s: copy of %s: %w", d.name, snapshotID, err)
	}
	return nil
}

func sparseCopy(to *os.File, from io.ReaderAt, size int64, areas []Area) error {
	if err := to.Truncate(size); err != nil {
		return err
	}
	buffer := make([]byte, 1<<20)
	zero := make([]byte, TrackingBlock)
	for _, area := range areas {
		for done := int64(0); done < area.Length; {
			piece := buffer
			if rest := area.Length - done; rest < int64(len(piece)) {
				piece = piece[:rest]
			}
			at := area.Start + done
			if _, err := from.ReadAt(piece, at); err != nil {
				return err
			}
			for start := 0; start < len(piece); start += TrackingBlock {
				end := start + TrackingBlock
				if end > len(piece) {
					end = len(piece)
				}
				if bytes.Equal(piece[start:end], zero[:end-start]) {
					continue
				}
				if _, err := to.WriteAt(piece[start:end], at+int64(start)); err != nil {
					return err
				}
			}
			done += int64(len(piece))
		}
	}
	return nil
}
