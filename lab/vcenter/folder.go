// The datastore over HTTPS: GET and HEAD of /folder with ranges, for whoever has
// a session or a password. What may be read, and when it fails, follows ESXi.
package vcenter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"vmferry.dev/lab/calls"
)

// folderChunk is how much is read, checked and sent at a time.
const folderChunk = 256 << 10

// pacer limits the rate of one connection, over all its requests.
type pacer struct {
	mu   sync.Mutex
	free time.Time // when the next byte may go
}

type pacerKey struct{}

// PacedConnections gives each connection a pacer of its own.
func PacedConnections(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, pacerKey{}, &pacer{})
}

func (p *pacer) wait(ctx context.Context, bytes int, rateMBs float64) {
	if p == nil || rateMBs <= 0 {
		return
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	at := p.free
	p.free = p.free.Add(time.Duration(float64(bytes) / (rateMBs * 1e6) * float64(time.Second)))
	p.mu.Unlock()
	sleep(ctx, time.Until(at))
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// FolderOf answers as the datastore does, with that file whatever is asked for: for
// measurements of reading alone. PacedConnections belongs into the http.Server.
func FolderOf(path string, latency time.Duration, rateMBs float64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sleep(r.Context(), latency)
		content, refused := openPlain(path)
		if refused != nil {
			http.Error(w, refused.text, refused.status)
			return
		}
		defer content.close()
		content.send(w, r, rateMBs)
	})
}

func (s *Server) serveFolder(w http.ResponseWriter, r *http.Request) {
	chain := &calls.Middleware{
		Log: s.log, Faults: s.faults,
		Name: func(r *http.Request) (string, string, string) {
			object := strings.TrimPrefix(r.URL.Path, "/folder/")
			if asked := r.Header.Get("Range"); asked != "" {
				object += " " + asked
			}
			return serviceFolder, r.Method, object
		},
		Expire: s.expireCaller,
		Answer: answerFolder,
		Next:   http.HandlerFunc(s.folder),
	}
	chain.ServeHTTP(w, r)
}

func answerFolder(w http.ResponseWriter, _ *http.Request, rule calls.Rule) {
	status := rule.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if rule.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(rule.RetryAfter))
	}
	message := rule.Message
	if message == "" {
		message = http.StatusText(status)
	}
	http.Error(w, message, status)
}

func (s *Server) folder(w http.ResponseWriter, r *http.Request) {
	caller, leave := s.sessions.enter(r)
	defer leave()
	user := ""
	if caller != nil {
		user = caller.user
	} else {
		name, password, given := r.BasicAuth()
		if !given || !s.sessions.valid(name, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
			http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
			return
		}
		user = name
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this lab's datastores are read-only over HTTPS", http.StatusMethodNotAllowed)
		return
	}
	set := s.settings.get()
	sleep(r.Context(), time.Duration(set.FolderLatencyMS*float64(time.Millisecond)))
	content, refused := s.openFile(r, user)
	if refused != nil {
		http.Error(w, refused.text, refused.status)
		return
	}
	defer content.close()
	content.send(w, r, set.FolderRateMBs)
}

type refusal struct {
	status int
	text   string
}

// content is an open file of the datastore.
type content struct {
	size  int64
	read  io.ReaderAt
	close func()
}

// openFile finds what a URL names, or why it cannot be read.
func (s *Server) openFile(r *http.Request, user string) (*content, *refusal) {
	missing := &refusal{http.StatusNotFound, "404 Not Found"}
	query := r.URL.Query()
	center := strings.TrimPrefix(query.Get("dcPath"), "/")
	// A host has one datacenter and takes a URL without it.
	if center != s.datacenter && !(center == "" && s.config.ESXi) {
		return nil, missing
	}
	store := s.datastores[query.Get("dsName")]
	if store == nil {
		return nil, missing
	}
	if !s.mayRead(user, store) {
		return nil, &refusal{http.StatusForbidden, "403 Forbidden"}
	}
	name := path.Clean("/" + strings.TrimPrefix(r.URL.Path, "/folder"))
	for _, m := range s.machineList() {
		if m.datastore == store && path.Dir(name) == "/"+filepath.Base(m.folder) {
			return m.openFile(path.Base(name))
		}
	}
	return nil, missing
}

