// Existing disks attached to another virtual machine (HotAdd): which may be, at
// which places, and what the guest of that machine then sees. Only the disks that
// a snapshot froze can be attached here; a machine with a guest's view (a proxy)
// sees them as devices.
package vcenter

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/devices"
	"vmferry.dev/lab/disk"
)

// attachment is a frozen disk of one machine that another one has in its
// configuration.
type attachment struct {
	file     string // as it was asked for
	of       *disk.Disk
	snapshot string
	copy     string // the frozen bytes, whichever layers they lie in
	plugged  *devices.Plugged
}

// slot of a SCSI disk.
type slot struct{ bus, unit int32 }

const (
	scsiBuses    = int32(4)
	scsiTargets  = int32(16)
	scsiReserved = int32(7) // the controller itself
)

// Where a machine of hardware version 19 has its SCSI controllers: pciSlotNumber
// of scsi0 to scsi3, and what that means, by the algorithm of
// https://knowledge.broadcom.com/external/article?legacyId=2047927.
var controllerPlaces = []struct {
	number          string
	bridge, address string
}{
	{"160", "0000:00:15.0", "0000:03:00.0"},
	{"224", "0000:00:17.0", "0000:13:00.0"},
	{"256", "0000:00:18.0", "0000:1b:00.0"},
	{"1184", "0000:00:15.1", "0000:04:00.0"},
}

// bridgeNumbers are those of the bridges of any machine.
var bridgeNumbers = map[string]string{"pciBridge0.pciSlotNumber": "17", "pciBridge4.pciSlotNumber": "21",
	"pciBridge5.pciSlotNumber": "22", "pciBridge6.pciSlotNumber": "23", "pciBridge7.pciSlotNumber": "24"}

// showController gives a controller its place in the machine's PCI; mu is held.
func (m *machine) showController(bus int32) error {
	place := controllerPlaces[bus]
	m.extra[fmt.Sprintf("scsi%d.pciSlotNumber", bus)] = place.number
	if m.guest == nil {
		return nil
	}
	return m.guest.Controller(place.bridge, place.address)
}

// hasBus tells whether the machine has that SCSI controller; mu is held.
func (m *machine) hasBus(bus int32) bool {
	if bus == 0 || m.added[bus] {
		return true
	}
	for _, d := range m.disks {
		if d.bus() == bus {
			return true
		}
	}
	return false
}

func invalidDevice(at int, property, format string, values ...interface{}) *fault {
	return newFault(&types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: property}, DeviceIndex: int32(at)},
		"Invalid configuration for device '%d': %s", at, fmt.Sprintf(format, values...))
}

// attaches tells whether a change is about a disk that exists already.
func attaches(change *types.VirtualDeviceConfigSpec) bool {
	_, isDisk := change.Device.(*types.VirtualDisk)
	return isDisk && change.Operation == types.VirtualDeviceConfigSpecOperationAdd && change.FileOperation == ""
}

// checkAttaching goes through all device changes before the first is made:
// "All the changes in the given configuration are applied to the virtual machine
// as an atomic operation."
// (https://developer.broadcom.com/xapis/virtual-infrastructure-json-api/latest/sdk/vim25/release/VirtualMachine/moId/ReconfigVM_Task/post).
func (m *machine) checkAttaching(spec *types.VirtualMachineConfigSpec) *fault {
	m.mu.Lock()
	used, buses := map[slot]bool{}, map[int32]int32{} // controller key -> bus
	for _, d := range m.disks {
		used[slot{d.bus(), d.unit}] = true
	}
	for bus := int32(0); bus < scsiBuses; bus++ {
		if m.hasBus(bus) {
			buses[scsiKey+bus] = bus
		}
	}
	m.mu.Unlock()
	for i, each := range spec.DeviceChange {
		change := each.GetVirtualDeviceConfigSpec()
		if controller, is := change.Device.(*types.ParaVirtualSCSIController); is {
			if change.Operation != types.VirtualDeviceConfigSpecOperationAdd || change.FileOperation != "" {
				return newFault(&types.NotSupported{}, "This lab does not model a controller's %s", change.Operation)
			}
			bus := controller.BusNumber
			if bus < 0 || bus >= scsiBuses {
				return invalidDevice(i, "virtualDeviceSpec.device.busNumber", "bus %d", bus)
			}
			for _, taken := range buses {
				if taken == bus {
					return invalidDevice(i, "virtualDeviceSpec.device.busNumber", "SCSI controller %d is there already", bus)
				}
			}
			buses[controller.Key] = bus
			continue
		}
		if !attaches(change) {
			continue
		}
		d := change.Device.(*types.VirtualDisk)
		bus, known := buses[d.ControllerKey]
		if !known {
			return invalidDevice(i, "virtualDeviceSpec.device.controllerKey", "no SCSI controller has the key %d", d.ControllerKey)
		}
		if d.UnitNumber == nil {
			return newFault(&types.NotSupported{}, "This lab does not model attaching a disk without a unit number")
		}
		at := slot{bus, *d.UnitNumber}
		if at.unit < 0 || at.unit >= scsiTargets || at.unit == scsiReserved {
			return invalidDevice(i, "virtualDeviceSpec.device.unitNumber", "unit %d is not one for disks", at.unit)
		}
		if used[at] {
			return invalidDevice(i, "virtualDeviceSpec.device.unitNumber", "scsi%d:%d is taken", at.bus, at.unit)
		}
		used[at] = true
		if _, f := m.whatToAttach(i, d); f != nil {
			return f
		}
	}
	return nil
}

