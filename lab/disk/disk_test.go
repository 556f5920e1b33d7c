package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// model is what a disk must look like, in memory.
type model struct {
	live   []byte
	frozen map[string][]byte
	order  []string
	ids    map[string]string // change id by snapshot
}

func (m *model) forget(id string) {
	delete(m.frozen, id)
	for i, known := range m.order {
		if known == id {
			m.order = append(m.order[:i:i], m.order[i+1:]...)
		}
	}
}

// check compares every view of the disk with the model.
func (m *model) check(t *testing.T, d *Disk, readers map[string]*FrozenReader) {
	t.Helper()
	if d.Size() != int64(len(m.live)) {
		t.Fatalf("the disk has %d bytes, want %d", d.Size(), len(m.live))
	}
	if at := differs(t, d, m.live); at >= 0 {
		t.Fatalf("live view differs at %d", at)
	}
	if got := fmt.Sprint(d.Snapshots()); got != fmt.Sprint(append([]string{}, m.order...)) {
		t.Fatalf("snapshots %v, want %v", got, m.order)
	}
	for id, reader := range readers {
		want, alive := m.frozen[id]
		if !alive {
			for _, off := range []int64{0, d.Size() / 2} {
				if _, err := reader.ReadAt(make([]byte, 512), off); !errors.Is(err, ErrSnapshotRemoved) || !strings.Contains(err.Error(), id) {
					t.Fatalf("reading %s after its removal: %v", id, err)
				}
			}
			continue
		}
		if at := differs(t, reader, want); at >= 0 {
			t.Fatalf("%s differs at %d", id, at)
		}
	}
}

func differs(t *testing.T, from io.ReaderAt, want []byte) int {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := from.ReadAt(got, 0); err != nil || n != len(got) {
		t.Fatalf("read %d of %d: %v", n, len(got), err)
	}
	if bytes.Equal(got, want) {
		return -1
	}
	for i := range got {
		if got[i] != want[i] {
			return i
		}
	}
	return -1
}

// covers: each byte that differs lies in an area; the areas are well formed.
func covers(t *testing.T, areas []Area, old, now []byte) {
	t.Helper()
	inside := make([]bool, (len(now)+TrackingBlock-1)/TrackingBlock)
	end := int64(-1)
	for _, a := range areas {
		if a.Start%TrackingBlock != 0 || a.Length <= 0 || a.Start <= end || a.Start+a.Length > int64(len(now)) ||
			a.Length%TrackingBlock != 0 && a.Start+a.Length != int64(len(now)) {
			t.Fatalf("area %+v after %d, capacity %d", a, end, len(now))
		}
		end = a.Start + a.Length
		for b := a.Start / TrackingBlock; b*TrackingBlock < end; b++ {
			inside[b] = true
		}
	}
	for b := range inside {
		start, end := b*TrackingBlock, (b+1)*TrackingBlock
		if end > len(now) {
			end = len(now)
		}
		if !inside[b] && (end > len(old) || !bytes.Equal(old[start:end], now[start:end])) {
			t.Fatalf("block %d differs and is in no area of %v", b, areas)
		}
	}
}

