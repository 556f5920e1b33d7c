// Building the guest's disks.
package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
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

// DiskSpec is one disk to build.
type DiskSpec struct {
	Path  string // raw file, made anew
	Key   uint32 // goes into the stamps: the device key, e.g. 2000
	Bytes int64
}

// Spec says what to build.
type Spec struct {
	Name    string // host name of the guest
	Disks   []DiskSpec
	Seed    int64   // the same seed gives the same files and filling
	Fill    float64 // share of each disk that holds data at first; 0 = 0.6
	Scratch string  // existing folder for the files while they are made
}

// Layout is one disk as built.
type Layout struct {
	Spec       DiskSpec
	FileSystem Range // the ext4 partition
	Data       Range // the part that the writer may write, whole blocks
	// Files are the ext4 file system's plain files with their SHA-256, also
	// inside the file system as /MANIFEST.sha256 in the form of sha256sum.
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
	if spec.Fill < 0 || spec.Fill > 1 {
		return nil, fmt.Errorf("guest %s: a fill of %v is not a share", spec.Name, spec.Fill)
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
	length := d.Bytes / 3 / mebibyte * mebibyte
	if length > 512*mebibyte {
		length = 512 * mebibyte
	}
	layout.FileSystem = Range{mebibyte, length}
	next := mebibyte + length
	parts := []partition{
		{"system", mebibyte / sector, next/sector - 1},
		{"data", next / sector, lastUsable(sectors)},
	}
	layout.Data = Range{next, ((lastUsable(sectors)+1)*sector - next) / BlockSize * BlockSize}
	if err := writeGPT(file, sectors, parts, random); err != nil {
		return layout, err
	}
	if err := fillData(file, d, layout.Data, spec.Fill, random); err != nil {
		return layout, err
	}
	if err := makeFileSystem(ctx, spec, index, &layout, random); err != nil {
		return layout, err
	}
	return layout, file.Close()
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
	files, err := makeFiles(folder, spec.Name, index, int64(float64(roomForFiles(layout.FileSystem.Length))*spec.Fill*0.8), random)
	if err != nil {
		return err
	}
	layout.Files = files
	var id [16]byte
	guid(id[:], random)
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		// sbin is not in everybody's PATH.
		if mkfs = "/usr/sbin/mkfs.ext4"; !isFile(mkfs) {
			return errors.New("mkfs.ext4 is missing: install e2fsprogs")
		}
	}
	// "nodiscard": the file is fresh, and punching would also hit our GPT's file.
	command := exec.CommandContext(ctx, mkfs, "-q", "-F", "-b", "4096", "-U", uuid, "-L", fmt.Sprintf("%.12s-%d", spec.Name, index),
		"-E", fmt.Sprintf("offset=%d,nodiscard,lazy_itable_init=0,hash_seed=%s", layout.FileSystem.Start, uuid),
		"-d", folder, layout.Spec.Path, strconv.FormatInt(layout.FileSystem.Length/1024, 10)+"k")
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
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

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// makeFiles fills a folder with about total bytes of files of many kinds and
// sizes, and gives the SHA-256 of each plain file by its path in the guest.
func makeFiles(folder, name string, index int, total int64, random *rand.Rand) (map[string]string, error) {
	sums := map[string]string{}
	write := func(path string, content []byte, mode os.FileMode) error {
		full := filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		sums["/"+path] = hex.EncodeToString(sum[:])
		return os.WriteFile(full, content, mode)
	}
	small := map[string]string{
		"etc/hostname":            name + "\n",
		"etc/fstab":               "LABEL=" + fmt.Sprintf("%.12s-%d", name, index) + " / ext4 defaults 0 1\n",
		"etc/motd":                "The synthetic guest of the vmferry lab: nothing here boots, everything here is checked.\n",
		"var/log/empty.log":       "",
		"srv/www/index.html":      "<!doctype html><title>" + name + "</title><p>Is it still the same page?\n",
		"srv/www/größe & maß.txt": "file names are bytes, too\n",
	}
	names := make([]string, 0, len(small))
	for path := range small {
		names = append(names, path)
	}
	sort.Strings(names)
	for _, path := range names {
		if err := write(path, []byte(small[path]), 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink("../srv/www/index.html", filepath.Join(folder, "etc/page")); err != nil {
		return nil, err
	}
	if err := os.Link(filepath.Join(folder, "etc/motd"), filepath.Join(folder, "etc/motd.tail")); err != nil {
		return nil, err
	}
	filling := newNoise(random.Int63())
	left := total
	for i := 0; left > 0; i++ {
		size := int64(1) << uint(8+random.Intn(14)) // 256 B to 2 MiB
		size += random.Int63n(size)
		if size > total/12 {
			size = total/12 + 1 // a small file system has many files, too
		}
		if size > left {
			size = left
		}
		content := make([]byte, (size+7)/8*8)
		filling.fill(content)
		if i%4 == 0 { // every fourth file is text that repeats itself
			line := []byte(fmt.Sprintf("%08d %x the quick brown fox jumps over the lazy dog\n", i, content[:8]))
			content = bytes.Repeat(line, int(size)/len(line)+1)
		}
		if err := write(fmt.Sprintf("srv/data/%02d/%02d/file-%05d.bin", i%7, i%13, i), content[:size], 0o640); err != nil {
			return nil, err
		}
		left -= size
	}
	// A file with a hole in its middle.
	hole := make([]byte, 300*1024)
	filling.fill(hole[:4096])
	filling.fill(hole[len(hole)-4096:])
	if err := write("srv/data/hole.img", hole, 0o600); err != nil {
		return nil, err
	}
	paths := make([]string, 0, len(sums))
	for path := range sums {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	var manifest strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&manifest, "%s  .%s\n", sums[path], path)
	}
	return sums, os.WriteFile(filepath.Join(folder, "MANIFEST.sha256"), []byte(manifest.String()), 0o644)
}
