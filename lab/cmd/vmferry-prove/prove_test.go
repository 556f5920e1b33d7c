package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/guest"
)

const diskSize = 3<<20 + 37*512

// stampedDisk makes content in which each whole block from 1 MiB on is stamped
// with a generation and write number of its own.
func stampedDisk(seed int64) []byte {
	content := make([]byte, diskSize)
	rand.New(rand.NewSource(seed)).Read(content)
	for at := 1 << 20; at+guest.BlockSize <= len(content); at += guest.BlockSize {
		stamp(content, at, 5, uint64(at/guest.BlockSize))
	}
	return content
}

func stamp(content []byte, at int, generation, write uint64) {
	guest.Stamp{DiskKey: 2000, Block: uint64(at / guest.BlockSize), Generation: generation, Write: write,
		UnixNanos: time.Now().UnixNano()}.Put(content[at : at+guest.BlockSize])
}

// prove runs the program on two contents.
func prove(t *testing.T, reference, target []byte) (int, string, *Result) {
	t.Helper()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "frozen.img"), filepath.Join(dir, "target.img")
	for path, content := range map[string][]byte{a: reference, b: target} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, plain, complaints bytes.Buffer
	code := run(context.Background(), []string{"--json", a + "=" + b}, &out, &complaints)
	if again := run(context.Background(), []string{a + "=" + b}, &plain, &complaints); again != code {
		t.Fatalf("plain exits %d, JSON %d", again, code)
	}
	if code == exitTrouble {
		return code, complaints.String(), nil
	}
	var parsed struct {
		Equal bool
		Bytes int64
		Disks []*Result
	}
	if err := json.Unmarshal(out.Bytes(), &parsed); err != nil {
		t.Fatal(err)
	}
	if parsed.Equal != (code == exitEqual) || parsed.Bytes != int64(len(reference)) || len(parsed.Disks) != 1 {
		t.Fatalf("exit %d, %s", code, out.String())
	}
	return code, plain.String(), parsed.Disks[0]
}

func TestEqual(t *testing.T) {
	disk := stampedDisk(1)
	for _, longer := range []int{0, 1, 512, 5 << 20} {
		code, text, r := prove(t, disk, append(append([]byte(nil), disk...), make([]byte, longer)...))
		if code != exitEqual || r.ReferenceSHA256 != r.TargetSHA256 || r.DifferingBlocks != 0 {
			t.Errorf("%d longer: exit %d\n%s", longer, code, text)
		}
	}
}

// One wrong byte anywhere must be found and placed.
func TestEveryByteCounts(t *testing.T) {
	disk := stampedDisk(2)
	random := rand.New(rand.NewSource(3))
	places := []int{0, 1, guest.BlockSize - 1, chunkSize - 1, chunkSize, 3 << 20, diskSize - 1}
	for i := 0; i < 20; i++ {
		places = append(places, random.Intn(diskSize))
	}
	for _, at := range places {
		target := append([]byte(nil), disk...)
		target[at] ^= 0x80
		code, text, r := prove(t, disk, target)
		block := int64(at / guest.BlockSize * guest.BlockSize)
		if code != exitDifferent || r.DifferingBlocks != 1 || r.Ranges[0].Start != block || r.ReferenceSHA256 == r.TargetSHA256 {
			t.Errorf("byte %d: exit %d\n%s", at, code, text)
		}
		if at >= 1<<20+guest.BlockSize && at%guest.BlockSize > 64 && at/guest.BlockSize < diskSize/guest.BlockSize && !strings.Contains(text, "torn block: crc mismatch") {
			t.Errorf("byte %d of a stamped block: no torn block\n%s", at, text)
		}
	}
}

