// The data plane of the stand-in for VDDK (lab/vddk), a protocol that nobody else speaks: POST and DELETE of
// /vddk/session open and end a session, GET /vddk/disk turns its connection into a stream of requests for one
// open disk. What may be opened, and when a read fails, follows ESXi's NFC service as far as it is documented.
package vcenter

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/vim25/soap"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/disk"
)

const serviceVDDK = "vddk"

// Codes of VixError, as the VDDK's headers number them.
const (
	vixFileNotFound     = 4
	vixFileError        = 7
	vixFileAccess       = 13
	vixAuthentication   = 35
	vixSnapshotNotFound = 13003
	vixRefused          = 14009
	vixConnectionLost   = 14011
	vixOutOfRange       = 16007
)

const (
	vddkRead = 1
	vddkMap  = 2

	vddkSector = 512
)

// vddkDisks are the disks that are open now; a host has so many connections and no more.
type vddkDisks struct {
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (v *vddkDisks) add(conn net.Conn, most int) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open == nil {
		v.open = map[net.Conn]bool{}
	}
	if len(v.open) >= most {
		return false
	}
	v.open[conn] = true
	return true
}

func (v *vddkDisks) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.open)
}

func (v *vddkDisks) remove(conn net.Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.open, conn)
}

func (v *vddkDisks) closeAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for conn := range v.open {
		conn.Close()
	}
}

func (s *Server) serveVDDK(w http.ResponseWriter, r *http.Request) {
	chain := &calls.Middleware{
		Log: s.log, Faults: s.faults,
		Name: func(r *http.Request) (string, string, string) {
			switch {
			case r.URL.Path == "/vddk/disk":
				return serviceVDDK, "Open", r.URL.Query().Get("file")
			case r.Method == http.MethodDelete:
				return serviceVDDK, "Disconnect", ""
			}
			return serviceVDDK, "Connect", ""
		},
		Details: vddkOrders,
		Expire:  s.expireCaller,
		Answer: func(w http.ResponseWriter, _ *http.Request, rule calls.Rule) {
			refuseVDDK(w, vixRefused, rule.Message)
		},
		Next: http.HandlerFunc(s.vddk),
	}
	chain.ServeHTTP(w, r)
}

// vddkOrders is what the library was told of how to read a disk: all that does not say which disk.
func vddkOrders(r *http.Request) map[string]string {
	if r.URL.Path != "/vddk/disk" {
		return nil
	}
	orders := map[string]string{}
	for name := range r.URL.Query() {
		if name != "vm" && name != "snapshot" && name != "file" {
			orders[name] = r.URL.Query().Get(name)
		}
	}
	return orders
}

func refuseVDDK(w http.ResponseWriter, code int, text string) {
	w.Header().Set("X-Lab-Vix-Error", strconv.Itoa(code))
	http.Error(w, text, http.StatusForbidden)
}

func (s *Server) vddk(w http.ResponseWriter, r *http.Request) {
	caller, leave := s.sessions.enter(r)
	defer leave()
	switch {
	case r.URL.Path == "/vddk/session" && r.Method == http.MethodPost:
		if caller != nil { // a session that was opened elsewhere
			w.WriteHeader(http.StatusOK)
			return
		}
		name, password, given := r.BasicAuth()
		if !given || !s.sessions.valid(name, password) {
			refuseVDDK(w, vixAuthentication, "Incorrect user name or password")
			return
		}
		key := make([]byte, 16)
		if _, err := rand.Read(key); err != nil {
			panic(err)
		}
		opened := s.sessions.add(hex.EncodeToString(key), name)
		w.Header().Set("Set-Cookie", fmt.Sprintf(`%s=%s; Path=/; HttpOnly; Secure`, soap.SessionCookieName, opened.key))
	case caller == nil:
		refuseVDDK(w, vixAuthentication, "the session has ended")
	case r.URL.Path == "/vddk/session" && r.Method == http.MethodDelete:
		s.sessions.end(caller.key)
	case r.URL.Path == "/vddk/disk" && r.Method == http.MethodGet:
		s.openVDDK(w, r, caller)
	default:
		http.Error(w, "404 Not Found", http.StatusNotFound)
	}
}

// frozenOrOff is an open disk: the bytes of a snapshot, or of a VM that is off.
type frozenOrOff struct {
	name  string
	size  int64
	read  io.ReaderAt
	areas func() ([]disk.Area, error)
}

type vddkRefusal struct {
	code int
	text string
}

