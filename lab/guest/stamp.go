// Package guest makes the synthetic guest of the lab: disks with GPT, ext4 file
// systems full of files and raw data areas, and a writer that keeps changing
// the data areas. It knows nothing of virtual machines or of snapshots.
//
// This file: the stamp at the head of each 4 KiB block that the guest writes. By
// it a comparison can say which write a stale block missed.
package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// BlockSize is the unit of writing and of stamps.
const BlockSize = 4096

var magic = [8]byte{'V', 'M', 'F', 'S', 'T', 'M', 'P', '1'}

// Stamp says which write a block holds.
type Stamp struct {
	DiskKey    uint32 `json:"disk_key"`
	Block      uint64 `json:"block"`      // offset on the disk / BlockSize
	Generation uint64 `json:"generation"` // how often this block has been written, from 1
	Write      uint64 `json:"write"`      // number of the write call over all disks; 0 = made with the guest
	UnixNanos  int64  `json:"unix_nanos"`
	Zero       bool   `json:"zero,omitempty"` // the write left zeroes; only the writer's memory knows this
}

// Time is the moment of the write.
func (s Stamp) Time() time.Time { return time.Unix(0, s.UnixNanos).UTC() }

func (s Stamp) String() string {
	return fmt.Sprintf("generation %d (write #%d at %s)", s.Generation, s.Write,
		s.Time().Format("15:04:05.000000"))
}

const (
	stampSize = 48
	crcAt     = 44
)

// Put writes the stamp over the head of block, which has BlockSize bytes with
// the filling in place, and the checksum over all of it.
func (s Stamp) Put(block []byte) {
	copy(block[0:8], magic[:])
	binary.LittleEndian.PutUint32(block[8:], s.DiskKey)
	binary.LittleEndian.PutUint64(block[12:], s.Block)
	binary.LittleEndian.PutUint64(block[20:], s.Generation)
	binary.LittleEndian.PutUint64(block[28:], s.Write)
	binary.LittleEndian.PutUint64(block[36:], uint64(s.UnixNanos))
	binary.LittleEndian.PutUint32(block[crcAt:], checksum(block))
}

var noSum [4]byte

// checksum is the CRC-32 of the block with its own field as zeroes.
func checksum(block []byte) uint32 {
	sum := crc32.ChecksumIEEE(block[:crcAt])
	sum = crc32.Update(sum, crc32.IEEETable, noSum[:])
	return crc32.Update(sum, crc32.IEEETable, block[stampSize:])
}

// Look is what a block turns out to be.
type Look int

// What ReadStamp finds.
const (
	Unstamped Look = iota // no stamp: not written by the guest's writer
	Stamped               // a whole block
	Torn                  // a stamp whose checksum does not fit the block
)

// ReadStamp reads the stamp of a block of BlockSize bytes. Of a torn block the
// stamp's fields are what stands there and may be wrong.
func ReadStamp(block []byte) (Stamp, Look) {
	if len(block) < BlockSize || !bytes.Equal(block[:8], magic[:]) {
		return Stamp{}, Unstamped
	}
	block = block[:BlockSize]
	s := Stamp{
		DiskKey:    binary.LittleEndian.Uint32(block[8:]),
		Block:      binary.LittleEndian.Uint64(block[12:]),
		Generation: binary.LittleEndian.Uint64(block[20:]),
		Write:      binary.LittleEndian.Uint64(block[28:]),
		UnixNanos:  int64(binary.LittleEndian.Uint64(block[36:])),
	}
	if binary.LittleEndian.Uint32(block[crcAt:]) != checksum(block) {
		return s, Torn
	}
	return s, Stamped
}

// noise is a fast source of filling (xorshift64*); math/rand would be most of
// the writer's cost.
type noise uint64

func newNoise(seed int64) *noise {
	n := noise(uint64(seed)*0x9E3779B97F4A7C15 | 1)
	return &n
}

func (n *noise) next() uint64 {
	x := uint64(*n)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*n = noise(x)
	return x * 0x2545F4914F6CDD1D
}

// fill fills p; len(p) is a multiple of 8.
func (n *noise) fill(p []byte) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], n.next())
	}
}