func TestTailMustBeZero(t *testing.T) {
	disk := stampedDisk(4)
	for _, at := range []int{0, 1, guest.BlockSize, 2<<20 - 1} {
		rest := make([]byte, 2<<20)
		rest[at] = 1
		code, text, r := prove(t, disk, append(append([]byte(nil), disk...), rest...))
		if code != exitDifferent || r.DifferingBlocks != 1 || !strings.Contains(text, "beyond the end of the disk") || r.ReferenceSHA256 != r.TargetSHA256 {
			t.Errorf("byte %d of the rest: exit %d\n%s", at, code, text)
		}
	}
}

// The same with a rest that is mostly a hole, as a volume's is.
func TestSparseTailMustBeZero(t *testing.T) {
	dir := t.TempDir()
	reference, target := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	disk := stampedDisk(6)
	for _, path := range []string{reference, target} {
		if err := os.WriteFile(path, disk, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const whole = 4 << 30
	if err := os.Truncate(target, whole); err != nil {
		t.Fatal(err)
	}
	try := func(want int) {
		t.Helper()
		var out, complaints bytes.Buffer
		if code := run(context.Background(), []string{reference + "=" + target}, &out, &complaints); code != want {
			t.Errorf("exit %d, want %d\n%s%s", code, want, out.String(), complaints.String())
		}
	}
	try(exitEqual)
	for _, at := range []int64{diskSize, 1<<30 + 12345, whole - 1} {
		file, err := os.OpenFile(target, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		file.WriteAt([]byte{1}, at)
		try(exitDifferent)
		file.WriteAt([]byte{0}, at)
		file.Close()
		try(exitEqual)
	}
}

func TestShortTarget(t *testing.T) {
	disk := make([]byte, diskSize) // zeroes: what is missing would compare as nothing
	for _, less := range []int{1, 512, 2 << 20, diskSize} {
		code, text, _ := prove(t, disk, disk[:diskSize-less])
		if code != exitDifferent || !strings.Contains(text, "too early") {
			t.Errorf("%d bytes short: exit %d\n%s", less, code, text)
		}
	}
}

func TestNamesTheMissedWrite(t *testing.T) {
	const at = 2 << 20
	frozen := stampedDisk(5)
	stamp(frozen, at, 7, 1002)
	cases := []struct {
		change func(target []byte)
		want   []string
	}{
		{func(d []byte) { stamp(d, at, 6, 1001) }, []string{"target holds generation 6 (write #1001 at ", "the frozen disk holds generation 7 (write #1002 at ", "stale"}},
		{func(d []byte) { stamp(d, at, 8, 1003) }, []string{"generation 8 (write #1003", "newer than the freeze"}},
		{func(d []byte) { stamp(d, at, 1, 0) }, []string{"as the guest was made", "stale"}},
		{func(d []byte) { copy(d[at:], make([]byte, guest.BlockSize)) }, []string{"target holds zeroes, the frozen disk holds generation 7"}},
		{func(d []byte) { copy(d[at:], d[at+guest.BlockSize:at+2*guest.BlockSize]) }, []string{fmt.Sprintf("belongs at offset %d", at+guest.BlockSize)}},
		{func(d []byte) { copy(d[at:at+512], frozen[at+4096:]) }, []string{"torn block: crc mismatch"}},
	}
	for i, c := range cases {
		target := append([]byte(nil), frozen...)
		c.change(target)
		code, text, _ := prove(t, frozen, target)
		for _, want := range c.want {
			if code != exitDifferent || !strings.Contains(text, want) || !strings.Contains(text, fmt.Sprintf("offset %d", at)) {
				t.Errorf("case %d: exit %d, want %q in\n%s", i, code, want, text)
			}
		}
	}
}

func TestTroubleIsNotProof(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	empty := filepath.Join(dir, "empty")
	link := filepath.Join(dir, "link")
	for path, content := range map[string]string{file: "x", empty: ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"--json"}, {file}, {"=" + file}, {file + "="}, {file + "=" + dir + "/none"}, {dir + "/none=" + file},
		{file + "=" + file}, {file + "=" + link}, {empty + "=" + file}, {dir + "=" + file}, {"--frozen", "web01", "--lab", dir}, {"--offset", "3", file + "=" + link}} {
		var out, complaints bytes.Buffer
		if code := run(context.Background(), args, &out, &complaints); code != exitTrouble || complaints.Len() == 0 {
			t.Errorf("%q: exit %d, %q", args, code, complaints.String())
		}
	}
}

// fakeLab answers on both control sockets.
func fakeLab(t *testing.T, frozen []frozenSet, volumes []volume) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "prove")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	serve := func(name string, answers map[string]interface{}) {
		listener, err := calls.ListenControl(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		for path, answer := range answers {
			answer := answer
			mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { calls.Reply(w, http.StatusOK, answer) })
		}
		server := calls.Server(mux)
		go server.Serve(listener)
		t.Cleanup(func() { server.Close() })
	}
	serve("vcenter.sock", map[string]interface{}{"/vms/web01/frozen": frozen, "/vms/web01": map[string]string{"moref": "vm-7"}})
	serve("openstack.sock", map[string]interface{}{"/state": map[string]interface{}{"volumes": volumes}})
	return dir
}

