package devices

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Guest is what a virtual machine sees of its own hardware: a folder in the place
// of / with dev/disk, the PCI devices in sys and its SMBIOS.
type Guest struct {
	Root string
	Loop bool // loop devices; else the plain files
}

func (g Guest) byID() string   { return filepath.Join(g.Root, "dev/disk/by-id") }
func (g Guest) byPath() string { return filepath.Join(g.Root, "dev/disk/by-path") }
func (g Guest) pci() string    { return filepath.Join(g.Root, "sys/bus/pci/devices") }

// Prepare makes the folders anew and writes the SMBIOS of a machine with this
// BIOS uuid. VMware's serial number has the bytes in the uuid's order.
func (g Guest) Prepare(uuid string) error {
	if err := os.RemoveAll(g.Root); err != nil {
		return err
	}
	dmi := filepath.Join(g.Root, "sys/class/dmi/id")
	for _, folder := range []string{g.byID(), g.byPath(), g.pci(), dmi} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	var pairs []string
	for plain := strings.ReplaceAll(uuid, "-", ""); len(plain) > 1; plain = plain[2:] {
		pairs = append(pairs, plain[:2])
	}
	if len(pairs) != 16 {
		return fmt.Errorf("BIOS uuid %q", uuid)
	}
	serial := "VMware-" + strings.Join(pairs[:8], " ") + "-" + strings.Join(pairs[8:], " ")
	if err := os.WriteFile(filepath.Join(dmi, "product_serial"), []byte(serial+"\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dmi, "product_uuid"), []byte(uuid+"\n"), 0o600)
}

// Controller makes a PCI device appear behind its bridge.
func (g Guest) Controller(bridge, address string) error {
	return os.MkdirAll(filepath.Join(g.pci(), bridge, address), 0o700)
}

// Plugged is a disk that the guest sees.
type Plugged struct {
	Path  string
	links []string
	device
}

// Plug makes a disk appear as udev shows one: by its path, which is the PCI address of
// its controller and its unit, and by its uuid when the hypervisor tells that ("").
func (g Guest) Plug(file, path, uuid string) (*Plugged, error) {
	made := &Plugged{Path: file}
	if g.Loop {
		var err error
		if made.Path, made.loop, err = attachLoop(file); err != nil {
			return nil, err
		}
	}
	made.links = []string{filepath.Join(g.byPath(), path)}
	if plain := strings.ToLower(strings.ReplaceAll(uuid, "-", "")); plain != "" {
		made.links = append(made.links, filepath.Join(g.byID(), "wwn-0x"+plain), filepath.Join(g.byID(), "scsi-3"+plain))
	}
	for _, link := range made.links {
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			made.Unplug()
			return nil, err
		}
		if err := os.Symlink(made.Path, link); err != nil {
			made.Unplug()
			return nil, err
		}
	}
	return made, nil
}

// Unplug takes the disk away. Links that by now lead to another disk stay.
func (p *Plugged) Unplug() {
	for _, link := range p.links {
		if to, err := os.Readlink(link); err == nil && to == p.Path {
			os.Remove(link)
		}
	}
	p.release()
}
