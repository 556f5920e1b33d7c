// The comparison: both sides are read once from end to end, hashed and compared
// block by block. It knows stamps (so that it can say which write is missing)
// but takes no shortcut from them: every byte counts.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"syscall"

	"vmferry.dev/lab/guest"
)

const (
	chunkSize    = 1 << 20
	keptFindings = 10  // explained differences a disk
	keptRanges   = 100 // listed ranges a disk
)

// Pair is one disk to compare.
type Pair struct {
	Disk      string // what to call it
	Reference string
	Target    string
}

// Range is a run of differing blocks.
type Range struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
}

// Finding explains one differing block.
type Finding struct {
	Offset    int64        `json:"offset"`
	Text      string       `json:"text"`
	Reference *guest.Stamp `json:"reference_stamp,omitempty"`
	Target    *guest.Stamp `json:"target_stamp,omitempty"`
}

// Result is what came of one pair.
type Result struct {
	Disk            string    `json:"disk"`
	Reference       string    `json:"reference"`
	Target          string    `json:"target"`
	Bytes           int64     `json:"bytes"` // compared: the reference's size
	TargetBytes     int64     `json:"target_bytes"`
	ReferenceSHA256 string    `json:"reference_sha256"`
	TargetSHA256    string    `json:"target_sha256"` // of the target's first Bytes bytes
	Equal           bool      `json:"equal"`
	DifferingBlocks int64     `json:"differing_blocks"` // of 4096 bytes
	Ranges          []Range   `json:"ranges"`           // the first hundred
	Findings        []Finding `json:"findings"`         // the first ten
}

// compare reads both sides. An error is trouble with reading, not a difference.
func compare(pair Pair) (*Result, error) {
	r := &Result{Disk: pair.Disk, Reference: pair.Reference, Target: pair.Target, Ranges: []Range{}, Findings: []Finding{}}
	reference, size, err := open(pair.Reference)
	if err != nil {
		return nil, err
	}
	defer reference.Close()
	target, targetSize, err := open(pair.Target)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	if same, err := sameFile(reference, target); err != nil || same {
		if err == nil {
			err = fmt.Errorf("%s and %s are the same file: that proves nothing", pair.Reference, pair.Target)
		}
		return nil, err
	}
	if size == 0 {
		return nil, fmt.Errorf("%s is empty: there is nothing to compare", pair.Reference)
	}
	r.Bytes, r.TargetBytes = size, targetSize

	left, right := newHashing(), newHashing()
	a, b := make([]byte, chunkSize), make([]byte, chunkSize)
	for at := int64(0); at < size; at += chunkSize {
		p, q := a, b
		if rest := size - at; rest < chunkSize {
			p, q = a[:rest], b[:rest]
		}
		if rest := targetSize - at; rest < int64(len(q)) {
			if rest < 0 {
				rest = 0
			}
			q = q[:rest]
		}
		if err := readBoth(reference, p, target, q, at); err != nil {
			return nil, err
		}
		left.feed(p)
		right.feed(q)
		if !bytes.Equal(p, q) {
			r.examine(p, q, at)
		}
		left.wait()
		right.wait()
	}
	r.ReferenceSHA256, r.TargetSHA256 = left.sum(), right.sum()
	if inside := r.DifferingBlocks; targetSize >= size && (inside == 0) != (r.ReferenceSHA256 == r.TargetSHA256) {
		return nil, fmt.Errorf("%s: hashes and bytes contradict each other: this program is wrong", pair.Disk)
	}
	if err := r.examineRest(target, size, targetSize, a); err != nil {
		return nil, err
	}
	if targetSize < size {
		r.Findings = append([]Finding{{Offset: targetSize, Text: fmt.Sprintf(
			"the target ends here, %d bytes too early", size-targetSize)}}, r.Findings...)
	}
	r.Equal = r.DifferingBlocks == 0 && targetSize >= size
	return r, nil
}

