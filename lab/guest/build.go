// Building the guest's disks.
package guest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const mebibyte = 1 << 20

// DefaultDisks gives the capacities of web01: odd on purpose, neither whole MiB
// nor whole 64 KiB, so that the end of a disk is a case and not an accident.
func DefaultDisks() []int64 {
	return []int64{192*mebibyte + 37*sector, 96*mebibyte + 1*sector}
}

// ParseDisks reads a list like "192M+37s,96M+1s,1G": numbers with the units s
// (sectors), K, M, G or T (powers of 1024) or none (bytes), joined by +.
func ParseDisks(spec string) ([]int64, error) {
	units := map[byte]int64{'s': sector, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
	var disks []int64
	for _, item := range strings.Split(spec, ",") {
		total := int64(0)
		for _, term := range strings.Split(strings.TrimSpace(item), "+") {
			unit := int64(1)
			if n := len(term); n > 0 && units[term[n-1]] != 0 {
				unit, term = units[term[n-1]], term[:n-1]
			}
			value, err := strconv.ParseInt(term, 10, 64)
			if err != nil || value < 0 || value > (1<<62)/unit {
				return nil, fmt.Errorf("disk size %q: write it like 192M+37s (s = sectors of 512 bytes, K, M, G, T)", item)
			}
			total += value * unit
		}
		if total <= 0 || total%sector != 0 {
			return nil, fmt.Errorf("disk size %q: must be a positive multiple of 512 bytes", item)
		}
		disks = append(disks, total)
	}
	return disks, nil
}

// CheckDisks says in words why the guest cannot have disks of these capacities.
func CheckDisks(personality Personality, capacities []int64) error {
	for i, capacity := range capacities {
		if err := CheckSize(capacity); err != nil {
			return err
		}
		if personality != Linux || i > 0 {
			continue
		}
		if capacity < SmallestLinuxDisk {
			return fmt.Errorf("%d bytes is too small for the first disk: a Linux needs %d MiB there at least",
				capacity, SmallestLinuxDisk/mebibyte)
		}
		if capacity > largestBIOSDisk {
			return fmt.Errorf("%d bytes is too large for the first disk: a Linux boots from %d GiB at most",
				capacity, largestBIOSDisk>>30)
		}
	}
	return nil
}

// DiskSpec is one disk to build.
type DiskSpec struct {
	Path  string // raw file, made anew
	Key   uint32 // goes into the stamps: the device key, e.g. 2000
	Bytes int64
}

// Spec says what to build.
type Spec struct {
	Name        string // host name of the guest
	Personality Personality
	Disks       []DiskSpec
	Seed        int64   // the same seed gives the same files and filling
	Fill        float64 // share of each disk that holds data at first; 0 = 0.6
	Scratch     string  // existing folder for the files while they are made

	host hostFiles // of a Linux; empty = debianFiles
}

// Layout is one disk as built.
type Layout struct {
	Spec       DiskSpec
	FileSystem Range // the ext4 partition
	Data       Range // the part that the writer may write, whole blocks
	// Files are the ext4 file system's plain files with their SHA-256, also
	// inside the file system as /MANIFEST.sha256 in the form of sha256sum. Of a
	// Linux, those that a conversion leaves alone.
	Files map[string]string
}

// Range is a part of a disk in bytes.
type Range struct{ Start, Length int64 }

// SmallestDisk is what a partition table, a file system worth checking and an
// area for the writer need.
const SmallestDisk = 16 * mebibyte

// CheckSize says in words why a disk of that many bytes cannot be built.
func CheckSize(capacity int64) error {
	if capacity <= 0 || capacity%sector != 0 {
		return fmt.Errorf("%d bytes is not a positive multiple of %d", capacity, sector)
	}
	if capacity < SmallestDisk {
		return fmt.Errorf("%d bytes is too small: a disk of the guest has a file system and needs 16 MiB at least", capacity)
	}
	return nil
}

// Build makes the disks. Needs mkfs.ext4 (e2fsprogs 1.43 or newer, for -d).
func Build(ctx context.Context, spec Spec) ([]Layout, error) {
	if spec.Fill == 0 {
		spec.Fill = 0.6
	}
	if spec.host == (hostFiles{}) {
		spec.host = debianFiles
	}
	if spec.Fill < 0 || spec.Fill > 1 {
		return nil, fmt.Errorf("guest %s: a fill of %v is not a share", spec.Name, spec.Fill)
	}
	if spec.Personality == Linux && len(spec.Disks) > 0 {
		if err := CheckDisks(Linux, []int64{spec.Disks[0].Bytes}); err != nil {
			return nil, fmt.Errorf("guest %s: %w", spec.Name, err)
		}
	}
	layouts := make([]Layout, len(spec.Disks))
	errs := make(chan error, len(spec.Disks))
	// One after another would spend its time waiting for mkfs.
	for i := range spec.Disks {
		go func(i int) {
			layout, err := buildDisk(ctx, spec, i)
			layouts[i] = layout
			if err != nil {
				err = fmt.Errorf("guest %s: disk %d: %w", spec.Name, i, err)
			}
			errs <- err
		}(i)
	}
	var first error
	for range spec.Disks {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		for _, d := range spec.Disks {
			os.Remove(d.Path)
		}
		return nil, first
	}
	return layouts, nil
}

func buildDisk(ctx context.Context, spec Spec, index int) (Layout, error) {
	d := spec.Disks[index]
	layout := Layout{Spec: d}
	if err := CheckSize(d.Bytes); err != nil {
		return layout, err
	}
	random := rand.New(rand.NewSource(spec.Seed + int64(index)*7919))
	file, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return layout, err
	}
	defer file.Close()
	if err := file.Truncate(d.Bytes); err != nil {
		return layout, err
	}
	sectors := d.Bytes / sector
	length := fileSystemLength(spec, index)
	layout.FileSystem = Range{mebibyte, length}
	next := mebibyte + length
	last := lastUsable(sectors)
	if spec.boots(index) {
		last = sectors - 1 // an MBR has nothing at the disk's end
	}
	parts := []partition{
		{"system", mebibyte / sector, next/sector - 1},
		{"data", next / sector, last},
	}
	layout.Data = Range{next, ((last+1)*sector - next) / BlockSize * BlockSize}
	if spec.boots(index) {
		err = writeMBR(file, parts, random)
	} else {
		err = writeGPT(file, sectors, parts, random)
	}
	if err == nil && index == 0 && !spec.boots(index) {
		err = writePrinter(file, spec.Name)
	}
	if err != nil {
		return layout, err
	}
	if err := fillData(file, d, layout.Data, spec.Fill, random); err != nil {
		return layout, err
	}
	if err := makeFileSystem(ctx, spec, index, &layout, random); err != nil {
		return layout, err
	}
	if spec.boots(index) {
		if err := writeBootloader(ctx, spec, file); err != nil {
			return layout, err
		}
	}
	return layout, file.Close()
}

