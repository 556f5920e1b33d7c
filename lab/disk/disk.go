// Package disk keeps one virtual disk the way VMware keeps it: a flat base
// file, redo layers stacked on it by snapshots, text descriptors for both, and
// change tracking in 64 KiB blocks. It knows nothing of virtual machines, of
// SOAP or of what a guest writes. Nothing here survives the process: the lab
// starts with fresh disks each time.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// SectorSize is the smallest unit a disk's capacity may be made of.
const SectorSize = 512

// Errors that a caller may test for with errors.Is. Each comes wrapped in a
// sentence that names the disk and the snapshot.
var (
	ErrSnapshotRemoved  = errors.New("the snapshot was removed")
	ErrNoSnapshot       = errors.New("no such snapshot")
	ErrSnapshotExists   = errors.New("the snapshot exists already")
	ErrHasSnapshots     = errors.New("the disk has snapshots")
	ErrTrackingOff      = errors.New("change tracking is not enabled")
	ErrUnknownChangeID  = errors.New("unknown change id")
	ErrOutOfRange       = errors.New("outside of the disk")
	ErrClosed           = errors.New("the disk is closed")
	ErrShrink           = errors.New("a disk cannot shrink")
	ErrCapacity         = errors.New("the capacity must be a positive multiple of 512 bytes")
	ErrConsolidateFirst = errors.New("the disk needs consolidation")
)

// Group is the set of disks that one virtual machine writes to. Writes take it
// for reading; Stun takes it for writing, so that what happens inside Stun
// happens between two writes for all disks at once.
type Group struct {
	mu sync.RWMutex
}

// NewGroup makes a group for the disks of one virtual machine.
func NewGroup() *Group { return &Group{} }

// Stun stops every writer of the group, runs act, and lets them go on. Freeze,
// SetTracking, ResetTracking and Grow of all disks belong inside it. act must
// not call Disk.WriteAt or Stun: that would wait for itself.
func (g *Group) Stun(act func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return act()
}

// Freeze stuns the group and freezes all the disks under one snapshot id. When
// one disk cannot be frozen the others are thawed again.
func (g *Group) Freeze(snapshotID string, disks ...*Disk) error {
	done := 0
	err := g.Stun(func() error {
		for _, d := range disks {
			if err := d.Freeze(snapshotID); err != nil {
				return err
			}
			done++
		}
		return nil
	})
	if err == nil {
		return nil
	}
	for _, d := range disks[:done] {
		if undo := d.Remove(snapshotID); undo != nil {
			err = fmt.Errorf("%w (and thawing %s failed: %v)", err, d.name, undo)
		}
	}
	return err
}

// Disk is one virtual disk: layers[0] is the flat base, the last layer takes
// the writes, every layer below is frozen. All methods are safe for use by
// several goroutines.
type Disk struct {
	dir   string
	name  string
	uuid  string
	group *Group

	mu     sync.RWMutex
	size   int64
	layers []*layer
	track  tracking
	closed bool

	removal sync.Mutex // one consolidation at a time; taken before mu
}

// snapshot is what a layer was frozen for. It belongs to exactly one layer.
type snapshot struct {
	id       string
	size     int64
	changeID string
	epoch    uint64
	uuid     string // tracking uuid at the freeze, "" when tracking was off
	removed  bool
}

// Create makes NAME.vmdk and a sparse NAME-flat.vmdk in dir and opens the disk.
// It fails when one of them exists.
func Create(dir, name string, bytes int64, group *Group) (*Disk, error) {
	if bytes <= 0 || bytes%SectorSize != 0 {
		return nil, fmt.Errorf("disk %s: %d bytes: %w", name, bytes, ErrCapacity)
	}
	path := filepath.Join(dir, flatName(name))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", name, err)
	}
	if err := file.Truncate(bytes); err != nil {
		file.Close()
		os.Remove(path)
		return nil, fmt.Errorf("disk %s: %w", name, err)
	}
	return adopt(dir, name, file, bytes, group, true)
}

// Open takes over an existing NAME-flat.vmdk in dir (for example one that a
// guest was built into) and writes its descriptor when it has none. Redo layers
// of an earlier process are not taken over: they make Open fail.
func Open(dir, name string, group *Group) (*Disk, error) {
	left, err := filepath.Glob(filepath.Join(dir, name+"-[0-9][0-9][0-9][0-9][0-9][0-9]-delta.vmdk"))
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", name, err)
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("disk %s: %s was left by another process: %w",
			name, filepath.Base(left[0]), ErrHasSnapshots)
	}
	file, err := os.OpenFile(filepath.Join(dir, flatName(name)), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", name, err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("disk %s: %w", name, err)
	}
	if info.Size() <= 0 || info.Size()%SectorSize != 0 {
		file.Close()
		return nil, fmt.Errorf("disk %s: %d bytes: %w", name, info.Size(), ErrCapacity)
	}
	return adopt(dir, name, file, info.Size(), group, false)
}

