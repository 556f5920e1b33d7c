// GPT of a synthetic disk: protective MBR, primary and backup table. Layout as
// in the UEFI specification 2.10, chapter 5 ("GUID Partition Table Disk Layout").
package guest

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand"
	"unicode/utf16"
)

const (
	sector       = 512
	entryCount   = 128
	entrySize    = 128
	tableSectors = entryCount * entrySize / sector
	firstUsable  = 2 + tableSectors
	linuxType    = "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4" // 0FC63DAF-8483-4772-8E79-3D69D8477DE4
)

type partition struct {
	name        string
	first, last int64 // sectors, last is included
}

// writeGPT writes both tables of a disk of the given number of sectors.
func writeGPT(to io.WriterAt, sectors int64, parts []partition, random *rand.Rand) error {
	table := make([]byte, entryCount*entrySize)
	for i, p := range parts {
		entry := table[i*entrySize:]
		copy(entry[0:16], linuxType)
		guid(entry[16:32], random)
		binary.LittleEndian.PutUint64(entry[32:], uint64(p.first))
		binary.LittleEndian.PutUint64(entry[40:], uint64(p.last))
		for j, unit := range utf16.Encode([]rune(p.name)) {
			binary.LittleEndian.PutUint16(entry[56+2*j:], unit)
		}
	}
	disk := make([]byte, 16)
	guid(disk, random)
	header := func(own, other, tableAt int64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00")
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], uint64(own))
		binary.LittleEndian.PutUint64(h[32:], uint64(other))
		binary.LittleEndian.PutUint64(h[40:], firstUsable)
		binary.LittleEndian.PutUint64(h[48:], uint64(lastUsable(sectors)))
		copy(h[56:72], disk)
		binary.LittleEndian.PutUint64(h[72:], uint64(tableAt))
		binary.LittleEndian.PutUint32(h[80:], entryCount)
		binary.LittleEndian.PutUint32(h[84:], entrySize)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	pieces := []struct {
		at   int64
		data []byte
	}{
		{0, protectiveMBR(sectors)},
		{1, header(1, sectors-1, 2)},
		{2, table},
		{sectors - 1 - tableSectors, table},
		{sectors - 1, header(sectors-1, 1, sectors-1-tableSectors)},
	}
	for _, piece := range pieces {
		if _, err := to.WriteAt(piece.data, piece.at*sector); err != nil {
			return err
		}
	}
	return nil
}

func lastUsable(sectors int64) int64 { return sectors - 2 - tableSectors }

func protectiveMBR(sectors int64) []byte {
	mbr := make([]byte, sector)
	entry := mbr[446:]
	entry[2] = 2
	entry[4] = 0xEE
	entry[5], entry[6], entry[7] = 0xFF, 0xFF, 0xFF
	binary.LittleEndian.PutUint32(entry[8:], 1)
	length := sectors - 1
	if length > 0xFFFFFFFF {
		length = 0xFFFFFFFF
	}
	binary.LittleEndian.PutUint32(entry[12:], uint32(length))
	mbr[510], mbr[511] = 0x55, 0xAA
	return mbr
}

func guid(to []byte, random *rand.Rand) {
	random.Read(to[:16])
	to[7] = to[7]&0x0f | 0x40 // version 4; the third field is little-endian
	to[8] = to[8]&0x3f | 0x80
}
