// The guest that is a Linux, as far as it can be looked at without running it;
// tests/lab/guest_proof.py runs it.
package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const standInVersion = "6.1.0-7-amd64"

// standIn is a host with a kernel and a GRUB that run nowhere: the build only
// moves them about. So the test needs neither package.
func standIn(t *testing.T) hostFiles {
	t.Helper()
	dir := t.TempDir()
	h := hostFiles{filepath.Join(dir, "boot"), filepath.Join(dir, "modules"), filepath.Join(dir, "grub")}
	core := make([]byte, 5*sector+100)
	newNoise(3).fill(core[:5*sector])
	binary.LittleEndian.PutUint16(core[firstBlocklist+8:], 5)
	boot := make([]byte, sector)
	newNoise(4).fill(boot)
	image := make([]byte, mebibyte)
	newNoise(5).fill(image)
	modules := filepath.Join(h.modules, standInVersion)
	files := map[string]string{
		filepath.Join(h.boot, "vmlinuz-"+standInVersion): string(image),
		filepath.Join(h.boot, "config-"+standInVersion):  "CONFIG_VIRTIO_BLK=m\n",
		filepath.Join(h.boot, "vmlinuz-5.10.0-1-amd64"):  "a kernel without modules",
		filepath.Join(h.grub, "boot.img"):                string(boot),
		filepath.Join(h.grub, "core.img"):                string(core),
		filepath.Join(modules, "modules.builtin"):        "kernel/fs/ext4/ext4.ko\n",
		filepath.Join(modules, "modules.dep"): "kernel/drivers/scsi/scsi_mod.ko: kernel/drivers/scsi/scsi_common.ko\n" +
			"kernel/drivers/scsi/scsi_common.ko:\n" +
			"kernel/drivers/scsi/vmw_pvscsi.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko\n" +
			"kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko kernel/drivers/scsi/scsi_common.ko\n" +
			"kernel/drivers/virtio/virtio_ring.ko:\n" +
			"kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko\n" +
			"kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio_ring.ko\n" +
			"kernel/sound/beep.ko:\n",
		// What the real one prints into the file after -o.
		filepath.Join(dir, "bin/grub-mkimage"): "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\ncp " + filepath.Join(h.grub, "core.img") + " \"$2\"\n",
	}
	for _, line := range strings.Split(strings.TrimSpace(files[filepath.Join(modules, "modules.dep")]), "\n") {
		path := strings.SplitN(line, ":", 2)[0]
		files[filepath.Join(modules, path)] = "module " + path
	}
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	return h
}

func buildLinux(t *testing.T, h hostFiles, sizes []int64) ([]Layout, error) {
	t.Helper()
	dir := t.TempDir()
	spec := Spec{Name: "web01", Personality: Linux, Seed: 42, Scratch: dir, host: h}
	for i, size := range sizes {
		spec.Disks = append(spec.Disks, DiskSpec{Path: filepath.Join(dir, string(rune('a'+i))+"-flat.vmdk"), Key: uint32(2000 + i), Bytes: size})
	}
	return Build(context.Background(), spec)
}

func TestBuildLinux(t *testing.T) {
	t.Run("of stand-ins", func(t *testing.T) { testBuildLinux(t, standIn(t)) })
	// The real kernel and GRUB belong to the proof of conversions (tools/setup conversion).
	if _, err := debianFiles.findKernel(); err != nil || !isFile(filepath.Join(debianFiles.grub, "boot.img")) {
		t.Logf("of this host: not built, it has no kernel or no GRUB (%v)", err)
		return
	}
	t.Run("of this host", func(t *testing.T) { testBuildLinux(t, debianFiles) })
}