// examine finds the differing blocks of one chunk; q may be shorter than p.
func (r *Result) examine(p, q []byte, at int64) {
	for i := 0; i < len(p); i += guest.BlockSize {
		x, y := cut(p, i), cut(q, i)
		if bytes.Equal(x, y) {
			continue
		}
		r.note(at+int64(i), int64(len(x)))
		if len(r.Findings) < keptFindings {
			r.Findings = append(r.Findings, explain(x, y, at+int64(i)))
		}
	}
}

// examineRest checks that a target longer than the reference ends in zeroes. Holes
// of a file are zeroes by their nature and need no reading: a volume is mostly
// holes behind the disk's end.
func (r *Result) examineRest(target *os.File, size, targetSize int64, buffer []byte) error {
	for at := size; at < targetSize; {
		start, end, err := nextData(target, at, targetSize)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Target, err)
		}
		for at = start; at < end; {
			piece := buffer
			// Pieces end on block boundaries, so that offsets stay those of stamps.
			if stop := (at + int64(len(piece))) / guest.BlockSize * guest.BlockSize; stop < end {
				piece = piece[:stop-at]
			} else {
				piece = piece[:end-at]
			}
			if err := readFull(target, piece, at); err != nil {
				return fmt.Errorf("%s: %w", r.Target, err)
			}
			r.examineZeroes(piece, at)
			at += int64(len(piece))
		}
	}
	return nil
}

// examineZeroes notes each block of p that is not zeroes.
func (r *Result) examineZeroes(p []byte, at int64) {
	for len(p) > 0 {
		n := guest.BlockSize - int(at%guest.BlockSize)
		if n > len(p) {
			n = len(p)
		}
		if block := p[:n]; !zeroes(block) {
			r.note(at, int64(n))
			if len(r.Findings) < keptFindings {
				f := Finding{Offset: at, Text: "beyond the end of the disk the target holds something other than zeroes"}
				if s, look := guest.ReadStamp(block); look == guest.Stamped {
					f.Target = &s
					f.Text += ": " + describe(s)
				}
				r.Findings = append(r.Findings, f)
			}
		}
		p, at = p[n:], at+int64(n)
	}
}

const (
	seekData = 3 // of lseek(2) on Linux
	seekHole = 4
)

// nextData finds the next part from at on that is not a hole; start = limit when
// there is none. What knows no holes (a device, some file systems) is all data.
func nextData(file *os.File, at, limit int64) (start, end int64, err error) {
	start, err = file.Seek(at, seekData)
	if errors.Is(err, syscall.ENXIO) {
		return limit, limit, nil
	}
	if errors.Is(err, syscall.EINVAL) {
		return at, limit, nil
	}
	if err != nil {
		return 0, 0, err
	}
	if start >= limit {
		return limit, limit, nil
	}
	if end, err = file.Seek(start, seekHole); err != nil {
		return 0, 0, err
	}
	if end > limit {
		end = limit
	}
	return start, end, nil
}

// note counts one differing block and lists it, merged with its neighbour.
func (r *Result) note(start, length int64) {
	r.DifferingBlocks++
	if n := len(r.Ranges); n > 0 && r.Ranges[n-1].Start+r.Ranges[n-1].Length == start {
		r.Ranges[n-1].Length += length
	} else if n < keptRanges {
		r.Ranges = append(r.Ranges, Range{start, length})
	}
}

