// ReconfigVM_Task on the VM with disks, and the table of methods that it has.
// What is not modelled is refused by name rather than accepted without effect.
package vcenter

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// passedOn are methods of a VM or snapshot that the simulator answers well enough and that
// change nothing of ours.
var passedOn = map[string]bool{
	"RefreshStorageInfo": true, "Reload": true, "SetCustomValue": true, "setCustomValue": true,
}

func (s *Server) registerMachine() {
	onMachine := map[string]func(*machine, *soapCall) (interface{}, *fault){
		"CreateSnapshot_Task":     s.createSnapshotCall,
		"RemoveAllSnapshots_Task": s.removeAllCall,
		"ConsolidateVMDisks_Task": s.consolidateCall,
		"QueryChangedDiskAreas":   s.queryChangedCall,
		"ReconfigVM_Task":         s.reconfigCall,
		"PowerOnVM_Task": func(m *machine, c *soapCall) (interface{}, *fault) {
			task, f := s.powerCall(m, c, true)
			return &types.PowerOnVM_TaskResponse{Returnval: task}, f
		},
		"PowerOffVM_Task": func(m *machine, c *soapCall) (interface{}, *fault) {
			task, f := s.powerCall(m, c, false)
			return &types.PowerOffVM_TaskResponse{Returnval: task}, f
		},
		"ShutdownGuest": func(m *machine, c *soapCall) (interface{}, *fault) { return s.shutdownGuest(m) },
	}
	for name, act := range onMachine {
		act := act
		s.methods[name] = func(c *soapCall) (interface{}, *fault, bool) {
			m := s.machineByRef(c.this)
			if m == nil {
				return nil, nil, false
			}
			reply, f := act(m, c)
			return reply, f, true
		}
	}
	s.methods["RemoveSnapshot_Task"] = s.removeSnapshotCall
}

// guard refuses what the simulator would do to an object of ours behind our back.
func (s *Server) guard(c *soapCall) *fault {
	if passedOn[c.method] {
		return nil
	}
	switch c.this.Type {
	case "VirtualMachine":
		if s.machineByRef(c.this) == nil {
			return nil
		}
	case "VirtualMachineSnapshot":
		if m, _ := s.snapshotOwner(c.this); m == nil {
			return nil
		}
	default:
		return nil
	}
	return newFault(&types.NotSupported{}, "This lab does not model %s on %s", c.method, c.this.Value)
}

func (s *Server) reconfigCall(m *machine, c *soapCall) (interface{}, *fault) {
	req := c.body.(*types.ReconfigVM_Task)
	if f := m.checkReconfig(&req.Spec); f != nil {
		return nil, f
	}
	task, f := s.startTask(m.ref, m.name, "reconfigVM", c.session.user, func(func(int)) (types.AnyType, *fault) {
		// Another one may have ended between the call and its task.
		if f := m.checkVersion(&req.Spec); f != nil {
			return nil, f
		}
		if f := m.checkAttaching(&req.Spec); f != nil {
			return nil, f
		}
		return nil, m.reconfigure(&req.Spec)
	})
	return &types.ReconfigVM_TaskResponse{Returnval: task}, f
}

// checkReconfig refuses a spec with parts that are not modelled.
func (m *machine) checkReconfig(spec *types.VirtualMachineConfigSpec) *fault {
	refuse := func(what string) *fault {
		return newFault(&types.NotSupported{}, "This lab does not model ReconfigVM_Task with %s", what)
	}
	known := types.VirtualMachineConfigSpec{
		ChangeVersion: spec.ChangeVersion, ChangeTrackingEnabled: spec.ChangeTrackingEnabled, ExtraConfig: spec.ExtraConfig,
		Annotation: spec.Annotation, NumCPUs: spec.NumCPUs, MemoryMB: spec.MemoryMB, DeviceChange: spec.DeviceChange,
	}
	if given, allowed := fmt.Sprintf("%+v", *spec), fmt.Sprintf("%+v", known); given != allowed {
		return refuse("fields other than changeTrackingEnabled, extraConfig, annotation, numCPUs, memoryMB and deviceChange")
	}
	if f := m.checkVersion(spec); f != nil {
		return f
	}
	m.mu.Lock()
	on, supported := m.on, m.trackingSupported()
	m.mu.Unlock()
	if spec.ChangeTrackingEnabled != nil && *spec.ChangeTrackingEnabled && !supported {
		return newFault(&types.NotSupported{}, "Change tracking needs virtual hardware version 7 or newer.")
	}
	if on && (spec.NumCPUs != 0 || spec.MemoryMB != 0) {
		return invalidPower(false, true)
	}
	for _, option := range spec.ExtraConfig {
		value := option.GetOptionValue()
		if _, ok := value.Value.(string); !ok || value.Key == "" {
			return invalidArgument("spec.extraConfig")
		}
	}
	for _, change := range spec.DeviceChange {
		switch change.GetVirtualDeviceConfigSpec().Device.(type) {
		case *types.VirtualDisk, *types.ParaVirtualSCSIController:
		default:
			return refuse(fmt.Sprintf("a deviceChange of %T", change.GetVirtualDeviceConfigSpec().Device))
		}
	}
	return nil
}

