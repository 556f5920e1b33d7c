// Layers of a disk: the flat base and the redo layers above it. A redo layer is
// a sparse file of the disk's size in which only the grains set in its bitmap
// (kept in memory) count. A write smaller than a grain first completes the grain
// from below, so a grain is always whole.
package disk

import (
	"fmt"
	"io"
	"os"
)

const (
	grainSize = 4096
	// foldStep is how much consolidation moves while it holds the disk: small
	// enough that the guest's writer does not notice.
	foldStep = 1 << 20
	// foldLittle is what may be moved in one go at the end.
	foldLittle = 8 << 20
)

type layer struct {
	file   *os.File
	path   string
	number int // 0 = base, N = NAME-00000N
	size   int64
	grains []uint64 // nil for the base, where everything counts
	cid    uint32
	snap   *snapshot // nil for the live layer and for a layer awaiting consolidation
}

func newDelta(path string, number int, size int64) (*layer, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	l := &layer{file: file, path: path, number: number, size: size, cid: newCID()}
	if err := file.Truncate(size); err != nil {
		l.discard()
		return nil, err
	}
	count := (size + grainSize - 1) / grainSize
	l.grains = make([]uint64, (count+63)/64)
	return l, nil
}

func (l *layer) discard() {
	l.file.Close()
	os.Remove(l.path)
}

// has tells whether the grain's bytes stand in this layer.
func (l *layer) has(grain int64) bool {
	return l.grains == nil || l.grains[grain/64]&(1<<uint(grain%64)) != 0
}

func (l *layer) set(grain int64) {
	if l.grains != nil {
		l.grains[grain/64] |= 1 << uint(grain%64)
	}
}

func (l *layer) clear(grain int64) { l.grains[grain/64] &^= 1 << uint(grain%64) }

// owner gives the topmost layer at or below top that holds the grain.
func (d *Disk) owner(top int, grain int64) int {
	for ; top > 0; top-- {
		if d.layers[top].has(grain) {
			return top
		}
	}
	return 0
}

