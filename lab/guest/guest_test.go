package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vmferry.dev/lab/disk"
)

func build(t *testing.T, sizes []int64) []Layout {
	t.Helper()
	dir := t.TempDir()
	spec := Spec{Name: "web01", Seed: 42, Scratch: dir}
	for i, size := range sizes {
		spec.Disks = append(spec.Disks, DiskSpec{Path: filepath.Join(dir, string(rune('a'+i))+"-flat.vmdk"), Key: uint32(2000 + i), Bytes: size})
	}
	layouts, err := Build(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return layouts
}

func TestParseDisks(t *testing.T) {
	got, err := ParseDisks("192M+37s, 96M+1s,1G,512")
	want := []int64{192<<20 + 37*512, 96<<20 + 512, 1 << 30, 512}
	if err != nil || len(got) != len(want) {
		t.Fatal(got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("disk %d: %d, want %d", i, got[i], want[i])
		}
	}
	for _, bad := range []string{"", "x", "1", "0", "-5M", "1M,", "10Q", "9999999999T"} {
		if disks, err := ParseDisks(bad); err == nil {
			t.Errorf("%q gave %v", bad, disks)
		}
	}
}

func TestBuildMakesDefaultGuestQuickly(t *testing.T) {
	// In processor time, not on the clock: other tests run at the same time.
	before := processorTime(t)
	layouts := build(t, DefaultDisks())
	took := processorTime(t) - before
	t.Logf("built with %v of processor time", took)
	if !raceEnabled && took > 10*time.Second {
		t.Errorf("building took %v of processor time", took)
	}
	for i, l := range layouts {
		checkTables(t, l)
		checkBootCode(t, l, i == 0)
		checkFileSystem(t, l)
		checkData(t, l)
		var stat os.FileInfo
		stat, err := os.Stat(l.Spec.Path)
		if err != nil || stat.Size() != DefaultDisks()[i] {
			t.Fatalf("disk %d: %v %v", i, stat, err)
		}
	}
}

// processorTime of this process and the children it has waited for.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	total := time.Duration(0)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var use syscall.Rusage
		if err := syscall.Getrusage(who, &use); err != nil {
			t.Fatal(err)
		}
		total += time.Duration(use.Utime.Nano() + use.Stime.Nano())
	}
	return total
}

// checkTables reads both GPT headers back and checks every checksum.
func checkTables(t *testing.T, l Layout) {
	t.Helper()
	raw, err := os.ReadFile(l.Spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	if raw[510] != 0x55 || raw[511] != 0xAA || raw[446+4] != 0xEE {
		t.Error("no protective MBR")
	}
	last := int64(len(raw))/512 - 1
	for _, at := range []int64{1, last} {
		h := append([]byte(nil), raw[at*512:at*512+92]...)
		if string(h[:8]) != "EFI PART" {
			t.Fatalf("no header at sector %d", at)
		}
		sum := binary.LittleEndian.Uint32(h[16:])
		copy(h[16:20], "\x00\x00\x00\x00")
		if crc32.ChecksumIEEE(h) != sum {
			t.Errorf("header at %d: wrong checksum", at)
		}
		table := int64(binary.LittleEndian.Uint64(h[72:])) * 512
		if crc32.ChecksumIEEE(raw[table:table+128*128]) != binary.LittleEndian.Uint32(h[88:]) {
			t.Errorf("table at %d: wrong checksum", table)
		}
		if int64(binary.LittleEndian.Uint64(h[24:])) != at {
			t.Errorf("header at %d says it is elsewhere", at)
		}
	}
	if sfdisk, err := exec.LookPath("/usr/sbin/sfdisk"); err == nil {
		out, err := exec.Command(sfdisk, "--verify", l.Spec.Path).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No errors detected") {
			t.Errorf("sfdisk --verify: %v\n%s", err, out)
		}
	}
}

// checkBootCode looks at what a BIOS runs: there on the first disk only, and nowhere else in its sector. (That it prints
// its line, the tests with the real OpenStack show.)
func checkBootCode(t *testing.T, l Layout, wanted bool) {
	t.Helper()
	raw, err := os.ReadFile(l.Spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, bootCodeEnd+6)
	if wanted {
		copy(want, printer+BootLine("web01")+"\r\n\x00")
		want[textAddress], want[textAddress+1] = byte(len(printer)), bootAddress>>8
	}
	if !bytes.Equal(raw[:len(want)], want) {
		t.Errorf("the boot code is %q, want %q", raw[:len(want)], want)
	}
}