// explain says in words how two blocks differ.
func explain(reference, target []byte, at int64) Finding {
	f := Finding{Offset: at}
	want, wantLook := guest.ReadStamp(reference)
	have, haveLook := guest.ReadStamp(target)
	if wantLook == guest.Stamped {
		f.Reference = &want
	}
	if haveLook == guest.Stamped {
		f.Target = &have
	}
	frozen := "the frozen disk holds "
	switch {
	case wantLook == guest.Stamped:
		frozen += describe(want)
	case wantLook == guest.Torn:
		frozen += "a torn block (its checksum does not fit), so the freeze itself is not sound"
	case zeroes(reference):
		frozen += "zeroes"
	default:
		frozen += "a block without stamp"
	}
	switch {
	case haveLook == guest.Torn:
		f.Text = fmt.Sprintf("torn block: crc mismatch in the target under the stamp of generation %d (write #%d); %s",
			have.Generation, have.Write, frozen)
	case haveLook == guest.Stamped && int64(have.Block)*guest.BlockSize != at:
		f.Text = fmt.Sprintf("the target holds a block that belongs at offset %d of disk %d: %s; %s",
			have.Block*guest.BlockSize, have.DiskKey, have, frozen)
	case haveLook == guest.Stamped && wantLook == guest.Stamped && have.DiskKey != want.DiskKey:
		f.Text = fmt.Sprintf("the target holds a block of disk %d: %s; %s", have.DiskKey, have, frozen)
	case haveLook == guest.Stamped:
		f.Text = "target holds " + describe(have) + ", " + frozen
		if wantLook == guest.Stamped && have.Generation < want.Generation {
			f.Text += ": stale"
		} else if wantLook == guest.Stamped && have.Generation > want.Generation {
			f.Text += ": newer than the freeze"
		}
	case len(target) < len(reference):
		f.Text = "the target ends within or before this block; " + frozen
	case zeroes(target):
		f.Text = "target holds zeroes, " + frozen
	default:
		f.Text = fmt.Sprintf("target holds other bytes from offset %d on, %s", at+int64(firstDifference(reference, target)), frozen)
	}
	return f
}

func describe(s guest.Stamp) string {
	if s.Write == 0 {
		return fmt.Sprintf("generation %d (as the guest was made)", s.Generation)
	}
	return s.String()
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

var zeroBlock [guest.BlockSize]byte

// zeroes: p, at most a block, is there and all zeroes.
func zeroes(p []byte) bool { return len(p) > 0 && bytes.Equal(p, zeroBlock[:len(p)]) }

// cut gives the block of p that starts at i, shorter or empty at p's end.
func cut(p []byte, i int) []byte {
	if i >= len(p) {
		return nil
	}
	if i+guest.BlockSize < len(p) {
		return p[i : i+guest.BlockSize]
	}
	return p[i:]
}

// open opens a file or block device and finds its size.
func open(path string) (*os.File, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	var size int64
	if err == nil {
		// Stat gives no size for a block device; its end does.
		size, err = file.Seek(0, io.SeekEnd)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, size, nil
}

func sameFile(a, b *os.File) (bool, error) {
	x, err := a.Stat()
	if err != nil {
		return false, err
	}
	y, err := b.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}

// readBoth reads the two sides at the same time.
func readBoth(left io.ReaderAt, p []byte, right io.ReaderAt, q []byte, at int64) error {
	done := make(chan error, 1)
	go func() { done <- readFull(right, q, at) }()
	err := readFull(left, p, at)
	if other := <-done; err == nil {
		err = other
	}
	return err
}

func readFull(from io.ReaderAt, p []byte, at int64) error {
	n, err := from.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w at offset %d: it shrank while being read", io.ErrUnexpectedEOF, at+int64(n))
	}
	return err
}

// hashing hashes on a goroutine of its own, one chunk at a time.
type hashing struct {
	hash   hash.Hash
	chunks chan []byte
	done   chan struct{}
}

func newHashing() *hashing {
	h := &hashing{hash: sha256.New(), chunks: make(chan []byte), done: make(chan struct{})}
	go func() {
		for chunk := range h.chunks {
			h.hash.Write(chunk)
			h.done <- struct{}{}
		}
	}()
	return h
}

func (h *hashing) feed(p []byte) { h.chunks <- p }
func (h *hashing) wait()         { <-h.done }

func (h *hashing) sum() string {
	close(h.chunks)
	return hex.EncodeToString(h.hash.Sum(nil))
}