func adopt(dir, name string, file *os.File, size int64, group *Group, fresh bool) (*Disk, error) {
	if group == nil {
		group = NewGroup()
	}
	d := &Disk{dir: dir, name: name, uuid: newUUID(), group: group, size: size}
	d.layers = []*layer{{file: file, path: file.Name(), size: size, cid: newCID()}}
	if _, err := os.Stat(d.path(descriptorName(name, 0))); fresh || err != nil {
		if err := d.writeDescriptor(0); err != nil {
			file.Close()
			return nil, err
		}
	}
	return d, nil
}

// Name is the disk's name without any ending.
func (d *Disk) Name() string { return d.name }

// UUID is the disk's own uuid in the usual form 6000c29x-xxxx-....
func (d *Disk) UUID() string { return d.uuid }

// Dir is the folder that holds the disk's files.
func (d *Disk) Dir() string { return d.dir }

// Group is the group whose Stun stops this disk's writers.
func (d *Disk) Group() *Group { return d.group }

// Size is the capacity of the live disk in bytes.
func (d *Disk) Size() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.size
}

// ReadAt reads the live view. It follows io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, fmt.Errorf("disk %s: %w", d.name, ErrClosed)
	}
	return d.readView(len(d.layers)-1, d.size, p, off)
}

// WriteAt writes to the live view. It waits while the group is stunned. A write
// is atomic against reads, freezes and consolidation of this disk.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	d.group.mu.RLock()
	defer d.group.mu.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, fmt.Errorf("disk %s: %w", d.name, ErrClosed)
	}
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("disk %s: write of %d bytes at %d of %d: %w",
			d.name, len(p), off, d.size, ErrOutOfRange)
	}
	if len(p) == 0 {
		return 0, nil
	}
	// Marked before the bytes land: a write that fails half way has changed
	// something too.
	d.track.mark(off, int64(len(p)))
	if err := d.writeTop(p, off); err != nil {
		return 0, fmt.Errorf("disk %s: write at %d: %w", d.name, off, err)
	}
	return len(p), nil
}

// Freeze gives the present content to snapshotID and puts an empty redo layer on
// top. Its cost does not depend on the disk's content. To freeze several disks
// at one point in time call it inside Group.Stun, or use Group.Freeze.
func (d *Disk) Freeze(snapshotID string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("disk %s: %w", d.name, ErrClosed)
	}
	if snapshotID == "" {
		return fmt.Errorf("disk %s: a snapshot needs an id", d.name)
	}
	if _, err := d.find(snapshotID); err == nil {
		return fmt.Errorf("disk %s: %s: %w", d.name, snapshotID, ErrSnapshotExists)
	}
	number := d.freeNumber()
	top, err := newDelta(d.path(deltaName(d.name, number)), number, d.size)
	if err != nil {
		return fmt.Errorf("disk %s: freeze for %s: %w", d.name, snapshotID, err)
	}
	frozen := d.layers[len(d.layers)-1]
	d.layers = append(d.layers, top)
	if err := d.writeDescriptor(len(d.layers) - 1); err != nil {
		d.layers = d.layers[:len(d.layers)-1]
		top.discard()
		return err
	}
	frozen.snap = &snapshot{id: snapshotID, size: d.size}
	d.track.close(frozen.snap)
	return nil
}

// Remove drops the snapshot and consolidates: the layer above the snapshot's is
// folded into the snapshot's, so no other view changes. Readers of the snapshot
// fail from the first moment on. Writers go on meanwhile. When folding fails
// (full disk) the snapshot is gone but ConsolidationNeeded reports true, and
// Consolidate may be tried again.
func (d *Disk) Remove(snapshotID string) error {
	if err := d.Forget(snapshotID); err != nil {
		return err
	}
	return d.Consolidate()
}

// Forget drops the snapshot without consolidating, which is what a failed
// consolidation leaves behind on a real host: ConsolidationNeeded is true until
// Consolidate or the next Remove.
func (d *Disk) Forget(snapshotID string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("disk %s: %w", d.name, ErrClosed)
	}
	at, err := d.find(snapshotID)
	if err != nil {
		return err
	}
	d.layers[at].snap.removed = true
	d.layers[at].snap = nil
	return nil
}

