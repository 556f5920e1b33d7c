// Export leases (HttpNfcLease): a machine's disks, or a snapshot's, as
// streamOptimized VMDKs made by qemu-img, for whoever knows the lease's URLs and as
// long as the lease hears of its holder. The machine does nothing else meanwhile.
package vcenter

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/calls"
)

const serviceExport = "nfc"

type exportLease struct {
	*simulator.HttpNfcLease
	ticket  string // in its URLs
	folder  string // of its files
	timeout time.Duration

	mu    sync.Mutex
	heard time.Time
	ended chan struct{} // closed by end
	gone  chan struct{} // closed when the machine is about to be free
	over  bool
	how   types.HttpNfcLeaseState
}

// exports are the leases that have not ended.
type exports struct {
	mu  sync.Mutex
	all map[string]*exportLease // by moref value
}

func (s *Server) registerExport() {
	s.methods["ExportVm"] = func(c *soapCall) (interface{}, *fault, bool) {
		m := s.machineByRef(c.this)
		if m == nil {
			return nil, nil, false
		}
		if m.isOn() {
			return nil, invalidPower(false, true), true
		}
		lease, f := s.export(m, c.session.user, "")
		return &types.ExportVmResponse{Returnval: lease}, f, true
	}
	s.methods["ExportSnapshot"] = func(c *soapCall) (interface{}, *fault, bool) {
		m, snap := s.snapshotOwner(c.this)
		if m == nil {
			return nil, notFound(c.this), true
		}
		lease, f := s.export(m, c.session.user, snap.ref.Value)
		return &types.ExportSnapshotResponse{Returnval: lease}, f, true
	}
	onLease := func(act func(*exportLease, *soapCall) (interface{}, *fault)) method {
		return func(c *soapCall) (interface{}, *fault, bool) {
			lease := s.exports.find(c.this)
			if lease == nil {
				return nil, notFound(c.this), true
			}
			reply, f := act(lease, c)
			return reply, f, true
		}
	}
	s.methods["HttpNfcLeaseProgress"] = onLease(func(l *exportLease, c *soapCall) (interface{}, *fault) {
		percent := c.body.(*types.HttpNfcLeaseProgress).Percent
		if percent < 0 || percent > 100 {
			return nil, invalidArgument("percent")
		}
		l.mu.Lock()
		l.heard = time.Now()
		l.mu.Unlock()
		return &types.HttpNfcLeaseProgressResponse{}, nil
	})
	s.methods["HttpNfcLeaseComplete"] = onLease(func(l *exportLease, c *soapCall) (interface{}, *fault) {
		l.end(types.HttpNfcLeaseStateDone)
		<-l.gone
		return &types.HttpNfcLeaseCompleteResponse{}, nil
	})
	s.methods["HttpNfcLeaseAbort"] = onLease(func(l *exportLease, c *soapCall) (interface{}, *fault) {
		l.end(types.HttpNfcLeaseStateError)
		<-l.gone
		return &types.HttpNfcLeaseAbortResponse{}, nil
	})
	s.methods["HttpNfcLeaseGetManifest"] = onLease(func(*exportLease, *soapCall) (interface{}, *fault) {
		return &types.HttpNfcLeaseGetManifestResponse{}, nil
	})
	// Without hardware in it: enough for clients that end an export with it.
	s.methods["CreateDescriptor"] = func(c *soapCall) (interface{}, *fault, bool) {
		req := c.body.(*types.CreateDescriptor)
		var b strings.Builder
		b.WriteString(`<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"><References>`)
		for _, file := range req.Cdp.OvfFiles {
			fmt.Fprintf(&b, `<File id=%q href=%q size="%d"/>`, file.DeviceId, file.Path, file.Size)
		}
		b.WriteString("</References></Envelope>\n")
		return &types.CreateDescriptorResponse{Returnval: types.OvfCreateDescriptorResult{OvfDescriptor: b.String()}}, nil, true
	}
}

func (e *exports) find(ref types.ManagedObjectReference) *exportLease {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[ref.Value]
}

// endAll lets nobody wait for a lease when the server ends.
func (e *exports) endAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, lease := range e.all {
		lease.end(types.HttpNfcLeaseStateError)
	}
}

