// A virtual machine whose disks hold real bytes: its state, and how that state is
// shown in the simulator's inventory. Changes to it come from tasks and from the
// control socket, one at a time; mu only guards the fields against readers.
package vcenter

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/devices"
	"vmferry.dev/lab/disk"
	"vmferry.dev/lab/guest"
)

const (
	firstDiskKey       = int32(2000)
	scsiKey            = int32(1000)
	sharedScsiKey      = int32(1001)
	disksPerController = 15 // of 16 targets, number 7 is the controller itself
)

// Kinds of disk that a test may add.
const (
	backingFlat        = "flat"
	backingRDMPhysical = "rdm-physical"
	backingRDMVirtual  = "rdm-virtual"
	backingShared      = "shared"     // sharing=sharingMultiWriter
	backingSharedBus   = "shared-bus" // behind a controller with physicalSharing
)

type machine struct {
	s         *Server
	ref       types.ManagedObjectReference
	name      string
	folder    string // absolute path of its folder in the datastore
	datastore *datastore
	group     *disk.Group
	writer    *guest.Writer

	frozenMu sync.Mutex // one copy of frozen disks at a time; taken before mu

	mu          sync.Mutex
	disks       []*machineDisk // by key
	removed     []*machineDisk // detached: their files and names stay taken
	snapshots   []*snapshotRecord
	nextID      int32
	on          bool
	load        bool // the writer runs while the VM is on
	stopping    bool // the guest is shutting down
	tracking    bool // config.changeTrackingEnabled; per disk it needs a stun
	extra       map[string]string
	hardware    hardware
	wrong       string
	frozen      []*frozenSet
	poweredOff  time.Time
	rememberIDs map[string]int64 // change id -> capacity it was given at
	changed     time.Time
	added       map[int32]bool // SCSI buses that somebody added
	guest       *devices.Guest // what its guest sees; nil: nobody looks
}

type hardware struct {
	firmware   string
	secureBoot bool
	guestID    string
	fullName   string
	version    string
	annotation string
	cpus       int32
	memoryMB   int32
	sas        bool // SCSI controller 0 is an LSI Logic SAS
	nics       []types.BaseVirtualDevice
	fixed      []types.BaseVirtualDevice // controllers and what every VM has
}

type machineDisk struct {
	key        int32
	unit       int32
	controller int32
	mode       string
	backing    string
	name       string
	bytes      int64       // of a disk without data
	data       *disk.Disk  // nil for a physical RDM: its bytes are on a LUN
	foreign    *attachment // then data is nil, too
	written    guest.Range
}

type snapshotRecord struct {
	ref         types.ManagedObjectReference
	name        string
	description string
	id          int32
	created     time.Time
	state       types.VirtualMachinePowerState
	quiesced    bool
	config      types.VirtualMachineConfigInfo // devices are filled in anew at each change of the chain
	disks       []*machineDisk                 // frozen and not frozen, as they were
	frozenKeys  map[int32]bool
}

func (d *machineDisk) size() int64 {
	if d.data == nil {
		return d.bytes
	}
	return d.data.Size()
}

// snapshotted tells whether snapshots freeze the disk: independent disks and
// physical RDMs are left out by vSphere.
func (d *machineDisk) snapshotted() bool {
	return d.data != nil && !strings.HasPrefix(d.mode, "independent")
}

func (d *machineDisk) shared() bool {
	return d.backing == backingShared || d.backing == backingSharedBus
}

// trackable: no independent disks, no physical RDM, no shared bus.
func (d *machineDisk) trackable() bool { return d.snapshotted() && !d.shared() }

func (d *machineDisk) bus() int32 { return d.controller - scsiKey }

func (d *machineDisk) trackingOption() string {
	return fmt.Sprintf("scsi%d:%d.ctkEnabled", d.bus(), d.unit)
}

func (d *machineDisk) label() string {
	return fmt.Sprintf("Hard disk %d", d.key-firstDiskKey+1)
}

func (m *machine) file(name string) string {
	return fmt.Sprintf("[%s] %s/%s", m.datastore.name, filepath.Base(m.folder), name)
}

func (m *machine) findDisk(key int32) *machineDisk {
	for _, d := range m.disks {
		if d.key == key {
			return d
		}
	}
	return nil
}