// fileSystemLength is a third of the disk, but no less than a system needs.
func fileSystemLength(spec Spec, index int) int64 {
	length := spec.Disks[index].Bytes / 3 / mebibyte * mebibyte
	if length > 512*mebibyte {
		length = 512 * mebibyte
	}
	if spec.boots(index) && length < smallestLinuxRoot {
		length = smallestLinuxRoot
	}
	return length
}

// fillData puts stamped blocks of generation 1 into runs of random length, with
// holes between them.
func fillData(file *os.File, d DiskSpec, area Range, fill float64, random *rand.Rand) error {
	const run = mebibyte
	filling := newNoise(random.Int63())
	buffer := make([]byte, run)
	made := time.Now().UnixNano()
	for at := area.Start; at < area.Start+area.Length; {
		length := int64(1+random.Intn(run/BlockSize)) * BlockSize
		if rest := area.Start + area.Length - at; length > rest {
			length = rest
		}
		if random.Float64() < fill {
			piece := buffer[:length]
			filling.fill(piece)
			for i := int64(0); i < length; i += BlockSize {
				Stamp{DiskKey: d.Key, Block: uint64((at + i) / BlockSize), Generation: 1, UnixNanos: made}.Put(piece[i : i+BlockSize])
			}
			if _, err := file.WriteAt(piece, at); err != nil {
				return err
			}
		}
		at += length
	}
	return nil
}

// makeFileSystem fills a folder and lets mkfs.ext4 put it into the partition.
func makeFileSystem(ctx context.Context, spec Spec, index int, layout *Layout, random *rand.Rand) error {
	folder, err := os.MkdirTemp(spec.Scratch, "guest-files-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	t := &tree{folder: folder, sums: map[string]string{}}
	room := roomForFiles(layout.FileSystem.Length)
	if spec.boots(index) {
		if room, err = installLinux(ctx, t, spec, room); err != nil {
			return err
		}
	} else if err := makeSmallFiles(t, spec.Name, index); err != nil {
		return err
	}
	if err := makeData(t, fillOf(room, spec.Fill), random); err != nil {
		return err
	}
	if err := t.writeManifest(); err != nil {
		return err
	}
	layout.Files = t.sums
	var id [16]byte
	guid(id[:], random)
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
	mkfs, err := program("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return err
	}
	// "nodiscard": the file is fresh, and punching would also hit our GPT's file.
	_, err = run(exec.CommandContext(ctx, mkfs, "-q", "-F", "-b", "4096", "-U", uuid, "-L", label(spec.Name, index),
		"-E", fmt.Sprintf("offset=%d,nodiscard,lazy_itable_init=0,hash_seed=%s", layout.FileSystem.Start, uuid),
		"-d", folder, layout.Spec.Path, strconv.FormatInt(layout.FileSystem.Length/1024, 10)+"k"))
	return err
}

// program finds one of the programs that a build runs; sbin is not in
// everybody's PATH.
func program(name, pkg string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if path := "/usr/sbin/" + name; isFile(path) {
		return path, nil
	}
	return "", fmt.Errorf("%s is missing: install %s", name, pkg)
}

// run gives what a program printed; its complaints become the error.
func run(command *exec.Cmd) ([]byte, error) {
	var out, said bytes.Buffer
	command.Stdout, command.Stderr = &out, &said
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(command.Path), err, strings.TrimSpace(out.String()+said.String()))
	}
	return out.Bytes(), nil
}

// roomForFiles is what mkfs.ext4 leaves of a small file system with 4 KiB blocks:
// the journal comes at 2048 blocks with 1024 and grows to 4096 at 32768 (see
// ext2fs_default_journal_size in e2fsprogs' lib/ext2fs/mkjournal.c), and every
// 4 KiB have an inode of 256 bytes (mke2fs.conf, types "default" and "small").
func roomForFiles(length int64) int64 {
	journal := int64(0)
	switch {
	case length >= 128*mebibyte:
		journal = 16 * mebibyte
	case length >= 8*mebibyte:
		journal = 4 * mebibyte
	}
	const directories = mebibyte / 2 // about 100 of them, a block each, and the groups' own blocks
	return length - journal - length/16 - directories
}

// fillOf is how much of that room the files take.
func fillOf(room int64, fill float64) int64 { return int64(float64(room) * fill * 0.8) }

// label is the volume label of a disk's file system.
func label(name string, index int) string { return fmt.Sprintf("%.12s-%d", name, index) }

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