func (s *Server) openVDDK(w http.ResponseWriter, r *http.Request, caller *session) {
	set := s.settings.get()
	query := r.URL.Query()
	sleep(r.Context(), time.Duration(set.VDDKOpenMS*float64(time.Millisecond)))
	opened, refused := s.findVDDK(caller.user, query.Get("vm"), query.Get("snapshot"), query.Get("file"))
	if refused != nil {
		refuseVDDK(w, refused.code, refused.text)
		return
	}
	if s.vddkDisks.count() >= set.VDDKConnections {
		refuseVDDK(w, vixRefused, fmt.Sprintf("this host has %d connections, and all are taken", set.VDDKConnections))
		return
	}
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "lab-vddk")
	w.Header().Set("X-Lab-Sectors", strconv.FormatInt(opened.size/vddkSector, 10))
	w.Header().Set("X-Lab-Read-Limit", strconv.FormatInt(set.VDDKReadBytes, 10))
	w.WriteHeader(http.StatusSwitchingProtocols)
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		return
	}
	if !s.vddkDisks.add(conn, set.VDDKConnections) {
		conn.Close()
		return
	}
	go func() {
		defer s.vddkDisks.remove(conn)
		defer conn.Close()
		// The server may have read the first bytes of the first request already.
		s.streamVDDK(conn, buffered.Reader, caller, opened)
	}()
}

