// The files of the guest's file systems, gathered in a folder first.
package guest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// tree is a file system to be, and what its manifest will say.
type tree struct {
	folder string
	sums   map[string]string // SHA-256 by path in the guest
}

// add writes a plain file that the manifest does not name.
func (t *tree) add(path string, content []byte, mode os.FileMode) error {
	full := filepath.Join(t.folder, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	return os.WriteFile(full, content, mode)
}

// write writes a plain file that the manifest names.
func (t *tree) write(path string, content []byte, mode os.FileMode) error {
	sum := sha256.Sum256(content)
	t.sums["/"+path] = hex.EncodeToString(sum[:])
	return t.add(path, content, mode)
}

func (t *tree) link(target, path string) error {
	full := filepath.Join(t.folder, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	return os.Symlink(target, full)
}

func (t *tree) writeManifest() error {
	var manifest strings.Builder
	for _, path := range sorted(t.sums) {
		fmt.Fprintf(&manifest, "%s  .%s\n", t.sums[path], path)
	}
	return t.add("MANIFEST.sha256", []byte(manifest.String()), 0o644)
}

func sorted(files map[string]string) []string {
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	return paths
}

// makeSmallFiles writes what a disk without a system has beside its data.
func makeSmallFiles(t *tree, name string, index int) error {
	small := map[string]string{
		"etc/hostname":            name + "\n",
		"etc/fstab":               "LABEL=" + label(name, index) + " / ext4 defaults 0 1\n",
		"etc/motd":                "The synthetic guest of the vmferry lab: nothing here boots, everything here is checked.\n",
		"var/log/empty.log":       "",
		"srv/www/index.html":      "<!doctype html><title>" + name + "</title><p>Is it still the same page?\n",
		"srv/www/größe & maß.txt": "file names are bytes, too\n",
	}
	for _, path := range sorted(small) {
		if err := t.write(path, []byte(small[path]), 0o644); err != nil {
			return err
		}
	}
	if err := t.link("../srv/www/index.html", "etc/page"); err != nil {
		return err
	}
	return os.Link(filepath.Join(t.folder, "etc/motd"), filepath.Join(t.folder, "etc/motd.tail"))
}

// makeData adds about total bytes of files of many kinds and sizes.
func makeData(t *tree, total int64, random *rand.Rand) error {
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
		if err := t.write(fmt.Sprintf("srv/data/%02d/%02d/file-%05d.bin", i%7, i%13, i), content[:size], 0o640); err != nil {
			return err
		}
		left -= size
	}
	// A file with a hole in its middle.
	hole := make([]byte, 300*1024)
	filling.fill(hole[:4096])
	filling.fill(hole[len(hole)-4096:])
	return t.write("srv/data/hole.img", hole, 0o600)
}