func (l *exportLease) end(how types.HttpNfcLeaseState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.over, l.how = true, how
		close(l.ended)
	}
}

// export begins a lease; the disks are made ready, and the machine kept busy, by
// its task.
func (s *Server) export(m *machine, user, snapshot string) (types.ManagedObjectReference, *fault) {
	l := &exportLease{HttpNfcLease: &simulator.HttpNfcLease{}, ticket: newTicket(), heard: time.Now(), ended: make(chan struct{}), gone: make(chan struct{}),
		timeout: time.Duration(s.settings.get().ExportTimeoutS * float64(time.Second))}
	l.folder = filepath.Join(s.config.FrozenDir, "export-"+l.ticket)
	l.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: "lease-" + newTicket()}
	l.State = types.HttpNfcLeaseStateInitializing
	method := "exportVm"
	if snapshot != "" {
		method = "exportSnapshot"
	}
	begun := make(chan struct{})
	_, f := s.startTask(m.ref, m.name, method, user, func(progress func(int)) (types.AnyType, *fault) {
		<-begun
		defer close(l.gone)
		defer os.RemoveAll(l.folder)
		defer func() {
			s.exports.mu.Lock()
			delete(s.exports.all, l.Self.Value)
			s.exports.mu.Unlock()
		}()
		urls, err := s.exportDisks(m, l, snapshot)
		if err != nil {
			f := systemError(err)
			s.showLease(l, types.HttpNfcLeaseStateError, f, nil)
			return nil, f
		}
		l.mu.Lock()
		l.heard = time.Now() // what it took to make it ready is not its holder's silence
		l.mu.Unlock()
		s.showLease(l, types.HttpNfcLeaseStateReady, nil, &types.HttpNfcLeaseInfo{Lease: l.Self, Entity: m.ref, DeviceUrl: urls,
			TotalDiskCapacityInKB: m.capacityKB(), LeaseTimeout: int32(l.timeout.Seconds() + 0.999)})
		return nil, s.awaitLease(l)
	})
	if f != nil {
		return types.ManagedObjectReference{}, f
	}
	simulator.Map.Put(l.HttpNfcLease)
	s.exports.mu.Lock()
	s.exports.all[l.Self.Value] = l
	s.exports.mu.Unlock()
	close(begun)
	return l.Self, nil
}

func newTicket() string {
	return strings.ReplaceAll(uuid.NewString(), "-", "")
}

// awaitLease returns when the holder has ended it, or was not heard of for too
// long.
func (s *Server) awaitLease(l *exportLease) *fault {
	for {
		l.mu.Lock()
		left := time.Until(l.heard.Add(l.timeout))
		l.mu.Unlock()
		if left <= 0 {
			l.end(types.HttpNfcLeaseStateError)
			f := newFault(&types.Timedout{}, "Operation timed out.")
			s.showLease(l, types.HttpNfcLeaseStateError, f, nil)
			return f
		}
		select {
		case <-time.After(left):
		case <-l.ended:
			if l.how == types.HttpNfcLeaseStateDone {
				s.showLease(l, l.how, nil, nil)
				return nil
			}
			f := newFault(&types.RequestCanceled{}, "%s", wellKnown["RequestCanceled"])
			s.showLease(l, l.how, f, nil)
			return f
		}
	}
}

func (s *Server) showLease(l *exportLease, state types.HttpNfcLeaseState, f *fault, info *types.HttpNfcLeaseInfo) {
	changes := []types.PropertyChange{{Name: "state", Val: state}}
	if f != nil {
		changes = append(changes, types.PropertyChange{Name: "error",
			Val: &types.LocalizedMethodFault{Fault: f.detail, LocalizedMessage: f.message}})
	}
	if info != nil {
		changes = append(changes, types.PropertyChange{Name: "info", Val: info})
	}
	simulator.Map.AtomicUpdate(simulator.SpoofContext(), l.HttpNfcLease, changes)
}

func (m *machine) capacityKB() int64 {
	total := int64(0)
	for _, d := range m.diskList() {
		total += d.size() / 1024
	}
	return total
}

