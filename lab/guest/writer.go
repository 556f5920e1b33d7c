// The writer: the load of the guest while it runs. One goroutine, so that write
// numbers tell the order over all disks: what a stun freezes is a prefix of it.
package guest

import (
	"fmt"
	"io"
	"math/rand"
	"sync"
	"time"
)

// DefaultRate is the writer's rate in MB (10^6 bytes) a second.
const DefaultRate = 25.0

// Target is one disk that the writer writes to.
type Target struct {
	Key  uint32
	Disk io.WriterAt
	Data Range // whole blocks
}

// Stats is what the writer did so far.
type Stats struct {
	Running bool    `json:"running"`
	RateMBs float64 `json:"rate_mb_s"`
	Writes  uint64  `json:"writes"`
	Bytes   uint64  `json:"bytes"`
	Error   string  `json:"error,omitempty"` // a disk refused a write; the writer has stopped running
}

// Writer writes 4 to 64 KiB at random places of its targets. Nine of ten writes
// go to a hot part that wanders, as the writes of real guests do; one in thirty
// leaves zeroes. It starts paused. Its methods wait for a write under way, so
// none of them may be called inside disk.Group.Stun, which that write waits for.
type Writer struct {
	mu      sync.Mutex // guards everything below but is not held while waiting
	wake    *sync.Cond
	targets []*area
	running bool
	closed  bool
	rate    float64
	stats   Stats
	random  *rand.Rand
	filling *noise
	ended   chan struct{}
}

type area struct {
	Target
	latest  []memory // by block within Data
	hot     int64    // first block of the hot part
	hotLeft int      // writes until it moves
}

type memory struct {
	generation uint64
	write      uint64
	nanos      int64
	zero       bool
}

// NewWriter makes a paused writer. Blocks that Build filled count as generation
// 1, so the first write of the writer to any block is generation 2.
func NewWriter(targets []Target, rateMBs float64, seed int64) (*Writer, error) {
	w := &Writer{
		rate:    rateMBs,
		random:  rand.New(rand.NewSource(seed)),
		filling: newNoise(seed ^ 0x5EED),
		ended:   make(chan struct{}),
	}
	w.wake = sync.NewCond(&w.mu)
	if rateMBs <= 0 {
		return nil, fmt.Errorf("writer: a rate of %v MB/s", rateMBs)
	}
	for _, t := range targets {
		if err := w.Add(t); err != nil {
			return nil, err
		}
	}
	go w.loop()
	return w, nil
}

