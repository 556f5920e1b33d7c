// Snapshots: creation freezes all disks in one stun, removal keeps a copy for
// the proof and folds the layers. The chain is a line: reverting is refused.
package vcenter

import (
	"errors"
	"fmt"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/disk"
)

func (s *Server) createSnapshotCall(m *machine, c *soapCall) (interface{}, *fault) {
	req := c.body.(*types.CreateSnapshot_Task)
	if req.Name == "" {
		return nil, newFault(&types.InvalidName{Name: req.Name}, "The name '' is invalid.")
	}
	task, f := s.startTask(m.ref, m.name, "createSnapshot", c.session.user, func(func(int)) (types.AnyType, *fault) {
		snap, f := m.createSnapshot(req.Name, req.Description, req.Quiesce)
		if f != nil {
			return nil, f
		}
		return snap.ref, nil
	})
	return &types.CreateSnapshot_TaskResponse{Returnval: task}, f
}

// createSnapshot does the act; the caller has made sure that it is alone.
func (m *machine) createSnapshot(name, description string, quiesce bool) (*snapshotRecord, *fault) {
	set := m.s.settings.get()
	m.mu.Lock()
	on := m.on
	disks := append([]*machineDisk(nil), m.disks...)
	depth := len(m.snapshots)
	m.mu.Unlock()
	// "This operation is not supported for a VM with more than 32 snapshots in a chain" (KB 1025279).
	if depth >= 32 {
		return nil, newFault(&types.TooManySnapshotLevels{}, "%s", wellKnown["TooManySnapshotLevels"])
	}
	for _, d := range disks {
		if d.shared() {
			return nil, newFault(&types.SnapshotIncompatibleDeviceInVm{Fault: types.LocalizedMethodFault{
				Fault:            &types.SharedBusControllerNotSupported{},
				LocalizedMessage: "The virtual machine is configured for bus sharing or multi-writer disks."}},
				"Snapshot not supported with device '%s' of the virtual machine '%s'.", d.label(), m.name)
		}
	}
	quiesced := false
	if quiesce && on {
		switch {
		case set.Tools != "running":
			return nil, newFault(&types.ToolsUnavailable{}, "%s", wellKnown["ToolsUnavailable"])
		case set.QuiesceFails:
			return nil, newFault(&types.ApplicationQuiesceFault{}, "%s", wellKnown["ApplicationQuiesceFault"])
		}
		quiesced = true
	}
	snap := m.newSnapshot(name, description, quiesced, disks)
	if err := m.freeze(snap, disks); err != nil {
		return nil, newFault(&types.GenericVmConfigFault{VmConfigFault: types.VmConfigFault{}, Reason: err.Error()},
			"An error occurred while taking a snapshot: %v", err)
	}
	m.mu.Lock()
	m.snapshots = append(m.snapshots, snap)
	m.frozen = append(m.frozen, newFrozenSet(snap, m.s.config.FrozenDir))
	m.mu.Unlock()
	m.publish()
	m.trimFrozen()
	return snap, nil
}

func (m *machine) newSnapshot(name, description string, quiesced bool, disks []*machineDisk) *snapshotRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nextID++
	snap := &snapshotRecord{name: name, description: description, id: m.nextID, created: time.Now().UTC(),
		state: types.VirtualMachinePowerStatePoweredOff, quiesced: quiesced, frozenKeys: map[int32]bool{}, disks: disks}
	if m.on {
		snap.state = types.VirtualMachinePowerStatePoweredOn
	}
	snap.ref = types.ManagedObjectReference{Type: "VirtualMachineSnapshot"}
	if m.s.config.ESXi {
		// A host numbers snapshots by VM, a vCenter all together.
		snap.ref.Value = fmt.Sprintf("%s-snapshot-%d", digits(m.ref.Value), m.nextID)
	} else {
		snap.ref.Value = fmt.Sprintf("snapshot-%d", m.s.nextSnapshotNumber())
	}
	vm := simulator.Map.Get(m.ref).(*simulator.VirtualMachine)
	simulator.Map.WithLock(simulator.SpoofContext(), vm, func() { snap.config = *vm.Config })
	return snap
}

// freeze freezes every disk that snapshots freeze, or none. Change tracking that
// was asked for before comes into force after the freeze: it is this stun that
// reopens the disks, so the first snapshot after enabling has no change id yet.
func (m *machine) freeze(snap *snapshotRecord, disks []*machineDisk) error {
	var done []*machineDisk
	err := m.group.Stun(func() error {
		for _, d := range disks {
			if !d.snapshotted() {
				continue
			}
			if err := d.data.Freeze(snap.ref.Value); err != nil {
				return err
			}
			done = append(done, d)
			snap.frozenKeys[d.key] = true
		}
		m.applyTracking(disks)
		return nil
	})
	if err == nil {
		return nil
	}
	for _, d := range done {
		if undo := d.data.Remove(snap.ref.Value); undo != nil {
			err = fmt.Errorf("%v (and thawing disk %d: %v)", err, d.key, undo)
		}
	}
	return err
}