// checkVersion: "The changeVersion ... used to guard against updates that happened
// between the time configInfo was read and when it is applied."
func (m *machine) checkVersion(spec *types.VirtualMachineConfigSpec) *fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	if spec.ChangeVersion != "" && spec.ChangeVersion != m.changed.Format(time.RFC3339Nano) {
		return newFault(&types.ConcurrentAccess{}, "%s", wellKnown["ConcurrentAccess"])
	}
	return nil
}

func (m *machine) reconfigure(spec *types.VirtualMachineConfigSpec) *fault {
	defer m.publish()
	keys := map[int32]int32{}
	for i, each := range spec.DeviceChange {
		change := each.GetVirtualDeviceConfigSpec()
		var f *fault
		if controller, is := change.Device.(*types.ParaVirtualSCSIController); is {
			f = m.addController(controller, keys)
		} else if attaches(change) {
			f = m.attachDisk(i, change.Device.(*types.VirtualDisk), keys)
		} else {
			f = m.changeDisk(change, i)
		}
		if f != nil {
			return f
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if spec.Annotation != "" {
		m.hardware.annotation = spec.Annotation
	}
	if spec.NumCPUs != 0 {
		m.hardware.cpus = spec.NumCPUs
	}
	if spec.MemoryMB != 0 {
		m.hardware.memoryMB = int32(spec.MemoryMB)
	}
	if spec.ChangeTrackingEnabled != nil {
		// Written down now, in force after the next stun: see applyTracking.
		m.tracking = *spec.ChangeTrackingEnabled
		if m.tracking {
			m.extra["ctkEnabled"] = "TRUE"
		} else {
			delete(m.extra, "ctkEnabled")
			for _, d := range m.disks {
				delete(m.extra, d.trackingOption())
			}
		}
	}
	for _, option := range spec.ExtraConfig {
		value := option.GetOptionValue()
		text := value.Value.(string)
		if text == "" {
			delete(m.extra, value.Key) // an empty value takes the option away
		} else {
			m.extra[value.Key] = text
		}
		if strings.EqualFold(value.Key, "ctkEnabled") {
			m.tracking = strings.EqualFold(text, "TRUE")
		}
	}
	return nil
}

func (m *machine) changeDisk(change *types.VirtualDeviceConfigSpec, at int) *fault {
	device := change.Device.(*types.VirtualDisk)
	bytes := device.CapacityInBytes
	if bytes == 0 {
		bytes = device.CapacityInKB * 1024
	}
	wrong := func(err error) *fault {
		return newFault(&types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device"}, DeviceIndex: int32(at)},
			"Invalid configuration for device '%d': %v", at, err)
	}
	var err error
	switch change.Operation {
	case types.VirtualDeviceConfigSpecOperationAdd:
		if change.FileOperation != types.VirtualDeviceConfigSpecFileOperationCreate {
			return newFault(&types.NotSupported{}, "This lab does not model the file operation %q", change.FileOperation)
		}
		backing, ok := device.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok {
			return newFault(&types.NotSupported{}, "This lab does not model adding a disk with %T", device.Backing)
		}
		_, err = m.addDisk(bytes, backing.DiskMode, backingFlat, 0)
	case types.VirtualDeviceConfigSpecOperationRemove:
		err = m.removeDisk(device.Key, change.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy)
	case types.VirtualDeviceConfigSpecOperationEdit:
		err = m.growDisk(device.Key, bytes)
	default:
		err = fmt.Errorf("operation %q", change.Operation)
	}
	if err != nil {
		return wrong(err)
	}
	return nil
}