// readView reads what the chain up to and including layers[top] shows; mu must
// be held for reading at least.
func (d *Disk) readView(top int, size int64, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("disk %s: read at %d: %w", d.name, off, ErrOutOfRange)
	}
	if off >= size {
		return 0, io.EOF
	}
	short := false
	if int64(len(p)) > size-off {
		p, short = p[:size-off], true
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		from := d.owner(top, at/grainSize)
		// One read per run of grains with the same owner.
		end := (at/grainSize + 1) * grainSize
		for end < off+int64(len(p)) && d.owner(top, end/grainSize) == from {
			end += grainSize
		}
		if limit := off + int64(len(p)); end > limit {
			end = limit
		}
		n, err := d.layers[from].file.ReadAt(p[done:done+int(end-at)], at)
		done += n
		if err != nil {
			return done, fmt.Errorf("disk %s: read at %d: %w", d.name, at, err)
		}
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// writeTop writes into the live layer; mu must be held for writing.
func (d *Disk) writeTop(p []byte, off int64) error {
	top := len(d.layers) - 1
	l := d.layers[top]
	if l.grains == nil {
		_, err := l.file.WriteAt(p, off)
		return err
	}
	start, end := off, off+int64(len(p))
	// Complete the first and the last grain when the write covers them in part
	// and this layer does not hold them yet.
	if start%grainSize != 0 {
		if err := d.complete(top, start/grainSize); err != nil {
			return err
		}
	}
	if last := (end - 1) / grainSize; end%grainSize != 0 && end != l.size {
		if err := d.complete(top, last); err != nil {
			return err
		}
	}
	if _, err := l.file.WriteAt(p, off); err != nil {
		return err
	}
	for grain := start / grainSize; grain*grainSize < end; grain++ {
		l.set(grain)
	}
	return nil
}

// complete copies a grain from below into layers[top] when it is not there.
func (d *Disk) complete(top int, grain int64) error {
	l := d.layers[top]
	if l.has(grain) {
		return nil
	}
	buffer := make([]byte, grainSize)
	if rest := l.size - grain*grainSize; rest < grainSize {
		buffer = buffer[:rest]
	}
	if _, err := d.layers[d.owner(top-1, grain)].file.ReadAt(buffer, grain*grainSize); err != nil {
		return err
	}
	if _, err := l.file.WriteAt(buffer, grain*grainSize); err != nil {
		return err
	}
	l.set(grain)
	return nil
}

// consolidate folds every orphan; removal must be held, mu must not.
func (d *Disk) consolidate() error {
	for {
		d.mu.RLock()
		at := d.orphan()
		d.mu.RUnlock()
		if at < 0 {
			return nil
		}
		if err := d.fold(at); err != nil {
			return fmt.Errorf("disk %s: consolidation: %w", d.name, err)
		}
	}
}

// fold moves the grains of layers[at+1] down into layers[at], which no snapshot
// shows on its own, so every view that includes both stays the same at each
// step. The mutex is given back between steps; indices stay valid because only
// the holder of removal takes layers out, and Freeze only appends. The upper
// layer may be the live one and take writes behind us: passes are repeated until
// little is left, which then goes together with the layer under one lock.
func (d *Disk) fold(at int) error {
	buffer := make([]byte, foldStep)
	for pass := 0; pass < 4; pass++ {
		moved, err := d.foldPass(at, buffer)
		if err != nil {
			return err
		}
		if moved < foldLittle {
			break
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	below, above := d.layers[at], d.layers[at+1]
	if _, err := foldRange(below, above, 0, above.size, buffer); err != nil {
		return err
	}
	return d.dropAbove(at)
}

// foldPass goes once over the layer in steps and tells how many bytes it moved.
func (d *Disk) foldPass(at int, buffer []byte) (int64, error) {
	moved := int64(0)
	for start := int64(0); ; start += foldStep {
		d.mu.Lock()
		if d.closed {
			d.mu.Unlock()
			return moved, ErrClosed
		}
		below, above := d.layers[at], d.layers[at+1]
		end := start + foldStep
		if end > above.size {
			end = above.size
		}
		n, err := foldRange(below, above, start, end, buffer)
		d.mu.Unlock()
		moved += n
		if err != nil || end == above.size {
			return moved, err
		}
	}
}

// foldRange moves the grains within [start, end) from above into below, in runs,
// and tells how many bytes that were.
func foldRange(below, above *layer, start, end int64, buffer []byte) (int64, error) {
	moved := int64(0)
	last := (end + grainSize - 1) / grainSize
	for grain := start / grainSize; grain < last; {
		if grain%64 == 0 && above.grains[grain/64] == 0 {
			grain += 64
			continue
		}
		if !above.has(grain) {
			grain++
			continue
		}
		stop := grain + 1
		for stop < last && (stop-grain)*grainSize < int64(len(buffer)) && above.has(stop) {
			stop++
		}
		from, to := grain*grainSize, stop*grainSize
		if to > above.size {
			to = above.size
		}
		piece := buffer[:to-from]
		if _, err := above.file.ReadAt(piece, from); err != nil {
			return moved, err
		}
		if _, err := below.file.WriteAt(piece, from); err != nil {
			return moved, err
		}
		moved += to - from
		for ; grain < stop; grain++ {
			below.set(grain)
			above.clear(grain)
		}
	}
	return moved, nil
}

// dropAbove takes the emptied layers[at+1] out of the chain; the layer below
// inherits what it was frozen for. mu must be held for writing.
func (d *Disk) dropAbove(at int) error {
	below, above := d.layers[at], d.layers[at+1]
	below.snap = above.snap
	d.layers = append(d.layers[:at+1:at+1], d.layers[at+2:]...)
	above.discard()
	os.Remove(d.path(descriptorName(d.name, above.number)))
	if at+1 < len(d.layers) {
		return d.writeDescriptor(at + 1) // its parent has another name now
	}
	return nil
}

func (d *Disk) freeNumber() int {
	for number := 1; ; number++ {
		used := false
		for _, l := range d.layers {
			used = used || l.number == number
		}
		if !used {
			return number
		}
	}
}