// Add takes one more disk into the load.
func (w *Writer) Add(t Target) error {
	if t.Data.Start%BlockSize != 0 || t.Data.Length%BlockSize != 0 || t.Data.Length < 0 {
		return fmt.Errorf("writer: disk %d: the data area must be whole blocks", t.Key)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.targets {
		if a.Key == t.Key {
			return fmt.Errorf("writer: disk %d is written already", t.Key)
		}
	}
	if t.Data.Length > 0 {
		w.targets = append(w.targets, &area{Target: t, latest: make([]memory, t.Data.Length/BlockSize)})
	}
	return nil
}

// Remove takes a disk out of the load; no write to it is under way afterwards.
func (w *Writer) Remove(key uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, a := range w.targets {
		if a.Key == key {
			w.targets = append(w.targets[:i], w.targets[i+1:]...)
			return
		}
	}
}

// SetRunning starts or pauses the load. After pausing no write is under way.
func (w *Writer) SetRunning(running bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = running && !w.closed
	if running {
		w.stats.Error = ""
	}
	w.wake.Broadcast()
}

// SetRate changes the rate in MB a second.
func (w *Writer) SetRate(rateMBs float64) error {
	if rateMBs <= 0 {
		return fmt.Errorf("writer: a rate of %v MB/s", rateMBs)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rate = rateMBs
	w.wake.Broadcast()
	return nil
}

// Stop ends the writer for good and waits for it.
func (w *Writer) Stop() {
	w.mu.Lock()
	w.closed, w.running = true, false
	w.wake.Broadcast()
	w.mu.Unlock()
	<-w.ended
}

// Stats tells what was done.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.Running, s.RateMBs = w.running, w.rate
	return s
}

// Latest tells the newest write of a block (offset on the disk / BlockSize);
// false when the writer never wrote it.
func (w *Writer) Latest(key uint32, block uint64) (Stamp, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.targets {
		first := uint64(a.Data.Start / BlockSize)
		if a.Key != key || block < first || block-first >= uint64(len(a.latest)) {
			continue
		}
		m := a.latest[block-first]
		return Stamp{DiskKey: key, Block: block, Generation: m.generation, Write: m.write,
			UnixNanos: m.nanos, Zero: m.zero}, m.generation > 0
	}
	return Stamp{}, false
}

const (
	largestWrite = 64 << 10
	// credit is how much time a writer that was held up may make good: enough
	// for a slow sleep, too little for a flood after a stun.
	credit = 100 * time.Millisecond
)

func (w *Writer) loop() {
	defer close(w.ended)
	buffer := make([]byte, largestWrite)
	due := time.Now()
	for {
		w.mu.Lock()
		for !w.closed && (!w.running || len(w.targets) == 0) {
			w.wake.Wait()
		}
		if w.closed {
			w.mu.Unlock()
			return
		}
		now := time.Now()
		if earliest := now.Add(-credit); due.Before(earliest) {
			due = earliest
		}
		if ahead := due.Sub(now); ahead > 0 {
			w.mu.Unlock()
			if ahead > 20*time.Millisecond {
				ahead = 20 * time.Millisecond // notice a pause or a new rate soon
			}
			time.Sleep(ahead)
			continue
		}
		// The lock is held over the write: pausing waits for it, and what Latest
		// says is what the disk holds.
		n, err := w.writeOne(buffer)
		if err != nil {
			w.stats.Error = err.Error()
			w.running = false
		}
		due = due.Add(time.Duration(float64(n) * 1000 / w.rate)) // MB/s = bytes a microsecond
		w.mu.Unlock()
	}
}

// writeOne does one write; mu is held.
func (w *Writer) writeOne(buffer []byte) (int, error) {
	a := w.pick()
	blocks := int64(len(a.latest))
	count := int64(1 + w.random.Intn(largestWrite/BlockSize))
	if count > blocks {
		count = blocks
	}
	first := w.place(a, blocks, count)
	piece := buffer[:count*BlockSize]
	number := w.stats.Writes + 1
	now := time.Now().UnixNano()
	zero := w.random.Intn(30) == 0
	if zero {
		for i := range piece {
			piece[i] = 0
		}
	} else {
		w.filling.fill(piece)
	}
	start := a.Data.Start + first*BlockSize
	for i := int64(0); i < count; i++ {
		m := &a.latest[first+i]
		if m.generation == 0 {
			m.generation = 1
		}
		*m = memory{generation: m.generation + 1, write: number, nanos: now, zero: zero}
		if !zero {
			Stamp{DiskKey: a.Key, Block: uint64(start/BlockSize + i), Generation: m.generation,
				Write: number, UnixNanos: now}.Put(piece[i*BlockSize : (i+1)*BlockSize])
		}
	}
	if n, err := a.Disk.WriteAt(piece, start); err != nil {
		return n, fmt.Errorf("disk %d: write #%d of %d bytes at %d: %w", a.Key, number, len(piece), start, err)
	}
	w.stats.Writes = number
	w.stats.Bytes += uint64(len(piece))
	return len(piece), nil
}

// pick chooses a disk by the size of its data area.
func (w *Writer) pick() *area {
	total := int64(0)
	for _, a := range w.targets {
		total += int64(len(a.latest))
	}
	at := w.random.Int63n(total)
	for _, a := range w.targets {
		if at < int64(len(a.latest)) {
			return a
		}
		at -= int64(len(a.latest))
	}
	return w.targets[0]
}

// place chooses the first block: mostly within the hot sixteenth.
func (w *Writer) place(a *area, blocks, count int64) int64 {
	width := blocks / 16
	if w.random.Intn(10) == 0 || width < count {
		return w.random.Int63n(blocks - count + 1)
	}
	if a.hotLeft == 0 {
		a.hot = w.random.Int63n(blocks - width + 1)
		a.hotLeft = 5000
	}
	a.hotLeft--
	return a.hot + w.random.Int63n(width-count+1)
}