// Random writes, freezes, removals (anywhere in the chain), failed
// consolidations, copies and growth, each step compared with the model.
func TestAgainstModel(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	for round := 0; round < 6; round++ {
		random := rand.New(rand.NewSource(seed + int64(round)))
		size := int64(1+random.Intn(2000)) * SectorSize
		d, err := Create(t.TempDir(), "web01", size, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.SetTracking(true)
		m := &model{live: make([]byte, size), frozen: map[string][]byte{}, ids: map[string]string{}}
		readers := map[string]*FrozenReader{}
		past := map[string][]byte{} // content at each change id of this tracking uuid
		next := 0
		for step := 0; step < 90; step++ {
			switch what := random.Intn(20); {
			case what < 11:
				write(t, random, d, m)
			case what < 14 && len(m.order) < 6:
				next++
				id := fmt.Sprintf("snapshot-%d", next)
				if err := d.Freeze(id); err != nil {
					t.Fatal(err)
				}
				m.frozen[id] = append([]byte(nil), m.live...)
				m.order = append(m.order, id)
				if readers[id], err = d.FrozenReader(id); err != nil {
					t.Fatal(err)
				}
				if m.ids[id], err = d.ChangeID(id); err != nil {
					t.Fatal(err)
				}
				past[m.ids[id]] = m.frozen[id]
				if live, _ := d.ChangeID(""); live != m.ids[id] {
					t.Fatalf("live change id %s right after %s", live, m.ids[id])
				}
			case what < 17 && len(m.order) > 0:
				id := m.order[random.Intn(len(m.order))]
				remove := d.Remove
				if random.Intn(4) == 0 {
					remove = d.Forget
				}
				if err := remove(id); err != nil {
					t.Fatal(err)
				}
				m.forget(id)
			case what == 17:
				if err := d.Consolidate(); err != nil || d.ConsolidationNeeded() {
					t.Fatal(err, d.ConsolidationNeeded())
				}
			case what == 18 && len(m.order) == 0:
				if err := d.Consolidate(); err != nil {
					t.Fatal(err)
				}
				more := int64(1+random.Intn(300)) * SectorSize
				if err := d.Grow(d.Size() + more); err != nil {
					t.Fatal(err)
				}
				m.live = append(m.live, make([]byte, more)...)
			case what == 19 && random.Intn(4) == 0:
				d.ResetTracking()
				for id := range past {
					if _, err := d.ChangedAreas(id, ""); !errors.Is(err, ErrUnknownChangeID) {
						t.Fatalf("%s after a reset: %v", id, err)
					}
				}
				past = map[string][]byte{}
			}
			m.check(t, d, readers)
			for since, old := range past {
				areas, err := d.ChangedAreas(since, "")
				if err != nil {
					t.Fatal(err)
				}
				covers(t, areas, old, m.live)
				for _, id := range m.order {
					now, known := past[m.ids[id]]
					if !known {
						continue // frozen before the reset
					}
					areas, err := d.ChangedAreas(since, id)
					if epochOf(since) > epochOf(m.ids[id]) {
						if !errors.Is(err, ErrUnknownChangeID) {
							t.Fatalf("from %s back to %s: %v", since, m.ids[id], err)
						}
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					covers(t, areas, old, now)
					if since == m.ids[id] && len(areas) != 0 {
						t.Fatalf("changed since itself: %v", areas)
					}
				}
			}
			for _, id := range append([]string{""}, m.order...) {
				want := m.live
				if id != "" {
					want = m.frozen[id]
				}
				areas, err := d.AllocatedAreas(id)
				if err != nil {
					t.Fatal(err)
				}
				covers(t, areas, make([]byte, len(want)), want)
			}
		}
		for _, id := range append([]string(nil), m.order...) {
			path := filepath.Join(t.TempDir(), "copy.img")
			if err := d.FrozenCopy(id, path); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, m.frozen[id]) {
				t.Fatalf("copy of %s: %v", id, err)
			}
			if err := d.Remove(id); err != nil {
				t.Fatal(err)
			}
			m.forget(id)
		}
		if err := d.Consolidate(); err != nil {
			t.Fatal(err)
		}
		m.check(t, d, readers)
		// Only the base is left, and it is a plain image.
		names, _ := filepath.Glob(filepath.Join(d.Dir(), "*"))
		if len(names) != 2 {
			t.Fatalf("left over: %v", names)
		}
		if got, err := os.ReadFile(filepath.Join(d.Dir(), "web01-flat.vmdk")); err != nil || !bytes.Equal(got, m.live) {
			t.Fatalf("the flat file is not the live disk (%v)", err)
		}
		if err := d.Delete(); err != nil {
			t.Fatal(err)
		}
	}
}

func epochOf(changeID string) int {
	epoch := 0
	fmt.Sscanf(changeID[strings.LastIndexByte(changeID, '/')+1:], "%d", &epoch)
	return epoch
}

// write writes at any alignment, now and then up to the very end.
func write(t *testing.T, random *rand.Rand, d *Disk, m *model) {
	t.Helper()
	size := len(m.live)
	length := 1 + random.Intn(3*grainSize)
	switch random.Intn(3) {
	case 0:
		length = SectorSize * (1 + random.Intn(16))
	case 1:
		length = 1 + random.Intn(200<<10)
	}
	if length > size {
		length = size
	}
	at := random.Intn(size - length + 1)
	switch random.Intn(4) {
	case 0:
		at = at / SectorSize * SectorSize
	case 1:
		at = size - length
	}
	data := make([]byte, length)
	if random.Intn(8) != 0 {
		random.Read(data)
	}
	if n, err := d.WriteAt(data, int64(at)); err != nil || n != length {
		t.Fatal(n, err)
	}
	copy(m.live[at:], data)
}

func TestTrackingNamesOnlyWhatWasWritten(t *testing.T) {
	d, err := Create(t.TempDir(), "d", 10*TrackingBlock+512, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ChangedAreas("x/1", ""); !errors.Is(err, ErrTrackingOff) {
		t.Fatal(err)
	}
	must(t, d.Freeze("untracked"))
	d.SetTracking(true)
	if id, _ := d.ChangeID("untracked"); id != "" {
		t.Fatal("a snapshot from before tracking has an id", id)
	}
	if _, err := d.ChangedAreas("x/1", "untracked"); !errors.Is(err, ErrTrackingOff) {
		t.Fatal(err)
	}
	must(t, d.Freeze("a"))
	since, _ := d.ChangeID("a")
	for _, at := range []int64{5, TrackingBlock - 1, 4 * TrackingBlock, 10 * TrackingBlock} {
		if _, err := d.WriteAt([]byte{1, 2}, at); err != nil {
			t.Fatal(err)
		}
	}
	must(t, d.Freeze("b"))
	if _, err := d.WriteAt([]byte{1}, 7*TrackingBlock); err != nil {
		t.Fatal(err)
	}
	areas, err := d.ChangedAreas(since, "b")
	want := []Area{{0, 2 * TrackingBlock}, {4 * TrackingBlock, TrackingBlock}, {10 * TrackingBlock, 512}}
	if err != nil || fmt.Sprint(areas) != fmt.Sprint(want) {
		t.Fatal(areas, err)
	}
	later, _ := d.ChangeID("b")
	for _, bad := range []string{"", "*", "52/1", since + "9", strings.Replace(since, "/", "/-", 1), later + "0"} {
		if _, err := d.ChangedAreas(bad, "b"); !errors.Is(err, ErrUnknownChangeID) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := d.ChangedAreas(later, "a"); !errors.Is(err, ErrUnknownChangeID) {
		t.Error(err)
	}
	if _, err := d.ChangedAreas(since, "gone"); !errors.Is(err, ErrNoSnapshot) {
		t.Error(err)
	}
	d.ResetTracking()
	if fresh, _ := d.ChangeID(""); strings.Split(fresh, "/")[0] == strings.Split(since, "/")[0] {
		t.Error("a reset kept the uuid")
	}
	// The snapshot's own id is still shown, but leads nowhere.
	if _, err := d.ChangedAreas(since, "b"); !errors.Is(err, ErrUnknownChangeID) {
		t.Error(err)
	}
}

func TestFilesAndDescriptors(t *testing.T) {
	dir := t.TempDir()
	d, err := Create(dir, "web01", 3<<20+37*512, nil)
	must(t, err)
	must(t, d.Freeze("snapshot-1"))
	must(t, d.Freeze("snapshot-2"))
	show := func(id string) string {
		f, err := d.Files(id)
		must(t, err)
		if _, err := os.Stat(f.Path); err != nil {
			t.Error(err)
		}
		return fmt.Sprint(f.Descriptor, " ", f.Data, " ", f.Parents)
	}
	for id, want := range map[string]string{
		"snapshot-1": "web01.vmdk web01-flat.vmdk []",
		"snapshot-2": "web01-000001.vmdk web01-000001-delta.vmdk [web01.vmdk]",
		"":           "web01-000002.vmdk web01-000002-delta.vmdk [web01-000001.vmdk web01.vmdk]",
	} {
		if got := show(id); got != want {
			t.Errorf("%q: %s, want %s", id, got, want)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "web01-000002.vmdk"))
	must(t, err)
	for _, want := range []string{"# Disk DescriptorFile\n", "createType=\"vmfsSparse\"", "parentFileNameHint=\"web01-000001.vmdk\"",
		fmt.Sprintf("RW %d VMFSSPARSE \"web01-000002-delta.vmdk\"", (3<<20+37*512)/512)} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in\n%s", want, raw)
		}
	}
	if id, live, ok := d.Owner("web01-flat.vmdk"); id != "snapshot-1" || live || !ok {
		t.Error(id, live, ok)
	}
	if id, live, ok := d.Owner("web01-000002.vmdk"); id != "" || !live || !ok {
		t.Error(id, live, ok)
	}
	// From the middle: the live layer's parent is the base now.
	must(t, d.Remove("snapshot-2"))
	if got := show(""); got != "web01-000001.vmdk web01-000001-delta.vmdk [web01.vmdk]" {
		t.Error(got)
	}
	must(t, d.Remove("snapshot-1"))
	if got := show(""); got != "web01.vmdk web01-flat.vmdk []" {
		t.Error(got)
	}
	raw, err = os.ReadFile(filepath.Join(dir, "web01.vmdk"))
	must(t, err)
	files, err := d.Files("")
	must(t, err)
	for _, want := range []string{"createType=\"vmfs\"", "RW 6181 VMFS \"web01-flat.vmdk\"", "parentCID=ffffffff",
		"ddb.uuid = \"60 00 c2 9", "ddb.longContentID = \"" + files.ContentID + "\"", "CID=" + files.ContentID[24:]} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in\n%s", want, raw)
		}
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{0, -512, 511, 513} {
		if _, err := Create(dir, "bad", size, nil); !errors.Is(err, ErrCapacity) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	d, err := Create(dir, "d", 8192, nil)
	must(t, err)
	if _, err := Create(dir, "d", 8192, nil); err == nil {
		t.Error("a disk was made over another")
	}
	must(t, d.Freeze("s"))
	for name, c := range map[string]struct{ got, want error }{
		"freeze twice":   {d.Freeze("s"), ErrSnapshotExists},
		"remove unknown": {d.Remove("t"), ErrNoSnapshot},
		"grow frozen":    {d.Grow(16384), ErrHasSnapshots},
		"grow oddly":     {d.Grow(8193), ErrCapacity},
		"shrink":         {d.Grow(4096), ErrShrink},
		"write outside":  {second(d.WriteAt(make([]byte, 2), 8191)), ErrOutOfRange},
		"write before":   {second(d.WriteAt(make([]byte, 2), -1)), ErrOutOfRange},
		"read before":    {second(d.ReadAt(make([]byte, 2), -1)), ErrOutOfRange},
		"read behind":    {second(d.ReadAt(make([]byte, 2), 8192)), io.EOF},
		"read over":      {second(d.ReadAt(make([]byte, 2), 8191)), io.EOF},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if _, err := Open(dir, "d", nil); !errors.Is(err, ErrHasSnapshots) {
		t.Error("redo layers of another were taken over:", err)
	}
	must(t, d.Forget("s"))
	if err := d.Grow(16384); !errors.Is(err, ErrConsolidateFirst) || !d.ConsolidationNeeded() {
		t.Error(err)
	}
	must(t, d.Consolidate())
	must(t, d.Grow(16384))
	must(t, d.Close())
	again, err := Open(dir, "d", nil)
	must(t, err)
	if again.Size() != 16384 {
		t.Error(again.Size())
	}
	must(t, again.Close())
	if _, err := again.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// When one disk cannot be frozen, none stays frozen.
func TestGroupFreezeIsAllOrNothing(t *testing.T) {
	group := NewGroup()
	a, err := Create(t.TempDir(), "a", 8192, group)
	must(t, err)
	b, err := Create(t.TempDir(), "b", 8192, group)
	must(t, err)
	must(t, b.Freeze("s"))
	if err := group.Freeze("s", a, b); !errors.Is(err, ErrSnapshotExists) {
		t.Fatal(err)
	}
	if len(a.Snapshots()) != 0 || a.ConsolidationNeeded() {
		t.Error("the first disk stayed frozen")
	}
}

// Freezes, removals and copies while several writers and readers are at work:
// frozen views never change, and the live disk loses nothing.
func TestUnderLoad(t *testing.T) {
	const size, lanes = 6<<20 + 512, 3
	group := NewGroup()
	d, err := Create(t.TempDir(), "busy", size, group)
	must(t, err)
	d.SetTracking(true)
	var stop int32
	var work sync.WaitGroup
	lane := make([][]byte, lanes) // each writer owns a third and remembers it
	for w := 0; w < lanes; w++ {
		lane[w] = make([]byte, size/lanes)
		work.Add(1)
		go func(w int) {
			defer work.Done()
			random := rand.New(rand.NewSource(int64(w)))
			base := int64(w * (size / lanes))
			for atomic.LoadInt32(&stop) == 0 {
				data := make([]byte, 1+random.Intn(64<<10))
				random.Read(data)
				at := random.Intn(len(lane[w]) - len(data))
				if _, err := d.WriteAt(data, base+int64(at)); err != nil {
					t.Error(err)
					return
				}
				copy(lane[w][at:], data)
			}
		}(w)
	}
	random := rand.New(rand.NewSource(99))
	frozen := map[string][]byte{}
	copies := t.TempDir()
	for i := 0; i < 12; i++ {
		id := fmt.Sprint("s", i)
		must(t, group.Freeze(id, d))
		r, err := d.FrozenReader(id)
		must(t, err)
		first := make([]byte, size)
		if _, err := r.ReadAt(first, 0); err != nil {
			t.Fatal(err)
		}
		frozen[id] = first
		if ids := d.Snapshots(); len(ids) > 3 {
			victim := ids[random.Intn(len(ids))]
			path := filepath.Join(copies, victim)
			must(t, d.FrozenCopy(victim, path))
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, frozen[victim]) {
				t.Fatalf("copy of %s differs (%v)", victim, err)
			}
			must(t, d.Remove(victim))
			delete(frozen, victim)
		}
		for id, want := range frozen {
			r, err := d.FrozenReader(id)
			must(t, err)
			if at := differs(t, r, want); at >= 0 {
				t.Fatalf("%s changed at %d", id, at)
			}
		}
	}
	for _, id := range d.Snapshots() {
		must(t, d.Remove(id))
	}
	atomic.StoreInt32(&stop, 1)
	work.Wait()
	whole := make([]byte, size)
	for w := range lane {
		copy(whole[w*(size/lanes):], lane[w])
	}
	if at := differs(t, d, whole); at >= 0 {
		t.Fatalf("the live disk differs at %d", at)
	}
}

// A consolidation that fails half way loses nothing and can be tried again.
func TestFailedConsolidation(t *testing.T) {
	d, err := Create(t.TempDir(), "d", 4<<20, nil)
	must(t, err)
	must(t, d.Freeze("s"))
	want := make([]byte, 4<<20)
	rand.New(rand.NewSource(1)).Read(want)
	_, err = d.WriteAt(want, 0)
	must(t, err)
	// The base turns read-only under the disk.
	base := d.layers[0]
	good := base.file
	base.file, err = os.Open(base.path)
	must(t, err)
	if err := d.Remove("s"); err == nil || !d.ConsolidationNeeded() {
		t.Fatalf("%v, consolidation needed: %v", err, d.ConsolidationNeeded())
	}
	if at := differs(t, d, want); at >= 0 {
		t.Fatalf("differs at %d", at)
	}
	base.file.Close()
	base.file = good
	must(t, d.Consolidate())
	if at := differs(t, d, want); at >= 0 || d.ConsolidationNeeded() {
		t.Fatalf("differs at %d", at)
	}
}

func second(_ int, err error) error { return err }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
