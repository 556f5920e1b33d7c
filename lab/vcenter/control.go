// The control socket's own paths: settings, sessions, and what a test does to a
// virtual machine behind the API's back. Calls and faults come from lab/calls.
package vcenter

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/guest"
)

func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	calls.Register(mux, s.log, s.faults)
	mux.HandleFunc("/sessions/expire", only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) {
		calls.Reply(w, http.StatusOK, map[string]int{"expired": s.sessions.endAll()})
	}))
	mux.HandleFunc("/secrets", only(http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
		calls.Reply(w, http.StatusOK, s.sessions.given())
	}))
	mux.HandleFunc("/settings", func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			calls.Reply(w, http.StatusOK, s.settings.get())
		case http.MethodPost:
			next := s.settings.get() // absent fields keep
			err := calls.Decode(r, &next)
			if err == nil {
				err = s.settings.set(next)
			}
			if err != nil {
				calls.Refuse(w, http.StatusBadRequest, err.Error())
				return
			}
			s.sessions.setIdle(next.idle())
			s.host.publish(next.HostName)
			for _, m := range s.machineList() {
				m.publish()
			}
			calls.Reply(w, http.StatusOK, next)
		default:
			calls.Refuse(w, http.StatusMethodNotAllowed, "/settings knows GET and POST")
		}
	})
	mux.HandleFunc("/privileges", s.controlPrivileges)
	mux.HandleFunc("/vms", only(http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
		all := map[string]vmView{}
		for _, m := range s.machineList() {
			all[m.name] = m.view()
		}
		calls.Reply(w, http.StatusOK, all)
	}))
	mux.HandleFunc("/vms/", s.controlVM)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		calls.Refuse(w, http.StatusNotFound, "the control socket knows /calls /faults /privileges /secrets /sessions/expire /settings /vms")
	})
	return mux
}

func only(method string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			calls.Refuse(w, http.StatusMethodNotAllowed, r.URL.Path+" knows "+method)
			return
		}
		next(w, r)
	}
}

type vmView struct {
	MoRef       string         `json:"moref"`
	Power       string         `json:"power"` // on or off
	CBTEnabled  bool           `json:"cbt_enabled"`
	CBTActive   bool           `json:"cbt_active"` // every trackable disk is tracked
	Consolidate bool           `json:"consolidation_needed"`
	Wrong       string         `json:"wrong_answers"`
	Disks       []diskView     `json:"disks"`
	Snapshots   []snapshotView `json:"snapshots"`
	// What was attached of other machines, and settings that clients made.
	Extra  map[string]string `json:"extra_config"`
	Writer guest.Stats       `json:"writer"`
}

type diskView struct {
	Key      int32  `json:"key"`
	Label    string `json:"label"`
	File     string `json:"file"`
	Bytes    int64  `json:"bytes"`
	ChangeID string `json:"change_id"`
	Mode     string `json:"mode"`
	Attached bool   `json:"attached"` // of another machine
	Backing  string `json:"backing"`
}

type snapshotView struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Quiesced    bool   `json:"quiesced"`
}

func (m *machine) view() vmView {
	stats := m.writer.Stats()
	m.mu.Lock()
	defer m.mu.Unlock()
	v := vmView{MoRef: m.ref.Value, Power: "off", CBTEnabled: m.tracking, Consolidate: m.needsConsolidation(),
		Wrong: m.wrong, Writer: stats, Disks: []diskView{}, Snapshots: []snapshotView{}, Extra: map[string]string{}}
	for key, value := range m.extra {
		v.Extra[key] = value
	}
	if m.on {
		v.Power = "on"
	}
	trackable := 0
	v.CBTActive = true
	for _, d := range m.disks {
		line := diskView{Key: d.key, Label: d.label(), File: m.file(d.name + ".vmdk"), Bytes: d.size(), Mode: d.mode, Backing: d.backing}
		if d.data != nil {
			if files, err := d.data.Files(""); err == nil {
				line.File = m.file(files.Descriptor)
			}
			line.ChangeID, _ = d.data.ChangeID("")
		}
		if d.foreign != nil {
			line.File, line.Attached = d.foreign.file, true
		}
		if d.trackable() {
			trackable++
			v.CBTActive = v.CBTActive && line.ChangeID != ""
		}
		v.Disks = append(v.Disks, line)
	}
	v.CBTActive = v.CBTActive && trackable > 0
	for _, snap := range m.snapshots {
		v.Snapshots = append(v.Snapshots, snapshotView{snap.ref.Value, snap.name, snap.description, snap.quiesced})
	}
	return v
}