func testBuildLinux(t *testing.T, h hostFiles) {
	sizes := append(DefaultDisks(), 16*mebibyte)
	layouts, err := buildLinux(t, h, sizes)
	if err != nil {
		t.Fatal(err)
	}
	checkMBR(t, h, layouts[0])
	for i, l := range layouts {
		checkFileSystem(t, l)
		checkData(t, l)
		if i > 0 {
			checkTables(t, l)
		}
	}
	kernel, err := h.findKernel()
	if err != nil {
		t.Fatal(err)
	}
	root := dump(t, layouts[0])
	read := func(path string) string {
		content, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Error(err)
		}
		return string(content)
	}
	initrd := "boot/initrd.img-" + kernel.version
	for path, parts := range map[string][]string{
		"boot/grub/grub.cfg":  {"linux /boot/vmlinuz-" + kernel.version + " root=LABEL=web01-0 ro ", "initrd /" + initrd + "\n"},
		"etc/fstab":           {"LABEL=web01-0 / ext4 ", "LABEL=web01-1 /media/disk1 ext4 "},
		"var/lib/dpkg/status": {"Package: linux-image-" + kernel.version + "\nStatus: install ok installed\n"},
	} {
		for _, part := range parts {
			if !strings.Contains(read(path), part) {
				t.Errorf("%s has no %q:\n%s", path, part, read(path))
			}
		}
	}
	// virt-v2v refuses a guest with less than 10 MB free on a mounted file system.
	if strings.Contains(read("etc/fstab"), "disk2") {
		t.Error("a disk too small for a conversion is in /etc/fstab")
	}
	for path := range layouts[0].Files {
		for _, changed := range []string{"/etc/fstab", "/etc/default/grub", "/etc/initramfs-tools/modules", "/boot/grub/grub.cfg", "/" + initrd} {
			if path == changed {
				t.Errorf("the manifest names %s, which a conversion changes", path)
			}
		}
	}

	owned := inGuest(t, root, "usr/bin/dpkg", "-L", "linux-image-"+kernel.version)
	for _, path := range []string{"/boot/vmlinuz-" + kernel.version, "/lib/modules/" + kernel.version} {
		if !strings.Contains("\n"+owned, "\n"+path+"\n") {
			t.Errorf("dpkg -L does not list %s:\n%s", path, owned)
		}
		if owner := inGuest(t, root, "usr/bin/dpkg", "-S", path); owner != "linux-image-"+kernel.version+": "+path+"\n" {
			t.Errorf("dpkg -S %s: %s", path, owner)
		}
	}

	// The initramfs before a conversion, and after what a conversion does.
	before := initramfs(t, filepath.Join(root, initrd))
	if !strings.Contains(before, "/vmw_pvscsi.ko") || !strings.Contains(before, "/scsi_mod.ko") || strings.Contains(before, "virtio") {
		t.Errorf("the initramfs of the unconverted guest has:\n%s", before)
	}
	list := filepath.Join(root, "etc/initramfs-tools/modules")
	if err := os.WriteFile(list, []byte(read("etc/initramfs-tools/modules")+"# added\nvirtio_blk\nvirtio_rng\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	inGuest(t, root, "usr/sbin/update-initramfs", "-c", "-k", kernel.version)
	after := initramfs(t, filepath.Join(root, initrd))
	for _, module := range []string{"vmw_pvscsi", "virtio_blk", "virtio_ring", "virtio-rng"} {
		if !strings.Contains(after, "/"+module+".ko") {
			t.Errorf("the initramfs of the converted guest has no %s:\n%s", module, after)
		}
	}
	for _, script := range []string{"sbin/init", "usr/share/initramfs-tools/init"} {
		if out, err := exec.Command("busybox", "sh", "-n", filepath.Join(root, script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	}
}

// checkMBR looks at what a BIOS and sfdisk read.
func checkMBR(t *testing.T, h hostFiles, l Layout) {
	t.Helper()
	raw, err := os.ReadFile(l.Spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile(filepath.Join(h.grub, "boot.img"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw[:bootKernelSector], boot[:bootKernelSector]) || !bytes.Equal(raw[bootKernelSector+8:bootCodeEnd], boot[bootKernelSector+8:bootCodeEnd]) {
		t.Error("sector 0 has not GRUB's boot code")
	}
	if at := binary.LittleEndian.Uint64(raw[bootKernelSector:]); at != 1 {
		t.Errorf("boot.img loads core.img from sector %d", at)
	}
	if at := binary.LittleEndian.Uint64(raw[sector+firstBlocklist:]); at != 2 {
		t.Errorf("core.img loads its rest from sector %d", at)
	}
	entry := func(i, at int) int64 { return int64(binary.LittleEndian.Uint32(raw[446+16*i+at:])) * sector }
	if raw[510] != 0x55 || raw[511] != 0xAA || entry(0, 8) != l.FileSystem.Start || entry(0, 12) != l.FileSystem.Length ||
		entry(1, 8) != l.Data.Start || entry(1, 8)+entry(1, 12) != int64(len(raw)) {
		t.Errorf("the MBR is not the layout %+v: % x", l, raw[446:512])
	}
	if l.FileSystem.Length != smallestLinuxRoot {
		t.Errorf("a file system of %d bytes", l.FileSystem.Length)
	}
	if out, err := exec.Command("/usr/sbin/sfdisk", "--verify", l.Spec.Path).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk --verify: %v\n%s", err, out)
	}
}

// dump copies the file system of a disk into a folder.
func dump(t *testing.T, l Layout) string {
	t.Helper()
	raw, err := os.ReadFile(l.Spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	part := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(part, raw[l.FileSystem.Start:l.FileSystem.Start+l.FileSystem.Length], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/debugfs", "-R", "rdump / "+folder, part).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	return folder
}

// inGuest runs one of the guest's scripts on a folder with its files.
func inGuest(t *testing.T, root, script string, args ...string) string {
	t.Helper()
	command := exec.Command("busybox", append([]string{"sh", filepath.Join(root, script)}, args...)...)
	command.Env = append(os.Environ(), "DPKG_ROOT="+root)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// initramfs lists the files in one.
func initramfs(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("busybox", "sh", "-c", `gzip -dc "$1" | cpio -t`, "sh", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
	return string(out)
}

func TestBuildLinuxRefusesInWords(t *testing.T) {
	h := standIn(t)
	for _, c := range []struct {
		size int64
		h    hostFiles
		says string
	}{
		{64 * mebibyte, h, "112 MiB there at least"},
		{112 * mebibyte, hostFiles{t.TempDir(), h.modules, h.grub}, "install linux-image-cloud-amd64"},
		{112 * mebibyte, hostFiles{h.boot, t.TempDir(), h.grub}, "install linux-image-cloud-amd64"},
		{112 * mebibyte, hostFiles{h.boot, h.modules, t.TempDir()}, "install grub-pc-bin"},
	} {
		if _, err := buildLinux(t, c.h, []int64{c.size}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%d bytes, %+v: %v", c.size, c.h, err)
		}
	}
	if err := CheckDisks(Linux, []int64{largestBIOSDisk + sector}); err == nil || !strings.Contains(err.Error(), "2048 GiB at most") {
		t.Error(err)
	}
	if err := CheckDisks(Linux, []int64{SmallestLinuxDisk, SmallestDisk}); err != nil {
		t.Error(err)
	}
	if _, err := ParsePersonality("windows"); err == nil {
		t.Error("there is no guest windows")
	}
	// A kernel that is too large for the file system.
	image := filepath.Join(h.boot, "vmlinuz-"+standInVersion)
	if err := os.Truncate(image, 40*mebibyte); err != nil {
		t.Fatal(err)
	}
	if _, err := buildLinux(t, h, []int64{112 * mebibyte}); err == nil || !strings.Contains(err.Error(), "too small for a conversion") {
		t.Error(err)
	}
	if _, err := buildLinux(t, h, []int64{600 * mebibyte}); err != nil {
		t.Error(err)
	}
}
