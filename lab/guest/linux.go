// The personality "linux": a system of the host's own kernel, busybox and a few
// scripts on the first disk, small, but one that virt-v2v takes for the Debian
// it is made of, converts, and that boots before and after.
package guest

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// Personality says what the guest's first disk holds.
type Personality string

const (
	Plain Personality = "plain" // files, like the other disks; also ""
	Linux Personality = "linux" // a system that boots
)

// ParsePersonality reads the name of one.
func ParsePersonality(name string) (Personality, error) {
	switch p := Personality(name); p {
	case "", Plain:
		return Plain, nil
	case Linux:
		return p, nil
	}
	return "", fmt.Errorf("a guest %q: plain or linux", name)
}

const (
	smallestLinuxRoot = 96 * mebibyte
	// SmallestLinuxDisk is what the first disk of a Linux needs.
	SmallestLinuxDisk = smallestLinuxRoot + SmallestDisk
	// virt-v2v wants that much free before it begins ("Minimum free space check
	// in the guest" in virt-v2v(1)); with some room for our own rounding.
	freeForConversion      = 53 * mebibyte
	freeForConversionOther = 11 * mebibyte
)

// boots says whether a disk is the one with the system.
func (s Spec) boots(index int) bool { return s.Personality == Linux && index == 0 }

// The modules that the guest has, where the kernel does not have them built in.
// Before a conversion, only the first are in its initramfs.
var (
	vmwareModules = []string{"vmw_pvscsi", "ata_piix", "ahci", "sd_mod", "crc32c_generic", "ext4"}
	otherModules  = []string{"virtio", "virtio_ring", "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_rng",
		"virtio_balloon", "vmxnet3", "e1000"}
)

// hostKernel is a kernel as Debian installs it.
type hostKernel struct{ version, image, modules string }

// hostFiles are the folders where Debian's packages put what a Linux is made of.
type hostFiles struct{ boot, modules, grub string }

var debianFiles = hostFiles{"/boot", "/lib/modules", "/usr/lib/grub/i386-pc"}

// findKernel takes one of the host's; a cloud kernel is smaller than others.
func (h hostFiles) findKernel() (hostKernel, error) {
	images, _ := filepath.Glob(filepath.Join(h.boot, "vmlinuz-*"))
	var found hostKernel
	for _, image := range images {
		version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		modules := filepath.Join(h.modules, version)
		if !isFile(filepath.Join(modules, "modules.dep")) {
			continue
		}
		if found.version == "" || strings.Contains(version, "cloud") || !strings.Contains(found.version, "cloud") {
			found = hostKernel{version, image, modules}
		}
	}
	if found.version == "" {
		return found, fmt.Errorf("there is no kernel in %s with modules in %s: install linux-image-cloud-amd64", h.boot, h.modules)
	}
	return found, nil
}

// installLinux fills a root file system that has room for that many bytes of
// files, and gives the room that is left for data.
func installLinux(ctx context.Context, t *tree, spec Spec, room int64) (int64, error) {
	busybox, err := staticBusybox()
	if err != nil {
		return 0, err
	}
	kernel, err := spec.host.findKernel()
	if err != nil {
		return 0, err
	}
	for _, folder := range []string{"dev", "proc", "sys", "run", "tmp", "root", "media", "mnt", "var/tmp", "var/log", "boot/grub", "etc/modprobe.d", "etc/init.d"} {
		if err := os.MkdirAll(filepath.Join(t.folder, folder), 0o755); err != nil {
			return 0, err
		}
	}
	if err := installFiles(t, spec, kernel); err != nil {
		return 0, err
	}
	if err := installBusybox(ctx, t, busybox); err != nil {
		return 0, err
	}
	if err := installKernel(t, kernel); err != nil {
		return 0, err
	}
	// As an installation of Debian ends: with the guest's own programs.
	for _, words := range [][]string{{"update-initramfs", "-c", "-k", kernel.version}, {"grub-mkconfig", "-o", "/boot/grub/grub.cfg"}} {
		command := exec.CommandContext(ctx, busybox, append([]string{"sh", filepath.Join(t.folder, "usr/sbin", words[0])}, words[1:]...)...)
		command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + filepath.Dir(t.folder), "DPKG_ROOT=" + t.folder}
		if _, err := run(command); err != nil {
			return 0, fmt.Errorf("%s in the guest: %w", words[0], err)
		}
	}
	used, err := usedBy(t.folder)
	if err != nil {
		return 0, err
	}
	if left := room - used - freeForConversion; left > mebibyte {
		return left, nil
	}
	return 0, fmt.Errorf("with the kernel %s the system takes %d MiB, and the file system is %d MiB too small for a conversion: "+
		"a third of the first disk is the file system", kernel.version, used/mebibyte, (used+freeForConversion-room)/mebibyte+2)
}