// findVDDK gives the disk that a client names, or why it cannot be opened.
func (s *Server) findVDDK(user, vm, snapshot, file string) (*frozenOrOff, *vddkRefusal) {
	missing := &vddkRefusal{vixFileNotFound, file + " was not found"}
	var m *machine
	for _, candidate := range s.machineList() {
		if candidate.ref.Value == vm {
			m = candidate
		}
	}
	if m == nil {
		return nil, &vddkRefusal{vixFileNotFound, "there is no VM " + vm}
	}
	// "Disk and Datastore Privileges for VMs Using the VDDK", VDDK Programming Guide.
	if s.privileges.restricted(user) && !s.privileges.has(user, m.ref, "VirtualMachine.Provisioning.DiskRandomRead") {
		return nil, &vddkRefusal{vixFileAccess, "the user may not read disks of " + m.name}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := snapshot == ""
	for _, snap := range m.snapshots {
		known = known || snap.ref.Value == snapshot
	}
	if !known {
		return nil, &vddkRefusal{vixSnapshotNotFound, "there is no snapshot " + snapshot}
	}
	base := path.Base(file)
	if file != m.file(base) || strings.HasSuffix(base, "-flat.vmdk") || strings.HasSuffix(base, "-delta.vmdk") {
		return nil, missing
	}
	for _, d := range m.disks {
		if d.data == nil {
			continue
		}
		owner, live, found := d.data.Owner(base)
		if !found {
			continue
		}
		if snapshot == "" {
			// The running VM has the file open for itself.
			if m.on || !live {
				return nil, &vddkRefusal{vixFileAccess, "Failed to lock the file"}
			}
			data := d.data
			return &frozenOrOff{file, data.Size(), offReader{m, data}, func() ([]disk.Area, error) { return data.AllocatedAreas("") }}, nil
		}
		if owner != snapshot {
			return nil, &vddkRefusal{vixFileAccess, file + " is not the disk that " + snapshot + " froze"}
		}
		frozen, err := d.data.FrozenReader(snapshot)
		if err != nil {
			return nil, &vddkRefusal{vixFileError, err.Error()}
		}
		data := d.data
		// Looked up once for each open disk: in what is frozen they stay, and a large disk is asked about a thousand times.
		var once sync.Once
		var areas []disk.Area
		var failed error
		return &frozenOrOff{file, frozen.Size(), frozen, func() ([]disk.Area, error) {
			if _, err := data.FrozenSize(snapshot); err != nil { // removed
				return nil, err
			}
			once.Do(func() { areas, failed = data.AllocatedAreas(snapshot) })
			return areas, failed
		}}, nil
	}
	return nil, missing
}

type vddkRequest struct {
	Op      uint32
	Tag     uint32
	Sector  uint64
	Sectors uint64

	arrived time.Time
}

type vddkReply struct {
	Tag   uint32
	Error uint32
	Bytes uint64
}

// streamVDDK answers the requests of one connection, in their order. Latencies overlap, as they do on a line; the
// rate is that of the connection.
func (s *Server) streamVDDK(conn net.Conn, in io.Reader, caller *session, opened *frozenOrOff) {
	requests := make(chan vddkRequest, 64)
	var underWay int64 // requests that came and are not answered
	go func() {
		defer close(requests)
		for {
			var request vddkRequest
			raw := make([]byte, 24)
			if _, err := io.ReadFull(in, raw); err != nil {
				return
			}
			request.Op = binary.LittleEndian.Uint32(raw)
			request.Tag = binary.LittleEndian.Uint32(raw[4:])
			request.Sector = binary.LittleEndian.Uint64(raw[8:])
			request.Sectors = binary.LittleEndian.Uint64(raw[16:])
			request.arrived = time.Now()
			atomic.AddInt64(&underWay, 1)
			requests <- request
		}
	}()
	defer func() {
		conn.Close()
		for range requests { // the reader may wait to hand one over
		}
	}()
	pace := &pacer{}
	for request := range requests {
		set := s.settings.get()
		time.Sleep(time.Until(request.arrived.Add(time.Duration(set.FolderLatencyMS * float64(time.Millisecond)))))
		// Before the answer: who waits for it to ask again has one request under way at any time.
		answered := atomic.AddInt64(&underWay, -1) + 1
		payload, code, cut := s.answerVDDK(caller, opened, request, answered)
		if cut {
			return
		}
		pace.wait(context.Background(), len(payload), set.FolderRateMBs)
		head := make([]byte, 16)
		binary.LittleEndian.PutUint32(head, request.Tag)
		binary.LittleEndian.PutUint32(head[4:], uint32(code))
		binary.LittleEndian.PutUint64(head[8:], uint64(len(payload)))
		if _, err := conn.Write(head); err != nil {
			return
		}
		if _, err := conn.Write(payload); err != nil {
			return
		}
	}
}

// answerVDDK gives the answer to one of so many requests under way, or that the connection is to be cut.
func (s *Server) answerVDDK(caller *session, opened *frozenOrOff, request vddkRequest, underWay int64) (payload []byte, code int, cut bool) {
	method := "Read"
	if request.Op == vddkMap {
		method = "QueryAllocatedBlocks"
	}
	object := fmt.Sprintf("%s %d+%d", opened.name, request.Sector, request.Sectors)
	entry := calls.Call{Service: serviceVDDK, Method: method, Object: object, Status: http.StatusOK,
		Details: map[string]string{"under_way": strconv.FormatInt(underWay, 10)}}
	defer func() { s.log.Add(entry) }()
	if rule, struck := s.faults.Match(serviceVDDK, method, object); struck {
		entry.Fault = rule.Kind
		switch rule.Kind {
		case calls.KindReset, calls.KindLostReply:
			entry.Status = 0
			return nil, 0, true
		case calls.KindFault, calls.KindHTTP:
			entry.Status = http.StatusInternalServerError
			return nil, vixFileError, false
		case calls.KindDelay:
			time.Sleep(rule.Delay())
		case calls.KindExpire:
			s.sessions.end(caller.key)
		}
	}
	payload, code = s.readVDDK(caller, opened, request)
	if code != 0 {
		entry.Status = http.StatusInternalServerError
	}
	return payload, code, false
}

func (s *Server) readVDDK(caller *session, opened *frozenOrOff, request vddkRequest) ([]byte, int) {
	// A disk that is read keeps its session from idling out.
	open, leave := s.sessions.use(caller.key)
	if open == nil {
		return nil, vixConnectionLost
	}
	defer leave()
	start, length := int64(request.Sector)*vddkSector, int64(request.Sectors)*vddkSector
	if start < 0 || length < 0 || start > opened.size || length > opened.size-start {
		return nil, vixOutOfRange
	}
	switch request.Op {
	case vddkRead:
		if length > s.settings.get().VDDKReadBytes {
			return nil, vixFileError
		}
		bytes := make([]byte, length)
		if n, err := opened.read.ReadAt(bytes, start); n < len(bytes) || (err != nil && !errors.Is(err, io.EOF)) {
			return nil, vixFileError
		}
		return bytes, 0
	case vddkMap:
		areas, err := opened.areas()
		if err != nil {
			return nil, vixFileError
		}
		return encodeAreas(areas, start, start+length), 0
	}
	return nil, vixFileError
}

func encodeAreas(areas []disk.Area, start, end int64) []byte {
	out := []byte{}
	for _, area := range areas {
		from, to := area.Start, area.Start+area.Length
		if from < start {
			from = start
		}
		if to > end {
			to = end
		}
		if from >= to {
			continue
		}
		out = binary.LittleEndian.AppendUint64(out, uint64(from/vddkSector))
		out = binary.LittleEndian.AppendUint64(out, uint64((to-from)/vddkSector))
	}
	return out
}