func (m *machine) findSnapshot(ref types.ManagedObjectReference) (*snapshotRecord, int) {
	for i, snap := range m.snapshots {
		if snap.ref == ref {
			return snap, i
		}
	}
	return nil, -1
}

// diskList is a copy of the list, for work outside of mu.
func (m *machine) diskList() []*machineDisk {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*machineDisk(nil), m.disks...)
}

// applyTracking puts change tracking into force. It belongs inside a stun: that
// is when a running VM reopens its disks.
func (m *machine) applyTracking(disks []*machineDisk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range disks {
		if d.data == nil {
			continue
		}
		option, set := m.extra[d.trackingOption()]
		if m.tracking && d.trackable() && !set {
			option = "TRUE"
			m.extra[d.trackingOption()] = option
		}
		d.data.SetTracking(m.tracking && d.trackable() && strings.EqualFold(option, "TRUE"))
	}
}

// mostWritten of a disk that is added is under the guest's load, from its beginning on.
const mostWritten = int64(4 << 30)

// addDisk makes a new empty disk. Its files are named as vSphere names them.
func (m *machine) addDisk(bytes int64, mode, backing string, bus int32) (*machineDisk, error) {
	switch mode {
	case "":
		mode = "persistent"
	case "persistent", "nonpersistent", "undoable", "independent_persistent", "independent_nonpersistent", "append":
	default:
		return nil, fmt.Errorf("disk mode %q is not one of vSphere's", mode)
	}
	d := &machineDisk{mode: mode, backing: backing, controller: scsiKey + bus, bytes: bytes}
	switch backing {
	case "":
		d.backing = backingFlat
	case backingFlat, backingShared, backingRDMPhysical, backingRDMVirtual:
	case backingSharedBus:
		d.controller = sharedScsiKey
	default:
		return nil, fmt.Errorf("backing %q: flat, rdm-physical, rdm-virtual, shared or shared-bus", backing)
	}
	if bytes <= 0 || bytes%disk.SectorSize != 0 {
		return nil, fmt.Errorf("%d bytes: %w", bytes, disk.ErrCapacity)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.place(d); err != nil {
		return nil, err
	}
	if d.backing != backingRDMPhysical {
		data, err := disk.Create(m.folder, d.name, bytes, m.group)
		if err != nil {
			return nil, err
		}
		d.data = data
		d.written = guest.Range{Length: bytes - bytes%guest.BlockSize}
		if d.written.Length > mostWritten { // the load remembers each block
			d.written.Length = mostWritten
		}
		if m.writer != nil {
			if err := m.writer.Add(guest.Target{Key: uint32(d.key), Disk: data, Data: d.written}); err != nil {
				data.Delete()
				return nil, err
			}
		}
	}
	m.disks = append(m.disks, d)
	m.sortDisks()
	return d, nil
}

// sortDisks puts them into the order of their keys; mu is held.
func (m *machine) sortDisks() {
	sort.Slice(m.disks, func(i, j int) bool { return m.disks[i].key < m.disks[j].key })
}

// place finds a free unit and a free name; mu is held.
func (m *machine) place(d *machineDisk) error {
	used := map[int32]bool{7: true}
	for _, other := range m.disks {
		if other.controller == d.controller {
			used[other.unit] = true
		}
	}
	for used[d.unit] {
		d.unit++
	}
	if d.unit > 15 {
		return fmt.Errorf("controller %d is full", d.controller)
	}
	d.key = firstDiskKey + d.bus()*16 + d.unit
	taken := map[string]bool{}
	for _, other := range append(append([]*machineDisk(nil), m.disks...), m.removed...) {
		taken[other.name] = true
	}
	for n := 0; ; n++ {
		d.name = m.name
		if n > 0 {
			d.name = fmt.Sprintf("%s_%d", m.name, n)
		}
		if _, err := os.Lstat(filepath.Join(m.folder, d.name+"-flat.vmdk")); !taken[d.name] && os.IsNotExist(err) {
			return nil
		}
	}
}

// removeDisk takes a disk out of the VM; with destroy its files go too.
func (m *machine) removeDisk(key int32, destroy bool) error {
	m.mu.Lock()
	d := m.findDisk(key)
	held := len(m.snapshots)
	m.mu.Unlock()
	if d == nil {
		return fmt.Errorf("no disk with key %d", key)
	}
	if held > 0 && d.snapshotted() {
		return fmt.Errorf("disk %d is part of %d snapshots: remove these first", key, held)
	}
	m.writer.Remove(uint32(key))
	m.mu.Lock()
	for i, other := range m.disks {
		if other == d {
			m.disks = append(m.disks[:i:i], m.disks[i+1:]...)
			break
		}
	}
	delete(m.extra, d.trackingOption())
	if !destroy && d.foreign == nil {
		m.removed = append(m.removed, d)
	}
	m.mu.Unlock()
	if d.foreign != nil {
		return d.foreign.detach(destroy)
	}
	if d.data == nil {
		return nil
	}
	if destroy {
		return d.data.Delete()
	}
	return d.data.Close()
}

// growDisk makes a disk larger; refused below snapshots, as on ESXi.
func (m *machine) growDisk(key int32, bytes int64) error {
	m.mu.Lock()
	d := m.findDisk(key)
	m.mu.Unlock()
	if d == nil {
		return fmt.Errorf("no disk with key %d", key)
	}
	if d.data == nil {
		return fmt.Errorf("disk %d is a physical RDM: it grows on its LUN", key)
	}
	return m.group.Stun(func() error { return d.data.Grow(bytes) })
}

// setLoad lets the writer run exactly while the VM is on and load is wanted.
func (m *machine) setLoad() {
	m.mu.Lock()
	running := m.on && m.load && !m.stopping
	m.mu.Unlock()
	m.writer.SetRunning(running)
}

// controllers the VM needs for its disks; mu is held.
func (m *machine) controllers() []types.BaseVirtualDevice {
	byController := map[int32][]int32{}
	for _, d := range m.disks {
		byController[d.controller] = append(byController[d.controller], d.key)
	}
	var found []types.BaseVirtualDevice
	for bus := int32(0); bus < scsiBuses; bus++ {
		key := scsiKey + bus
		if !m.hasBus(bus) {
			continue
		}
		sharing := types.VirtualSCSISharingNoSharing
		if key == sharedScsiKey && !m.added[bus] {
			sharing = types.VirtualSCSISharingPhysicalSharing
		}
		c := &types.VirtualSCSIController{}
		c.Key, c.BusNumber, c.SharedBus = key, key-scsiKey, sharing
		c.ControllerKey, c.UnitNumber = 100, types.NewInt32(3+key-scsiKey)
		c.ScsiCtlrUnitNumber, c.HotAddRemove = 7, types.NewBool(true)
		c.Device = byController[key]
		c.DeviceInfo = &types.Description{Label: fmt.Sprintf("SCSI controller %d", c.BusNumber), Summary: "VMware paravirtual SCSI"}
		if bus == 0 && m.hardware.sas {
			c.DeviceInfo.GetDescription().Summary = "LSI Logic SAS"
			found = append(found, &types.VirtualLsiLogicSASController{VirtualSCSIController: *c})
		} else {
			found = append(found, &types.ParaVirtualSCSIController{VirtualSCSIController: *c})
		}
	}
	return found
}

// device shows a disk as it is live (snapshot "") or as a snapshot froze it.
func (m *machine) device(d *machineDisk, snapshot string) *types.VirtualDisk {
	device := &types.VirtualDisk{}
	device.Key, device.ControllerKey, device.UnitNumber = d.key, d.controller, types.NewInt32(d.unit)
	bytes, change, files := d.size(), "", disk.Files{Descriptor: d.name + ".vmdk"}
	if d.data != nil {
		if snapshot != "" {
			if frozen, err := d.data.FrozenSize(snapshot); err == nil {
				bytes = frozen
			}
		}
		if found, err := d.data.Files(snapshot); err == nil {
			files = found
		}
		if found, err := d.data.ChangeID(snapshot); err == nil {
			change = found
		}
	}
	name, uuid := m.file(files.Descriptor), ""
	if d.data != nil {
		uuid = d.data.UUID()
	}
	if d.foreign != nil {
		name, uuid = d.foreign.file, d.foreign.of.UUID()
	}
	device.CapacityInBytes, device.CapacityInKB = bytes, bytes/1024
	device.DeviceInfo = &types.Description{Label: d.label(), Summary: thousands(bytes/1024) + " KB"}
	device.DiskObjectId = fmt.Sprintf("%s-%d", digits(m.ref.Value), d.key)
	device.Shares = &types.SharesInfo{Shares: 1000, Level: types.SharesLevelNormal}
	device.StorageIOAllocation = &types.StorageIOAllocationInfo{Limit: types.NewInt64(-1), Shares: device.Shares, Reservation: types.NewInt32(0)}
	device.NativeUnmanagedLinkedClone = types.NewBool(false)
	store := m.datastore.ref
	file := types.VirtualDeviceFileBackingInfo{FileName: name, Datastore: &store}

	switch d.backing {
	case backingRDMPhysical, backingRDMVirtual:
		mode := "physicalMode"
		if d.backing == backingRDMVirtual {
			mode = "virtualMode"
		}
		lun := fmt.Sprintf("02000000006006016%018d564d57617265", d.key)
		backing := &types.VirtualDiskRawDiskMappingVer1BackingInfo{VirtualDeviceFileBackingInfo: file,
			LunUuid: lun, DeviceName: "vml." + lun, CompatibilityMode: mode, DiskMode: d.mode, ChangeId: change, Sharing: "sharingNone"}
		if d.data != nil {
			backing.Uuid = d.data.UUID()
		}
		device.Backing = backing
	default:
		backing := &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: file, DiskMode: d.mode,
			Split: types.NewBool(false), WriteThrough: types.NewBool(false), ThinProvisioned: types.NewBool(true),
			DigestEnabled: types.NewBool(false), Sharing: "sharingNone", ChangeId: change, Uuid: uuid, ContentId: files.ContentID}
		if d.backing == backingShared {
			backing.Sharing = "sharingMultiWriter"
		}
		below := backing
		for _, parent := range files.Parents {
			below.Parent = &types.VirtualDiskFlatVer2BackingInfo{
				VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: m.file(parent), Datastore: &store},
				DiskMode:                     d.mode, Split: types.NewBool(false), WriteThrough: types.NewBool(false),
				ThinProvisioned: types.NewBool(true), Uuid: uuid, Sharing: "sharingNone"}
			below = below.Parent
		}
		device.Backing = backing
	}
	return device
}