// staticBusybox finds a busybox that needs no libraries.
func staticBusybox() (string, error) {
	const missing = "a static busybox is missing: install busybox-static"
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", errors.New(missing)
	}
	file, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer file.Close()
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			return "", errors.New(missing + " (" + path + " is not static)")
		}
	}
	return path, nil
}

// installBusybox puts it in with all its names but those the guest has better.
func installBusybox(ctx context.Context, t *tree, busybox string) error {
	content, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := t.write("bin/busybox", content, 0o755); err != nil {
		return err
	}
	names, err := run(exec.CommandContext(ctx, busybox, "--list-full"))
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(names)) {
		if strings.Contains(path, "dpkg") || strings.Contains(path, "rpm") || path == "linuxrc" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(t.folder, path)); err == nil {
			continue
		}
		if err := t.link("/bin/busybox", path); err != nil {
			return err
		}
	}
	return nil
}

// installKernel copies the kernel, its configuration and the modules.
func installKernel(t *tree, kernel hostKernel) error {
	files := map[string]string{"boot/vmlinuz-" + kernel.version: kernel.image}
	within := "lib/modules/" + kernel.version
	if config := filepath.Join(filepath.Dir(kernel.image), "config-"+kernel.version); isFile(config) {
		files["boot/config-"+kernel.version] = config // virt-v2v reads in it what is built in
	}
	dependencies, err := os.ReadFile(filepath.Join(kernel.modules, "modules.dep"))
	if err != nil {
		return err
	}
	chosen := chooseModules(string(dependencies), append(append([]string{}, vmwareModules...), otherModules...))
	if len(chosen) == 0 {
		return fmt.Errorf("the kernel %s has none of the modules that the guest needs", kernel.version)
	}
	for _, line := range chosen {
		path := line[:strings.Index(line, ":")]
		files[within+"/"+path] = filepath.Join(kernel.modules, path)
	}
	for _, name := range []string{"modules.builtin", "modules.order"} {
		if from := filepath.Join(kernel.modules, name); isFile(from) {
			files[within+"/"+name] = from
		}
	}
	for _, path := range sorted(files) {
		content, err := os.ReadFile(files[path])
		if err != nil {
			return err
		}
		if err := t.write(path, content, 0o644); err != nil {
			return err
		}
	}
	if err := t.write(within+"/modules.dep", []byte(strings.Join(chosen, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	owned := map[string]string{"/.": ""}
	for path := range t.sums {
		if path = strings.TrimPrefix(path, "/"); strings.HasPrefix(path, within+"/") || strings.HasPrefix(path, "boot/") {
			for ; path != "."; path = filepath.Dir(path) {
				owned["/"+path] = ""
			}
		}
	}
	return t.add("var/lib/dpkg/info/linux-image-"+kernel.version+".list", []byte(strings.Join(sorted(owned), "\n")+"\n"), 0o644)
}

// chooseModules gives the lines of a modules.dep for the modules of these names
// and for what they need.
func chooseModules(dependencies string, names []string) []string {
	byPath := map[string]string{}
	var queue []string
	for _, line := range strings.Split(dependencies, "\n") {
		colon := strings.Index(line, ":")
		if colon < 0 {
			continue
		}
		path := line[:colon]
		byPath[path] = line
		name := strings.ReplaceAll(strings.SplitN(filepath.Base(path), ".ko", 2)[0], "-", "_")
		for _, wanted := range names {
			if name == wanted {
				queue = append(queue, path)
			}
		}
	}
	chosen := map[string]string{}
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		line, known := byPath[path]
		if _, done := chosen[path]; done || !known {
			continue
		}
		chosen[path] = line
		queue = append(queue, strings.Fields(line[len(path)+1:])...)
	}
	lines := make([]string, 0, len(chosen))
	for _, line := range chosen {
		lines = append(lines, line)
	}
	sort.Strings(lines)
	return lines
}

// installFiles writes the scripts and the configuration.
func installFiles(t *tree, spec Spec, kernel hostKernel) error {
	programs := map[string]string{
		"sbin/init":                      initScript,
		"usr/bin/dpkg":                   dpkgScript,
		"usr/sbin/grub-mkconfig":         grubMkconfigScript,
		"usr/sbin/update-grub":           updateGrubScript,
		"usr/sbin/update-initramfs":      updateInitramfsScript,
		"usr/share/initramfs-tools/init": initramfsScript,
	}
	for _, path := range sorted(programs) {
		if err := t.write(path, []byte(programs[path]), 0o755); err != nil {
			return err
		}
	}
	fixed := map[string]string{
		"etc/hostname":            spec.Name + "\n",
		"etc/debian_version":      "12.11\n",
		"etc/os-release":          "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nID=debian\n",
		"etc/motd":                "The guest of the vmferry lab: a small Linux that checks its own files.\n",
		"etc/passwd":              "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":               "root:x:0:\n",
		"var/log/empty.log":       "",
		"srv/www/index.html":      "<!doctype html><title>" + spec.Name + "</title><p>Is it still the same page?\n",
		"srv/www/größe & maß.txt": "file names are bytes, too\n",
	}
	for _, path := range sorted(fixed) {
		if err := t.write(path, []byte(fixed[path]), 0o644); err != nil {
			return err
		}
	}
	// These a conversion may change, so the manifest leaves them out. Labels, because
	// kernels of today number SCSI disks in the order in which they answer.
	mounts := "# <file system> <mount point> <type> <options> <dump> <pass>\n" +
		"LABEL=" + label(spec.Name, 0) + " / ext4 errors=remount-ro 0 1\n"
	for i := range spec.Disks {
		// virt-v2v mounts what it finds here and refuses a full one.
		room := roomForFiles(fileSystemLength(spec, i))
		if i == 0 || room-fillOf(room, spec.Fill) < freeForConversionOther {
			continue
		}
		folder := fmt.Sprintf("/media/disk%d", i)
		mounts += "LABEL=" + label(spec.Name, i) + " " + folder + " ext4 defaults 0 2\n"
		if err := os.MkdirAll(filepath.Join(t.folder, folder), 0o755); err != nil {
			return err
		}
	}
	loose := map[string]string{
		"etc/fstab":                   mounts,
		"etc/initramfs-tools/modules": "# Modules that the initramfs loads.\n" + strings.Join(vmwareModules, "\n") + "\n",
		"etc/default/grub": "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n" +
			"GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200 panic=5\"\n",
		"var/lib/dpkg/status": packageStatus("linux-image-"+kernel.version, kernel.version) + packageStatus("busybox-static", "1.35.0") +
			packageStatus("initramfs-tools", "0.142") + packageStatus("grub-pc", "2.06"),
	}
	for _, path := range sorted(loose) {
		if err := t.add(path, []byte(loose[path]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func packageStatus(name, version string) string {
	return "Package: " + name + "\nStatus: install ok installed\nPriority: optional\nSection: admin\nMaintainer: the vmferry lab <lab@vmferry.dev>\n" +
		"Architecture: amd64\nVersion: " + version + "\nDescription: part of the lab's guest\n\n"
}

// usedBy is what a folder's content takes in blocks.
func usedBy(folder string) (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			total += BlockSize
		case info.Mode().IsRegular():
			total += (info.Size() + BlockSize - 1) / BlockSize * BlockSize
		}
		return nil
	})
	return total, err
}
