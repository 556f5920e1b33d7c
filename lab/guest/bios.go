// The disk that a BIOS machine boots from: an MBR with its partitions, and GRUB.
// boot.img in sector 0 loads core.img from the gap before the first partition,
// and that reads the rest from the root file system. What grub-install does with
// block devices is done here in a plain file; the fields are described in
// grub-core/boot/i386/pc of GRUB's source.
package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
)

// grubModules are all that the menu needs, so that none is read from the disk.
var grubModules = []string{"biosdisk", "part_msdos", "ext2", "normal", "linux", "minicmd"}

const (
	coreSector       = 1
	bootCodeEnd      = 440  // the disk's signature and the partitions follow
	bootKernelSector = 0x5c // in boot.img: where core.img begins
	firstBlocklist   = sector - 12
)

// largestBIOSDisk is what an MBR reaches.
const largestBIOSDisk = int64(1) << 32 * sector

// writeMBR writes the table of a disk whose first partition is the one to boot.
func writeMBR(to io.WriterAt, parts []partition, random *rand.Rand) error {
	mbr := make([]byte, sector)
	random.Read(mbr[bootCodeEnd : bootCodeEnd+4])
	for i, p := range parts {
		entry := mbr[446+16*i:]
		if i == 0 {
			entry[0] = 0x80
		}
		copy(entry[1:], "\xfe\xff\xff\x83\xfe\xff\xff") // no cylinders, Linux
		binary.LittleEndian.PutUint32(entry[8:], uint32(p.first))
		binary.LittleEndian.PutUint32(entry[12:], uint32(p.last-p.first+1))
	}
	mbr[510], mbr[511] = 0x55, 0xAA
	_, err := to.WriteAt(mbr, 0)
	return err
}

// writeBootloader makes core.img and puts both parts of GRUB in their places.
func writeBootloader(ctx context.Context, spec Spec, to io.WriterAt) error {
	boot, err := os.ReadFile(filepath.Join(spec.host.grub, "boot.img"))
	if err != nil || len(boot) != sector {
		return errors.New("GRUB for BIOS machines is missing: install grub-pc-bin")
	}
	mkimage, err := program("grub-mkimage", "grub-common")
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp(spec.Scratch, "guest-grub-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	image := filepath.Join(folder, "core.img")
	words := append([]string{"-O", "i386-pc", "-d", spec.host.grub, "-p", "(,msdos1)/boot/grub", "-o", image}, grubModules...)
	if _, err := run(exec.CommandContext(ctx, mkimage, words...)); err != nil {
		return err
	}
	core, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	if len(core) > mebibyte-coreSector*sector {
		return fmt.Errorf("GRUB's core.img has %d bytes, which is more than there is room for", len(core))
	}
	// The first sector of core.img loads the others; it knows how many, not where.
	others := int((int64(len(core)) - 1) / sector)
	if len(core) < 2*sector || int(binary.LittleEndian.Uint16(core[firstBlocklist+8:])) != others {
		return errors.New("GRUB's core.img does not look as expected: it does not begin with a list of its blocks")
	}
	binary.LittleEndian.PutUint64(core[firstBlocklist:], coreSector+1)
	binary.LittleEndian.PutUint64(boot[bootKernelSector:], coreSector)
	if _, err := to.WriteAt(core, coreSector*sector); err != nil {
		return err
	}
	_, err = to.WriteAt(boot[:bootCodeEnd], 0)
	return err
}