func (m *machine) openFile(name string) (*content, *refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.disks {
		if d.data == nil {
			continue
		}
		snapshot, live, found := d.data.Owner(name)
		if !found {
			continue
		}
		if !strings.HasSuffix(name, "-flat.vmdk") && !strings.HasSuffix(name, "-delta.vmdk") {
			return openPlain(filepath.Join(m.folder, name))
		}
		if strings.HasSuffix(name, "-delta.vmdk") {
			// A redo log in VMFS's own format: no client can make raw bytes of it, so
			// the lab answers neither the format nor, wrongly, plain content.
			return nil, &refusal{http.StatusForbidden, "403 Forbidden: a redo log is not readable as raw content"}
		}
		switch {
		case m.on && m.s.settings.get().FolderLocked:
			// Some versions of ESXi 8 are reported to refuse the whole chain of a running VM.
			return nil, &refusal{http.StatusInternalServerError, "500 Internal Server Error: Failed to lock the file"}
		case snapshot != "":
			// Frozen below a snapshot: opened by the VM for reading only, so the host
			// lets others read too. The bytes are those of the snapshot.
			frozen, err := d.data.FrozenReader(snapshot)
			if err != nil {
				return nil, &refusal{http.StatusInternalServerError, err.Error()}
			}
			return &content{size: frozen.Size(), read: frozen, close: func() {}}, nil
		case m.on:
			// The running VM holds the exclusive lock of the file it writes, and of a
			// layer that awaits consolidation. hostd cannot open it and answers 500:
			// it has no status of its own for "Failed to lock the file".
			return nil, &refusal{http.StatusInternalServerError, "500 Internal Server Error: Failed to lock the file"}
		case live:
			return &content{size: d.data.Size(), read: offReader{m, d.data}, close: func() {}}, nil
		default:
			return openPlain(filepath.Join(m.folder, name))
		}
	}
	return nil, &refusal{http.StatusNotFound, "404 Not Found"}
}

// offReader reads a powered-off VM's disk; power-on takes the file's lock back.
type offReader struct {
	m    *machine
	disk io.ReaderAt
}

var errLocked = errors.New("the virtual machine was powered on: the file is locked")

func (r offReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.disk.ReadAt(p, off)
	if r.m.isOn() {
		return 0, errLocked
	}
	return n, err
}

func openPlain(path string) (*content, *refusal) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &refusal{http.StatusNotFound, "404 Not Found"}
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, &refusal{http.StatusInternalServerError, err.Error()}
	}
	return &content{size: info.Size(), read: file, close: func() { file.Close() }}, nil
}

// send answers with all of it or with the one range asked for.
func (c *content) send(w http.ResponseWriter, r *http.Request, rateMBs float64) {
	start, end, partial, ok := parseRange(r.Header.Get("Range"), c.size)
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Type", "application/octet-stream")
	if !ok {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", c.size))
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(end-start, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, c.size))
	}
	pace, _ := r.Context().Value(pacerKey{}).(*pacer)
	buffer := make([]byte, folderChunk)
	for at, first := start, true; at < end || first; first = false {
		piece := buffer
		if rest := end - at; rest < int64(len(piece)) {
			piece = piece[:rest]
		}
		if r.Method == http.MethodHead {
			piece = nil
		}
		if len(piece) > 0 {
			if n, err := c.read.ReadAt(piece, at); n < len(piece) {
				if first {
					http.Error(w, fmt.Sprintf("500 Internal Server Error: %v", err), http.StatusInternalServerError)
					return
				}
				// In the middle of an answer only cutting the connection says so.
				calls.Reset(w)
				return
			}
			pace.wait(r.Context(), len(piece), rateMBs)
		}
		if first {
			w.WriteHeader(status)
		}
		if r.Method == http.MethodHead {
			return
		}
		if _, err := w.Write(piece); err != nil {
			return
		}
		at += int64(len(piece))
	}
}

// parseRange gives the bytes [start, end) that a Range header asks for. A header
// that is not one simple byte range is ignored, as RFC 9110 allows (14.2).
func parseRange(header string, size int64) (start, end int64, partial, ok bool) {
	spec := strings.TrimPrefix(header, "bytes=")
	dash := strings.IndexByte(spec, '-')
	if header == "" || spec == header || dash < 0 || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	first, last := strings.TrimSpace(spec[:dash]), strings.TrimSpace(spec[dash+1:])
	if first == "" {
		suffix, err := strconv.ParseInt(last, 10, 64)
		if err != nil || suffix < 0 {
			return 0, size, false, true
		}
		if suffix == 0 || size == 0 {
			return 0, 0, false, false
		}
		if suffix > size {
			suffix = size
		}
		return size - suffix, size, true, true
	}
	start, err := strconv.ParseInt(first, 10, 64)
	if err != nil || start < 0 {
		return 0, size, false, true
	}
	end = size
	if last != "" {
		to, err := strconv.ParseInt(last, 10, 64)
		if err != nil || to < start {
			return 0, size, false, true
		}
		if to < size-1 {
			end = to + 1
		}
	}
	if start >= size {
		return 0, 0, false, false
	}
	return start, end, true, true
}
