// Package devices makes the block devices of volumes attached to the conversion
// host: a loop device over the volume's file (or the file itself), a link as udev
// makes it and a file that tells the device's identity; and those of disks that
// are plugged into a virtual machine. It must not know volumes' states, nor which
// OpenStack they are of.
package devices

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// MountProgram is a program `mount` that mounts an NFS export of this machine without an
// NFS server: for the PATH of those that shall see it.
//
//go:embed mount
var MountProgram []byte

// Folder makes devices appear under Dir/by-id and Dir/identity.
type Folder struct {
	Dir  string
	Loop bool // loop devices; else the plain files
}

// Device is one attached device.
type Device struct {
	Path     string
	link     string
	identity string
	serial   string
	device
}

type device struct {
	loop *os.File // held open for as long as the device exists
}

// release gives the loop device back. One that somebody still has open goes when
// they close it.
func (d *device) release() {
	if d.loop == nil {
		return
	}
	// On our own descriptor: no other device can be meant by mistake.
	syscall.Syscall(syscall.SYS_IOCTL, d.loop.Fd(), loopClear, 0)
	d.loop.Close()
	d.loop = nil
}

// From linux/loop.h.
const (
	loopClear       = 0x4C01
	loopSetCapacity = 0x4C07
)

// SerialOf is the serial Nova's libvirt driver gives a volume's disk: virtio
// carries its first 20 characters.
func SerialOf(volumeID string) string { return volumeID[:20] }

func (d Folder) byID() string     { return filepath.Join(d.Dir, "by-id") }
func (d Folder) identity() string { return filepath.Join(d.Dir, "identity") }

// Prepare makes the folders and takes away links that a run before left.
func (d Folder) Prepare() error {
	for _, folder := range []string{d.byID(), d.identity()} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	for _, folder := range []string{d.byID(), d.identity()} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Attach makes the device of a volume appear. The identity is there before the
// link, so that whoever finds the link finds both.
func (d Folder) Attach(volumeID, file string, size int64) (*Device, error) {
	made := &Device{Path: file, serial: SerialOf(volumeID), link: filepath.Join(d.byID(), "virtio-"+SerialOf(volumeID))}
	if d.Loop {
		var err error
		if made.Path, made.loop, err = attachLoop(file); err != nil {
			return nil, err
		}
	}
	err := d.publish(made, size)
	if err != nil {
		made.Detach()
		return nil, err
	}
	return made, nil
}

func (d Folder) publish(made *Device, size int64) error {
	info, err := os.Stat(made.Path)
	if err != nil {
		return err
	}
	stat, known := info.Sys().(*syscall.Stat_t)
	if !known {
		return errors.New("this system tells no device numbers")
	}
	name := fmt.Sprintf("%d-%d", stat.Dev, stat.Ino)
	if info.Mode()&os.ModeDevice != 0 {
		name = fmt.Sprintf("%d:%d", major(uint64(stat.Rdev)), minor(uint64(stat.Rdev)))
	}
	made.identity = filepath.Join(d.identity(), name)
	if err := made.describe(size); err != nil {
		return err
	}
	if err := os.Remove(made.link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(made.Path, made.link)
}

// describe writes the identity file whole.
func (v *Device) describe(size int64) error {
	text := fmt.Sprintf("serial=%s\nbytes=%d\n", v.serial, size)
	if err := os.WriteFile(v.identity+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(v.identity+".new", v.identity)
}

// Grow tells the device and its identity that the file has become larger.
func (v *Device) Grow(size int64) error {
	if v.loop != nil {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, v.loop.Fd(), loopSetCapacity, 0); errno != 0 {
			return fmt.Errorf("%s cannot take its new size: %w", v.Path, errno)
		}
	}
	return v.describe(size)
}

// Detach takes the device away: link first, then identity, then the loop device.
func (v *Device) Detach() {
	os.Remove(v.link)
	if v.identity != "" {
		os.Remove(v.identity)
	}
	v.release()
}

// attachLoop sets up a loop device and opens it. losetup looks for a free device
// and takes it in two steps, so another process may win the race: try again.
func attachLoop(file string) (string, *os.File, error) {
	var last error
	for attempt := 0; attempt < 10; attempt++ {
		if attempt > 0 {
			time.Sleep(time.Duration(attempt*20) * time.Millisecond)
		}
		out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", file).CombinedOutput()
		path := strings.TrimSpace(string(out))
		if err != nil || !strings.HasPrefix(path, "/dev/loop") || strings.Contains(path, "\n") {
			last = fmt.Errorf("losetup for %s: %v: %s", file, err, path)
			continue
		}
		held, err := os.OpenFile(path, os.O_RDONLY, 0)
		if err != nil {
			last = err
			continue
		}
		backing, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(path), "loop/backing_file"))
		if err == nil && strings.TrimSpace(string(backing)) == file {
			return path, held, nil
		}
		held.Close()
		last = fmt.Errorf("%s does not show %s (another process took it)", path, file)
	}
	return "", nil, last
}

// UsableLoop tries a loop device over a small file, end to end.
func UsableLoop(dir string) error {
	probe, err := os.CreateTemp(dir, "loop-probe-")
	if err != nil {
		return err
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	if err := probe.Truncate(1 << 20); err != nil {
		return err
	}
	_, held, err := attachLoop(probe.Name())
	if err != nil {
		return err
	}
	(&device{loop: held}).release()
	return nil
}

// major and minor split a device number as glibc's makedev joins it.
func major(dev uint64) uint64 { return (dev>>8)&0xfff | (dev>>32)&^uint64(0xfff) }
func minor(dev uint64) uint64 { return dev&0xff | (dev>>12)&^uint64(0xff) }