// whatToAttach finds the frozen disk behind a backing. A file that its machine
// writes is locked; so is, for a mode that writes, the one below a snapshot.
func (m *machine) whatToAttach(at int, d *types.VirtualDisk) (*attachment, *fault) {
	backing, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return nil, newFault(&types.NotSupported{}, "This lab does not model attaching a disk with %T", d.Backing)
	}
	locked := fileLocked(backing.FileName)
	for _, owner := range m.s.machineList() {
		for _, candidate := range owner.diskList() {
			folder, base := filepath.Split(strings.TrimPrefix(backing.FileName, "["+owner.datastore.name+"] "))
			if candidate.data == nil || filepath.Clean(folder) != filepath.Base(owner.folder) || !strings.HasSuffix(base, ".vmdk") ||
				strings.HasSuffix(base, "-flat.vmdk") || strings.HasSuffix(base, "-delta.vmdk") {
				continue
			}
			snapshot, live, found := candidate.data.Owner(base)
			switch {
			case !found:
				continue
			case live && owner.isOn():
				return nil, locked
			case snapshot == "":
				return nil, newFault(&types.NotSupported{}, "This lab does not model attaching %s: no snapshot froze it", backing.FileName)
			case backing.DiskMode != "independent_nonpersistent" && backing.DiskMode != "nonpersistent":
				return nil, locked
			}
			return &attachment{file: backing.FileName, of: candidate.data, snapshot: snapshot}, nil
		}
	}
	return nil, newFault(&types.FileNotFound{FileFault: types.FileFault{File: backing.FileName}}, "File %s was not found", backing.FileName)
}

// addController and attachDisk make one change of a spec that was checked. `keys`
// leads from the keys of the spec to those of the machine.
func (m *machine) addController(controller *types.ParaVirtualSCSIController, keys map[int32]int32) *fault {
	keys[controller.Key] = scsiKey + controller.BusNumber
	if err := m.needBus(controller.BusNumber); err != nil {
		return systemError(err)
	}
	return nil
}

// needBus adds a SCSI controller that is not there.
func (m *machine) needBus(bus int32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hasBus(bus) {
		return nil
	}
	m.added[bus] = true
	return m.showController(bus)
}

func (m *machine) attachDisk(at int, device *types.VirtualDisk, keys map[int32]int32) *fault {
	made, f := m.whatToAttach(at, device)
	if f != nil {
		return f
	}
	controller, mapped := keys[device.ControllerKey]
	if !mapped {
		controller = device.ControllerKey
	}
	d := &machineDisk{controller: controller, unit: *device.UnitNumber, backing: backingFlat, foreign: made,
		mode: device.Backing.(*types.VirtualDiskFlatVer2BackingInfo).DiskMode}
	d.key = firstDiskKey + d.bus()*16 + d.unit
	size, err := made.of.FrozenSize(made.snapshot)
	if err == nil {
		d.bytes, made.copy = size, filepath.Join(m.s.config.FrozenDir, "attached", fmt.Sprintf("%s-%d.img", m.name, d.key))
		err = os.MkdirAll(filepath.Dir(made.copy), 0o700)
	}
	if err == nil {
		err = made.of.FrozenCopy(made.snapshot, made.copy)
	}
	if err == nil && m.guest != nil {
		m.mu.Lock()
		uuid := ""
		if strings.EqualFold(m.extra["disk.EnableUUID"], "TRUE") {
			uuid = made.of.UUID()
		}
		path := m.pathOf(d)
		m.mu.Unlock()
		made.plugged, err = m.guest.Plug(made.copy, path, uuid)
	}
	if err != nil {
		return systemError(err)
	}
	m.mu.Lock()
	m.disks = append(m.disks, d)
	m.sortDisks()
	m.mu.Unlock()
	return nil
}

// pathOf is what udev calls the disk by its path; mu is held. On an LSI Logic SAS the number is that of a phy, in the order in which
// the disks came to the guest perhaps: not the unit's, in this lab.
func (m *machine) pathOf(d *machineDisk) string {
	address := controllerPlaces[d.bus()].address
	if d.bus() == 0 && m.hardware.sas {
		return fmt.Sprintf("pci-%s-sas-phy%d-lun-0", address, scsiTargets-d.unit)
	}
	return fmt.Sprintf("pci-%s-scsi-0:0:%d:0", address, d.unit)
}

// detach takes an attached disk away again, and its file with it if that was asked
// for: the file is its owner's.
func (a *attachment) detach(destroy bool) error {
	if a.plugged != nil {
		a.plugged.Unplug()
	}
	os.Remove(a.copy)
	if destroy {
		return a.of.Delete()
	}
	return nil
}

// attachedElsewhere tells whether a layer of the disk is attached to a machine.
// Its files are then locked: a snapshot's removal leaves the chain to be
// consolidated, and a consolidation fails.
// (https://mxlit.com/kb-00091/: "A file lock typically blocks virtual machine
// snapshot consolidation", of disks that a proxy still has after a failed backup.)
func (s *Server) attachedElsewhere(d *disk.Disk) bool {
	for _, m := range s.machineList() {
		for _, other := range m.diskList() {
			if d != nil && other.foreign != nil && other.foreign.of == d {
				return true
			}
		}
	}
	return false
}

// hasAttached tells whether that disk is another machine's.
func (m *machine) hasAttached(key int32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.findDisk(key)
	return d != nil && d.foreign != nil
}

// unplugAll is for the end of the server.
func (m *machine) unplugAll() {
	for _, d := range m.diskList() {
		if d.foreign != nil && d.foreign.plugged != nil {
			d.foreign.plugged.Unplug()
		}
	}
}