// controlVM takes /vms/NAME and what stands below it.
func (s *Server) controlVM(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/vms/"), "/", 3)
	var m *machine
	for _, candidate := range s.machineList() {
		if candidate.name == parts[0] {
			m = candidate
		}
	}
	if m == nil {
		calls.Refuse(w, http.StatusNotFound, fmt.Sprintf("no VM %q with disks", parts[0]))
		return
	}
	what, which := "", ""
	if len(parts) > 1 {
		what = parts[1]
	}
	if len(parts) > 2 {
		which = parts[2]
	}
	reply, err := m.controlled(r, r.Method+" "+what, which)
	if err != nil {
		calls.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	calls.Reply(w, http.StatusOK, reply)
}

func (m *machine) controlled(r *http.Request, what, which string) (interface{}, error) {
	switch what {
	case "GET ":
		return m.view(), nil
	case "GET frozen":
		return m.showFrozen()
	case "POST writer":
		return m.controlWriter(r)
	case "POST cbt-reset":
		var ask struct {
			Disk int32 `json:"disk"`
		}
		if err := calls.Decode(r, &ask); err != nil {
			return nil, err
		}
		err := m.s.runNow(m.ref, func() error { return m.resetTracking(ask.Disk) })
		return m.view(), err
	case "POST cbt":
		return m.controlTracking(r)
	case "POST grow":
		var ask struct {
			Disk  int32 `json:"disk"`
			Bytes int64 `json:"bytes"`
		}
		if err := calls.Decode(r, &ask); err != nil {
			return nil, err
		}
		err := m.s.runNow(m.ref, func() error { return m.growDisk(ask.Disk, ask.Bytes) })
		m.publish()
		return m.view(), err
	case "POST disks":
		return m.controlAddDisk(r)
	case "POST write":
		return m.controlWrite(r)
	case "DELETE disks":
		key, err := strconv.ParseInt(which, 10, 32)
		if err == nil {
			err = m.s.runNow(m.ref, func() error { return m.removeDisk(int32(key), !m.hasAttached(int32(key))) })
		}
		m.publish()
		return m.view(), err
	case "POST snapshots":
		return m.controlSnapshot(r)
	case "DELETE snapshots":
		return m.controlRemove(which)
	case "POST wrong-answers":
		return m.controlWrong(r)
	case "POST power":
		return m.controlPower(r)
	case "POST config":
		return m.controlConfig(r)
	}
	return nil, fmt.Errorf("no %s here: GET /vms/NAME and /frozen; POST writer, write, cbt, cbt-reset, grow, disks, snapshots, "+
		"wrong-answers, power, config; DELETE disks/KEY, snapshots/ID", what)
}

func (m *machine) controlWriter(r *http.Request) (interface{}, error) {
	var ask struct {
		Running *bool    `json:"running"`
		Rate    *float64 `json:"rate_mb_s"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.Rate != nil {
		if err := m.writer.SetRate(*ask.Rate); err != nil {
			return nil, err
		}
	}
	if ask.Running != nil {
		m.mu.Lock()
		m.load = *ask.Running
		m.mu.Unlock()
		m.setLoad()
	}
	return m.writer.Stats(), nil
}

// controlWrite is the guest that writes one byte over and over.
func (m *machine) controlWrite(r *http.Request) (interface{}, error) {
	var ask struct {
		Disk   int32 `json:"disk"`
		Offset int64 `json:"offset"`
		Bytes  int   `json:"bytes"`
		Value  byte  `json:"value"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	m.mu.Lock()
	d := m.findDisk(ask.Disk)
	m.mu.Unlock()
	if d == nil || d.data == nil || ask.Bytes < 0 || ask.Bytes > 64<<20 {
		return nil, fmt.Errorf("disk %d, %d bytes: needs a disk with data and at most 64 MiB", ask.Disk, ask.Bytes)
	}
	_, err := d.data.WriteAt(bytes.Repeat([]byte{ask.Value}, ask.Bytes), ask.Offset)
	return m.view(), err
}

// controlTracking is an administrator who changes the setting in the VM's
// configuration: in force after the next stun, as with ReconfigVM_Task.
func (m *machine) controlTracking(r *http.Request) (interface{}, error) {
	var ask struct {
		Enabled *bool `json:"enabled"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.Enabled == nil {
		return nil, fmt.Errorf("needs {\"enabled\": true or false}")
	}
	spec := &types.VirtualMachineConfigSpec{ChangeTrackingEnabled: ask.Enabled}
	err := m.s.runNow(m.ref, func() error {
		f := m.checkReconfig(spec)
		if f == nil {
			f = m.reconfigure(spec)
		}
		if f != nil {
			return f
		}
		return nil
	})
	return m.view(), err
}

func (m *machine) controlAddDisk(r *http.Request) (interface{}, error) {
	var ask struct {
		Bytes   int64  `json:"bytes"`
		Mode    string `json:"mode"`
		Backing string `json:"backing"`
		Bus     int32  `json:"bus"` // of a SCSI controller, which is added when it is not there
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.Bus < 0 || ask.Bus >= scsiBuses {
		return nil, fmt.Errorf("bus %d: 0 to %d", ask.Bus, scsiBuses-1)
	}
	var added *machineDisk
	err := m.s.runNow(m.ref, func() (err error) {
		if err := m.needBus(ask.Bus); err != nil {
			return err
		}
		added, err = m.addDisk(ask.Bytes, ask.Mode, ask.Backing, ask.Bus)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.publish()
	return map[string]int32{"key": added.key}, nil
}

func (m *machine) controlSnapshot(r *http.Request) (interface{}, error) {
	var ask struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.Name == "" {
		return nil, fmt.Errorf("a snapshot needs a name")
	}
	var made *snapshotRecord
	err := m.s.runNow(m.ref, func() error {
		snap, f := m.createSnapshot(ask.Name, ask.Description, false)
		if f != nil {
			return f
		}
		made = snap
		return nil
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{"id": made.ref.Value}, nil
}

func (m *machine) controlRemove(id string) (interface{}, error) {
	err := m.s.runNow(m.ref, func() error {
		m.mu.Lock()
		snap, _ := m.findSnapshot(types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: id})
		m.mu.Unlock()
		if snap == nil {
			return fmt.Errorf("no snapshot %q", id)
		}
		if f := m.removeSnapshots([]*snapshotRecord{snap}, true, func(int) {}); f != nil {
			return f
		}
		return nil
	})
	return m.view(), err
}

func (m *machine) controlWrong(r *http.Request) (interface{}, error) {
	var ask struct {
		Mode string `json:"mode"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	switch ask.Mode {
	case wrongOff, wrongDropArea, wrongGrowth, wrongEmptyFirst:
	default:
		return nil, fmt.Errorf("mode %q: off, drop-area, growth-128g or empty-first-page", ask.Mode)
	}
	m.mu.Lock()
	m.wrong = ask.Mode
	m.mu.Unlock()
	return m.view(), nil
}

func (m *machine) controlPower(r *http.Request) (interface{}, error) {
	var ask struct {
		State string `json:"state"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.State != "on" && ask.State != "off" {
		return nil, fmt.Errorf("state %q: on or off", ask.State)
	}
	err := m.s.runNow(m.ref, func() error {
		if m.isOn() != (ask.State == "on") {
			m.setPower(ask.State == "on")
		}
		return nil
	})
	return m.view(), err
}

// controlConfig changes what kind of machine it is: EFI and secure boot, an old
// hardware version without change tracking, another guest.
func (m *machine) controlConfig(r *http.Request) (interface{}, error) {
	var ask struct {
		Firmware   *string `json:"firmware"`
		SecureBoot *bool   `json:"secure_boot"`
		GuestID    *string `json:"guest_id"`
		GuestName  *string `json:"guest_full_name"`
		Version    *string `json:"version"`
		Annotation *string `json:"annotation"`
		EnableUUID *bool   `json:"enable_uuid"` // disk.EnableUUID, in force for disks that come
		SAS        *bool   `json:"lsi_sas"`     // SCSI controller 0 is an LSI Logic SAS, else pvscsi
	}
	if err := calls.Decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.Firmware != nil && *ask.Firmware != "bios" && *ask.Firmware != "efi" {
		return nil, fmt.Errorf("firmware %q: bios or efi", *ask.Firmware)
	}
	m.mu.Lock()
	for from, to := range map[*string]*string{ask.Firmware: &m.hardware.firmware, ask.GuestID: &m.hardware.guestID,
		ask.GuestName: &m.hardware.fullName, ask.Version: &m.hardware.version, ask.Annotation: &m.hardware.annotation} {
		if from != nil {
			*to = *from
		}
	}
	if ask.SecureBoot != nil {
		m.hardware.secureBoot = *ask.SecureBoot
	}
	if ask.SAS != nil {
		m.hardware.sas = *ask.SAS
	}
	if ask.EnableUUID != nil {
		m.extra["disk.EnableUUID"] = strings.ToUpper(strconv.FormatBool(*ask.EnableUUID))
	}
	m.mu.Unlock()
	m.publish()
	return m.view(), nil
}

// settle waits for the tasks under way, at most for the given time.
func (s *Server) settle(limit time.Duration) {
	done := make(chan struct{})
	go func() { s.tasks.all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit):
	}
}