// snapshotOwner finds the VM of a snapshot of ours.
func (s *Server) snapshotOwner(ref types.ManagedObjectReference) (*machine, *snapshotRecord) {
	for _, m := range s.machineList() {
		m.mu.Lock()
		snap, _ := m.findSnapshot(ref)
		m.mu.Unlock()
		if snap != nil {
			return m, snap
		}
	}
	return nil, nil
}

func (s *Server) removeSnapshotCall(c *soapCall) (interface{}, *fault, bool) {
	req := c.body.(*types.RemoveSnapshot_Task)
	m, snap := s.snapshotOwner(c.this)
	if m == nil {
		return nil, nil, false // the simulator's, or gone: it answers ManagedObjectNotFound
	}
	consolidate := req.Consolidate == nil || *req.Consolidate
	task, f := s.startTask(m.ref, m.name, "removeSnapshot", c.session.user, func(progress func(int)) (types.AnyType, *fault) {
		return nil, m.removeSnapshots(m.branch(snap, req.RemoveChildren), consolidate, progress)
	})
	return &types.RemoveSnapshot_TaskResponse{Returnval: task}, f, true
}

func (s *Server) removeAllCall(m *machine, c *soapCall) (interface{}, *fault) {
	req := c.body.(*types.RemoveAllSnapshots_Task)
	consolidate := req.Consolidate == nil || *req.Consolidate
	task, f := s.startTask(m.ref, m.name, "removeAllSnapshots", c.session.user, func(progress func(int)) (types.AnyType, *fault) {
		m.mu.Lock()
		all := append([]*snapshotRecord(nil), m.snapshots...)
		m.mu.Unlock()
		return nil, m.removeSnapshots(all, consolidate, progress)
	})
	return &types.RemoveAllSnapshots_TaskResponse{Returnval: task}, f
}

// branch is the snapshot, with its children if wanted.
func (m *machine) branch(snap *snapshotRecord, children bool) []*snapshotRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, at := m.findSnapshot(snap.ref)
	if at < 0 {
		return nil
	}
	if !children {
		return []*snapshotRecord{snap}
	}
	return append([]*snapshotRecord(nil), m.snapshots[at:]...)
}

// removeSnapshots removes newest first. The frozen bytes are copied before they
// go; from the removal on, reads of them fail.
func (m *machine) removeSnapshots(list []*snapshotRecord, consolidate bool, progress func(int)) *fault {
	for i := len(list) - 1; i >= 0; i-- {
		snap := list[i]
		if err := m.keepFrozen(snap.ref.Value); err != nil {
			return systemError(err)
		}
		f := m.removeSnapshot(snap, consolidate)
		m.publish()
		if f != nil {
			return f
		}
		progress(60 + 30*(len(list)-i)/len(list))
	}
	disks := m.diskList()
	m.group.Stun(func() error { // consolidation ends with the disks reopened
		m.applyTracking(disks)
		return nil
	})
	m.publish()
	m.trimFrozen()
	return nil
}

func (m *machine) removeSnapshot(snap *snapshotRecord, consolidate bool) *fault {
	// A script may let the consolidation fail, which leaves the VM without the
	// snapshot and with consolidationNeeded, as on a real host.
	rule, struck := m.s.faults.Match(serviceSOAP, "consolidate:RemoveSnapshot_Task", m.ref.Value)
	var failure error
	locked := ""
	for _, d := range snap.disks {
		if !snap.frozenKeys[d.key] || d.data == nil {
			continue
		}
		var err error
		attached := m.s.attachedElsewhere(d.data)
		if attached {
			locked = m.file(d.name + ".vmdk")
		}
		if struck || !consolidate || attached {
			err = d.data.Forget(snap.ref.Value)
		} else {
			err = d.data.Remove(snap.ref.Value)
		}
		if err != nil && !errors.Is(err, disk.ErrNoSnapshot) && failure == nil {
			failure = err
		}
	}
	m.mu.Lock()
	if _, at := m.findSnapshot(snap.ref); at >= 0 {
		m.snapshots = append(m.snapshots[:at:at], m.snapshots[at+1:]...)
	}
	m.mu.Unlock()
	simulator.Map.Remove(simulator.SpoofContext(), snap.ref)
	if struck && rule.Fault != "" {
		f, err := faultByName(rule.Fault, rule.Message, m.ref)
		if err != nil {
			return newFault(&types.SystemError{}, "fault script: %v", err)
		}
		return f
	}
	if failure != nil {
		return systemError(failure)
	}
	if locked != "" && consolidate {
		return fileLocked(locked)
	}
	return nil
}

func fileLocked(file string) *fault {
	return newFault(&types.FileLocked{FileFault: types.FileFault{File: file}}, "%s", wellKnown["FileLocked"])
}

func (s *Server) consolidateCall(m *machine, c *soapCall) (interface{}, *fault) {
	task, f := s.startTask(m.ref, m.name, "consolidateVMDisks", c.session.user, func(func(int)) (types.AnyType, *fault) {
		for _, d := range m.diskList() {
			if d.data == nil {
				continue
			}
			if m.s.attachedElsewhere(d.data) {
				return nil, fileLocked(m.file(d.name + ".vmdk"))
			}
			if err := d.data.Consolidate(); err != nil {
				return nil, systemError(err)
			}
		}
		m.publish()
		return nil, nil
	})
	return &types.ConsolidateVMDisks_TaskResponse{Returnval: task}, f
}