// ConsolidationNeeded is true when a frozen layer belongs to no snapshot.
func (d *Disk) ConsolidationNeeded() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.orphan() >= 0
}

// Consolidate folds away the layers that belong to no snapshot.
func (d *Disk) Consolidate() error {
	d.removal.Lock()
	defer d.removal.Unlock()
	return d.consolidate()
}

// Grow makes the disk larger; the new part reads as zeroes and counts as
// changed. As on ESXi this is refused while the disk has snapshots.
func (d *Disk) Grow(bytes int64) error {
	d.removal.Lock()
	defer d.removal.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return fmt.Errorf("disk %s: %w", d.name, ErrClosed)
	case bytes <= 0 || bytes%SectorSize != 0:
		return fmt.Errorf("disk %s: %d bytes: %w", d.name, bytes, ErrCapacity)
	case bytes < d.size:
		return fmt.Errorf("disk %s: from %d to %d bytes: %w", d.name, d.size, bytes, ErrShrink)
	case len(d.layers) > 1 && d.orphan() >= 0:
		return fmt.Errorf("disk %s: grow: %w", d.name, ErrConsolidateFirst)
	case len(d.layers) > 1:
		return fmt.Errorf("disk %s: grow: %w", d.name, ErrHasSnapshots)
	case bytes == d.size:
		return nil
	}
	base := d.layers[0]
	if err := base.file.Truncate(bytes); err != nil {
		return fmt.Errorf("disk %s: grow: %w", d.name, err)
	}
	old := d.size
	d.size, base.size = bytes, bytes
	d.track.mark(old, bytes-old)
	return d.writeDescriptor(0)
}

// Close closes the files; every later call fails. Files stay in place.
func (d *Disk) Close() error {
	d.removal.Lock()
	defer d.removal.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	var first error
	for _, l := range d.layers {
		if err := l.file.Close(); err != nil && first == nil {
			first = fmt.Errorf("disk %s: %w", d.name, err)
		}
	}
	return first
}

// Delete closes the disk and removes its files.
func (d *Disk) Delete() error {
	first := d.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.layers {
		for _, path := range []string{l.path, d.path(descriptorName(d.name, l.number))} {
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) && first == nil {
				first = fmt.Errorf("disk %s: %w", d.name, err)
			}
		}
	}
	return first
}

// FrozenReader reads one snapshot's frozen view; reading fails with
// ErrSnapshotRemoved once the snapshot is gone.
type FrozenReader struct {
	disk *Disk
	snap *snapshot
}

// FrozenReader opens the frozen view of a snapshot.
func (d *Disk) FrozenReader(snapshotID string) (*FrozenReader, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	at, err := d.find(snapshotID)
	if err != nil {
		return nil, err
	}
	return &FrozenReader{disk: d, snap: d.layers[at].snap}, nil
}

// Size is the capacity of the disk when it was frozen.
func (r *FrozenReader) Size() int64 { return r.snap.size }

// ReadAt follows io.ReaderAt.
func (r *FrozenReader) ReadAt(p []byte, off int64) (int, error) {
	d := r.disk
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, fmt.Errorf("disk %s: %w", d.name, ErrClosed)
	}
	if r.snap.removed {
		return 0, fmt.Errorf("disk %s: read at %d of %s: %w", d.name, off, r.snap.id, ErrSnapshotRemoved)
	}
	// The position may have moved down since the reader was opened: a removal
	// further below takes one layer out of the chain.
	for at, l := range d.layers {
		if l.snap == r.snap {
			return d.readView(at, r.snap.size, p, off)
		}
	}
	return 0, fmt.Errorf("disk %s: %s: %w", d.name, r.snap.id, ErrNoSnapshot)
}

var (
	_ io.ReaderAt = (*Disk)(nil)
	_ io.WriterAt = (*Disk)(nil)
	_ io.ReaderAt = (*FrozenReader)(nil)
)

func (d *Disk) path(file string) string { return filepath.Join(d.dir, file) }

// find gives the index of the layer that snapshotID froze; mu must be held.
func (d *Disk) find(snapshotID string) (int, error) {
	for i, l := range d.layers {
		if l.snap != nil && l.snap.id == snapshotID {
			return i, nil
		}
	}
	return -1, fmt.Errorf("disk %s: %s: %w", d.name, snapshotID, ErrNoSnapshot)
}

// orphan gives a frozen layer without snapshot, or -1; mu must be held.
func (d *Disk) orphan() int {
	for i := 0; i < len(d.layers)-1; i++ {
		if d.layers[i].snap == nil {
			return i
		}
	}
	return -1
}
