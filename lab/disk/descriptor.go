// Names and descriptor files of a disk, in the form that VMware writes: see
// "Virtual Disk Format 5.0" (VMware technical note), section on the descriptor.
package disk

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
)

func flatName(name string) string { return name + "-flat.vmdk" }

func deltaName(name string, number int) string {
	return fmt.Sprintf("%s-%06d-delta.vmdk", name, number)
}

func descriptorName(name string, number int) string {
	if number == 0 {
		return name + ".vmdk"
	}
	return fmt.Sprintf("%s-%06d.vmdk", name, number)
}

// Files names what one view of the disk stands on.
type Files struct {
	Descriptor string   // file name of the view's own descriptor: backing.fileName without folder
	Data       string   // file that holds the view's topmost bytes: NAME-flat.vmdk or ...-delta.vmdk
	Parents    []string // descriptors below, nearest first; empty when the view is the flat base alone
	Path       string   // absolute path of Data; plain raw bytes only when Parents is empty
	ContentID  string   // the descriptor's longContentID: backing.contentId
}

// Files of a snapshot's frozen view, or of the live view when snapshotID is "".
func (d *Disk) Files(snapshotID string) (Files, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	at := len(d.layers) - 1
	if snapshotID != "" {
		var err error
		if at, err = d.find(snapshotID); err != nil {
			return Files{}, err
		}
	}
	l := d.layers[at]
	f := Files{Descriptor: descriptorName(d.name, l.number), Data: d.dataName(l), Path: l.path, ContentID: d.longContentID(l)}
	for i := at - 1; i >= 0; i-- {
		f.Parents = append(f.Parents, descriptorName(d.name, d.layers[i].number))
	}
	return f, nil
}

// Owner tells which view a file of this disk belongs to, by its base name
// (descriptor or data file): a snapshot's id, or live. A frozen layer that
// awaits consolidation has neither.
func (d *Disk) Owner(file string) (snapshotID string, live, found bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for i, l := range d.layers {
		if file != descriptorName(d.name, l.number) && file != d.dataName(l) {
			continue
		}
		if l.snap != nil {
			return l.snap.id, false, true
		}
		return "", i == len(d.layers)-1, true
	}
	return "", false, false
}

// Snapshots gives the ids of the snapshots, oldest first.
func (d *Disk) Snapshots() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	ids := []string{}
	for _, l := range d.layers {
		if l.snap != nil {
			ids = append(ids, l.snap.id)
		}
	}
	return ids
}

// FrozenSize is the capacity that the disk had in the snapshot.
func (d *Disk) FrozenSize(snapshotID string) (int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	at, err := d.find(snapshotID)
	if err != nil {
		return 0, err
	}
	return d.layers[at].snap.size, nil
}

func (d *Disk) dataName(l *layer) string {
	if l.number == 0 {
		return flatName(d.name)
	}
	return deltaName(d.name, l.number)
}

// writeDescriptor writes layers[at]'s descriptor by way of a temporary file, so
// that a reader never sees half of one.
func (d *Disk) writeDescriptor(at int) error {
	l := d.layers[at]
	var b strings.Builder
	b.WriteString("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\n")
	fmt.Fprintf(&b, "CID=%08x\n", l.cid)
	if at == 0 {
		b.WriteString("parentCID=ffffffff\ncreateType=\"vmfs\"\n\n# Extent description\n")
		fmt.Fprintf(&b, "RW %d VMFS \"%s\"\n\n", l.size/SectorSize, d.dataName(l))
	} else {
		parent := d.layers[at-1]
		fmt.Fprintf(&b, "parentCID=%08x\ncreateType=\"vmfsSparse\"\n", parent.cid)
		fmt.Fprintf(&b, "parentFileNameHint=\"%s\"\n", descriptorName(d.name, parent.number))
		fmt.Fprintf(&b, "# Extent description\nRW %d VMFSSPARSE \"%s\"\n\n", l.size/SectorSize, d.dataName(l))
	}
	b.WriteString("# The Disk Data Base\n#DDB\n\n")
	if at == 0 {
		// 255 heads and 63 sectors are what VMware writes for a SCSI disk.
		fmt.Fprintf(&b, "ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"%d\"\n", l.size/SectorSize/(255*63))
		b.WriteString("ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n")
		fmt.Fprintf(&b, "ddb.thinProvisioned = \"1\"\nddb.uuid = \"%s\"\nddb.virtualHWVersion = \"19\"\n", spacedUUID(d.uuid))
	}
	fmt.Fprintf(&b, "ddb.longContentID = \"%s\"\n", d.longContentID(l))

	path := d.path(descriptorName(d.name, l.number))
	err := os.WriteFile(path+".new", []byte(b.String()), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		os.Remove(path + ".new")
		return fmt.Errorf("disk %s: descriptor: %w", d.name, err)
	}
	return nil
}

// longContentID ends in the CID, as in the descriptors that ESXi writes.
func (d *Disk) longContentID(l *layer) string {
	return fmt.Sprintf("%s%08x", strings.ReplaceAll(d.uuid, "-", "")[:24], l.cid)
}

// newUUID makes a disk uuid with the prefix 6000c29 that VMware's have.
func newUUID() string {
	raw := strings.ReplaceAll(randomUUID(), "-", "")
	raw = "6000c29" + raw[7:]
	return raw[:8] + "-" + raw[8:12] + "-" + raw[12:16] + "-" + raw[16:20] + "-" + raw[20:]
}

func randomUUID() string {
	var b [16]byte
	mustRandom(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func newCID() uint32 {
	var b [4]byte
	mustRandom(b[:])
	// ffffffff means "no parent".
	return binary.BigEndian.Uint32(b[:]) &^ 1
}

func mustRandom(b []byte) {
	if _, err := io.ReadFull(rand.Reader, b); err != nil {
		panic("the kernel's random generator failed: " + err.Error())
	}
}

// spacedUUID writes a uuid as a descriptor has it: "60 00 C2 9... - ...", which
// is bytes in hex with a dash in the middle.
func spacedUUID(uuid string) string {
	raw, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(raw) != 16 {
		return uuid
	}
	return fmt.Sprintf("% x-% x", raw[:8], raw[8:])
}