func digits(moref string) string {
	number := strings.TrimLeft(moref, "abcdefghijklmnopqrstuvwxyz-")
	if number == "" {
		return "1"
	}
	return number
}

func thousands(n int64) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// publish shows the state in the simulator. Everything that may be read by
// others meanwhile is replaced, never changed in place.
func (m *machine) publish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	vm := simulator.Map.Get(m.ref).(*simulator.VirtualMachine)
	m.changed = time.Now().UTC()
	simulator.Map.WithLock(simulator.SpoofContext(), vm, func() {
		m.publishConfig(vm)
		m.publishRuntime(vm)
		m.publishSnapshots(vm)
		m.publishLayout(vm)
	})
	m.showFiles()
	m.s.changes.wake()
}

func (m *machine) publishConfig(vm *simulator.VirtualMachine) {
	config := *vm.Config
	devices := append([]types.BaseVirtualDevice(nil), m.hardware.fixed...)
	devices = append(devices, m.controllers()...)
	for _, d := range m.disks {
		devices = append(devices, m.device(d, ""))
		m.remember(d, "")
	}
	devices = append(devices, m.hardware.nics...)
	config.Hardware.Device = devices
	config.Hardware.NumCPU, config.Hardware.MemoryMB = m.hardware.cpus, m.hardware.memoryMB
	config.Hardware.NumCoresPerSocket = 1
	config.ChangeTrackingEnabled = types.NewBool(m.tracking)
	config.Annotation, config.GuestId, config.GuestFullName = m.hardware.annotation, m.hardware.guestID, m.hardware.fullName
	config.AlternateGuestName = ""
	config.Version, config.Firmware = m.hardware.version, m.hardware.firmware
	config.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(m.hardware.secureBoot)}
	config.Modified = m.changed
	config.ChangeVersion = m.changed.Format(time.RFC3339Nano)
	config.ExtraConfig = nil
	for _, key := range sortedOptions(m.extra) {
		config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: key, Value: m.extra[key]})
	}
	vm.Config = &config

	summary := vm.Summary
	summary.Config.Annotation, summary.Config.GuestId = config.Annotation, config.GuestId
	summary.Config.GuestFullName = config.GuestFullName
	summary.Config.NumCpu, summary.Config.MemorySizeMB = m.hardware.cpus, m.hardware.memoryMB
	summary.Config.NumVirtualDisks = int32(len(m.disks))
	summary.Config.NumEthernetCards = int32(len(m.hardware.nics))
	vm.Summary = summary
	vm.Capability.ChangeTrackingSupported = types.NewBool(m.trackingSupported())
}