// exportDisks makes the files that the lease's URLs lead to.
func (s *Server) exportDisks(m *machine, l *exportLease, snapshot string) ([]types.HttpNfcLeaseDeviceUrl, error) {
	if err := os.MkdirAll(l.folder, 0o700); err != nil {
		return nil, err
	}
	var urls []types.HttpNfcLeaseDeviceUrl
	for _, d := range m.diskList() {
		if d.data == nil {
			continue
		}
		name := fmt.Sprintf("disk-%d.vmdk", len(urls))
		raw, err := m.rawForExport(d, l.folder, snapshot)
		if err != nil {
			return nil, err
		}
		if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic",
			raw, filepath.Join(l.folder, name)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("qemu-img: %w: %s", err, out)
		}
		info, err := os.Stat(filepath.Join(l.folder, name))
		if err != nil {
			return nil, err
		}
		// A host calls itself "*"; a vCenter names the host that has the disks.
		host := "*"
		if !s.config.ESXi {
			host = s.address
		}
		urls = append(urls, types.HttpNfcLeaseDeviceUrl{Key: fmt.Sprintf("/%s/ParaVirtualSCSIController%d:%d", m.ref.Value, d.bus(), d.unit),
			Url: fmt.Sprintf("https://%s/nfc/%s/%s", host, l.ticket, name), SslThumbprint: s.thumbprint, Disk: types.NewBool(true),
			TargetId: name, FileSize: info.Size()})
	}
	return urls, nil
}

// rawForExport is a plain image of a snapshot's disk, or of a machine's that is off.
func (m *machine) rawForExport(d *machineDisk, folder, snapshot string) (string, error) {
	m.frozenMu.Lock()
	defer m.frozenMu.Unlock()
	if snapshot == "" {
		return m.imageWhenOff(d)
	}
	path := filepath.Join(folder, fmt.Sprintf("%d.img", d.key))
	return path, d.data.FrozenCopy(snapshot, path)
}

func (s *Server) serveExport(w http.ResponseWriter, r *http.Request) {
	chain := &calls.Middleware{
		Log: s.log, Faults: s.faults,
		Name: func(r *http.Request) (string, string, string) {
			return serviceExport, r.Method, filepath.Base(r.URL.Path)
		},
		Expire: s.expireCaller,
		Answer: answerFolder,
		Next:   http.HandlerFunc(s.exported),
	}
	chain.ServeHTTP(w, r)
}

// exported sends a file: all of it, without ranges and without its size, as a
// host does that compresses while it sends.
func (s *Server) exported(w http.ResponseWriter, r *http.Request) {
	words := strings.Split(strings.TrimPrefix(r.URL.Path, "/nfc/"), "/")
	var found *exportLease
	s.exports.mu.Lock()
	for _, l := range s.exports.all {
		if len(words) == 2 && l.ticket == words[0] {
			found = l
		}
	}
	s.exports.mu.Unlock()
	if found == nil || r.Method != http.MethodGet || words[1] != filepath.Base(words[1]) || !strings.HasSuffix(words[1], ".vmdk") {
		http.Error(w, "404 Not Found", http.StatusNotFound)
		return
	}
	file, err := os.Open(filepath.Join(found.folder, words[1]))
	if err != nil {
		http.Error(w, "404 Not Found", http.StatusNotFound)
		return
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() { // the end of the lease is the end of its downloads
		select {
		case <-found.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.sendExport(ctx, w, file)
}

func (s *Server) sendExport(ctx context.Context, w http.ResponseWriter, file *os.File) {
	pace, _ := ctx.Value(pacerKey{}).(*pacer)
	buffer, sent := make([]byte, folderChunk), int64(0)
	for {
		n, err := file.Read(buffer)
		if n > 0 {
			set := s.settings.get()
			pace.wait(ctx, n, set.FolderRateMBs)
			// A fault script for the method "cut" counts pieces, and breaks off there.
			_, cut := s.faults.Match(serviceExport, "cut", strconv.FormatInt(sent, 10))
			if ctx.Err() != nil || cut {
				calls.Reset(w)
				return
			}
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			sent += int64(n)
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			calls.Reset(w)
			return
		}
	}
}