func checkFileSystem(t *testing.T, l Layout) {
	t.Helper()
	part := filepath.Join(t.TempDir(), "part")
	from, err := os.Open(l.Spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(part)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, io.NewSectionReader(from, l.FileSystem.Start, l.FileSystem.Length)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/e2fsck", "-f", "-n", part).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	folder := t.TempDir()
	if out, err := exec.Command("/usr/sbin/debugfs", "-R", "rdump / "+folder, part).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	if len(l.Files) < 10 {
		t.Errorf("only %d files", len(l.Files))
	}
	for path, want := range l.Files {
		content, err := os.ReadFile(filepath.Join(folder, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s differs from the manifest", path)
		}
	}
	check := exec.Command("sha256sum", "-c", "--quiet", "MANIFEST.sha256")
	check.Dir = folder
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("manifest: %v\n%s", err, out)
	}
}

func checkData(t *testing.T, l Layout) {
	t.Helper()
	file, err := os.Open(l.Spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := make([]byte, BlockSize)
	stamped, empty := 0, 0
	for at := l.Data.Start; at < l.Data.Start+l.Data.Length; at += BlockSize {
		if _, err := file.ReadAt(block, at); err != nil {
			t.Fatal(err)
		}
		s, look := ReadStamp(block)
		switch {
		case look == Unstamped:
			empty++
		case look == Torn || s.Generation != 1 || s.DiskKey != l.Spec.Key || s.Block != uint64(at/BlockSize):
			t.Fatalf("block at %d: %v %+v", at, look, s)
		default:
			stamped++
		}
	}
	if stamped == 0 || empty == 0 {
		t.Errorf("%d blocks of data, %d empty: want both", stamped, empty)
	}
}

func TestBuildManySizes(t *testing.T) {
	for _, size := range []int64{16 << 20, 16<<20 + 512, 17<<20 + 3*512, 23 << 20, 24<<20 + 5*512, 27 << 20, 33<<20 + 512} {
		l := build(t, []int64{size})[0]
		if l.Data.Start+l.Data.Length > size {
			t.Errorf("%d bytes: the data area ends at %d", size, l.Data.Start+l.Data.Length)
		}
		checkTables(t, l)
		checkFileSystem(t, l)
	}
}

func TestBuildTakesAFullFileSystem(t *testing.T) {
	for _, size := range []int64{16 << 20, 24 << 20} {
		dir := t.TempDir()
		spec := Spec{Name: "full", Seed: 7, Fill: 1, Scratch: dir, Disks: []DiskSpec{{Path: filepath.Join(dir, "a-flat.vmdk"), Key: 2000, Bytes: size}}}
		layouts, err := Build(context.Background(), spec)
		if err != nil {
			t.Fatal(err)
		}
		checkFileSystem(t, layouts[0])
	}
}

func TestBuildRefusesSmallDisksInWords(t *testing.T) {
	for _, size := range []int64{0, 512, 8 << 20, 16<<20 - 512} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a-flat.vmdk")
		_, err := Build(context.Background(), Spec{Name: "tiny", Scratch: dir, Disks: []DiskSpec{{Path: path, Key: 2000, Bytes: size}}})
		if err == nil || size > 0 && !strings.Contains(err.Error(), "16 MiB at least") {
			t.Errorf("%d bytes: %v", size, err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%d bytes: the refused disk left a file", size)
		}
	}
}

func TestStampSeesTornBlock(t *testing.T) {
	block := make([]byte, BlockSize)
	newNoise(1).fill(block)
	in := Stamp{DiskKey: 2001, Block: 77, Generation: 5, Write: 1234, UnixNanos: 99}
	in.Put(block)
	if s, look := ReadStamp(block); look != Stamped || s != in {
		t.Fatal(s, look)
	}
	block[4095] ^= 1
	if _, look := ReadStamp(block); look != Torn {
		t.Fatal("a torn block passed")
	}
	if _, look := ReadStamp(make([]byte, BlockSize)); look != Unstamped {
		t.Fatal("zeroes are no stamp")
	}
}

// A stun must cut the writer's sequence at one place for all disks: each frozen
// block holds the newest write up to some number, and nothing later anywhere.
func TestStunIsOnePointInTime(t *testing.T) {
	layouts := build(t, []int64{20<<20 + 512, 16 << 20})
	group := disk.NewGroup()
	var disks []*disk.Disk
	var targets []Target
	// Each write is kept in order, with what it left.
	type left struct {
		disk  int
		at    int64
		bytes []byte
	}
	var mu sync.Mutex
	var order []left
	var before [][]byte
	for i, l := range layouts {
		name := strings.TrimSuffix(filepath.Base(l.Spec.Path), "-flat.vmdk")
		d, err := disk.Open(filepath.Dir(l.Spec.Path), name, group)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		content := make([]byte, d.Size())
		if _, err := d.ReadAt(content, 0); err != nil {
			t.Fatal(err)
		}
		before = append(before, content)
		disks = append(disks, d)
		number := i
		targets = append(targets, Target{Key: l.Spec.Key, Data: l.Data, Disk: writerFunc(func(p []byte, off int64) (int, error) {
			n, err := d.WriteAt(p, off)
			mu.Lock()
			order = append(order, left{number, off, append([]byte(nil), p...)})
			mu.Unlock()
			return n, err
		})})
	}
	w, err := NewWriter(targets, 200, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	w.SetRunning(true)
	for round := uint64(0); round < 4; round++ {
		// As many writes as it takes for some of zeroes, however slow the machine is.
		for deadline := time.Now().Add(time.Minute); w.Stats().Writes < 100*(round+1); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it hardly writes: %+v", w.Stats())
			}
		}
		id := "snapshot-" + string(rune('1'+round))
		if err := group.Freeze(id, disks...); err != nil {
			t.Fatal(err)
		}
	}
	w.SetRunning(false)
	if s := w.Stats(); s.Error != "" || s.Writes != uint64(len(order)) {
		t.Fatalf("%+v, %d writes seen", s, len(order))
	}
	// Replay: at each prefix, does the model equal the frozen view?
	model := [][]byte{append([]byte(nil), before[0]...), append([]byte(nil), before[1]...)}
	applied := 0
	for round := 0; round < 4; round++ {
		id := "snapshot-" + string(rune('1'+round))
		frozen := make([][]byte, 2)
		newest := uint64(0)
		for i, d := range disks {
			r, err := d.FrozenReader(id)
			if err != nil {
				t.Fatal(err)
			}
			frozen[i] = make([]byte, r.Size())
			if _, err := r.ReadAt(frozen[i], 0); err != nil {
				t.Fatal(err)
			}
			for at := layouts[i].Data.Start; at < layouts[i].Data.Start+layouts[i].Data.Length; at += BlockSize {
				s, look := ReadStamp(frozen[i][at:])
				if look == Torn {
					t.Fatalf("%s: torn block at %d", id, at)
				}
				if look == Stamped && s.Write > newest {
					newest = s.Write
				}
			}
		}
		equal := func() bool { return string(model[0]) == string(frozen[0]) && string(model[1]) == string(frozen[1]) }
		for ; applied < int(newest); applied++ {
			copy(model[order[applied].disk][order[applied].at:], order[applied].bytes)
		}
		// Writes of zeroes carry no number: a few may follow the newest stamp.
		for !equal() && applied < len(order) {
			zero := true
			for _, b := range order[applied].bytes {
				zero = zero && b == 0
			}
			if !zero {
				break
			}
			copy(model[order[applied].disk][order[applied].at:], order[applied].bytes)
			applied++
		}
		if !equal() {
			t.Fatalf("%s is no prefix of the writes (newest #%d of %d)", id, newest, len(order))
		}
	}
	// What the writer remembers is what the disks hold.
	block := make([]byte, BlockSize)
	zeroes := 0
	for i, l := range layouts {
		for at := l.Data.Start; at < l.Data.Start+l.Data.Length; at += BlockSize {
			want, known := w.Latest(l.Spec.Key, uint64(at/BlockSize))
			if !known {
				continue
			}
			if _, err := disks[i].ReadAt(block, at); err != nil {
				t.Fatal(err)
			}
			got, look := ReadStamp(block)
			if want.Zero {
				zeroes++
				if look != Unstamped {
					t.Fatalf("disk %d at %d: zeroes were written, %v is there", i, at, got)
				}
			} else if look != Stamped || got != want {
				t.Fatalf("disk %d at %d: %+v, the writer remembers %+v", i, at, got, want)
			}
		}
	}
	if zeroes == 0 {
		t.Error("the writer never wrote zeroes")
	}
}

type writerFunc func(p []byte, off int64) (int, error)

func (f writerFunc) WriteAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestWriterKeepsItsRateAndPauses(t *testing.T) {
	written := int64(0)
	null := writerFunc(func(p []byte, _ int64) (int, error) { written += int64(len(p)); return len(p), nil })
	w, err := NewWriter([]Target{{Key: 1, Disk: null, Data: Range{0, 64 << 20}}}, 25, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	w.SetRunning(true)
	rate := 0.0
	for window := 0; window < 60 && rate < 20; window++ { // what a busy machine takes away for long is not made good
		start, before := time.Now(), w.Stats().Bytes
		time.Sleep(time.Second)
		rate = float64(w.Stats().Bytes-before) / 1e6 / time.Since(start).Seconds()
		t.Logf("%.1f MB/s", rate)
		if rate > 32 {
			t.Errorf("%.1f MB/s at a rate of 25", rate)
		}
	}
	w.SetRunning(false)
	if rate < 20 && !raceEnabled {
		t.Errorf("%.1f MB/s at a rate of 25", rate)
	}
	before := w.Stats()
	time.Sleep(50 * time.Millisecond)
	if after := w.Stats(); after != before {
		t.Errorf("it wrote while paused: %+v, %+v", before, after)
	}
}

func TestWriterStopsAtAnError(t *testing.T) {
	full := writerFunc(func(p []byte, _ int64) (int, error) { return 0, io.ErrShortWrite })
	w, err := NewWriter([]Target{{Key: 1, Disk: full, Data: Range{0, 1 << 20}}}, 25, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	w.SetRunning(true)
	for deadline := time.Now().Add(time.Minute); w.Stats().Running; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it goes on after an error")
		}
	}
	if s := w.Stats(); !strings.Contains(s.Error, "write #1") {
		t.Errorf("%+v", s)
	}
}