// trackingSupported: hardware version 7 or newer.
func (m *machine) trackingSupported() bool {
	var version int
	_, err := fmt.Sscanf(m.hardware.version, "vmx-%d", &version)
	return err == nil && version >= 7
}

// remember notes the capacity a change id was given at: a query after growth
// with an older one is refused.
func (m *machine) remember(d *machineDisk, snapshot string) {
	if d.data == nil {
		return
	}
	id, err := d.data.ChangeID(snapshot)
	if err != nil || id == "" {
		return
	}
	size := d.data.Size()
	if snapshot != "" {
		if size, err = d.data.FrozenSize(snapshot); err != nil {
			return
		}
	}
	if _, known := m.rememberIDs[id]; !known {
		m.rememberIDs[id] = size
	}
}

func sortedOptions(options map[string]string) []string {
	keys := make([]string, 0, len(options))
	for key := range options {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func (m *machine) publishRuntime(vm *simulator.VirtualMachine) {
	state, guestState := types.VirtualMachinePowerStatePoweredOff, "notRunning"
	tools, status := "guestToolsNotRunning", types.VirtualMachineToolsStatusToolsNotRunning
	running := m.on && m.s.settings.get().Tools == "running"
	if m.on {
		state, guestState = types.VirtualMachinePowerStatePoweredOn, "running"
	}
	if running {
		tools, status = "guestToolsRunning", types.VirtualMachineToolsStatusToolsOk
	}
	runtime := vm.Runtime
	runtime.PowerState = state
	runtime.ConsolidationNeeded = types.NewBool(m.needsConsolidation())
	runtime.CleanPowerOff = types.NewBool(!m.on)
	if m.on && runtime.BootTime == nil {
		runtime.BootTime = types.NewTime(time.Now().UTC())
	} else if !m.on {
		runtime.BootTime = nil
	}
	vm.Runtime = runtime
	vm.Summary.Runtime = runtime

	info := types.GuestInfo{}
	if vm.Guest != nil {
		info = *vm.Guest
	}
	info.ToolsStatus, info.ToolsRunningStatus = status, tools
	info.ToolsVersionStatus, info.ToolsVersionStatus2 = "guestToolsUnmanaged", "guestToolsUnmanaged"
	info.ToolsVersion, info.GuestState = "12352", guestState
	info.GuestId, info.GuestFullName, info.GuestFamily = m.hardware.guestID, m.hardware.fullName, "linuxGuest"
	info.HostName, info.IpAddress, info.Net = "", "", nil
	info.GuestOperationsReady = types.NewBool(running)
	if running {
		info.HostName = m.name
		for i, card := range m.hardware.nics {
			nic := card.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
			address := fmt.Sprintf("192.0.2.%d", 10+i)
			info.Net = append(info.Net, types.GuestNicInfo{MacAddress: nic.MacAddress, IpAddress: []string{address},
				Connected: true, DeviceConfigId: nic.Key, Network: nic.DeviceInfo.GetDescription().Summary})
			if i == 0 {
				info.IpAddress = address
			}
		}
	}
	vm.Guest = &info
	vm.Summary.Guest = &types.VirtualMachineGuestSummary{GuestId: info.GuestId, GuestFullName: info.GuestFullName,
		ToolsStatus: status, ToolsRunningStatus: tools, ToolsVersionStatus: info.ToolsVersionStatus,
		ToolsVersionStatus2: info.ToolsVersionStatus2, HostName: info.HostName, IpAddress: info.IpAddress}
}

func (m *machine) needsConsolidation() bool {
	for _, d := range m.disks {
		if d.data != nil && d.data.ConsolidationNeeded() {
			return true
		}
	}
	return false
}

func (m *machine) publishSnapshots(vm *simulator.VirtualMachine) {
	if len(m.snapshots) == 0 {
		vm.Snapshot, vm.RootSnapshot = nil, nil
		return
	}
	// Nothing here reverts, so each snapshot is the child of the one before.
	var tree []types.VirtualMachineSnapshotTree
	for i := len(m.snapshots) - 1; i >= 0; i-- {
		snap := m.snapshots[i]
		tree = []types.VirtualMachineSnapshotTree{{Snapshot: snap.ref, Vm: m.ref, Name: snap.name,
			Description: snap.description, Id: snap.id, CreateTime: snap.created, State: snap.state,
			Quiesced: snap.quiesced, ReplaySupported: types.NewBool(false), ChildSnapshotList: tree}}
		m.publishSnapshot(snap, i)
	}
	current := m.snapshots[len(m.snapshots)-1].ref
	vm.Snapshot = &types.VirtualMachineSnapshotInfo{CurrentSnapshot: &current, RootSnapshotList: tree}
	vm.RootSnapshot = []types.ManagedObjectReference{m.snapshots[0].ref}
}

// publishSnapshot fills the disks in: the file that a snapshot stands on changes
// when an older snapshot goes.
func (m *machine) publishSnapshot(snap *snapshotRecord, at int) {
	config := snap.config
	var devices []types.BaseVirtualDevice
	for _, device := range config.Hardware.Device {
		if _, isDisk := device.(*types.VirtualDisk); !isDisk {
			devices = append(devices, device)
		}
	}
	for _, d := range snap.disks {
		if snap.frozenKeys[d.key] {
			devices = append(devices, m.device(d, snap.ref.Value))
			m.remember(d, snap.ref.Value)
		} else {
			devices = append(devices, m.device(d, ""))
		}
	}
	config.Hardware.Device = devices
	shown := &simulator.VirtualMachineSnapshot{}
	shown.Self, shown.Vm, shown.Config = snap.ref, m.ref, config
	if at+1 < len(m.snapshots) {
		shown.ChildSnapshot = []types.ManagedObjectReference{m.snapshots[at+1].ref}
	}
	simulator.Map.Put(shown)
}

func (m *machine) publishLayout(vm *simulator.VirtualMachine) {
	layout := &types.VirtualMachineFileLayoutEx{Timestamp: time.Now()}
	add := func(name, kind string, size int64) int32 {
		key := int32(len(layout.File))
		layout.File = append(layout.File, types.VirtualMachineFileLayoutExFileInfo{Key: key, Name: m.file(name),
			Type: kind, Size: size, UniqueSize: size, Accessible: types.NewBool(true)})
		return key
	}
	add(m.name+".vmx", "config", 3000)
	for _, d := range m.disks {
		if d.data == nil {
			continue
		}
		files, err := d.data.Files("")
		if err != nil {
			continue
		}
		chain := types.VirtualMachineFileLayoutExDiskLayout{Key: d.key}
		names := append([]string{files.Descriptor}, files.Parents...)
		for i := len(names) - 1; i >= 0; i-- {
			extent := strings.TrimSuffix(names[i], ".vmdk") + "-delta.vmdk"
			if names[i] == d.name+".vmdk" {
				extent = d.name + "-flat.vmdk"
			}
			size := int64(0)
			if info, err := os.Stat(filepath.Join(m.folder, extent)); err == nil {
				size = info.Size()
			}
			chain.Chain = append(chain.Chain, types.VirtualMachineFileLayoutExDiskUnit{
				FileKey: []int32{add(names[i], "diskDescriptor", 500), add(extent, "diskExtent", size)}})
		}
		layout.Disk = append(layout.Disk, chain)
	}
	for _, snap := range m.snapshots {
		data := add(fmt.Sprintf("%s-Snapshot%d.vmsn", m.name, snap.id), "snapshotData", 30000)
		layout.Snapshot = append(layout.Snapshot, types.VirtualMachineFileLayoutExSnapshotLayout{Key: snap.ref, DataKey: data, MemoryKey: -1})
	}
	vm.LayoutEx = layout
}