func TestFrozenAgainstLab(t *testing.T) {
	files := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two := stampedDisk(10), stampedDisk(11)
	set := func(id string, paths ...string) frozenSet {
		raw := fmt.Sprintf(`{"snapshot":%q,"disks":[{"key":2000,"path":%q},{"key":"2001","path":%q}]}`, id, paths[0], paths[1])
		s := frozenSet{}
		if err := json.Unmarshal([]byte(raw), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	frozen := []frozenSet{
		set("snapshot-1", write("old-a", two), write("old-b", one)),
		set("snapshot-2", write("new-a", one), write("new-b", two)),
	}
	padded := append(append([]byte(nil), one...), make([]byte, 1<<20)...)
	of := func(id, vm, disk, file string) volume {
		return volume{ID: id, Metadata: map[string]string{"vm": vm, "disk": disk}, File: file}
	}
	volumes := []volume{
		of("v-1", "vm-7", "1-2000", write("volume-1", padded)),
		of("v-2", "vm-7", "2001", write("volume-2", two)),
		of("v-3", "vm-8", "1-2000", write("volume-3", two)),
		of("v-4", "vm-7", "1-12000", write("volume-4", two)),
	}
	lab := fakeLab(t, frozen, volumes)
	try := func(want int, args ...string) string {
		t.Helper()
		var out, complaints bytes.Buffer
		if code := run(context.Background(), append([]string{"--frozen", "web01", "--lab", lab}, args...), &out, &complaints); code != want {
			t.Errorf("%q: exit %d, want %d\n%s%s", args, code, want, out.String(), complaints.String())
		}
		return out.String()
	}
	if text := try(exitEqual); !strings.Contains(text, fmt.Sprintf("equal: 2 disks, %d bytes", 2*diskSize)) {
		t.Error(text)
	}
	try(exitDifferent, "--snapshot", "snapshot-1")
	try(exitTrouble, "--snapshot", "snapshot-9")
	try(exitEqual, "--local", files, "2000=volume-1", "2001="+filepath.Join(files, "volume-2"))
	try(exitDifferent, "--local", files, "2000=volume-2", "2001=volume-1")
	try(exitTrouble, "--local", files, "2000=volume-1")
	try(exitTrouble, "--local", files, "2000=volume-1", "2001=volume-2", "2002=volume-3")
	// Sabotage is found, and names a torn block.
	if text := try(exitEqual, "--flip", "2000"); !strings.Contains(text, "volume-1 at offset") {
		t.Error(text)
	}
	if text := try(exitDifferent); !strings.Contains(text, "torn block") {
		t.Error(text)
	}
	lab = fakeLab(t, frozen, append(volumes, of("v-5", "vm-7", "9-2001", volumes[1].File)))
	try(exitTrouble)
	lab = fakeLab(t, frozen, volumes[:1])
	try(exitTrouble)
	lab = fakeLab(t, []frozenSet{}, volumes)
	try(exitTrouble)
}
